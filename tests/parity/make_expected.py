"""Write the numbers that ours are compared with; runs in an environment of ``requirements.txt`` (see README.md).

python tests/parity/make_expected.py [base] [layerwise] [lightweight]
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tests.parity.cases import CASES, PAIRS, Case  # noqa: E402

DIGITS = 6


def reranker(case: Case, folder: Path) -> Any:
    """Open FlagEmbedding's own class."""
    import FlagEmbedding

    classes = {
        "base": FlagEmbedding.FlagLLMReranker,
        "layerwise": FlagEmbedding.LayerWiseFlagLLMReranker,
        "lightweight": FlagEmbedding.LightWeightFlagLLMReranker,
    }
    return classes[case.kind](str(folder), devices="cpu", batch_size=case.batch_size, **case.options)


def scores(case: Case, folder: Path) -> list[Any]:
    """Return a number per pair or, of several layers, a list per layer."""
    found = reranker(case, folder).compute_score([list(pair) for pair in PAIRS])
    if isinstance(found[0], list):
        return [[round(float(score), DIGITS) for score in layer] for layer in found]
    return [round(float(score), DIGITS) for score in found]


def versions() -> dict[str, str]:
    """Return what the numbers were made with."""
    from importlib.metadata import version

    packages = ("FlagEmbedding", "transformers", "tokenizers", "torch", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def main() -> None:
    """Write ``expected/<class>.json`` for the classes named, or for all."""
    logging.disable(logging.WARNING)
    asked = sys.argv[1:] or list(CASES)
    with tempfile.TemporaryDirectory() as place:
        for kind in asked:
            found = {case.name: scores(case, case.write(Path(place))) for case in CASES[kind]}
            lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in found.items())
            content = f'{{\n "made_with": {json.dumps(versions())},\n "scores": {{\n{lines}\n }}\n}}\n'
            (HERE / "expected").mkdir(exist_ok=True)
            (HERE / "expected" / f"{kind}.json").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
