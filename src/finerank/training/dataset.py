"""The order of an epoch and the groups in it, as torch's data loader wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils.data import Dataset, Sampler

from finerank.batching.collate import text_ids
from finerank.batching.groups import GroupMaker
from finerank.core.records import Group
from finerank.core.seeding import stream
from finerank.data.text import digest, normal_form

Place: TypeAlias = tuple[int, int]
"""(epoch, index of the row). The epoch travels with the index, so that a worker process needs no state."""

ROWS_KEY = "rows_in_batch"


class EpochOrder(Sampler[Place]):
    """Walks the rows in an order that is a pure function of the seed and the epoch.

    Set ``epoch`` before the iteration begins.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Place]:
        epoch = self.epoch
        order = list(range(self.count))
        stream(self.seed, "order", epoch).shuffle(order)
        return iter([(epoch, index) for index in order])


class GroupDataset(Dataset[Group]):
    """Gives the group of a row in an epoch."""

    def __init__(self, groups: GroupMaker) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, place: Place) -> Group:
        return self.groups.group(*place)


class Collator:
    """Calls the family's ``collate`` and adds what losses need to know.

    Adds the number of rows, ``passage_ids`` [B·G] (a digest of each passage's normal form) and ``positive_ids`` (for
    each query the digests of its known positives): a copy in other letter case is no negative either.
    """

    def __init__(self, collate: Callable[[Sequence[Group]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, groups: Sequence[Group]) -> dict[str, Any]:
        return {
            **self.collate(groups),
            "passage_ids": _ids([text for group in groups for text in group.passages]),
            "positive_ids": [_ids(sorted(group.known_positives)) for group in groups],
            ROWS_KEY: len(groups),
        }


def _ids(texts: Sequence[str]) -> Tensor:
    return text_ids(texts, [digest(normal_form(text)) for text in texts])
