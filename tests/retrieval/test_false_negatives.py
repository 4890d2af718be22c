"""A reranker's veto, with scores made by hand: who is asked, in which order, and what follows."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from finerank.core.errors import UserError
from finerank.core.protocols import Pair, Progress
from finerank.retrieval.false_negatives import (
    ABOVE_POSITIVE,
    ABOVE_SCORE,
    PATIENCE,
    RELABELLED,
    Bounds,
    Judgement,
    Picked,
    Request,
    asking_order,
    judge,
)


class Table:
    """A Scorer that looks scores up, by passage or by pair, and remembers each call."""

    def __init__(self, scores: Mapping[str | Pair, float]) -> None:
        self.scores = scores
        self.calls: list[list[Pair]] = []

    def fingerprint(self) -> str:
        return "table"

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> np.ndarray:
        self.calls.append(list(pairs))
        if progress is not None:
            progress(len(pairs))
        return np.array([self.scores.get(pair, self.scores.get(pair[1], 0.0)) for pair in pairs], dtype=np.float32)


def one(scorer: Table, bounds: Bounds, candidates: Sequence[str], wanted: int, positives: tuple[str, ...] = ("p",)):  # type: ignore[no-untyped-def]
    return judge([Request("q", positives, candidates, wanted)], scorer, bounds)[0]


@pytest.mark.parametrize(
    ("bounds", "score", "lowest", "verdict", "rule"),
    [
        (Bounds(max_score=1.0), 1.0, None, "keep", ""),
        (Bounds(max_score=1.0), 1.001, None, "drop", ABOVE_SCORE),
        (Bounds(margin=0.5), 2.0, 2.5, "keep", ""),
        (Bounds(margin=0.5), 2.01, 2.5, "drop", ABOVE_POSITIVE),
        (Bounds(margin=0.0), -3.9, -4.0, "drop", ABOVE_POSITIVE),
        # sigmoid(0) = 0.5; 0.8 of it is 0.4 = sigmoid(-0.4055)
        (Bounds(max_positive_ratio=0.8), -0.41, 0.0, "keep", ""),
        (Bounds(max_positive_ratio=0.8), -0.40, 0.0, "drop", ABOVE_POSITIVE),
        (Bounds(max_positive_ratio=0.5), -900.0, 900.0, "keep", ""),
        (Bounds(max_score=1.0, margin=0.0), 3.0, 2.0, "drop", ABOVE_SCORE),
        (Bounds(max_score=1.0, relabel_from=3.0), 2.9, None, "drop", ABOVE_SCORE),
        (Bounds(max_score=1.0, relabel_from=3.0), 3.0, None, "relabel", RELABELLED),
        (Bounds(margin=0.0, relabel_from=-9.0), 1.0, 2.0, "keep", ""),
        (Bounds(), 99.0, None, "keep", ""),
    ],
)
def test_bounds_by_hand(bounds: Bounds, score: float, lowest: float | None, verdict: str, rule: str) -> None:
    assert bounds.verdict(score, lowest) == (verdict, rule)


def test_replacements_are_asked_only_for_what_is_missing() -> None:
    scorer = Table({"b": 5, "c": 5, "e": 5})
    found = one(scorer, Bounds(max_score=1), "abcdefgh", 3)
    assert [[text for _, text in call] for call in scorer.calls] == [["a", "b", "c"], ["d", "e"], ["f"]]
    assert (found.kept, found.dropped, found.relabelled) == ([0, 3, 5], [1, 2, 4], [])
    assert found.counts == {ABOVE_SCORE: 3}
    assert found.scores == {0: 0, 1: 5, 2: 5, 3: 0, 4: 5, 5: 0}
    assert found.settled


def test_pairs_of_all_rows_go_together_and_only_once() -> None:
    scorer = Table({"b": 5})
    rows = [Request("q", ("p",), "ab", 2), Request("r", ("p",), "ac", 2), Request("q", ("p", "o"), "ca", 2)]
    found = judge(rows, scorer, Bounds(margin=-1.0))
    assert scorer.calls == [
        [("q", "p"), ("r", "p"), ("q", "o")],
        [("q", "a"), ("q", "b"), ("r", "a"), ("r", "c"), ("q", "c")],
    ]
    assert [judgement.kept for judgement in found] == [[0], [0, 1], [0, 1]]
    assert [judgement.settled for judgement in found] == [False, True, True]
    assert found[2].positive_scores == [0, 0]


def test_the_lowest_positive_counts_and_positives_are_not_scored_in_vain() -> None:
    scorer = Table({"high": 9, "low": 2, "x": 1.5, "y": 2.5})
    relative = one(scorer, Bounds(margin=0.0), "xy", 2, ("high", "low"))
    assert (relative.kept, relative.dropped, relative.positive_scores) == ([0], [1], [9, 2])
    absolute = one(scorer, Bounds(max_score=2.0), "xy", 2, ("high", "low"))
    assert (absolute.kept, absolute.positive_scores) == ([0], [])
    assert {text for _, text in scorer.calls[-1]} == {"x", "y"}


def test_relabelled_candidates_are_replaced_too() -> None:
    found = one(Table({"a": 8, "b": 2}), Bounds(max_score=1, relabel_from=5), "abcd", 2)
    assert (found.relabelled, found.dropped, found.kept) == ([0], [1], [2, 3])
    assert found.counts == {RELABELLED: 1, ABOVE_SCORE: 1}


def test_a_hopeless_row_is_given_up() -> None:
    scorer = Table({str(number): 9 for number in range(1000)})
    found = one(scorer, Bounds(max_score=1), [str(number) for number in range(1000)], 2)
    assert found.settled
    assert (found.kept, found.asked) == ([], 2 * PATIENCE)


def test_a_longer_list_asks_for_new_pairs_only() -> None:
    scorer, bounds, known = Table({"a": 5, "c": 5}), Bounds(max_score=1), {}
    first = judge([Request("q", ("p",), "abc", 3)], scorer, bounds, known)[0]
    assert (first.kept, first.settled) == ([1], False)
    second = judge([Request("q", ("p",), "abcdef", 3)], scorer, bounds, known)[0]
    assert (second.kept, second.settled) == ([1, 3, 4], True)
    assert [text for call in scorer.calls for _, text in call] == list("abcde")


ROW = some.tuples(some.integers(0, 3), some.integers(0, 6), some.integers(0, 12))


@given(
    rows=some.lists(ROW, min_size=1, max_size=8),
    seed=some.integers(0, 99), relabel=some.booleans(), cut=some.integers(1, 8),
)  # fmt: skip
def test_blocks_and_rounds_change_nothing(rows: list[tuple[int, int, int]], seed: int, relabel: bool, cut: int) -> None:
    rng = random.Random(seed)
    scores = {(f"q{query}", str(text)): rng.randrange(-32, 64) / 16 for query in range(4) for text in range(20)}
    bounds = Bounds(max_score=2.5, margin=0.3, relabel_from=3 if relabel else None)
    requests = [
        Request(f"q{query}", (str(12 + query),), [str(text) for text in rng.sample(range(12), count)], wanted)
        for query, wanted, count in rows
    ]
    whole = judge(requests, Table(scores), bounds)
    starts = range(0, len(rows), cut)
    parts = [found for at in starts for found in judge(requests[at : at + cut], Table(scores), bounds)]
    assert whole == parts == [expected(row, scores, bounds) for row in requests]


def expected(row: Request, scores: Mapping[Pair, float], bounds: Bounds) -> Judgement:
    """Walk the list one candidate at a time."""
    found = Judgement(positive_scores=[round(scores[row.query, text], 4) for text in row.positives])
    for place, text in enumerate(row.candidates):
        if len(found.kept) == row.wanted or place >= row.wanted * PATIENCE:
            break
        score = round(scores[row.query, text], 4)
        verdict, rule = bounds.verdict(score, min(found.positive_scores))
        {"keep": found.kept, "drop": found.dropped, "relabel": found.relabelled}[verdict].append(place)
        found.scores[place] = score
        if rule:
            found.rules[place] = rule
    found.settled = len(found.kept) == row.wanted or len(found.scores) >= row.wanted * PATIENCE
    return found


@given(size=some.integers(0, 40), wanted=some.integers(0, 20), seed=some.integers(0, 99))
def test_the_first_asked_are_those_taken_without_a_reranker(size: int, wanted: int, seed: int) -> None:
    survivors = list(range(100, 100 + size))
    order = asking_order(survivors, wanted, "random", random.Random(seed))
    taken = survivors if size <= wanted else sorted(random.Random(seed).sample(survivors, wanted))
    assert order[:wanted] == taken
    assert sorted(order) == survivors
    assert asking_order(survivors, wanted, "top", random.Random(seed)) == survivors


def test_picked_reads_only_what_is_asked() -> None:
    class Watched(list[str]):
        read: list[int]

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            self.read.append(index)
            return super().__getitem__(index)

    pool = Watched("abcdefgh")
    pool.read = []
    picked = Picked(pool, [7, 0, 3, 1])
    assert (len(picked), picked[0], picked[1:3]) == (4, "h", ["a", "d"])
    assert pool.read == [7, 0, 3]
    one(Table({}), Bounds(max_score=1), picked, 2)
    assert pool.read == [7, 0, 3, 7, 0]


def test_a_score_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(UserError, match='not finite, for the query "q"'):
        one(Table({"a": float("nan")}), Bounds(max_score=1), "a", 1)
