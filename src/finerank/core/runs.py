"""Qrels and runs in the TREC sense, and the one rule for ties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

Qrels: TypeAlias = dict[str, dict[str, int]]
"""query id -> passage id -> relevance grade (> 0 is relevant)."""

Run: TypeAlias = dict[str, dict[str, float]]
"""query id -> passage id -> score, higher is better."""


class Candidate(NamedTuple):
    """A retrieved passage and its score."""

    passage_id: str
    score: float


def ranked(scores: Mapping[str, float]) -> list[Candidate]:
    """Order one query's passages: higher score first; equal scores by passage id, descending (as trec_eval).

    >>> [c.passage_id for c in ranked({"a": 1.0, "b": 1.0, "c": 2.0})]
    ['c', 'b', 'a']
    """
    return [Candidate(*item) for item in sorted(scores.items(), key=lambda item: (item[1], item[0]), reverse=True)]


def top(scores: Mapping[str, float], k: int) -> dict[str, float]:
    """Return the ``k`` best passages of one query, in rank order."""
    return {candidate.passage_id: candidate.score for candidate in ranked(scores)[:k]}
