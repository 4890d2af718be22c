"""Data sets of the Hugging Face hub, and folders that the ``datasets`` library wrote.

``datasets`` comes with the extra "data" and is imported when a row is asked for. It keeps a data set as Arrow files in
its cache and maps them into memory, so a set of any size is read batch by batch; offline (``HF_HUB_OFFLINE``) what the
cache holds can be read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from finerank.core.errors import Problem, UserError
from finerank.data.files import with_values
from finerank.data.lines import Record

BATCH_ROWS = 1024
DIGEST_BYTES = 2**20
CARD_BYTES = 2**16
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
FILE_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt", ".gz", ".zst")


def is_hub_name(path: str | Path) -> bool:
    """Say whether ``path`` is spelt owner/name and nothing here goes by it, nor by its owner's name."""
    name = str(path)
    if not NAME.fullmatch(name) or name.lower().endswith(FILE_SUFFIXES):
        return False
    return not os.path.lexists(name) and not Path(name).parent.is_dir()


def is_saved(folder: Path) -> bool:
    """Say whether ``folder`` was written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def is_repository(folder: Path) -> bool:
    """Say whether ``folder`` is laid out like a data set of the hub: its README.md lists configs."""
    try:
        with open(folder / "README.md", "rb") as stream:
            head = stream.read(CARD_BYTES)
    except OSError:
        return False
    return head.startswith(b"---") and re.search(rb"^configs:", head.split(b"\n---", 1)[0], re.MULTILINE) is not None


@dataclass(frozen=True)
class HubSet:
    """One split of one subset of a data set; ``name`` is a hub name or a folder."""

    name: str
    subset: str | None = None
    split: str = "train"

    def __str__(self) -> str:
        return f"{self.name}[{self.subset}/{self.split}]" if self.subset else f"{self.name}[{self.split}]"

    def records(self) -> Iterator[Record]:
        """Yield ``("name[subset/split]:row", object)``; rows count from 1, columns without a value are left out."""
        number = 0
        try:
            for batch in _load(self).with_format("arrow").iter(batch_size=BATCH_ROWS):
                for line in batch.to_pylist():
                    number += 1
                    yield f"{self}:{number}", with_values(line)
        except (OSError, ValueError) as error:
            where = f"{self}:{number}" if number else str(self)
            yield where, Problem(where, "unreadable", f"cannot be read to its end: {_reason(error)}")

    def digest(self) -> str:
        """Return the hex sha256 of the rows' Arrow files: what was read, whatever the hub shows tomorrow."""
        total = hashlib.sha256()
        for item in _load(self).cache_files:
            with open(item["filename"], "rb") as stream:
                while chunk := stream.read(DIGEST_BYTES):
                    total.update(chunk)
        return total.hexdigest()


@lru_cache(maxsize=8)
def _load(wanted: HubSet) -> Any:
    try:
        import datasets
    except ImportError:
        message = "no such file or folder; reading it as a data set needs datasets, which is not installed"
        raise UserError(message, where=str(wanted), hint='pip install "finerank[data]"') from None
    folder = Path(wanted.name)
    try:
        if is_saved(folder):
            return _saved(datasets, folder, wanted)
        return datasets.load_dataset(wanted.name, wanted.subset, split=wanted.split)
    except UserError:
        raise
    except Exception as error:  # the library raises whatever its network, file and parser libraries do
        raise _cannot_be_had(wanted, error) from error


def _saved(datasets: Any, folder: Path, wanted: HubSet) -> Any:
    found = datasets.load_from_disk(str(folder))
    if not isinstance(found, dict):
        return found
    if wanted.split in found:
        return found[wanted.split]
    there = ", ".join(found)
    raise UserError(
        f'no split "{wanted.split}" here: it has {there}', where=wanted.name, hint=f"--split {next(iter(found))}"
    )


def _cannot_be_had(wanted: HubSet, error: Exception) -> UserError:
    if Path(wanted.name).is_dir():
        return UserError(f"the folder cannot be read as a data set: {_reason(error)}", where=str(wanted))
    if isinstance(error, ValueError):  # it is there, but has no such subset or split
        return UserError(f"the data set of the hub cannot be read: {_reason(error)}", where=str(wanted))
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    looked = "the cache (HF_HUB_OFFLINE is set)" if offline else "the cache and the Hugging Face hub"
    stand_in = f"{wanted.name}/{wanted.subset or 'NAME'}/{wanted.split}.jsonl"
    return UserError(
        f"looked for a file or folder {wanted.name} here, then for a data set of that name in {looked}, and found "
        f"neither: {_reason(error)}",
        where=str(wanted),
        hint=f"check the name, or save its rows as {stand_in} and add --sub_data_name {wanted.subset or 'NAME'}",
    )


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
