"""A data set of a training, and what tells rows apart that must not share a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

KNOWN_TYPES = ("only_1neg", "symmetric_class", "symmetric_sts", "symmetric_clustering")
"""Values of a row's ``type`` that mean something to an embedder's training; they are FlagEmbedding's."""
BOTH_SIDES_ALIKE = ("symmetric_sts", "symmetric_clustering")
"""Types whose passages are of the same kind as the queries, and get the query's prompt."""


@dataclass(frozen=True)
class DataSet:
    """One data set: the rows [start, stop) of a training.

    Attributes:
        name: of the file, folder or hub data set.
        weight: how often its rows come in an epoch.
        in_batch: whether the passages of other queries are negatives too.
    """

    name: str
    start: int
    stop: int
    weight: float = 1.0
    in_batch: bool = True

    def __len__(self) -> int:
        return self.stop - self.start


class Kind(NamedTuple):
    """What a row says about its group and its batches.

    Attributes:
        type: one of ``KNOWN_TYPES``, or None.
        batch_size: rows of a batch of such rows, or None.
        prompted: whether the row has an instruction of its own.
    """

    type: str | None = None
    batch_size: int | None = None
    prompted: bool = False

    def group_size(self, asked: int, negatives: int) -> int:
        """Return G for a row with so many negatives.

        >>> Kind("only_1neg").group_size(8, 5), Kind("symmetric_class").group_size(8, 4), Kind().group_size(8, 4)
        (2, 5, 8)
        """
        if self.type == "only_1neg":
            return min(asked, 2)
        if self.type == "symmetric_class":
            return min(asked, max(negatives + 1, 2))
        return asked
