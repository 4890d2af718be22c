"""Where a row file comes from: paths to files, files to byte streams, whatever the suffix says."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from finerank.core.errors import Problem, UserError
from finerank.data import console
from finerank.data.lines import Record, read_json, read_lines

COMPRESSED = (".gz", ".zst")
ROW_SUFFIXES = (".jsonl", ".json", ".parquet")
BATCH_ROWS = 1024


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
        with _open(path) as stream:
            yield from reader(stream, name)
    except (OSError, EOFError, zlib.error) as error:
        yield name, Problem(name, "unreadable", f"cannot be read to its end: {_reason(error)}")
    except Exception as error:
        if type(error).__name__ != "ZstdError":
            raise
        yield name, Problem(name, "unreadable", f"cannot be read to its end: {_reason(error)}")


def expand(
    paths: Sequence[str | Path], *, sub_data_name: Sequence[str] | str | None = None, split: str = "train"
) -> list[Path]:
    """Return the row files behind files and folders, folders sorted by name; what is skipped is said."""
    names = [sub_data_name] if isinstance(sub_data_name, str) else list(sub_data_name or [])
    files: list[Path] = []
    for path in map(Path, paths):
        if names:
            files += [_sub_file(path, name, split) for name in names]
        elif _mode(path, stat.S_ISDIR):
            files += _folder(path)
        else:
            check_file(path)
            files.append(path)
    if not files:
        raise UserError("no row file was given", hint="name a .jsonl, .json or .parquet file, or a folder of them")
    return files


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
    if str(path).count("/") <= 1 and not kind_of(path):
        hint = "data sets of the Hugging Face hub are not read yet: save one as .jsonl or .parquet and name that file"
        return UserError("no such file or folder", where=str(path), hint=hint)
    folder = Path(path).parent
    hint = f"ls {folder}" if folder.is_dir() else f"the folder {folder} does not exist either"
    return UserError("no such file", where=str(path), hint=hint)


def _mode(path: Path, test: Any) -> bool:
    try:
        return bool(test(os.stat(path).st_mode))
    except (OSError, ValueError):
        return False


def _is_row_file(path: Path) -> bool:
    return kind_of(path) in ROW_SUFFIXES and not path.name.endswith(".manifest.json") and path.is_file()


def _folder(folder: Path) -> list[Path]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if _is_row_file(entry)]
    skipped = [entry.name for entry in entries if entry not in set(files)]
    if not files:
        raise UserError("the folder holds no .jsonl, .json or .parquet file", where=str(folder))
    if skipped:
        more = f" and {len(skipped) - 10:,} more" if len(skipped) > 10 else ""
        console.say(f"{folder}: skipped {', '.join(skipped[:10])}{more} (no row files)")
    return files


def _sub_file(path: Path, name: str, split: str) -> Path:
    if not path.is_dir():
        raise UserError(
            f'--sub_data_name "{name}" needs a folder laid out {path}/{name}/{split}.jsonl',
            where=str(path),
            hint="data sets of the Hugging Face hub are not read yet; save this one in that layout",
        )
    suffixes = [kind + packed for kind in ROW_SUFFIXES for packed in ("", *COMPRESSED)]
    for suffix in suffixes:
        if (path / name / f"{split}{suffix}").is_file():
            return path / name / f"{split}{suffix}"
    inside = sorted(entry.name for entry in ((path / name) if (path / name).is_dir() else path).iterdir())
    raise UserError(
        f"expected {name}/{split}.jsonl, found {', '.join(inside[:10]) or 'an empty folder'}",
        where=str(path / name) if (path / name).is_dir() else str(path),
    )


def _open(path: str | Path) -> BinaryIO:
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
                    yield f"{name}:{number}", line
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        where = f"{name}:{number}" if number else name
        yield where, Problem(where, "bad-parquet", f"cannot be read as parquet: {_reason(error)}")


def _needs_extra(path: str | Path, package: str) -> UserError:
    message = f"reading this file needs {package}, which is not installed"
    return UserError(message, where=str(path), hint='pip install "finerank[data]"')


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__
