"""From one query's ranked pool to its hard negatives: pure rules, no model, no files.

The order is fixed. The range [start, stop) is cut out of the ranking first, before anything is removed, so that
``2-200`` means ranks 3 to 200 whatever the row's positives are. Then what may not be a negative is dropped, each
candidate counted under the first rule that meets it; then ``number`` of the rest are taken. Texts are compared by
``identity`` (their normal form), so that a positive spelt another way is still a positive.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from finerank.data.text import normal_form
from finerank.retrieval.false_negatives import Judgement, asking_order

Sampling = Literal["random", "top"]
Prefer = Callable[[Sequence[int], int], list[int]]
"""Survivors (ranks, best first) and a number -> so many of them, in the order of preference."""

OWN_POSITIVE = "own_positive"
SAME_QUERY_POSITIVE = "positive_of_same_query"
QUERY_ITSELF = "query_itself"
OUTSIDE_SIMILARITY = "outside_similarity_range"
ABOVE_BOUND = "above_positive_bound"
DUPLICATE = "duplicate"
RULES = (OWN_POSITIVE, SAME_QUERY_POSITIVE, QUERY_ITSELF, OUTSIDE_SIMILARITY, ABOVE_BOUND, DUPLICATE)
"""The rules in the order in which they are asked; also the keys of the counts."""


class Identities(Protocol):
    """Pool position -> identity of the passage there."""

    def __getitem__(self, position: int, /) -> int: ...


@dataclass(frozen=True)
class Rules:
    """What may be a negative and how many are wanted.

    Attributes:
        start, stop: the 0-based, half-open slice [start, stop) of the ranking to take from.
        number: negatives wanted per row.
        similarity_range: lowest and highest cosine, both inclusive.
        max_positive_ratio: a negative's cosine may reach this share of the row's lowest positive cosine.
        margin: a negative's cosine must stay this far below the row's lowest positive cosine.
        sampling: ``random`` over the survivors, or ``top``, the hardest of them.
        pad: fill a short row from ranks at or after ``stop``.
    """

    start: int = 10
    stop: int = 210
    number: int = 15
    similarity_range: tuple[float, float] | None = None
    max_positive_ratio: float | None = None
    margin: float | None = None
    sampling: Sampling = "random"
    pad: bool = True

    def highest(self, lowest_positive: float) -> float:
        """Return the highest cosine that the positive-aware bound allows, inclusive.

        For a negative ``lowest_positive`` the ratio widens the distance instead of lifting the bound over the positive.
        """
        bounds = [float("inf")]
        if self.max_positive_ratio is not None:
            bounds.append(lowest_positive - (1 - self.max_positive_ratio) * abs(lowest_positive))
        if self.margin is not None:
            bounds.append(lowest_positive - self.margin)
        return min(bounds)


@dataclass(frozen=True)
class Ranking:
    """The pool as one query sees it, best first; lists of Python's own numbers.

    Attributes:
        positions: pool positions [k].
        similarities: cosines [k], or none where there is no embedder.
        retrieved: how many of them were found; those behind only fill up and are in no range. None: all.
        ranks: side -> 0-based rank [k] on that side, None where that side did not find the passage.
    """

    positions: Sequence[int]
    similarities: Sequence[float]
    retrieved: int | None = None
    ranks: Mapping[str, Sequence[int | None]] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The first rank that is none."""
        return len(self.positions) if self.retrieved is None else self.retrieved


@dataclass(frozen=True)
class Known:
    """What is known of one row, as identities.

    Attributes:
        positives: the row's own positives.
        same_query: positives of every row that asks the same query.
        query: the query itself.
        lowest_positive: the smallest cosine between the query and one of its positives.
        kept: negatives that the row keeps; they fill the first of the wanted places and are not mined again.
    """

    positives: frozenset[int]
    same_query: frozenset[int]
    query: int
    lowest_positive: float
    kept: tuple[int, ...] = ()


@dataclass
class Selection:
    """The chosen negatives of one row, hardest first, padding last.

    Attributes:
        positions, similarities: pool positions [n] and cosines [n], or no cosines where there is no embedder.
        ranks: places [n] in the ranking that was chosen from.
        in_range: candidates that the slice held before anything was removed.
        survivors: candidates left by the rules.
        padded: how many of the chosen come from below the range.
        dropped: rule -> candidates of the slice that it removed.
        short: fewer survivors than wanted, before padding.
        missing: negatives still wanted after padding.
        wants_more: a deeper ranking could still fill the row.
        relabelled: places in the ranking of candidates that became positives.
    """

    positions: list[int]
    similarities: list[float]
    ranks: list[int] = field(default_factory=list)
    in_range: int = 0
    survivors: int = 0
    padded: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    short: bool = False
    missing: int = 0
    wants_more: bool = False
    relabelled: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Proposal:
    """A row's candidates in the order of preference, before a reranker has seen them.

    Attributes:
        survivors: ranks that no rule removes.
        order: ranks to take, survivors first; all of them if a reranker may object to some.
        wanted: how many of them to take.
    """

    survivors: list[int]
    order: list[int]
    wanted: int
    in_range: int
    dropped: Counter[str]


def identity(text: str) -> int:
    """Return 64 bits that stand for a text's normal form: equal for spellings that differ in case, width or spacing.

    >>> identity("Hard  NEGATIVE") == identity(" hard negative ")
    True
    """
    return int.from_bytes(hashlib.blake2b(normal_form(text).encode(), digest_size=8).digest(), "big")


def propose(
    ranking: Ranking, identities: Identities, known: Known, rules: Rules, rng: random.Random, *, judged: bool = False,
    prefer: Prefer | None = None,
) -> Proposal:  # fmt: skip
    """Say which candidates to take, in which order; with ``judged`` also those that come next if some are refused.

    Args:
        ranking: the best ``k`` of the pool; ``k`` ≥ ``rules.stop`` unless the pool is smaller.
        rng: the row's own stream; used only when there are more survivors than wanted.
        prefer: chooses among the survivors instead of ``rules.sampling``.
    """
    seen = set(known.kept)
    inside = range(rules.start, max(rules.start, min(rules.stop, ranking.end)))
    survivors, dropped = _filter(inside, ranking, identities, known, rules, seen)
    wanted = max(0, rules.number - len(known.kept))
    if prefer is not None:
        chosen = prefer(survivors, len(survivors)) if judged else sorted(prefer(survivors, wanted))
    else:
        chosen = (asking_order if judged else _sample)(survivors, wanted, rules.sampling, rng)
    if rules.pad and (judged or len(chosen) < wanted):
        below = range(min(rules.stop, ranking.end), len(ranking.positions))
        enough = None if judged else wanted - len(chosen)
        chosen = chosen + _filter(below, ranking, identities, known, rules, seen, enough)[0]
    return Proposal(survivors, chosen, wanted, len(inside), dropped)


def settle(
    proposal: Proposal, ranking: Ranking, rules: Rules, pool_size: int, judgement: Judgement | None = None
) -> Selection:
    """Take what was proposed, or what a reranker has left of it."""
    ranks, settled, dropped, relabelled = proposal.order, False, Counter(proposal.dropped), []
    refused = 0
    if judgement is not None:
        ranks = sorted(proposal.order[place] for place in judgement.kept)
        settled, relabelled = judgement.settled, [proposal.order[place] for place in judgement.relabelled]
        met = {proposal.order[place]: rule for place, rule in judgement.rules.items()}
        of_range = [rule for rank, rule in met.items() if rank < min(rules.stop, ranking.end)]
        dropped.update(of_range)
        refused = len(of_range)
    padded = sum(rank >= min(rules.stop, ranking.end) for rank in ranks)
    missing = proposal.wanted - len(ranks)
    deeper = rules.pad and not settled and len(ranking.positions) < pool_size and not _hopeless(ranking, rules)
    return Selection(
        positions=[ranking.positions[rank] for rank in ranks],
        similarities=[ranking.similarities[rank] for rank in ranks] if ranking.similarities else [],
        ranks=ranks,
        in_range=proposal.in_range,
        survivors=len(proposal.survivors) - refused,
        padded=padded,
        dropped=dropped,
        short=len(ranks) - padded < proposal.wanted,
        missing=missing,
        wants_more=missing > 0 and deeper,
        relabelled=relabelled,
    )


def keep(negatives: Iterable[str], known_positives: frozenset[int], query: int) -> list[str]:
    """Return a row's own negatives without repeats, positives and the query itself, in their order."""
    seen = {*known_positives, query}
    kept = []
    for text in negatives:
        mark = identity(text)
        if mark not in seen:
            seen.add(mark)
            kept.append(text)
    return kept


def _filter(
    ranks: Iterable[int], ranking: Ranking, identities: Identities, known: Known, rules: Rules, seen: set[int],
    enough: int | None = None,
) -> tuple[list[int], Counter[str]]:  # fmt: skip
    """Return the ranks that no rule removes (at most ``enough``) and the removals per rule; ``seen`` grows."""
    low, high = rules.similarity_range or (-math.inf, math.inf)
    highest = rules.highest(known.lowest_positive)
    similarities = ranking.similarities or [-math.inf] * len(ranking.positions)  # without any, no rule asks for one
    most = min(high, highest)
    forbidden = known.positives | known.same_query | {known.query}
    left: list[int] = []
    dropped: Counter[str] = Counter()
    for rank in ranks:
        if enough is not None and len(left) >= enough:
            break
        mark, similarity = identities[ranking.positions[rank]], similarities[rank]
        if low <= similarity <= most and mark not in forbidden and mark not in seen:
            seen.add(mark)
            left.append(rank)
        else:
            dropped[_reason(mark, similarity, highest, known, rules)] += 1
    return left, dropped


def _reason(mark: int, similarity: float, highest: float, known: Known, rules: Rules) -> str:
    """Name the first rule that forbids a candidate."""
    if mark in known.positives:
        return OWN_POSITIVE
    if mark in known.same_query:
        return SAME_QUERY_POSITIVE
    if mark == known.query:
        return QUERY_ITSELF
    if rules.similarity_range is not None:
        low, high = rules.similarity_range
        if not low <= similarity <= high:
            return OUTSIDE_SIMILARITY
    return ABOVE_BOUND if similarity > highest else DUPLICATE


def _sample(survivors: list[int], wanted: int, sampling: Sampling, rng: random.Random) -> list[int]:
    if len(survivors) <= wanted or sampling == "top":
        return survivors[:wanted]
    return sorted(rng.sample(survivors, wanted))


def _hopeless(ranking: Ranking, rules: Rules) -> bool:
    """Say whether all deeper ranks lie under ``similarity_range``; only a ranking by cosine can tell."""
    if rules.similarity_range is None or not ranking.similarities:
        return False
    values = ranking.similarities
    by_cosine = all(first >= second for first, second in zip(values, values[1:]))
    return by_cosine and values[-1] < rules.similarity_range[0]
