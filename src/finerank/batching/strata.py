"""Which rows may share a batch, how often each comes in an epoch, and in which order. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from finerank.core.seeding import stream

Turn = tuple[int, int]
"""A row's index, and which of its turns it is: other turns give other positives and negatives."""


@dataclass(frozen=True)
class Portion:
    """Rows that come equally often.

    Attributes:
        rows: their indices.
        weight: how often each comes in an epoch; of a fraction, that share of the rows, drawn anew in each epoch.
        number: of the data set, by which the draw is named.
    """

    rows: Sequence[int]
    weight: float = 1.0
    number: int = 0

    @property
    def whole(self) -> int:
        """How often every row comes."""
        return int(self.weight)

    @property
    def drawn(self) -> int:
        """How many rows come once more."""
        return max(round((self.weight - self.whole) * len(self.rows)), 0 if self.whole else 1)

    def __len__(self) -> int:
        return self.whole * len(self.rows) + self.drawn

    def places(self, seed: int, epoch: int) -> Iterator[int]:
        """Yield what comes in an epoch, as ``copy * len(rows) + place among the rows``."""
        for copy in range(self.whole):
            yield from range(copy * len(self.rows), (copy + 1) * len(self.rows))
        if self.drawn:
            chosen = stream(seed, "weight", self.number, epoch).sample(range(len(self.rows)), self.drawn)
            yield from (self.whole * len(self.rows) + place for place in chosen)

    def turn(self, epoch: int, place: int) -> Turn:
        """Return the row and the turn that a place of ``places`` stands for."""
        copy, at = divmod(place, len(self.rows))
        return self.rows[at], epoch * ceil(self.weight) + copy


@dataclass(frozen=True)
class Stratum:
    """Rows that may share a batch: their groups are of one size, and all or none know in-batch negatives.

    Attributes:
        batch_size: rows of one process's batch; None for the run's own.
    """

    portions: tuple[Portion, ...]
    batch_size: int | None = None

    def __len__(self) -> int:
        return sum(map(len, self.portions))

    def order(self, seed: int, epoch: int, *name: int) -> array[int]:
        """Return the order of an epoch: places of all portions, one portion's behind the other's, shuffled."""
        order, before = array("q"), 0
        for portion in self.portions:
            order.extend(before + place for place in portion.places(seed, epoch))
            before += _span(portion)
        stream(seed, "order", epoch, *name).shuffle(order)
        return order

    def turns(self, epoch: int, places: Sequence[int]) -> list[Turn]:
        """Return the rows and turns that places of ``order`` stand for."""
        return [self._turn(epoch, place) for place in places]

    def _turn(self, epoch: int, place: int) -> Turn:
        for portion in self.portions:
            if place < _span(portion):
                return portion.turn(epoch, place)
            place -= _span(portion)
        raise IndexError(place)


def _span(portion: Portion) -> int:
    return ceil(portion.weight) * len(portion.rows)
