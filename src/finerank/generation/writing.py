"""Kept rows to lines of JSON; a document's text is read when its row is written."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import orjson

from finerank.data.documents import Documents
from finerank.data.shards import Shards
from finerank.generation.assembly import Wanted, row_of
from finerank.generation.collecting import made_rows


def row_lines(
    shards: Shards, kept: list[tuple[int, int]], places: list[int], documents: Documents, barred: Collection[int],
    wanted: Wanted,
) -> Iterator[bytes]:  # fmt: skip
    """Yield the rows at ``places`` among the kept ones, a line each.

    Args:
        barred: documents that may not be their negatives.
        wanted: how many negatives a row has, at most, and which.
    """
    for _, made in made_rows(shards, kept, places):
        yield orjson.dumps(row_of(made, documents, barred, wanted)) + b"\n"


def pool_lines(documents: Documents) -> Iterator[bytes]:
    """Yield the documents as a pool that every verb reads."""
    for document in documents:
        yield orjson.dumps({"id": document.id, "contents": document.passage}) + b"\n"
