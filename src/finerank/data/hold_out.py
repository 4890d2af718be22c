"""Rows kept away from training to measure it: whole queries, and with them the rows that share a positive."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from finerank.core.errors import UserError
from finerank.core.records import Row
from finerank.core.seeding import stream
from finerank.data.row_index import index_of

ENOUGH = 0.5
"""Part of the wanted queries that whole clusters must give; else rows that share only a positive may be parted."""


class Split(NamedTuple):
    """Where the rows go.

    Attributes:
        train, held_out: places of rows, ascending.
        queries: distinct queries held out.
        whole: whether no positive of a held-out row is one of a training row.
    """

    train: list[int]
    held_out: list[int]
    queries: int
    whole: bool


def split_rows(rows: Sequence[Row], share: float, seed: int) -> Split:
    """Hold out about ``share`` of the distinct queries, at least one, never all.

    Texts are compared in normal form. Rows that share a query stay together; so do, by way of others if need be, rows
    that share a positive, unless such clusters are so large that half of the wanted queries could not be had.

    Raises:
        UserError: if there is only one query.
    """
    index = index_of(rows)
    keys = [(query, positives) for query, positives, _ in map(index.row, range(len(index)))]
    queries = [query for query, _ in keys]
    distinct = len(set(queries))
    if distinct < 2:
        raise UserError(
            f"none of {distinct} distinct queries can be held out to measure on", hint="more rows, or --eval_data ROWS"
        )
    wanted = min(max(round(share * distinct), 1), distinct - 1)
    # A text may be one row's query and another's positive: that joins nothing.
    held = _draw(_clusters([(~query, *positives) for query, positives in keys]), queries, wanted, seed)
    whole = len({queries[place] for place in held}) >= ENOUGH * wanted
    if not whole:
        held = _draw(_clusters([(query,) for query in queries]), queries, wanted, seed)
    kept = [place for place in range(len(queries)) if place not in held]
    return Split(kept, sorted(held), len({queries[place] for place in held}), whole)


def _draw(clusters: Sequence[Sequence[int]], queries: Sequence[int], wanted: int, seed: int) -> set[int]:
    """Take clusters in the order of a named stream, each that still fits into ``wanted`` queries."""
    order = list(clusters)
    stream(seed, "hold_out").shuffle(order)
    held: set[int] = set()
    count = 0
    for cluster in order:
        size = len({queries[place] for place in cluster})
        if count + size <= wanted:
            held.update(cluster)
            count += size
    return held


def _clusters(keys: Iterable[Sequence[int]]) -> list[list[int]]:
    """Group the places whose keys are joined, directly or by way of others, in order of their first member."""
    parent: dict[int, int] = {}

    def root(key: int) -> int:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    firsts = []
    for place in keys:
        firsts.append(place[0])
        for key in place:
            parent[root(key)] = root(place[0])
    clusters: dict[int, list[int]] = {}
    for index, first in enumerate(firsts):
        clusters.setdefault(root(first), []).append(index)
    return list(clusters.values())
