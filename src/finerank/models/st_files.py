"""The files by which sentence-transformers knows a folder as a CrossEncoder, written without loading the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finerank.models.model_files import ST_CONFIG

MODULES = "modules.json"
TRANSFORMER_CONFIG = "sentence_bert_config.json"
CROSS_ENCODER = "CrossEncoder"
METHOD = {"method": "forward", "method_output_name": "logits"}
"""How sentence-transformers calls a transformers model that gives logits."""
CLASSIFIER: dict[str, Any] = {
    "transformer_task": "sequence-classification",
    "modality_config": {"text": METHOD},
    "module_output_name": "scores",
}
"""How sentence-transformers runs a sequence-classification model."""


def write(
    folder: Path, kinds: Sequence[tuple[str, type]], transformer: Mapping[str, Any], described: Mapping[str, Any]
) -> None:
    """Write the list of modules, how the transformer is run, and what the whole is.

    Args:
        kinds: folder of each module ("" for the top) and its class.
        transformer: as ``CLASSIFIER``.
        described: goes into the description beside the kind and the version; the activation is a sigmoid by default.
    """
    from sentence_transformers import __version__ as version

    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"{kind.__module__}.{kind.__name__}"}
        for place, (path, kind) in enumerate(kinds)
    ]
    whole = {
        "__version__": {"sentence_transformers": version}, "activation_fn": "torch.nn.modules.activation.Sigmoid",
        "default_prompt_name": None, "prompts": {}, **described, "model_type": CROSS_ENCODER,
    }  # fmt: skip
    for name, content in ((MODULES, modules), (TRANSFORMER_CONFIG, transformer), (ST_CONFIG, whole)):
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_classifier(folder: Path, described: Mapping[str, Any], config: Any) -> None:
    """Write them for a sequence-classification model.

    Args:
        described: of the CrossEncoder that it was tuned from, or empty.
        config: of the transformers model, where older versions keep the activation.
    """
    from sentence_transformers.base.modules import Transformer

    kept = dict(described) if described.get("model_type") == CROSS_ENCODER else {}
    kept.pop("__version__", None)
    activation = activation_in(config)
    if activation is not None:
        kept.setdefault("activation_fn", activation)
    write(folder, [("", Transformer)], CLASSIFIER, kept)


def activation_in(config: Any) -> str | None:
    """Return the activation that a transformers configuration names for sentence-transformers, in either spelling."""
    named = (getattr(config, "sentence_transformers", None) or {}).get("activation_fn")
    return named or getattr(config, "sbert_ce_default_activation_function", None)
