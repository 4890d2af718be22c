"""A file to records: byte streams, parquet batches, whatever the suffix says."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from finerank.core.errors import Problem, UserError
from finerank.core.records import KEY_ALIASES
from finerank.data.lines import Record, read_json, read_lines

COMPRESSED = (".gz", ".zst")
ROW_SUFFIXES = (".jsonl", ".json", ".parquet")
BATCH_ROWS = 1024
KEPT = frozenset(key for name in ("query", "pos") for key in KEY_ALIASES[name])


def iter_records(path: str | Path, *, loose: bool = False) -> Iterator[Record]:
    """Yield ``("file:line", object or Problem)`` for one file.

    Args:
        loose: take an array or one object over several lines whatever the suffix.

    Raises:
        UserError: if the file cannot be opened at all.
    """
    name, inner = str(path), kind_of(path)
    check_file(path)
    if inner == ".parquet":
        yield from _parquet(path)
        return
    reader = read_json if inner == ".json" or loose else read_lines
    try:
        with open_bytes(path) as stream:
            yield from reader(stream, name)
    except (OSError, EOFError, zlib.error) as error:
        yield name, Problem(name, "unreadable", f"cannot be read to its end: {_reason(error)}")
    except Exception as error:
        if type(error).__name__ != "ZstdError":
            raise
        yield name, Problem(name, "unreadable", f"cannot be read to its end: {_reason(error)}")


def with_values(line: Mapping[str, Any]) -> dict[str, Any]:
    """Drop keys without a value: a table has every column in every row, a line of JSON only what it says.

    A query or a positive that is null stays, to be complained of.
    """
    return {key: value for key, value in line.items() if value is not None or key in KEPT}


def check_file(path: str | Path) -> None:
    """Raise a UserError unless ``path`` is a file that can be opened for reading."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise _not_there(path, error) from None
    except ValueError:  # a NUL in the name
        raise UserError("not a file name", where=repr(str(path))) from None
    if stat.S_ISDIR(mode):
        raise UserError("expected a file, found a folder", where=str(path))
    if not stat.S_ISREG(mode):
        raise UserError("expected a file, found a device or a pipe", where=str(path), hint="write it to a file first")
    if not os.access(path, os.R_OK):
        raise UserError("the file may not be read (permission denied)", where=str(path))


def kind_of(path: str | Path) -> str:
    """Return the suffix that says how a file is read, compression set aside: ``a.json.gz`` -> ``.json``."""
    name = Path(path).name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return Path(name).suffix


def _not_there(path: str | Path, error: OSError) -> UserError:
    if not isinstance(error, FileNotFoundError):
        return UserError(f"cannot be opened: {_reason(error)}", where=str(path))
    folder = Path(path).parent
    hint = f"ls {folder}" if folder.is_dir() else f"the folder {folder} does not exist either"
    if not kind_of(path):
        hint += "; a data set of the Hugging Face hub is named owner/name"
        return UserError("no such file or folder", where=str(path), hint=hint)
    return UserError("no such file", where=str(path), hint=hint)


def open_bytes(path: str | Path) -> BinaryIO:
    """Open a file for reading, unpacked as its suffix says."""
    suffix = Path(path).suffix.lower()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if suffix == ".zst":
        return _open_zst(path)
    return open(path, "rb")


def _open_zst(path: str | Path) -> BinaryIO:
    import io

    try:
        import zstandard
    except ImportError:
        raise _needs_extra(path, "zstandard") from None
    raw = open(path, "rb")  # noqa: SIM115 - closed by the reader that wraps it
    reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=True)
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, reader), 2**16))


def _parquet(path: str | Path) -> Iterator[Record]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise _needs_extra(path, "pyarrow") from None
    name, number = str(path), 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for line in batch.to_pylist():
                    number += 1
                    yield f"{name}:{number}", with_values(line)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        where = f"{name}:{number}" if number else name
        yield where, Problem(where, "bad-parquet", f"cannot be read as parquet: {_reason(error)}")


def _needs_extra(path: str | Path, package: str) -> UserError:
    message = f"reading this file needs {package}, which is not installed"
    return UserError(message, where=str(path), hint='pip install "finerank[data]"')


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__
