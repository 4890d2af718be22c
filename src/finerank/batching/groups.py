"""Rows -> groups: one query with G passages, the positive first, another choice in every epoch.

What a row gives in an epoch is a pure function of the seed, the epoch and the row's index: worker count, batch size
and interruptions change nothing. Over the epochs each positive and each negative of a row has its turn before any
comes again. No text is held: all rows' texts are known by number (``data.row_index``), and those of a group are read
when it is made.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from math import lcm, nan
from typing import Any

import numpy as np

from finerank.batching.row_prompts import Prompts, no_prompts
from finerank.batching.siblings import Passages, Siblings, rows_of, usable
from finerank.batching.strata import Portion, Stratum
from finerank.core.data_sets import DataSet, Kind
from finerank.core.errors import DataError, Problem, UsageError
from finerank.core.records import Group, Row
from finerank.core.seeding import stream
from finerank.data.row_index import index_of

CUT_FROM = 100
"""A positive is shuffled only if it has more characters."""
CHUNKS = 3
HINT = "add negatives (finerank mine) or more rows"


@dataclass(frozen=True)
class GroupCounts:
    """Where the negatives of all rows' groups come from, each row once.

    Attributes:
        rows: number of rows.
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
    takes all it has, then random passages of its data set (of all, where that has none), then repeats. A known
    positive of the row, or of a row with the same query (both compared by :func:`finerank.data.text.normal_form`),
    never becomes a negative.

    Args:
        rows: the data; ``sets`` on it says where its data sets begin and end.
        group_size: G, passages in a group; 1 leaves only the positive.
        seed: of every draw.
        prompts: what rows say is put before their texts.
        typed: whether a row's ``type`` may make its group smaller (:meth:`finerank.core.data_sets.Kind.group_size`).
        shuffle_ratio: share of the long positives that are cut up and put together in another order.
        apart: whether rows of different data sets may not share a batch.

    Raises:
        DataError: for rows for which nothing in the data can serve as a negative.
    """

    def __init__(
        self, rows: Sequence[Row], group_size: int, seed: int, *, prompts: Prompts = no_prompts,
        typed: bool = False, shuffle_ratio: float = 0.0, apart: bool = False,
    ) -> None:  # fmt: skip
        if group_size < 1:
            raise UsageError(f"--train_group_size must be at least 1, got {group_size}")
        self.rows = rows
        self.group_size = group_size
        self.seed = seed
        self.prompts = prompts
        self.typed = typed
        self.shuffle_ratio = shuffle_ratio
        self.apart = apart
        self.sets: tuple[DataSet, ...] = getattr(rows, "sets", None) or (DataSet("rows", 0, len(rows)),)
        self._index = index_of(rows)
        self._siblings = Siblings(self._index)
        self._passages = Passages(self._index)
        self._starts = [each.start for each in self.sets]
        self._texts = lru_cache(maxsize=256)(self._all_positives)
        self._counts = self._count()

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_texts"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._texts = lru_cache(maxsize=256)(self._all_positives)

    def group(self, epoch: int, index: int) -> Group:
        """Return the group of row ``index`` in ``epoch``, both 0-based."""
        row = self.rows[index]
        query, positives, numbers = self._index.row(index)
        rows = self._siblings.of(query)
        known = set(positives) if len(rows) == 1 else self._siblings.positives(query)
        size = self.size(index)
        positive = self._turn(len(row.positives), 1, epoch, index, "positive")[0]
        own = usable(known, numbers)
        own = [own[at] for at in self._turn(len(own), min(size - 1, len(own)), epoch, index, "negatives")]
        negatives = [row.negatives[at] for at in own]
        missing = size - 1 - len(own)
        if missing > 0:
            negatives += self._fill(negatives, missing, epoch, index, known | set(numbers))
        kind = self._index.table[int(self._index.kinds[index])]
        written = row.positives[positive]
        shown = self._shuffled(written, epoch, index)
        return Group(
            row.query,
            (shown, *negatives),
            index,
            _teacher_scores(row, positive, own, missing),
            frozenset(row.positives) if len(rows) == 1 else self._texts(tuple(rows)),
            in_batch=self.set_of(index).in_batch,
            written_positive=None if shown == written else written,
            **self.prompts(row, kind),
        )

    def size(self, index: int) -> int:
        """Return G of a row."""
        if not self.typed:
            return self.group_size
        kind = self._index.table[int(self._index.kinds[index])]
        start, stop = self._index.first[index : index + 2].tolist()
        return kind.group_size(self.group_size, stop - start - 1 - int(self._index.positives[index]))

    def set_of(self, index: int) -> DataSet:
        """Return the data set of a row."""
        return self.sets[int(np.searchsorted(self._starts, index, "right")) - 1]

    def counts(self) -> GroupCounts:
        """Count where the negatives come from; every epoch gives the same numbers."""
        return self._counts

    def types(self) -> dict[str, int]:
        """Return the types that rows have, and how many rows have each."""
        return _summed((kind.type, count) for kind, count in self._kinds())

    def prompted(self) -> int:
        """Return how many rows have an instruction of their own."""
        return sum(count for kind, count in self._kinds() if kind.prompted)

    def _kinds(self) -> list[tuple[Kind, int]]:
        numbers, counts = np.unique(self._index.kinds, return_counts=True)
        return [(self._index.table[number], count) for number, count in zip(numbers.tolist(), counts.tolist())]

    def strata(self) -> list[Stratum]:
        """Return the rows that may share a batch; a data set without in-batch negatives is always kept apart."""
        return self._strata

    @cached_property
    def _strata(self) -> list[Stratum]:
        apart = self.apart
        portions: dict[tuple[int, int, int | None], list[Portion]] = {}
        for number, each in enumerate(self.sets):
            for (size, batch_size), rows in self._alike(each, apart).items():
                key = (number if apart or not each.in_batch else -1, size, batch_size)
                portions.setdefault(key, []).append(Portion(rows, each.weight, number))
        return [Stratum(tuple(found), batch_size) for (_, _, batch_size), found in portions.items()]

    def _alike(self, each: DataSet, apart: bool) -> dict[tuple[int, int | None], Sequence[int]]:
        """Return the rows of a data set by the size of their groups and, with ``apart``, of their batches."""
        whole = range(each.start, each.stop)
        table = self._index.table
        used = np.unique(self._index.kinds[each.start : each.stop]).tolist()
        sizes = {table[number].batch_size if apart else None for number in used}
        if len(sizes) == 1 and not (self.typed and any(table[number].type for number in used)):
            return {(self.group_size, sizes.pop()): whole}
        found: dict[tuple[int, int | None], array[int]] = {}
        for row in whole:
            batch_size = table[int(self._index.kinds[row])].batch_size if apart else None
            found.setdefault((self.size(row), batch_size), array("q")).append(row)
        return {key: found[key] for key in sorted(found, key=str)}

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

    def _fill(self, negatives: Sequence[str], missing: int, epoch: int, index: int, taken: set[int]) -> list[str]:
        """Return ``missing`` passages that the row does not have: random ones, then repeats."""
        random = stream(self.seed, "groups", "random", epoch, index)
        own = self.set_of(index)
        places = self._passages.draw(missing, taken, random, own.start, own.stop)
        filled = [self._passage(place) for place in places]
        candidates = [*negatives, *filled]
        return filled + [candidates[at % len(candidates)] for at in range(missing - len(filled))]

    def _passage(self, place: int) -> str:
        index, at = self._passages.where(place)
        row = self.rows[index]
        return (*row.positives, *row.negatives)[at]

    def _all_positives(self, rows: tuple[int, ...]) -> frozenset[str]:
        return frozenset(text for row in rows for text in self.rows[row].positives)

    def _shuffled(self, text: str, epoch: int, index: int) -> str:
        """Return the text or, with the chance ``shuffle_ratio``, its thirds in another order (FlagEmbedding's)."""
        if not self.shuffle_ratio or len(text) <= CUT_FROM:
            return text
        random = stream(self.seed, "shuffle", epoch, index)
        if random.random() >= self.shuffle_ratio:
            return text
        size = len(text) // CHUNKS + 1
        chunks = [text[at : at + size] for at in range(0, len(text), size)]
        random.shuffle(chunks)
        return " ".join(chunks)

    def _count(self) -> GroupCounts:
        """Count, and refuse rows for which nothing can serve as a negative."""
        shared = self._siblings.shared()
        labelled = used = own = short = drawn = repeated = 0
        hopeless: list[int] = []
        for index, (query, positives, negatives) in enumerate(rows_of(self._index)):
            known = self._siblings.positives(query) if query in shared else set(positives)
            found = set(negatives) - known
            wanted = self.size(index) - 1
            labelled, used, own = labelled + len(negatives), used + len(found), own + min(len(found), wanted)
            missing = wanted - len(found)
            if missing > 0:
                fresh = min(missing, len(self._passages) - len(known | found))
                short, drawn, repeated = short + 1, drawn + fresh, repeated + missing - fresh
                if fresh == 0 and not found:
                    hopeless.append(index)
        self._refuse(hopeless)
        return GroupCounts(len(self), short, own, drawn, repeated, labelled - used)

    def _refuse(self, hopeless: Sequence[int]) -> None:
        message = "the row has no negative and no other passage of the data can serve as one"
        places = (self.rows[index].where or f"row {index}" for index in hopeless)
        problems = [Problem(place, "no-negative", message) for place in places]
        if problems:
            raise DataError(problems, hint=HINT)


def _summed(counts: Iterable[tuple[str | None, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for name, count in counts:
        if name is not None:
            total[name] = total.get(name, 0) + count
    return total


def _teacher_scores(row: Row, positive: int, own: Sequence[int], missing: int) -> tuple[float, ...] | None:
    """Return the scores of a group's passages, NaN for ``missing`` ones from elsewhere; None if the row has none."""
    if row.pos_scores is None or (row.negatives and row.neg_scores is None):
        return None
    negatives = row.neg_scores or ()
    return (row.pos_scores[positive], *(negatives[at] for at in own), *[nan] * missing)
