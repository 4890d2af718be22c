"""Vectors from shards to one file, ``.npy`` or parquet, as bytes that are made while they are written.

Memory holds one shard and one block of rows. A text that stands again takes its vector from where it was first seen:
one row read from an earlier shard, which was checked when it passed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from finerank.core.errors import UserError
from finerank.data.distinct import Distinct
from finerank.data.shards import Shards

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 4096
"""Rows that are put together at once, also the rows of a parquet row group."""
OPEN_FILES = 64
DTYPES = {"float32": "<f4", "float16": "<f2"}


def blocks(shards: Shards, distinct: Distinct, size: int, dimension: int, dtype: str) -> Iterator[NDArray[Any]]:
    """Yield the vectors [n, D] of all texts, in order.

    Args:
        size: distinct texts of a shard.
        dtype: key of ``DTYPES``; of the shards' numbers.
    """
    import numpy as np

    kind = np.dtype(DTYPES[dtype])
    current, rows = -1, np.empty((0, dimension), kind)
    with _Earlier(shards, dimension * kind.itemsize) as earlier:
        for start in range(0, len(distinct), BLOCK):
            places = distinct.places[start : start + BLOCK]
            owners = places // size
            block = np.empty((len(places), dimension), kind)
            for owner in np.unique(owners).tolist():
                where = np.flatnonzero(owners == owner)
                if owner > current:
                    current = owner
                    rows = np.frombuffer(shards.body(owner), kind).reshape(-1, dimension)
                if owner == current:
                    block[where] = rows[places[where] - owner * size]
                else:
                    data = b"".join(earlier.row(owner, place - owner * size) for place in places[where].tolist())
                    block[where] = np.frombuffer(data, kind).reshape(-1, dimension)
            yield block


def npy_chunks(vectors: Iterable[NDArray[Any]], count: int, dimension: int, dtype: str) -> Iterator[bytes]:
    """Yield the bytes of an ``.npy`` file that holds the matrix [count, D]."""
    import numpy as np

    header = io.BytesIO()
    shape = (count, dimension)
    np.lib.format.write_array_header_1_0(header, {"descr": DTYPES[dtype], "fortran_order": False, "shape": shape})
    yield header.getvalue()
    for block in vectors:
        yield block.tobytes()


def parquet_chunks(
    vectors: Iterable[NDArray[Any]], ids: Iterable[str | None] | None, dimension: int, dtype: str
) -> Iterator[bytes]:
    """Yield the bytes of a parquet file with the column ``vector`` (lists of D numbers) and, given ids, ``id``."""
    pyarrow = import_pyarrow()
    numbers = pyarrow.float32() if dtype == "float32" else pyarrow.float16()
    columns = [("id", pyarrow.string())] if ids is not None else []
    schema = pyarrow.schema([*columns, ("vector", pyarrow.list_(numbers, dimension))])
    sink = _Sink()
    names = iter(ids) if ids is not None else None
    # Numbers of vectors neither repeat nor compress.
    with pyarrow.parquet.ParquetWriter(
        pyarrow.PythonFile(sink, mode="w"), schema, use_dictionary=False, compression="none", write_statistics=False
    ) as writer:
        for block in vectors:
            flat = pyarrow.array(block.reshape(-1), numbers)
            arrays = [pyarrow.FixedSizeListArray.from_arrays(flat, dimension)]
            if names is not None:
                arrays.insert(0, pyarrow.array([next(names, None) for _ in range(len(block))], pyarrow.string()))
            writer.write_batch(pyarrow.RecordBatch.from_arrays(arrays, schema=schema))
            yield sink.drain()
    yield sink.drain()


def import_pyarrow() -> Any:
    """Import pyarrow and its parquet module.

    Raises:
        UserError: with the line that installs it.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        message = "parquet output needs pyarrow, which is not installed"
        raise UserError(message, hint='pip install "finerank[data]", or an --output_file that ends in .npy') from None
    return pyarrow


class _Earlier:
    """Single rows of shards that have passed; the files used last stay open."""

    def __init__(self, shards: Shards, row_bytes: int) -> None:
        self.shards = shards
        self.row_bytes = row_bytes
        self._open: dict[int, tuple[int, int]] = {}

    def row(self, shard: int, number: int) -> bytes:
        handle, offset = self._opened(shard)
        data = os.pread(handle, self.row_bytes, offset + number * self.row_bytes)
        if len(data) != self.row_bytes:
            raise UserError(f"shard {shard} was damaged while the run went on", where=self.shards.name)
        return data

    def _opened(self, shard: int) -> tuple[int, int]:
        found = self._open.pop(shard, None)
        if found is None:
            if len(self._open) >= OPEN_FILES:
                os.close(self._open.pop(next(iter(self._open)))[0])
            path, offset = self.shards.place(shard)
            found = os.open(path, os.O_RDONLY), offset
        self._open[shard] = found  # at the end: used last
        return found

    def __enter__(self) -> _Earlier:
        return self

    def __exit__(self, *error: object) -> None:
        for handle, _ in self._open.values():
            os.close(handle)


class _Sink:
    """What a parquet writer writes to; the bytes are taken away as they come."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._size += len(part)
        return len(part)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        return None

    def close(self) -> None:
        self.closed = True

    def drain(self) -> bytes:
        """Return what was written since the last time."""
        data = b"".join(self._parts)
        self._parts = []
        return data
