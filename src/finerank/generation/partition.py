"""Train and test rows that share nothing: no entity, no document.

Rows that share an entity, a source or a positive belong together, by way of others too; such components go to one
side whole. Where one component holds nearly everything, test rows with few neighbours are cut out of it and those
neighbours are left out. Documents that are only negatives go with the test rows that have them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from finerank.core.seeding import stream

ENOUGH = 0.5
"""Part of the wanted test rows that whole components must give; else rows are cut out."""
LEFT_OUT, NO_NEGATIVE = "left_out_by_split", "no_negative_left_by_split"
NEIGHBOURS = 5
"""Rows that may be left out for one test row that is cut out."""
LOST = 0.1
"""Share of all rows that may be left out altogether."""


@dataclass(frozen=True)
class Keys:
    """What of a row may not stand on both sides.

    Attributes:
        entity: its name in the form in which names are compared, or an empty string.
        documents: numbers of its source and its positives.
        negatives: numbers of its negatives.
    """

    entity: str
    documents: tuple[int, ...]
    negatives: tuple[int, ...] = ()

    @property
    def joining(self) -> tuple[Hashable, ...]:
        """What joins a row with others."""
        return (*self.documents, self.entity) if self.entity else self.documents


@dataclass(frozen=True)
class Partition:
    """Where the rows go.

    Attributes:
        train, test: places of rows, ascending.
        left_out: rows that would have tied the two together.
        components: groups of rows that nothing ties together.
        barred: documents that no train row may have as a negative; and none of a test row.
    """

    train: list[int]
    test: list[int]
    left_out: list[int]
    components: int
    barred_from_train: frozenset[int]
    barred_from_test: frozenset[int]


def partition(keys: Sequence[Keys], share: float, seed: int) -> Partition:
    """Part rows so that about ``share`` of them are test rows.

    >>> keys = [Keys("a", (1, 2)), Keys("a", (3,)), Keys("b", (4,), (5,)), Keys("c", (5,), (4,))]
    >>> found = partition(keys, 0.25, seed=0)
    >>> len(found.test), found.components
    (1, 3)
    """
    wanted = min(round(share * len(keys)), len(keys) - 1) if share else 0
    if wanted == 0 and share and len(keys) > 1:
        wanted = 1
    components = components_of([key.joining for key in keys])
    order = list(components)
    stream(seed, "partition").shuffle(order)
    test: set[int] = set()
    for component in order:
        if len(test) + len(component) <= wanted:
            test.update(component)
    left_out: set[int] = set()
    if len(test) < ENOUGH * wanted:
        left_out = _cut_out(keys, test, wanted, seed)
    train = [place for place in range(len(keys)) if place not in test and place not in left_out]
    owned = {number for place in train for number in keys[place].documents}
    held = {number for place in test for number in keys[place].documents}
    held |= {number for place in test for number in keys[place].negatives if number not in owned}
    return Partition(
        train, sorted(test), sorted(left_out), len(components), frozenset(held), frozenset(owned)
    )  # fmt: skip


def parted(keys: Sequence[Keys], share: float, seed: int, negatives: bool) -> tuple[Partition, Counter[str]]:
    """Part rows as ``partition`` does; then leave out test rows that keep no negative. Count what is lost."""
    parts = partition(keys, share, seed)
    bare = {
        place
        for place in parts.test
        if negatives and all(number in parts.barred_from_test for number in keys[place].negatives)
    }
    kept = replace(parts, test=[place for place in parts.test if place not in bare])
    return kept, Counter({LEFT_OUT: len(parts.left_out), NO_NEGATIVE: len(bare)})


def components_of(joining: Sequence[Sequence[Hashable]]) -> list[list[int]]:
    """Group places whose keys are joined, directly or by way of others, in the order of their first member."""
    parent: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for place, keys in enumerate(joining):
        first = keys[0] if keys else ("row", place)
        root(first)
        for key in keys[1:]:
            parent[root(key)] = root(first)
    found: dict[Hashable, list[int]] = {}
    for place, keys in enumerate(joining):
        found.setdefault(root(keys[0] if keys else ("row", place)), []).append(place)
    return list(found.values())


def _cut_out(keys: Sequence[Keys], test: set[int], wanted: int, seed: int) -> set[int]:
    """Add rows with few neighbours to ``test``; return the neighbours, which are left out."""
    holders: defaultdict[Hashable, set[int]] = defaultdict(set)
    for place, key in enumerate(keys):
        for name in key.joining:
            holders[name].add(place)
    order = list(range(len(keys)))
    stream(seed, "cut out").shuffle(order)
    left_out: set[int] = set()
    for place in order:
        if len(test) >= wanted or len(left_out) >= LOST * len(keys):
            break
        if place in test or place in left_out:
            continue
        near = set().union(*(holders[name] for name in keys[place].joining)) - {place} - left_out
        if len(near) <= NEIGHBOURS and near.isdisjoint(test):
            test.add(place)
            left_out |= near
    return left_out
