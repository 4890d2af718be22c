"""All rows' positives and passages by number: what may never be a negative, and what can stand in for one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finerank.data.row_index import RowIndex

TRIES_PER_PASSAGE = 20
"""Blind draws for one random passage before the whole pool is looked through."""
PARTS = 16
"""The distinct passages are found in so many parts, to hold little at once."""
ROWS_AT_ONCE = 4096


class Siblings:
    """Rows with the same query (in normal form) know each other's positives.

    Memory: 12 bytes a row.
    """

    def __init__(self, index: RowIndex) -> None:
        self.index = index
        queries = index.numbers[index.first[:-1]]
        self._order = np.argsort(queries, kind="stable").astype(np.uint32)
        self._queries = queries[self._order]

    def of(self, query: int) -> list[int]:
        """Return the rows that ask the query of this number, in order."""
        number = np.uint64(query)
        start, stop = np.searchsorted(self._queries, number, "left"), np.searchsorted(self._queries, number, "right")
        found: list[int] = self._order[start:stop].tolist()
        return found

    def shared(self) -> set[int]:
        """Return the numbers of the queries that several rows ask."""
        again = self._queries[1:] == self._queries[:-1]
        return set(np.unique(self._queries[1:][again]).tolist())

    def positives(self, query: int) -> set[int]:
        """Return the numbers of all positives of a query."""
        return {number for row in self.of(query) for number in self.index.row(row)[1]}


def usable(known: set[int], negatives: Sequence[int]) -> list[int]:
    """Return the places of the negatives that are no known positive and no copy of an earlier one.

    >>> usable({1}, [1, 2, 3, 2])
    [1, 2]
    """
    seen = set(known)
    chosen = []
    for at, number in enumerate(negatives):
        if number not in seen:
            seen.add(number)
            chosen.append(at)
    return chosen


def rows_of(index: RowIndex) -> Iterator[tuple[int, list[int], list[int]]]:
    """Yield each row's numbers: query, positives, negatives; faster than one by one."""
    for begin in range(0, len(index), ROWS_AT_ONCE):
        first = index.first[begin : begin + ROWS_AT_ONCE + 1].tolist()
        numbers = index.numbers[first[0] : first[-1]].tolist()
        positives = index.positives[begin : begin + ROWS_AT_ONCE].tolist()
        for row, count in enumerate(positives):
            start, stop = first[row] - first[0], first[row + 1] - first[0]
            yield numbers[start], numbers[start + 1 : start + 1 + count], numbers[start + 1 + count : stop]


class Passages:
    """The distinct passages (in normal form) of all rows; 4 or 8 bytes each.

    A passage is known by where its number first stands in the index.
    """

    def __init__(self, index: RowIndex) -> None:
        self.index = index
        self._places = _first_places(index)

    def __len__(self) -> int:
        return len(self._places)

    def where(self, place: int) -> tuple[int, int]:
        """Return the row of a passage, and its place among that row's positives and negatives."""
        row = int(np.searchsorted(self.index.first, place, "right")) - 1
        return row, place - int(self.index.first[row]) - 1

    def draw(self, wanted: int, taken: set[int], random: Random, start: int, stop: int) -> Iterator[int]:
        """Yield places of up to ``wanted`` distinct passages whose numbers are not in ``taken``.

        Those of the rows [start, stop) come first, then any.
        """
        taken, left = set(taken), wanted
        for place in self._candidates(wanted, taken, random, start, stop):
            if left == 0:
                return
            number = int(self.index.numbers[place])
            if number not in taken:
                taken.add(number)
                left -= 1
                yield place

    def _candidates(self, wanted: int, taken: set[int], random: Random, start: int, stop: int) -> Iterator[int]:
        """Yield blind draws, and after too many of them what is left of the rows' passages, shuffled, then of all."""
        # Of the same type: numpy would copy all places to compare them with others.
        bounds = self.index.first[[start, stop]].astype(self._places.dtype)
        low, high = np.searchsorted(self._places, bounds).tolist()
        for _ in range(TRIES_PER_PASSAGE * wanted if high > low else 0):
            yield int(self._places[random.randrange(low, high)])
        for part in (self._places[low:high], self._places):
            rest = part.tolist()
            random.shuffle(rest)
            yield from rest


def _first_places(index: RowIndex) -> NDArray[Any]:
    """Return where each distinct passage's number first stands, in ascending order."""
    numbers = index.numbers
    is_first = np.zeros(len(numbers), dtype=bool)
    is_query = np.zeros(len(numbers), dtype=bool)
    is_query[index.first[:-1]] = True
    lowest = numbers.view(np.uint8)[:: numbers.itemsize]
    for part in range(PARTS):
        places = np.flatnonzero((lowest % PARTS == part) & ~is_query)
        _, at = np.unique(numbers[places], return_index=True)
        is_first[places[at]] = True
    found = np.flatnonzero(is_first)
    return found.astype(np.uint32) if len(numbers) < 2**32 else found
