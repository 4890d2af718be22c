"""Our scores against those of FlagEmbedding 1.4.2 on transformers 4.44.2, for the same tiny models in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finerank.models.load import load_scorer
from tests.parity.cases import CASES, PAIRS, Case

TOLERANCE = 1e-3
NAMES = {
    "max_length": "max_len",
    "query_max_length": "query_max_len",
    "query_instruction_for_rerank": "query_prefix",
    "passage_instruction_for_rerank": "passage_prefix",
}
"""FlagEmbedding's names -> ours."""
EXPECTED = {
    kind: json.loads((Path(__file__).parent / "expected" / f"{kind}.json").read_text(encoding="utf-8"))["scores"]
    for kind in CASES
}
ALL = [case for cases in CASES.values() for case in cases]


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


def ours(case: Case) -> dict[str, Any]:
    """Return the options under our names; no prefix is none of ours, not the default."""
    return {NAMES.get(name, name): "" if value is None else value for name, value in case.options.items()}


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_scores_are_those_of_flagembedding(case: Case, places: Path) -> None:
    scorer = load_scorer(str(case.write(places)), device="cpu", dtype="float32", **ours(case))
    expected = np.array(EXPECTED[case.kind][case.name])
    assert expected.std() > 0.1, "scores that hardly differ show nothing"
    if expected.ndim > 1:
        assert np.abs(scorer.layer_scores(PAIRS) - expected).max() <= TOLERANCE
        expected = expected[-1]
    assert np.abs(scorer.score(PAIRS) - expected).max() <= TOLERANCE
    one_by_one = np.concatenate([scorer.score([pair]) for pair in PAIRS[:5]])
    assert np.abs(one_by_one - expected[:5]).max() <= TOLERANCE


def test_no_numbers_of_cases_that_are_gone() -> None:
    assert {kind: sorted(found) for kind, found in EXPECTED.items()} == {
        kind: sorted(case.name for case in cases) for kind, cases in CASES.items()
    }
