"""Scores of pairs, kept on disk beside the vectors: a comparison that was stopped, or is made again, scores the rest.

A score and the seconds that it took are a vector of two numbers, and a pair can be written as one text; so ``vectors``
keeps scores as it keeps the vectors of texts: by content, per fingerprint of the model, whole or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finerank.core.protocols import AnyPair, Progress, Scorer, Side
from finerank.core.records import Group
from finerank.evaluation.metrics import check_scores
from finerank.evaluation.prompted_texts import read, written
from finerank.retrieval.vectors import cached_encode

WINDOW = 1024
"""Pairs that land together: at most these are lost to a kill."""
PROMPTED = "+"
"""Begins what a pair with a prompt of its own is written as; the others begin with a digit."""


class CachedScorer:
    """A scorer whose scores are kept in ``cache`` (None: nowhere).

    Attributes:
        seconds: what the pairs asked for so far took, each when it was computed: now or in an earlier run.
    """

    dimension = 2
    cosine = False

    def __init__(self, scorer: Scorer, cache: Path | None) -> None:
        self.scorer = scorer
        self.cache = cache
        self.seconds = 0.0
        self._placed = False

    def fingerprint(self, side: Side = "passage") -> str:
        return self.scorer.fingerprint() + (" placed" if self._placed else "")

    def pairs_of(self, group: Group) -> list[AnyPair]:
        """Return a group's pairs, with what stands before their texts."""
        return self.scorer.pairs_of(group)

    def score(
        self, pairs: Sequence[AnyPair], progress: Progress | None = None, *, placed: bool = False
    ) -> NDArray[np.float32]:
        """Return scores [N] in the order of ``pairs``; the windows are the same with and without a cache."""
        self._placed = placed
        found = cached_encode(self, list(map(_text, pairs)), "passage", self.cache, progress, WINDOW)
        self.seconds += float(found[:, 1].sum(dtype=np.float64))
        return found[:, 0]

    def encode(self, texts: Sequence[str], side: Side, progress: Progress | None = None) -> NDArray[np.float32]:
        """Score pairs that are written as texts; return [N, 2]: each one's score and share of the seconds.

        Raises:
            UserError: for a score that is not finite.
        """
        started = time.monotonic()
        pairs = list(map(_pair, texts))
        scores = self.scorer.score(pairs, progress, placed=True) if self._placed else self.scorer.score(pairs, progress)
        check_scores(map(float, scores), "reranker")
        each = (time.monotonic() - started) / len(texts)
        return np.stack([scores, np.full(len(texts), each)], axis=1).astype(np.float32)


def _text(pair: AnyPair) -> str:
    """Write a pair as a text that no other pair has.

    >>> _text(("what?", "this")), _pair("5 what?this")
    ('5 what?this', ('what?', 'this'))
    """
    query, passage, *prompt = pair
    text = written(query, passage)
    return PROMPTED + written(prompt[0], text) if prompt else text


def _pair(text: str) -> AnyPair:
    if not text.startswith(PROMPTED):
        return read(text)
    prompt, both = read(text.removeprefix(PROMPTED))
    return *read(both), prompt
