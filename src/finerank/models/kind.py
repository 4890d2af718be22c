"""Tell an embedder from a reranker by its files, without loading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from finerank.core.errors import UserError

Kind = Literal["embedder", "reranker"]

KINDS: dict[str, Kind] = {"SentenceTransformer": "embedder", "CrossEncoder": "reranker"}
"""``model_type`` in sentence-transformers' own config file."""
SCORING_HEAD = "ForSequenceClassification"


def model_kind(name: str, cache_dir: str | None = None) -> Kind:
    """Return what a local folder or a hub model is; a plain encoder without any head is an embedder.

    Raises:
        UserError: if neither configuration file can be had, or it names a kind of model that is not known here.
    """
    own = _config(name, "config_sentence_transformers.json", cache_dir)
    if own is not None and "model_type" in own:
        known = KINDS.get(str(own["model_type"]))
        if known is None:
            raise UserError(
                f'{name} is a sentence-transformers model of type "{own["model_type"]}"',
                hint="an embedder (SentenceTransformer) or a reranker (CrossEncoder) is expected",
            )
        return known
    plain = _config(name, "config.json", cache_dir)
    if plain is not None and any(str(item).endswith(SCORING_HEAD) for item in plain.get("architectures") or []):
        return "reranker"
    if plain is None and own is None and _config(name, "modules.json", cache_dir) is None:
        looked = "config.json, modules.json and config_sentence_transformers.json, in that folder and on the hub"
        raise UserError(f"model {name} not found: looked for {looked}", hint="check the path, or HF_HUB_OFFLINE")
    return "embedder"


def _config(name: str, file_name: str, cache_dir: str | None) -> dict[str, Any] | None:
    """Return a JSON configuration file, ``{}`` if it holds a list, None if the model has none."""
    path = _find(name, file_name, cache_dir)
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"not readable as JSON: {error}", where=str(path)) from None
    return content if isinstance(content, dict) else {}


def _find(name: str, file_name: str, cache_dir: str | None) -> Path | None:
    if Path(name).is_dir():
        path = Path(name) / file_name
        return path if path.is_file() else None
    if Path(name).is_absolute() or name.startswith((".", "~")):
        return None
    from transformers.utils import cached_file

    try:
        found = cached_file(name, file_name, cache_dir=cache_dir, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):
        return None
    return Path(found) if found else None
