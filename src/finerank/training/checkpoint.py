"""Checkpoints that are whole or not there: staged, hashed, sealed, renamed; the newest whole one wins.

A checkpoint is a folder ``checkpoint-N`` whose ``complete.json``, written last, holds the SHA-256 of every other file.
A folder without a seal, or with a file that does not match it, is torn: it is named and passed over.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from finerank.data.atomic import sync
from finerank.data.manifest import digest_file

SEAL = "complete.json"
NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Found:
    """What an output folder offers for a resume.

    Attributes:
        newest: the newest whole checkpoint, or None.
        torn: newer ones that are not whole -> what is wrong with them.
    """

    newest: Path | None
    torn: dict[Path, str] = field(default_factory=dict)


def step_of(folder: Path) -> int:
    """Return N of ``checkpoint-N``."""
    match = NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def all_checkpoints(output_dir: Path) -> list[Path]:
    """Return the checkpoint folders, oldest step first, whole or torn."""
    if not output_dir.is_dir():
        return []
    return sorted((path for path in output_dir.iterdir() if path.is_dir() and step_of(path) >= 0), key=step_of)


def staging_folder(final: Path) -> Path:
    """Return an empty folder to write a checkpoint in, beside its final place and under a name nobody resumes from."""
    staging = final.with_name(f".{final.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def land(staging: Path, final: Path) -> None:
    """Seal a staged checkpoint and give it its name, durably; replaces a checkpoint of the same step."""
    seal(staging)
    if final.exists():
        shutil.rmtree(final)
    staging.rename(final)
    sync(final.parent)


def seal(folder: Path) -> None:
    """Write ``complete.json`` over all files of ``folder``, after they have reached the disk."""
    digests = {}
    for path in _files(folder):
        digests[path.relative_to(folder).as_posix()] = digest_file(path)
        sync(path)
    target = folder / SEAL
    target.write_text(json.dumps({"sha256": digests}, indent=1), encoding="utf-8")
    sync(target)
    sync(folder)


def fault(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint; None if it is whole."""
    try:
        recorded = dict(json.loads((folder / SEAL).read_text(encoding="utf-8"))["sha256"])
    except FileNotFoundError:
        return f"it has no {SEAL}: it was never finished"
    except (OSError, ValueError, KeyError, TypeError):
        return f"its {SEAL} cannot be read"
    for name, digest in recorded.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if digest_file(path) != digest:
            return f"{name} is not what was written"
    if not recorded:
        return f"its {SEAL} names no file"
    return None


def find(output_dir: Path) -> Found:
    """Look for the newest whole checkpoint, and name the newer torn ones."""
    torn: dict[Path, str] = {}
    for folder in reversed(all_checkpoints(output_dir)):
        wrong = fault(folder)
        if wrong is None:
            return Found(folder, torn)
        torn[folder] = wrong
    return Found(None, torn)


def rotate(output_dir: Path, keep: int | None, protected: str | None) -> None:
    """Delete the oldest checkpoints beyond ``keep``, never the newest nor the ``protected`` one."""
    if not keep or keep < 1:
        return
    folders = all_checkpoints(output_dir)
    safe = {folders[-1].name, Path(protected).name if protected else ""}
    extra = len(folders) - max(keep, len({folder.name for folder in folders} & safe))
    for folder in [folder for folder in folders if folder.name not in safe][: max(extra, 0)]:
        shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SEAL)
