"""A reranker's look at candidates before they become negatives: false ones are dropped, or become positives.

The rules of ``negatives`` name the candidates of a row; this module asks a Scorer about as few of them as needed.

Which candidates, in which order, is fixed by the row alone (``asking_order``): first those that would be taken without
a reranker, then the other survivors, then the padding. The row gets the first ``wanted`` of that order that pass, so a
reranker that objects to nothing changes nothing, and neither the block, nor the rounds, nor a deeper search that
makes the order longer at its end changes what a row gets. The pairs of all rows of a block go to the Scorer together.

``negatives.propose`` makes the order: survivors, then every candidate below the range that the rules let pass at the
present depth. ``negatives.settle`` turns places back into ranks. A row searches deeper only while its judgement is not
``settled``; the scores known of a block are passed in again, so that a deeper search asks for new pairs only.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

from finerank.core.errors import UserError
from finerank.core.protocols import Pair, Progress, Scorer

Sampling = Literal["random", "top"]
Verdict = Literal["keep", "drop", "relabel"]

ABOVE_SCORE = "reranker_above_score"
ABOVE_POSITIVE = "reranker_above_positive"
RELABELLED = "reranker_relabelled"
RERANKER_RULES = (ABOVE_SCORE, ABOVE_POSITIVE, RELABELLED)
"""Keys of the counts; a candidate counts once, under the first that meets it, a relabelled one under the last only."""
DECIMALS = 4
"""Scores are compared and written with this many decimals: finer ones differ between batches and devices."""
PATIENCE = 10
"""Candidates asked for each wanted negative before a row is given up, lest one bad positive scores a whole pool."""


@dataclass(frozen=True)
class Bounds:
    """What a reranker says of a false negative; a candidate that exceeds any bound is one. Scores are logits.

    Attributes:
        max_score: highest score of a negative, inclusive.
        margin: a negative stays at least this far below the row's lowest positive score.
        max_positive_ratio: a negative's probability (sigmoid of the score: logits have no zero to take a share from)
            is at most this share of that of the row's lowest positive.
        relabel_from: a false negative with at least this score becomes a positive; None drops them all.
    """

    max_score: float | None = None
    margin: float | None = None
    max_positive_ratio: float | None = None
    relabel_from: float | None = None

    @property
    def relative(self) -> bool:
        """Whether the positives' scores are needed."""
        return self.margin is not None or self.max_positive_ratio is not None

    def verdict(self, score: float, lowest_positive: float | None = None) -> tuple[Verdict, str]:
        """Decide on a candidate; returns the verdict and the rule that met it ("" for a kept one)."""
        rule = ""
        if self.max_score is not None and score > self.max_score:
            rule = ABOVE_SCORE
        elif lowest_positive is not None and self._above_positive(score, lowest_positive):
            rule = ABOVE_POSITIVE
        if rule and self.relabel_from is not None and score >= self.relabel_from:
            return "relabel", RELABELLED
        return ("drop", rule) if rule else ("keep", "")

    def _above_positive(self, score: float, lowest: float) -> bool:
        if self.margin is not None and score > lowest - self.margin:
            return True
        ratio = self.max_positive_ratio
        return ratio is not None and _sigmoid(score) > ratio * _sigmoid(lowest)


@dataclass(frozen=True)
class Request:
    """One row's candidates in the order in which they are asked (``asking_order``, then padding).

    Attributes:
        candidates: texts; read one by one, only as far as needed (``Picked`` reads a pool on disk).
        wanted: negatives to find.
    """

    query: str
    positives: Sequence[str]
    candidates: Sequence[str]
    wanted: int


@dataclass
class Judgement:
    """What the reranker says of one row's candidates; places are indices into ``Request.candidates``.

    Attributes:
        kept: places that pass, in the order asked, at most ``wanted``.
        dropped, relabelled: places of false negatives met before the row had what it wanted.
        scores: place -> score of every one of these.
        positive_scores: scores [P] of the row's positives; empty unless a bound needs them.
        rules: place -> the rule that removed that candidate.
        settled: the row has what it wanted, or was given up after PATIENCE x wanted candidates: more would not help.
    """

    kept: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    relabelled: list[int] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    positive_scores: list[float] = field(default_factory=list)
    rules: dict[int, str] = field(default_factory=dict)
    settled: bool = False

    @property
    def counts(self) -> Counter[str]:
        """Rule -> candidates that it removed."""
        return Counter(self.rules.values())

    @property
    def asked(self) -> int:
        return len(self.scores)


class Picked(Sequence[str]):
    """Some texts of a pool, by position, read when asked for."""

    def __init__(self, pool: Sequence[str], positions: Sequence[int]) -> None:
        self.pool = pool
        self.positions = positions

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self.pool[position] for position in self.positions[index]]
        return self.pool[self.positions[index]]


def asking_order(survivors: Sequence[int], wanted: int, sampling: Sampling, rng: random.Random) -> list[int]:
    """Return all survivors (ranks, best first) in the order in which they are asked.

    The first ``wanted`` are those that mining takes without a reranker, with the same draw; then come the others, by
    rank (``top``) or shuffled (``random``).
    """
    if len(survivors) <= wanted or sampling == "top":
        return list(survivors)
    first = sorted(rng.sample(survivors, wanted))
    rest = sorted(set(survivors).difference(first))
    return first + rng.sample(rest, len(rest))


def judge(
    requests: Sequence[Request], scorer: Scorer, bounds: Bounds, known: dict[Pair, float] | None = None,
    progress: Progress | None = None,
) -> list[Judgement]:  # fmt: skip
    """Ask the scorer about the candidates of a block of rows, in rounds; return what it says, row by row.

    A round takes, of each row, as many further candidates as it still lacks, and scores the distinct pairs of all rows
    in one call; the first also takes the positives, where a bound needs them.

    Args:
        known: scores of pairs, read and added to; pass the same one again for the same rows with more candidates.

    Raises:
        UserError: if a score is not finite.
    """
    scores = {} if known is None else known
    if bounds.relative:
        score_pairs([(row.query, text) for row in requests for text in row.positives], scorer, scores, progress)
    found = [
        Judgement(positive_scores=[scores[row.query, text] for text in row.positives] if bounds.relative else [])
        for row in requests
    ]
    waiting = list(zip(requests, found))
    while waiting:
        pairs = [[(row.query, text) for text in row.candidates[_next(row, judgement)]] for row, judgement in waiting]
        score_pairs([pair for row in pairs for pair in row], scorer, scores, progress)
        for (row, judgement), asked in zip(waiting, pairs):
            _decide(row, judgement, [scores[pair] for pair in asked], bounds)
        waiting = [(row, judgement) for row, judgement in waiting if _goes_on(row, judgement)]
    return found


def _next(row: Request, judgement: Judgement) -> slice:
    """Return the places to ask about now: as many as are missing, at most what patience leaves."""
    stop = min(judgement.asked + row.wanted - len(judgement.kept), row.wanted * PATIENCE)
    return slice(judgement.asked, stop)


def _goes_on(row: Request, judgement: Judgement) -> bool:
    judgement.settled = len(judgement.kept) >= row.wanted or judgement.asked >= row.wanted * PATIENCE
    return not judgement.settled and judgement.asked < len(row.candidates)


def _decide(row: Request, judgement: Judgement, scores: Sequence[float], bounds: Bounds) -> None:
    """Sort the candidates just scored into kept, dropped and relabelled."""
    lowest = min(judgement.positive_scores, default=None)
    places = {"keep": judgement.kept, "drop": judgement.dropped, "relabel": judgement.relabelled}
    for place, score in enumerate(scores, start=judgement.asked):
        verdict, rule = bounds.verdict(score, lowest)
        places[verdict].append(place)
        judgement.scores[place] = score
        if rule:
            judgement.rules[place] = rule


def score_pairs(
    pairs: Sequence[Pair], scorer: Scorer, known: dict[Pair, float], progress: Progress | None = None
) -> None:
    """Add to ``known`` the scores of the distinct pairs that it lacks, in one call."""
    new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
    if not new:
        return
    for pair, score in zip(new, scorer.score(new, progress).tolist()):
        if not math.isfinite(score):
            raise UserError(
                f'the reranker gave a score that is not finite, for the query "{pair[0][:80]}"',
                hint="--dtype float32; if that does not help, the model's weights are damaged",
            )
        known[pair] = round(score, DECIMALS) + 0.0


def _sigmoid(score: float) -> float:
    """Return 1 / (1 + e^-score), without overflow."""
    return 1 / (1 + math.exp(-score)) if score >= 0 else 1 - 1 / (1 + math.exp(score))
