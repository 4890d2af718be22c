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
from finerank.core.records import Group
from finerank.core.seeding import stream
from finerank.data.text import digest, normal_form

COUNTS_KEY = "counts"
"""[B] in a batch: 1 for a row that counts, 0 for one that only fills the place of a process without rows."""


@dataclass(frozen=True)
class Place:
    """Which group is wanted; all that a worker process of the loader needs to know.

    Attributes:
        epoch, index: of the row, both 0-based.
        counts: whether the row counts; False where it only keeps a process busy that has no row of a short batch.
    """

    epoch: int
    index: int
    counts: bool = True


class EpochBatches(Sampler[list[Place]]):
    """The batches of an epoch, those of this process: a pure function of the seed, the epoch and the rank.

    All processes walk the same global batches; each takes a contiguous share of every one. Set ``epoch`` before the
    iteration begins.

    Args:
        count: rows of the data set.
        batch_size: rows of one process's batch.
        drop_last: leave out a global batch that is short.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, *, drop_last: bool = False, rank: int = 0, processes: int = 1
    ) -> None:
        self.count = count
        self.size = batch_size * processes
        self.seed = seed
        self.drop_last = drop_last
        self.rank = rank
        self.processes = processes
        self.epoch = 0

    def __len__(self) -> int:
        return self.count // self.size if self.drop_last else -(-self.count // self.size)

    def __iter__(self) -> Iterator[list[Place]]:
        epoch = self.epoch
        order = list(range(self.count))
        stream(self.seed, "order", epoch).shuffle(order)
        for number in range(len(self)):
            yield self._share(epoch, order[number * self.size : (number + 1) * self.size])

    def _share(self, epoch: int, batch: list[int]) -> list[Place]:
        each = -(-len(batch) // self.processes)
        own = batch[self.rank * each : (self.rank + 1) * each]
        return [Place(epoch, index) for index in own] or [Place(epoch, batch[0], counts=False)]


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
    teacher scores, ``teacher`` [B, G].
    """

    def __init__(self, collate: Callable[[Sequence[Group]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, items: Sequence[tuple[Group, bool]]) -> dict[str, Any]:
        groups = [group for group, _ in items]
        batch = {
            **self.collate(groups),
            "passage_ids": _ids([text for group in groups for text in group.passages]),
            "positive_ids": [_ids(sorted(group.known_positives)) for group in groups],
            COUNTS_KEY: torch.tensor([float(counts) for _, counts in items]),
        }
        teacher = [group.teacher_scores for group in groups if group.teacher_scores is not None]
        return batch | ({"teacher": torch.tensor(teacher)} if len(teacher) == len(groups) else {})


def _ids(texts: Sequence[str]) -> Tensor:
    return text_ids(texts, [digest(normal_form(text)) for text in texts])
