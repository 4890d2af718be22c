"""Lines to the bytes of a file, as its ending says: JSONL, a JSON array or parquet, plain, gzip or zstandard.

The same lines give the same bytes: no clock and no name goes into them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from finerank.core.errors import UsageError, UserError

Lines = Callable[[], Iterable[Mapping[str, Any]]]
"""Gives the lines from the first one, each time that it is called."""

ENDINGS = (".jsonl", ".json", ".parquet")
CHUNK_LINES = 512
GROUP_LINES = 2048
"""Lines of a parquet row group: what is held at once."""
GZIP = 31
"""zlib's window bits for a gzip header, which zlib writes without a time."""


def check_ending(path: str | Path, flag: str) -> None:
    """Raise UsageError unless the ending says how the file is to be written."""
    kind, packing = _ending(path)
    if kind not in ENDINGS:
        raise UsageError(
            f"{flag} {path}: the ending must be .jsonl, .json or .parquet, the first two also with .gz or .zst"
        )
    if kind == ".parquet" and packing:
        raise UsageError(f"{flag} {path}: parquet is compressed inside", hint=str(path).removesuffix(packing))


def file_bytes(lines: Lines, path: str | Path) -> Iterator[bytes]:
    """Yield the bytes of a file of lines; parquet asks for the lines twice, first for the types of its columns."""
    kind, packing = _ending(path)
    if kind == ".parquet":
        return _parquet(lines, str(path))
    body = _jsonl(lines(), path) if kind == ".jsonl" else _array(lines(), path)
    if packing == ".gz":
        return _squeezed(body, zlib.compressobj(wbits=GZIP))
    return _squeezed(body, _zstandard(path)) if packing == ".zst" else body


def _ending(path: str | Path) -> tuple[str, str]:
    name = Path(path).name.lower()
    packing = next((each for each in (".gz", ".zst") if name.endswith(each)), "")
    return Path(name.removesuffix(packing)).suffix, packing


def _jsonl(lines: Iterable[Mapping[str, Any]], path: str | Path) -> Iterator[bytes]:
    for batch in _batches(lines, CHUNK_LINES):
        yield b"".join(_json(line, path) + b"\n" for line in batch)


def _array(lines: Iterable[Mapping[str, Any]], path: str | Path) -> Iterator[bytes]:
    opened = False
    for batch in _batches(lines, CHUNK_LINES):
        yield (b",\n" if opened else b"[\n") + b",\n".join(_json(line, path) for line in batch)
        opened = True
    yield b"\n]\n" if opened else b"[]\n"


def _json(line: Mapping[str, Any], path: str | Path) -> bytes:
    try:
        return orjson.dumps(line)
    except TypeError as error:
        raise UserError(f"a value cannot be written as JSON: {error}", where=str(path)) from None


def _squeezed(chunks: Iterable[bytes], packer: Any) -> Iterator[bytes]:
    for chunk in chunks:
        packed = packer.compress(chunk)
        if packed:
            yield packed
    yield packer.flush()


def _zstandard(path: str | Path) -> Any:
    try:
        import zstandard
    except ImportError:
        raise _needs_extra(path, "zstandard") from None
    return zstandard.ZstdCompressor().compressobj()


def _parquet(lines: Lines, path: str) -> Iterator[bytes]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise _needs_extra(path, "pyarrow") from None
    schema = _schema(lines(), path)
    sink = _Sink()
    with pyarrow.parquet.ParquetWriter(sink, schema) as writer:
        for batch in _batches(lines(), GROUP_LINES):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
            yield sink.take()
    yield sink.take()


def _schema(lines: Iterable[Mapping[str, Any]], path: str) -> Any:
    import pyarrow

    found = pyarrow.schema([])
    for batch in _batches(lines, GROUP_LINES):
        for key in dict.fromkeys(key for line in batch for key in line):
            try:
                column = pyarrow.array([line.get(key) for line in batch])
                part = pyarrow.schema([(key, column.type)])
                found = pyarrow.unify_schemas([found, part], promote_options="permissive")
            except (pyarrow.ArrowException, OverflowError) as error:
                message = f'"{key}" holds values of several types, which a column of parquet cannot: {error}'
                raise UserError(" ".join(message.split()), where=path, hint="write .jsonl instead") from None
    return found


class _Sink:
    """A file for pyarrow that hands back what was written to it since the last time."""

    closed = False

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def write(self, data: Any) -> int:
        part = bytes(data)
        self.parts.append(part)
        self.size += len(part)
        return len(part)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        taken, self.parts = b"".join(self.parts), []
        return taken


def _batches(lines: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    rest = iter(lines)
    while batch := list(islice(rest, size)):
        yield batch


def _needs_extra(path: str | Path, package: str) -> UserError:
    message = f"writing this file needs {package}, which is not installed"
    return UserError(message, where=str(path), hint='pip install "finerank[data]"')
