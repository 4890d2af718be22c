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


def write_classifier(folder: Path, described: Mapping[str, Any]) -> None:
    """Write them for a sequence-classification model; ``described`` as of the CrossEncoder that it was tuned from."""
    from sentence_transformers.base.modules import Transformer

    kept = dict(described) if described.get("model_type") == CROSS_ENCODER else {}
    write(folder, [("", Transformer)], CLASSIFIER, {name: kept[name] for name in kept if name != "__version__"})
