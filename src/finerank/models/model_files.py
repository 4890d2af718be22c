"""What the files of a model say: its JSON files, from a folder or the hub's cache, and what an adapter stands on."""

from __future__ import annotations

import json
import logging
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finerank.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ST_CONFIG = "config_sentence_transformers.json"
ADAPTER_CONFIG = "adapter_config.json"
EXPORTED = "openvino/finerank.json"
"""Marks a folder that holds a graph of OpenVINO, made by us, and names it."""
FINERANK_JSON = "finerank.json"
"""What a model folder of ours says beyond the files that others read: class, lengths, prompts of a reranker."""


def base_of(name: str, cache_dir: str | None = None) -> str | None:
    """Return the base that an adapter folder names; None if ``name`` is an ordinary model."""
    base = read_json(name, ADAPTER_CONFIG, cache_dir).get("base_model_name_or_path")
    return str(base) if base else None


def model_file(name: str, filename: str, cache_dir: str | None = None) -> Path | None:
    """Return the path of one file of a model, in its folder or the hub's cache; None if it has none."""
    path = Path(name) / filename
    if not path.exists() and not Path(name).exists() and not name.startswith((".", "/", "~")) and name.count("/") < 2:
        from transformers.utils import cached_file

        with quiet():
            found = cached_file(
                name,
                filename,
                cache_dir=cache_dir,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                _raise_exceptions_for_gated_repo=False,
            )
        path = Path(found) if found else path
    return path if path.is_file() else None


def read_json(name: str, filename: str, cache_dir: str | None = None) -> dict[str, Any]:
    """Return one JSON file of a model; an empty dict if it has none, or it holds something else than an object."""
    path = model_file(name, filename, cache_dir)
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"model {name} cannot be loaded: {filename} is not JSON: {error}") from None
    return content if isinstance(content, dict) else {}


def stored_settings(places: Sequence[str], cache_dir: str | None = None) -> dict[str, Any]:
    """Return what the first ``finerank.json`` among the folders says: an adapter's comes before its base's."""
    found = (read_json(place, FINERANK_JSON, cache_dir) for place in dict.fromkeys(places))
    return next((settings for settings in found if settings), {})


def near_folder(name: str) -> str | None:
    """Return a hint with the model folders beside the missing one, if there are any."""
    parent = Path(name).expanduser().absolute().parent
    beside = sorted(item.parent.name for item in parent.glob("*/config.json")) if parent.is_dir() else []
    return f"model folders in {parent}: {', '.join(beside[:8])}" if beside else None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence loading bars and reports of transformers; they are about files, not about the user's work."""
    from transformers.utils import logging as hf_logging

    bars, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    others = {item: logging.getLogger(item).level for item in ("sentence_transformers", "huggingface_hub")}
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    for item in others:
        logging.getLogger(item).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars:
            hf_logging.enable_progress_bar()
        hf_logging.set_verbosity(level)
        for item, value in others.items():
            logging.getLogger(item).setLevel(value)
