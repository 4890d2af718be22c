"""From what a command line names to what holds its records: files, folders of them, judged folders, hub data sets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from finerank.core.errors import UserError
from finerank.data import console
from finerank.data.files import COMPRESSED, ROW_SUFFIXES, check_file, iter_records, kind_of
from finerank.data.hub import HubSet, is_hub_name, is_repository, is_saved
from finerank.data.judged import is_judged
from finerank.data.judged_rows import JudgedRows
from finerank.data.lines import Record

Origin = Path | HubSet | JudgedRows

Paths = Sequence[str | Path] | str | Path


def find_origins(
    paths: Paths, *, sub_data_name: Sequence[str] | str | None = None, split: str = "train", min_grade: float = 1
) -> list[Origin]:
    """Return what holds the records behind files, folders and names; folders sorted, what is skipped is said.

    Args:
        sub_data_name: subsets of each path: ``<folder>/<name>/<split>.jsonl``, or configs of a data set.
        split: of subsets, of data sets and of judged folders.
        min_grade: the least grade of a positive in a judged folder.

    Raises:
        UserError: if something is not there.
    """
    names = [sub_data_name] if isinstance(sub_data_name, str) else list(sub_data_name or [])
    found: list[Origin] = []
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        if names:
            found += [_subset(path, name, split) for name in names]
        else:
            found += _whole(path, split, min_grade)
    if not found:
        raise UserError("no row file was given", hint="name a .jsonl, .json or .parquet file, or a folder of them")
    return found


def records_of(origin: Origin) -> Iterator[Record]:
    """Yield ``("place:line", object or Problem)`` of one origin."""
    return iter_records(origin) if isinstance(origin, Path) else origin.records()


def inputs_of(
    paths: Paths, *, sub_data_name: Sequence[str] | str | None = None, split: str = "train"
) -> list[str | Path | HubSet]:
    """Return what an output's manifest digests for these paths: files and folders as given, data sets of the hub."""
    names: list[str | None] = [sub_data_name] if isinstance(sub_data_name, str) else [*(sub_data_name or [])]
    found: list[str | Path | HubSet] = []
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        if is_hub_name(path):
            found += [HubSet(str(path), name, split) for name in names or [None]]
        else:
            found.append(path)
    return found


def _whole(path: str | Path, split: str, min_grade: float) -> list[Origin]:
    place = Path(path)
    if is_hub_name(path):
        return [HubSet(str(path), None, split)]
    if not _is_folder(place):
        check_file(place)
        return [place]
    if is_judged(place):
        return [JudgedRows(place, split, min_grade)]
    if is_saved(place) or is_repository(place):
        return [HubSet(str(path), None, split)]
    return [*_folder(place)]


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _is_row_file(path: Path) -> bool:
    return kind_of(path) in ROW_SUFFIXES and not path.name.endswith(".manifest.json") and path.is_file()


def _folder(folder: Path) -> list[Path]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if _is_row_file(entry)]
    skipped = [entry.name for entry in entries if entry not in set(files)]
    if not files:
        inside = ", ".join(entry.name for entry in entries[:10]) or "nothing"
        hint = "a subset of it is read with --sub_data_name" if any(entry.is_dir() for entry in entries) else None
        raise UserError(
            f"the folder holds no .jsonl, .json or .parquet file, but {inside}", where=str(folder), hint=hint
        )
    if skipped:
        more = f" and {len(skipped) - 10:,} more" if len(skipped) > 10 else ""
        console.say(f"{folder}: skipped {', '.join(skipped[:10])}{more} (no row files)")
    return files


def _subset(path: str | Path, name: str, split: str) -> Origin:
    place = Path(path)
    if is_hub_name(path):
        return HubSet(str(path), name, split)
    if not _is_folder(place):
        raise UserError(
            f'--sub_data_name "{name}" needs a folder laid out {path}/{name}/{split}.jsonl, or a data set of the '
            "Hugging Face hub (owner/name)",
            where=str(path),
            hint="leave --sub_data_name out to read a file" if place.is_file() else None,
        )
    for suffix in (kind + packed for kind in ROW_SUFFIXES for packed in ("", *COMPRESSED)):
        if (place / name / f"{split}{suffix}").is_file():
            return place / name / f"{split}{suffix}"
    if is_saved(place / name):
        return HubSet(str(place / name), None, split)
    if is_repository(place):
        return HubSet(str(path), name, split)
    raise _no_subset(place, name, split)


def _no_subset(place: Path, name: str, split: str) -> UserError:
    folder = place / name if (place / name).is_dir() else place
    inside = sorted(entry.name for entry in folder.iterdir())
    return UserError(
        f"expected {name}/{split}.jsonl, found {', '.join(inside[:10]) or 'an empty folder'}", where=str(folder)
    )
