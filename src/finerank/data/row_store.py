"""Rows of a training that is larger than memory: read and checked once, laid on disk, parsed when asked for.

    <cache>/rows/<key>/rows         one JSON array a row: query, pos, neg, place, scores, the keys a training reads
                       begins       int64 [N + 1]: where each row begins in it
                       numbers …    the columns of ``row_index.RowIndex``
                       whole.json   sizes of these files and the counts; written last

The key is the content of the data and all that decides which rows are read, so a resume, the other processes of the
run and the next run find them there. Rows are read by place (``pread``), so memory holds none of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import orjson

from finerank.core.caches import cache_of
from finerank.core.data_sets import Kind
from finerank.core.records import Row
from finerank.data import console
from finerank.data.atomic import writing
from finerank.data.row_index import COLUMNS, PROMPT_KEYS, IndexWriter, RowIndex, mapped_index

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IN_MEMORY_CHARACTERS = 2**26
"""Characters of rows that are held in memory; what is longer goes to disk."""
FLUSHED_ROWS = 2**14
KEPT_KEYS = (*PROMPT_KEYS, "type", "batch_size")
"""Keys besides the standard ones that a training reads."""
WHOLE = "whole.json"

Numbered = tuple[int, Row]
"""The number of a data set and one of its rows."""


class StoredRows(Sequence[Row]):
    """The rows of a folder, or those of them at ``chosen`` places; small to pickle: a path."""

    def __init__(self, folder: Path, chosen: NDArray[np.int64] | None = None) -> None:
        import numpy as np

        self.folder = folder
        self.chosen = chosen
        self.facts: dict[str, Any] = json.loads((folder / WHOLE).read_bytes())
        self._begins = np.memmap(folder / "begins", dtype=np.int64, mode="r")
        self._handle = os.open(folder / "rows", os.O_RDONLY | os.O_CLOEXEC)
        whole = mapped_index(folder, [Kind(*each) for each in self.facts["kinds"]])
        self.index_of_rows: RowIndex = whole if chosen is None else whole.take(chosen)  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[type[StoredRows], tuple[Any, ...]]:
        return StoredRows, (self.folder, self.chosen)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)

    def __len__(self) -> int:
        return len(self.index_of_rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        place = index % len(self)
        place = place if self.chosen is None else int(self.chosen[place])
        begin, end = self._begins[place : place + 2].tolist()
        return _decoded(os.pread(self._handle, end - begin, begin))

    def take(self, chosen: Sequence[int]) -> StoredRows:
        """Return some of the rows, in the order of ``chosen``."""
        import numpy as np

        places = np.asarray(chosen, dtype=np.int64)
        return StoredRows(self.folder, places if self.chosen is None else self.chosen[places])


def cache_folder() -> Path:
    """Return ``$FINERANK_CACHE/rows``, or ``~/.cache/finerank/rows``."""
    return cache_of("rows")


def lay_out(
    items: Iterable[Numbered], sets: int, key: Callable[[], str], size: int = 0, most: int = IN_MEMORY_CHARACTERS
) -> tuple[list[Row] | StoredRows, list[int]]:
    """Take rows to memory, or to disk where they are more than ``most`` characters.

    Args:
        items: the rows, data set after data set.
        sets: number of data sets.
        key: hex digest of all that decides the rows; asked for only where they go to disk.
        size: bytes of the files they are read from; with many, rows that lie on disk already are looked for first.

    Returns:
        The rows, and how many each data set has.
    """
    if size > most:
        folder = cache_folder() / key()
        if _is_whole(folder):
            return _opened(folder)
    stream, rows, held = iter(items), list[Numbered](), 0
    for item in stream:
        rows.append(item)
        held += _characters(item[1])
        if held > most:
            return _stored(chain(rows, stream), sets, key())
    counts = [0] * sets
    for number, _ in rows:
        counts[number] += 1
    return [row for _, row in rows], counts


def _stored(items: Iterator[Numbered], sets: int, key: str) -> tuple[StoredRows, list[int]]:
    folder = cache_folder() / key
    with writing(folder), _alone(folder):
        if not _is_whole(folder):
            console.say(f"the rows are laid on disk, in {folder}: they are more than memory should hold")
            try:
                _write(items, sets, folder)
            finally:
                shutil.rmtree(_partial(folder), ignore_errors=True)
    return _opened(folder)


def _opened(folder: Path) -> tuple[StoredRows, list[int]]:
    rows = StoredRows(folder)
    return rows, rows.facts["counts"]


def _write(items: Iterator[Numbered], sets: int, folder: Path) -> None:
    partial = _partial(folder)
    for stale in (partial, folder):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir(parents=True)
    writer, counts, begins, end = IndexWriter(partial), [0] * sets, array("q", [0]), 0
    with (partial / "rows").open("wb") as texts, (partial / "begins").open("wb") as places:
        for done, (number, row) in enumerate(items, start=1):
            counts[number] += 1
            writer.add(row)
            end += texts.write(_encoded(row))
            begins.append(end)
            if done % FLUSHED_ROWS == 0:
                writer.flush()
                begins.tofile(places)
                del begins[:]
        writer.flush()
        begins.tofile(places)
    facts = {"counts": counts, "kinds": list(writer.table), "sizes": _sizes(partial)}
    (partial / WHOLE).write_text(json.dumps(facts), encoding="utf-8")
    partial.rename(folder)


def _partial(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.partial")


def _sizes(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in ("rows", "begins", *COLUMNS)}


def _is_whole(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / WHOLE).read_bytes())["sizes"] == _sizes(folder))
    except (OSError, ValueError, KeyError):
        return False


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process lays the same rows."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _characters(row: Row) -> int:
    return len(row.query) + sum(map(len, row.positives)) + sum(map(len, row.negatives))


def _encoded(row: Row) -> bytes:
    extra = {key: row.extra[key] for key in KEPT_KEYS if key in row.extra} if row.extra else {}
    return orjson.dumps([row.query, row.positives, row.negatives, row.where, row.pos_scores, row.neg_scores, extra])


def _decoded(data: bytes) -> Row:
    query, positives, negatives, where, pos_scores, neg_scores, extra = orjson.loads(data)
    return Row(
        query,
        tuple(positives),
        tuple(negatives),
        where,
        None if pos_scores is None else tuple(pos_scores),
        None if neg_scores is None else tuple(neg_scores),
        extra,
    )
