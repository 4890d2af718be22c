"""Scores of pairs are computed once, whoever asks again, and a stopped run loses a window at most."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from finerank.core.errors import UserError
from finerank.core.protocols import Pair, Progress
from finerank.evaluation.pair_scores import WINDOW, CachedScorer, _pair, _text

PAIRS = [(f"query {place % 7}", f"passage {place}") for place in range(3 * WINDOW)]


class Lengths:
    """Scores a pair by its lengths; ``asked`` are the pairs of every call; dies when it is called for the ``last``."""

    def __init__(self, name: str = "lengths", last: int | None = None) -> None:
        self.name, self.last = name, last
        self.asked: list[list[Pair]] = []

    def fingerprint(self) -> str:
        return self.name

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
        if len(self.asked) == self.last:
            raise KeyboardInterrupt
        self.asked.append(list(pairs))
        if progress:
            progress(len(pairs))
        return np.array([len(query) + len(passage) / 1000 for query, passage in pairs], dtype=np.float32)


def test_a_pair_is_scored_once_in_all_runs(tmp_path: Path) -> None:
    first, told = Lengths(), []
    scores = CachedScorer(first, tmp_path).score(PAIRS[:10], told.append)
    assert scores.tolist() == Lengths().score(PAIRS[:10]).tolist()
    again = Lengths()
    assert CachedScorer(again, tmp_path).score(PAIRS[4:14]).tolist() == Lengths().score(PAIRS[4:14]).tolist()
    assert again.asked == [PAIRS[10:14]]
    assert sum(told) == 10
    assert CachedScorer(Lengths("another model"), tmp_path).score(PAIRS[:1]) == scores[:1]


def test_a_run_that_was_stopped_goes_on_with_the_window_that_it_lost(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        CachedScorer(Lengths(last=2), tmp_path).score(PAIRS)
    rest = Lengths()
    scores = CachedScorer(rest, tmp_path).score(PAIRS)
    assert rest.asked == [PAIRS[2 * WINDOW :]]
    whole = Lengths()
    assert scores.tobytes() == CachedScorer(whole, None).score(PAIRS).tobytes()
    assert [len(pairs) for pairs in whole.asked] == [WINDOW] * 3


def test_a_pair_takes_the_time_that_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 2)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    scorer = CachedScorer(Lengths(), tmp_path)
    scorer.score(PAIRS[:8])
    assert scorer.seconds == pytest.approx(2.0)
    scorer.score(PAIRS[6:10])  # two that are known, two for 2 seconds
    assert scorer.seconds == pytest.approx(2.0 + 2 * 0.25 + 2.0)
    known = CachedScorer(Lengths(), tmp_path)
    known.score(PAIRS[:4])
    assert known.seconds == pytest.approx(1.0)


def test_what_is_no_number_is_neither_kept_nor_passed_on(tmp_path: Path) -> None:
    class Broken(Lengths):
        def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
            return np.full(len(pairs), np.nan, dtype=np.float32)

    with pytest.raises(UserError, match="finite"):
        CachedScorer(Broken(), tmp_path).score(PAIRS[:2])
    assert CachedScorer(Lengths(), tmp_path).score(PAIRS[:2]).tolist() == Lengths().score(PAIRS[:2]).tolist()


@given(st.text(), st.text(), st.text())
def test_a_pair_comes_back_from_its_text(query: str, passage: str, prompt: str) -> None:
    assert _pair(_text((query, passage))) == (query, passage)
    assert _pair(_text((query, passage, prompt))) == (query, passage, prompt)


def test_pairs_that_have_what_stands_before_them_are_kept_apart(tmp_path: Path) -> None:
    class Prefixed(Lengths):
        def score(
            self, pairs: Sequence[Any], progress: Progress | None = None, *, placed: bool = False
        ) -> NDArray[np.float32]:
            return super().score(pairs if placed else [("a: " + query, passage) for query, passage in pairs], progress)

    scorer = CachedScorer(Prefixed(), tmp_path)
    assert scorer.score(PAIRS[:1]) == pytest.approx(scorer.score(PAIRS[:1], placed=True) + 3)
    assert scorer.score(PAIRS[:1]) == pytest.approx(scorer.score(PAIRS[:1], placed=True) + 3)
    assert len(scorer.scorer.asked) == 2  # type: ignore[attr-defined]
