"""Held-out measures: figures by hand, the model asked anew each time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from finerank.batching.row_pairs import PairLayout
from finerank.batching.row_prompts import Prompts, embedder_prompts, no_prompts, pair_prompts
from finerank.core.protocols import Pair, Progress, Side
from finerank.core.records import Row
from finerank.data.sources import Judged
from finerank.evaluation.fusion_store import query_digests
from finerank.evaluation.held_out import (
    OTHERS,
    RELEVANT,
    Measure,
    RerankMeasure,
    Scores,
    rows_measure,
    search_measure,
    shapes,
)
from finerank.models.load import load_encoder, load_scorer

ROWS = [Row("q1", ("good one",), ("bad a", "bad b")), Row("q2", ("good two",), ("bad a", "bad c"))]


class ByTable:
    """Scores a passage by a table; what is not in it scores 0."""

    def __init__(self, table: dict[str, float]) -> None:
        self.table = table

    def fingerprint(self) -> str:
        return "table"

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        return np.array([self.table.get(passage, 0.0) for _, passage in pairs], dtype=np.float32)


class ByVector:
    """Vectors by hand: the nearer in direction is the smaller in inner product."""

    dimension = 2
    vectors = {"q": (1.0, 0.0), "right way, short": (0.5, 0.0), "wrong way, long": (3.0, 4.0)}

    def __init__(self, cosine: bool) -> None:
        self.cosine = cosine

    def fingerprint(self, side: Side) -> str:
        return "vectors"

    def encode(self, texts: Sequence[str], side: Side, progress: Progress | None = None) -> NDArray[np.float32]:
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)


def means(measure: Measure) -> dict[str, float]:
    return {name: sum(values) / len(values) for name, values in measure().items()}


@pytest.mark.parametrize(("cosine", "reciprocal_rank"), [(True, 1.0), (False, 0.5)])
def test_the_model_says_how_its_vectors_are_compared(cosine: bool, reciprocal_rank: float) -> None:
    encoder = ByVector(cosine)
    rows = [Row("q", ("right way, short",), ("wrong way, long",))]
    judged = Judged(
        passage_ids=["d1", "d2"], passages=["right way, short", "wrong way, long"], query_ids=["q1"], queries=["q"],
        qrels={"q1": {"d1": 1}}, name="toy",
    )  # fmt: skip
    table = ByTable({"right way, short": 1.0})
    assert rows_measure(rows, encoder=encoder)()["MRR"] == [reciprocal_rank]
    assert search_measure(encoder, judged)()["MRR"] == [reciprocal_rank]
    # One candidate: what the first stage ranks first.
    assert RerankMeasure(table, judged, encoder, depth=1)()["accuracy"] == [float(cosine)]


def test_values_stand_in_the_order_of_the_queries() -> None:
    measure = rows_measure(ROWS, scorer=ByTable({"good one": 3.0, "good two": 1.0, "bad a": 2.0}))
    assert measure()["MRR"] == [1.0, 0.5]


def test_rows_by_hand_and_asked_anew() -> None:
    scorer = ByTable({"good one": 3.0, "good two": 1.0, "bad a": 2.0})
    measure = rows_measure(ROWS, scorer=scorer)
    # The first positive ranks 1, the second 2.
    assert means(measure) == pytest.approx({"nDCG@10": (1 + 1 / math.log2(3)) / 2, "MRR": 0.75, "accuracy": 0.5})
    scorer.table["good two"] = 5.0
    assert means(measure) == pytest.approx({"nDCG@10": 1.0, "MRR": 1.0, "accuracy": 1.0})


def scores_of(rows: list[Row], prompts: Prompts = no_prompts, **model: Any) -> list[float]:
    kept = Scores()
    rows_measure(rows, **model, scores=kept, prompts=prompts)()
    return kept.relevant + kept.others


def prompted(**extra: str) -> list[Row]:
    return [replace(row, extra=extra) for row in ROWS]


def test_an_embedder_is_measured_with_the_rows_prompts(tiny_encoder: str) -> None:
    def opened(query: str, passage: str = "text: ") -> Any:
        return load_encoder(tiny_encoder, device="cpu", dtype="float32", query_prompt=query, passage_prompt=passage)

    own, sort = opened("find: "), partial(embedder_prompts, template="{}: {}")
    assert scores_of(ROWS, sort, encoder=own) == scores_of(ROWS, encoder=own)
    found = scores_of(prompted(prompt="sort"), sort, encoder=own)
    assert found == pytest.approx(scores_of(ROWS, encoder=opened("sort: ")), abs=1e-6)
    assert found != pytest.approx(scores_of(ROWS, encoder=own), abs=1e-3)
    # Both sides alike: the passages get what stands before the query, be it the row's or the model's own.
    found = scores_of(prompted(prompt="sort", type="symmetric_sts"), sort, encoder=own)
    assert found == pytest.approx(scores_of(ROWS, encoder=opened("sort: ", "sort: ")), abs=1e-6)
    found = scores_of(prompted(type="symmetric_sts"), sort, encoder=own)
    assert found == pytest.approx(scores_of(ROWS, encoder=opened("find: ", "find: ")), abs=1e-6)


def test_a_reranker_is_measured_with_the_rows_instructions(tiny_reranker: str) -> None:
    def opened(query: str) -> Any:
        return load_scorer(tiny_reranker, device="cpu", dtype="float32", query_prefix=query, passage_prefix="text: ")

    asked = partial(pair_prompts, layout=PairLayout("find: "))
    rows = prompted(query_prompt="sort: ", passage_prompt="not asked for: ")
    found = scores_of(rows, asked, scorer=opened("find: "))
    assert found == pytest.approx(scores_of(ROWS, scorer=opened("sort: ")), abs=1e-5)
    assert found != pytest.approx(scores_of(ROWS, scorer=opened("find: ")), abs=1e-3)
    assert scores_of(rows, partial(pair_prompts, layout=PairLayout()), scorer=opened("find: ")) == scores_of(
        ROWS, scorer=opened("find: ")
    )


def test_a_prompt_that_is_no_text_is_none(tiny_encoder: str) -> None:
    encoder = load_encoder(tiny_encoder, device="cpu", dtype="float32", query_prompt="find: ")
    rows = [replace(row, extra={"prompt": ["sort"], "type": 3}) for row in ROWS]
    assert scores_of(rows, embedder_prompts, encoder=encoder) == scores_of(ROWS, encoder=encoder)


def test_a_constant_model_is_as_bad_as_can_be() -> None:
    assert means(rows_measure(ROWS, scorer=ByTable({}))) == pytest.approx(
        {"nDCG@10": 0.5, "MRR": 1 / 3, "accuracy": 0.0}
    )


def test_rows_without_negatives_are_ranked_against_the_others() -> None:
    bare = [Row(f"q{index}", (f"passage {index}",)) for index in range(5)]
    measure = rows_measure(bare, scorer=ByTable({f"passage {index}": float(index) for index in range(5)}))
    # Five passages each; passage 4 is always first, so the positive of row i ranks 5 - i.
    assert means(measure)["MRR"] == pytest.approx(sum(1 / rank for rank in range(1, 6)) / 5)


def test_reranking_scores_only_what_the_first_stage_found() -> None:
    judged = Judged(
        passage_ids=["d1", "d2", "d3"], passages=["red cat", "blue cat", "green dog"], query_ids=["q1", "q2"],
        queries=["cat", "cat"], qrels={"q1": {"d2": 1}, "q2": {"d3": 1}}, name="toy",
    )  # fmt: skip
    measure = RerankMeasure(ByTable({"blue cat": 2.0, "green dog": 9.0}), judged, None, depth=2)
    assert means(measure) == pytest.approx({"nDCG@10": 0.5, "MRR": 0.5, "accuracy": 0.5})


TWO = Judged(
    passage_ids=["d1", "d2", "d3"], passages=["red cat", "blue cat cat", "green dog"], query_ids=["q1", "q2"],
    queries=["cat", "dog"], qrels={"q1": {"d1": 1}, "q2": {"d3": 1}}, name="toy",
)  # fmt: skip


def test_a_reranker_stands_beside_its_first_stage_and_both_together() -> None:
    # BM25 puts d2 before d1 for "cat" and d3 first for "dog"; the reranker is right about the cat alone.
    scorer = ByTable({"red cat": 5.0, "blue cat cat": 1.0, "green dog": 0.0})
    measure = RerankMeasure(scorer, TWO, None, depth=3)
    second = 1 / math.log2(3)
    assert measure.first["nDCG@10"] == pytest.approx([second, 1.0])
    tuned = measure()
    assert tuned["nDCG@10"] == pytest.approx([1.0, 0.5])
    beside = measure.beside(tuned)
    assert (beside.name, beside.first) == ("bm25", measure.first)
    zscore, rrf = beside.fusions
    assert (zscore.fusion, rrf.fusion, zscore.queries, zscore.first_stage) == ("zscore", "rrf", 2, "bm25")
    assert zscore.seen == query_digests(["cat", "dog"])
    # A weight between the two gets both right.
    assert beside.fused["nDCG@10"] == [1.0, 1.0]
    assert 0.0 < zscore.weight < 10.0


def test_pairs_are_scored_again_only_if_the_model_has_changed_since() -> None:
    class Counting(ByTable):
        calls = 0

        def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
            self.calls += 1
            return super().score(pairs, progress)

    scorer = Counting({"red cat": 5.0, "blue cat cat": 1.0})
    measure = RerankMeasure(scorer, TWO, None, depth=3)
    best = measure()
    measure.beside(best)
    assert scorer.calls == 1
    scorer.table["red cat"] = -5.0
    worse = measure()
    scorer.table["red cat"] = 5.0  # the best weights come back
    assert measure.beside(best).fused["nDCG@10"][0] == 1.0
    assert (scorer.calls, worse["nDCG@10"][0] < 1.0) == (3, True)


def test_scores_before_and_after_share_an_axis() -> None:
    base, best = {RELEVANT: [0.0, 1.0], OTHERS: [0.5]}, {RELEVANT: [4.0, 9.0], OTHERS: [-1.0, 2.0]}
    found = shapes(base, best)
    assert (found["base"]["low"], found["base"]["high"]) == (found["best"]["low"], found["best"]["high"])
    assert (found["base"]["apart"], found["best"]["apart"]) == (0.5, 1.0)
    assert set(shapes({}, best)) == {"best"}
    assert shapes({}, {}) == {}


def test_scores_are_kept_beside_the_figures() -> None:
    scores = Scores()
    assert scores.values() == {}
    measure = rows_measure(ROWS, scorer=ByTable({"good one": 3.0, "good two": 1.0, "bad a": 2.0}), scores=scores)
    assert not any(name.startswith("_") for name in measure())
    found = scores.values()
    assert found[RELEVANT] == [1.0, 3.0]
    assert 2.0 in found[OTHERS]
    scores.note({"q": {"p0": 1}}, {"q": {f"p{place}": float(place) for place in range(9_000)}})
    assert len(scores.others) == 2_000
    assert scores.others == sorted(scores.others)
