"""The batches of an epoch and the groups in them, as torch's data loader wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from finerank.batching.collate import text_ids
from finerank.batching.groups import GroupMaker
from finerank.batching.strata import Portion, Stratum, Turn
from finerank.core.records import Group
from finerank.core.seeding import stream
from finerank.data.text import digest, normal_form

COUNTS_KEY = "counts"
"""[B] in a batch: 1 for a row that counts, 0 for one that only fills the place of a process without rows."""


@dataclass(frozen=True)
class Place:
    """Which group is wanted; all that a worker process of the loader needs to know.

    Attributes:
        epoch: which of the row's turns it is, 0-based; the epoch, where the row comes once in each.
        index: of the row.
        counts: whether the row counts; False where it only keeps a process busy that has no row of a short batch.
    """

    epoch: int
    index: int
    counts: bool = True


class EpochBatches(Sampler[list[Place]]):
    """The batches of an epoch, those of this process: a pure function of the seed, the epoch and the rank.

    All processes walk the same global batches; each takes a contiguous share of every one. A batch holds rows of one
    stratum; the batches of several strata come in a random order. Set ``epoch`` before the iteration begins.

    Args:
        strata: rows that may share a batch; a number stands for one of so many rows.
        batch_size: rows of one process's batch.
        drop_last: leave out a stratum's last global batch if it is short, unless it is the only one.
    """

    def __init__(
        self, strata: Sequence[Stratum] | int, batch_size: int, seed: int, *, drop_last: bool = False, rank: int = 0,
        processes: int = 1,
    ) -> None:  # fmt: skip
        self.strata = [Stratum((Portion(range(strata)),))] if isinstance(strata, int) else list(strata)
        self.sizes = [(stratum.batch_size or batch_size) * processes for stratum in self.strata]
        self.seed = seed
        self.drop_last = drop_last
        self.rank = rank
        self.processes = processes
        self.epoch = 0

    def __len__(self) -> int:
        return sum(map(self._batches, range(len(self.strata))))

    @property
    def rows(self) -> int:
        """Rows of all processes in an epoch."""
        sizes = zip(map(self._batches, range(len(self.strata))), self.sizes, map(len, self.strata))
        return sum(min(batches * size, rows) for batches, size, rows in sizes)

    def rows_after(self, steps: int, accumulated: int = 1) -> int:
        """Return how many rows all processes have been trained on after so many steps of ``accumulated`` batches.

        Where batches of several strata come in a random order, an epoch's rows are spread evenly over its steps.
        """
        per_epoch = max(-(-len(self) // accumulated), 1)
        epochs, within = divmod(steps, per_epoch)
        if len(self.strata) > 1:
            return epochs * self.rows + self.rows * within // per_epoch
        return epochs * self.rows + min(within * accumulated * self.sizes[0], self.rows)

    def __iter__(self) -> Iterator[list[Place]]:
        epoch = self.epoch
        alone = len(self.strata) == 1
        orders = [
            stratum.order(self.seed, epoch, *([] if alone else [number])) for number, stratum in enumerate(self.strata)
        ]
        walk = [(at, batch) for at in range(len(self.strata)) for batch in range(self._batches(at))]
        if not alone:
            stream(self.seed, "batches", epoch).shuffle(walk)
        for at, batch in walk:
            size = self.sizes[at]
            places = orders[at][batch * size : (batch + 1) * size]
            yield self._share(self.strata[at].turns(epoch, places))

    def _batches(self, at: int) -> int:
        count, size = len(self.strata[at]), self.sizes[at]
        return count // size if self.drop_last and count > size else -(-count // size)

    def _share(self, batch: list[Turn]) -> list[Place]:
        each = -(-len(batch) // self.processes)
        own = batch[self.rank * each : (self.rank + 1) * each]
        filler = Place(batch[0][1], batch[0][0], counts=False)
        return [Place(turn, index) for index, turn in own] or [filler]


class GroupDataset(Dataset[tuple[Group, bool]]):
    """Gives the group at a place, and whether it counts."""

    def __init__(self, groups: GroupMaker) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, place: Place) -> tuple[Group, bool]:
        return self.groups.group(place.epoch, place.index), place.counts


class Collator:
    """Calls the family's ``collate`` and adds what losses need to know.

    Adds ``counts`` [B], ``passage_ids`` [B·G] (a digest of each passage's normal form) and ``positive_ids`` (for each
    query the digests of its known positives): a copy in other letter case is no negative either. Where every group has
    teacher scores, ``teacher`` [B, G]. ``in_batch`` is False where the groups' data set knows no in-batch negatives.
    """

    def __init__(self, collate: Callable[[Sequence[Group]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, items: Sequence[tuple[Group, bool]]) -> dict[str, Any]:
        groups = [group for group, _ in items]
        batch = {
            **self.collate(groups),
            "passage_ids": _ids([text for group in groups for text in group.written()]),
            "positive_ids": [_ids(sorted(group.known_positives)) for group in groups],
            COUNTS_KEY: torch.tensor([float(counts) for _, counts in items]),
        }
        if not all(group.in_batch for group in groups):
            batch["in_batch"] = False
        teacher = [group.teacher_scores for group in groups if group.teacher_scores is not None]
        return batch | ({"teacher": torch.tensor(teacher)} if len(teacher) == len(groups) else {})


def _ids(texts: Sequence[str]) -> Tensor:
    return text_ids(texts, [digest(normal_form(text)) for text in texts])


def filled(inputs: Any, passes: int) -> Any:
    """Fill a batch up to ``passes`` micro-batches with some whose results will not count."""
    micro = inputs["micro"]
    missing = passes - len(micro)
    if not missing:
        return inputs
    smallest = min(micro, key=lambda part: next(iter(part.values())).numel())
    return {**inputs, "micro": [*micro, *[smallest] * missing], "filled": True}
