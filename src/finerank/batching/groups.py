"""Rows -> groups: one query with G passages, the positive first, another choice in every epoch.

What a row gives in an epoch is a pure function of the seed, the epoch and the row's index: worker count, batch size
and interruptions change nothing. Over the epochs each positive and each negative of a row has its turn before any
comes again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import lcm, nan
from random import Random

from finerank.core.errors import DataError, Problem, UsageError
from finerank.core.records import Group, Row
from finerank.core.seeding import stream
from finerank.data.sources import pool_of
from finerank.data.text import normal_form

TRIES_PER_PASSAGE = 20
"""Blind draws for one random passage before the whole pool is looked through."""


@dataclass(frozen=True)
class GroupCounts:
    """Where the negatives of one epoch come from.

    Attributes:
        rows: number of rows, which is the number of groups in an epoch.
        short_rows: rows with fewer usable negatives than a group needs.
        own: negatives taken from the row itself.
        random: negatives drawn from the other passages of the data.
        repeated: negatives that stand in a group more than once, because the data has too few.
        refused: labelled negatives never used: a positive of the same query, or a copy of another negative.
    """

    rows: int
    short_rows: int
    own: int
    random: int
    repeated: int
    refused: int

    def to_mapping(self) -> dict[str, int]:
        """Return the counts by name, for manifests."""
        return asdict(self)


class GroupMaker:
    """Makes the group of any row in any epoch.

    The negatives are the row's own, in a random order that changes with the epoch. A row that has too few of them
    takes all it has, then random passages of the data set, then repeats. A known positive of the row, or of a row
    with the same query (both compared by :func:`finerank.data.text.normal_form`), never becomes a negative.

    Args:
        rows: the data set.
        group_size: G, passages in a group; 1 leaves only the positive.
        seed: of every draw.

    Raises:
        DataError: for rows for which nothing in the data can serve as a negative.
    """

    def __init__(self, rows: Sequence[Row], group_size: int, seed: int) -> None:
        if group_size < 1:
            raise UsageError(f"--train_group_size must be at least 1, got {group_size}")
        self.rows = rows
        self.group_size = group_size
        self.seed = seed
        self._positives = _positives_by_query(rows)
        self._own = [self._usable(row) for row in rows]
        self._pool = pool_of(rows)
        self._pool_forms: set[str] | None = None
        self._refuse_hopeless_rows()

    def __len__(self) -> int:
        return len(self.rows)

    def group(self, epoch: int, index: int) -> Group:
        """Return the group of row ``index`` in ``epoch``, both 0-based."""
        row = self.rows[index]
        positive = self._turn(len(row.positives), 1, epoch, index, "positive")[0]
        own = self._negatives(epoch, index)
        missing = self.group_size - 1 - len(own)
        passages = [row.positives[positive], *(row.negatives[at] for at in own)]
        passages += self._fill(passages, missing, epoch, index)
        scores = _teacher_scores(row, positive, own, missing)
        return Group(row.query, tuple(passages), index, scores, self._texts_of_positives(row))

    def counts(self) -> GroupCounts:
        """Count where the negatives of one epoch come from; every epoch gives the same numbers."""
        wanted = self.group_size - 1
        own = sum(min(len(usable), wanted) for usable in self._own)
        labelled = sum(len(row.negatives) for row in self.rows)
        drawn = repeated = short = 0
        for index, usable in enumerate(self._own):
            missing = wanted - len(usable)
            if missing > 0:
                short += 1
                fresh = self._available(index, missing)
                drawn, repeated = drawn + fresh, repeated + missing - fresh
        refused = labelled - sum(map(len, self._own))
        return GroupCounts(len(self.rows), short, own, drawn, repeated, refused)

    def _usable(self, row: Row) -> tuple[int, ...]:
        """Return the positions of the row's negatives that are no known positive and no copy of an earlier one."""
        seen = set(self._positives[_form(row.query)])
        chosen = []
        for at, text in enumerate(row.negatives):
            form = _form(text)
            if form not in seen:
                seen.add(form)
                chosen.append(at)
        return tuple(chosen)

    def _negatives(self, epoch: int, index: int) -> list[int]:
        usable = self._own[index]
        wanted = min(self.group_size - 1, len(usable))
        return [usable[at] for at in self._turn(len(usable), wanted, epoch, index, "negatives")]

    def _turn(self, count: int, size: int, epoch: int, index: int, what: str) -> list[int]:
        """Return ``size`` of ``range(count)``: shuffled decks laid end to end, dealt hand by hand, one hand an epoch.

        Every card of a deck is dealt before the next deck begins. A hand may end one deck and begin the next; it takes
        the first cards of the new deck that it does not hold yet.
        """
        if size == 0:
            return []
        start = epoch * size
        cycle = lcm(count, size)  # cards until a hand and a deck begin together again
        first = start // cycle * (cycle // count)
        cards: list[int] = []
        for number in range(first, (start + size - 1) // count + 1):
            deck = list(range(count))
            stream(self.seed, "groups", what, number, index).shuffle(deck)
            dealt = number * count % size  # cards in the hand when this deck begins
            held = set(cards[len(cards) - dealt :])
            front = [card for card in deck if card not in held][: size - dealt] if dealt else []
            cards += front + [card for card in deck if card not in front]
        offset = start - first * count
        return cards[offset : offset + size]

    def _fill(self, passages: Sequence[str], missing: int, epoch: int, index: int) -> list[str]:
        """Return ``missing`` passages that the row does not have: random ones, then repeats."""
        if missing <= 0:
            return []
        random = stream(self.seed, "groups", "random", epoch, index)
        taken = {_form(text) for text in passages} | self._positives[_form(self.rows[index].query)]
        filled = list(self._draw(missing, taken, random))
        candidates = [*passages[1:], *filled]
        for at in range(missing - len(filled)):
            filled.append(candidates[at % len(candidates)])
        return filled

    def _draw(self, wanted: int, taken: set[str], random: Random) -> Iterator[str]:
        """Yield up to ``wanted`` distinct passages of the data whose normal form is not in ``taken``."""
        left = wanted
        for text in self._candidates(wanted, taken, random):
            if left == 0:
                return
            form = _form(text)
            if form not in taken:
                taken.add(form)
                left -= 1
                yield text

    def _candidates(self, wanted: int, taken: set[str], random: Random) -> Iterator[str]:
        """Yield blind draws, and after too many of them what is left of the pool, shuffled."""
        for _ in range(TRIES_PER_PASSAGE * wanted):
            yield random.choice(self._pool)
        rest = [text for text in self._pool if _form(text) not in taken]
        random.shuffle(rest)
        yield from rest

    def _available(self, index: int, wanted: int) -> int:
        """Return how many random passages the row can get, at most ``wanted``."""
        row = self.rows[index]
        if self._pool_forms is None:
            self._pool_forms = {_form(text) for text in self._pool}
        own = {_form(row.negatives[at]) for at in self._own[index]}
        taken = self._positives[_form(row.query)] | own
        return min(wanted, len(self._pool_forms) - len(taken & self._pool_forms))

    def _texts_of_positives(self, row: Row) -> frozenset[str]:
        return frozenset(row.positives) | self._siblings.get(_form(row.query), frozenset())

    def _refuse_hopeless_rows(self) -> None:
        self._siblings = _shared_positives(self.rows)
        if self.group_size == 1:
            return
        bare = (index for index, usable in enumerate(self._own) if not usable)
        hopeless = [index for index in bare if self._available(index, 1) == 0]
        if hopeless:
            raise DataError(
                [
                    Problem(
                        self.rows[index].where or f"row {index}",
                        "no-negative",
                        "the row has no negative and no other passage of the data can serve as one",
                    )
                    for index in hopeless
                ],
                hint="add negatives (finerank mine) or more rows",
            )


def _teacher_scores(row: Row, positive: int, own: Sequence[int], missing: int) -> tuple[float, ...] | None:
    """Return the scores of a group's passages, NaN for ``missing`` ones from elsewhere; None if the row has none."""
    if row.pos_scores is None or (row.negatives and row.neg_scores is None):
        return None
    negatives = row.neg_scores or ()
    return (row.pos_scores[positive], *(negatives[at] for at in own), *[nan] * missing)


@lru_cache(maxsize=1 << 17)
def _form(text: str) -> str:
    return normal_form(text)


def _positives_by_query(rows: Sequence[Row]) -> dict[str, set[str]]:
    """Return, per query (in normal form), the normal forms of all its positives in all rows."""
    positives: dict[str, set[str]] = {}
    for row in rows:
        positives.setdefault(_form(row.query), set()).update(_form(text) for text in row.positives)
    return positives


def _shared_positives(rows: Sequence[Row]) -> dict[str, frozenset[str]]:
    """Return the positives, as they are written, of the queries that several rows ask."""
    rows_of: dict[str, list[Row]] = {}
    for row in rows:
        rows_of.setdefault(_form(row.query), []).append(row)
    return {
        query: frozenset(text for row in same for text in row.positives)
        for query, same in rows_of.items()
        if len(same) > 1
    }
