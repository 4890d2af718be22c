"""The only way a verb writes: an output file made of shards, or an output folder.

Long work is cut into shards, each a pure function of its inputs; each lands atomically with its digest. A run that
dies goes on with the shards that are missing, and the joined bytes are those of a run that never died.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finerank.core.errors import UserError
from finerank.data import console
from finerank.data.atomic import TEMPORARY, Lock, land, sync, write_atomic, writing
from finerank.data.claims import LOCK, RECORD, Claim, remove
from finerank.data.manifest import Input, digest_file, manifest_path, parts_of, write_json
from finerank.data.shards import Shards

__all__ = ["Folder", "Output", "write_atomic"]

Produced = tuple[list[bytes], dict[str, Any]]
"""Lines without their newline, and counts that JSON can hold."""
JOINED, LANDING = "joined", "landing.json"
OLD, READY = "old", "ready"
UNSEALED = ("checkpoint-", "finerank_fusion.json")
"""Beginnings of names in a folder that its manifest does not answer for: fusion weights are added later too."""


class Output(Claim):
    """One output file.

    >>> with Output.open("out.jsonl", command="mine", options={}, inputs=[], overwrite=False) as out:  # doctest: +SKIP
    ...     if not out.done:
    ...         counts = [out.shard(index, lambda: produce(index)) for index in range(shards)]
    ...         out.finish({"rows": sum(each["rows"] for each in counts)})
    """

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        command: str,
        options: Mapping[str, Any],
        inputs: Sequence[Input],
        models: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> Output:
        """Claim ``path`` for the run that these parts describe.

        Args:
            options: the semantic ones (``core.options.semantic``).
            inputs: files, folders and data sets whose contents decide the output.
            models: name -> fingerprint.
            overwrite: replace what another run has made; it stays whole until the new output is.
        """
        output = cls(path, parts_of(command, options, inputs, models or {}, path), overwrite)
        output.enter()
        return output

    def __enter__(self) -> Output:
        return self

    @property
    def shards(self) -> Shards:
        """The pieces of the work; ``shard`` makes those that hold lines of the output."""
        return Shards(self.work, self.name)

    def shard(self, index: int, produce: Callable[[], Produced]) -> dict[str, Any]:
        """Make shard ``index`` of the output's lines unless it has landed whole before; return its counts."""
        self._seen.add(index)
        landed = self.shards.counts(index)
        if landed is not None:
            return landed
        lines, counts = produce()
        if any(b"\n" in line for line in lines):
            raise ValueError("a shard's lines must not contain a newline")
        return self.shards.land(index, b"".join(line + b"\n" for line in lines), counts)

    def finish(
        self,
        counts: Mapping[str, Any],
        extra: Mapping[str, Any] | None = None,
        chunks: Iterable[bytes] | None = None,
    ) -> dict[str, Any]:
        """Write the output and its manifest; return the manifest.

        Args:
            extra: further facts for the manifest.
            chunks: the output's bytes, where they are not the shards' lines joined in order.
        """
        if chunks is None:
            if self._seen != set(range(len(self._seen))):
                raise ValueError(f"shards must be numbered 0, 1, …, got {sorted(self._seen)}")
            chunks = map(self.shards.body, range(len(self._seen)))
        return self._land(chunks, counts, extra or {})

    def write_whole(
        self, data: bytes, counts: Mapping[str, Any], extra: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Write an output that is made in one go, and its manifest; return the manifest."""
        return self._land([data], counts, extra or {})

    def _land(self, parts: Iterable[bytes], counts: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        if self.done or self._lock is None:
            raise ValueError(f"{self.name} is not open for writing")
        total, size = hashlib.sha256(), 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for part in parts:
                total.update(part)
                size += len(part)
                yield part

        with writing(self.name):
            joined = self.work / JOINED
            land(self.work / f".{JOINED}.tmp", joined, counted())
            # Says whose the output is, should the process die between this rename and the manifest's.
            write_json(self.work / LANDING, {"sha256": total.hexdigest()})
            os.replace(joined, self.path)
            sync(self.path.parent)
        return self.complete({"sha256": total.hexdigest(), "bytes": size}, counts, extra)

    @property
    def _seen(self) -> set[int]:
        return self.__dict__.setdefault("_indices", set())  # type: ignore[no-any-return]

    def exists(self) -> bool:
        return self.path.exists() or self.path.is_symlink()

    def check_whole(self, manifest: Mapping[str, Any]) -> None:
        if not self.path.is_file() or digest_file(self.path) != manifest.get("sha256"):
            raise self.changed()

    def is_own(self) -> bool:
        try:
            landing = json.loads((self.work / LANDING).read_bytes())
            return self.path.is_file() and bool(landing["sha256"] == digest_file(self.path))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def prepare(self) -> None:
        if self.path.exists() and not self.path.is_file():
            raise UserError("expected a file to write to, found something else", where=self.name)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def has_work(self) -> bool:
        return self.shards.any() or (self.work / LANDING).exists()


class Folder(Claim):
    """An output folder, written in place (``path``); done when its manifest stands beside it.

    With ``overwrite``, what stood there is kept in the work folder until the new one is done.
    """

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        command: str,
        options: Mapping[str, Any],
        inputs: Sequence[Input],
        models: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> Folder:
        """Claim the folder ``path`` for the run that these parts describe; arguments as ``Output.open``."""
        folder = cls(path, parts_of(command, options, inputs, models or {}, path), overwrite)
        folder.enter()
        return folder

    def __enter__(self) -> Folder:
        return self

    @property
    def shards(self) -> Shards:
        """Where pieces of the work land until ``finish``; they are no part of the folder."""
        return Shards(self.work, self.name)

    def finish(self, counts: Mapping[str, Any], extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Digest the folder's files (``UNSEALED`` ones left out) and write the manifest; return it."""
        if self.done or self._lock is None:
            raise ValueError(f"{self.name} is not open for writing")
        with writing(self.name):
            for left in [file for file in self.path.rglob("*.tmp") if TEMPORARY.fullmatch(file.name)]:
                left.unlink()  # of runs that were killed: this one has written all that it writes
            files = _sealed(self.path)
            for name in files:
                sync(self.path / name)
            for place in {(self.path / name).parent for name in files} | {self.path, self.path.parent}:
                sync(place)
        return self.complete({"sha256": _total(files), "files": files}, counts, extra or {})

    def reopen(self) -> None:
        """Go on with a finished folder, as if its run had not ended yet.

        Raises:
            UserError: if another process writes here.
        """
        with writing(self.name):
            self._lock = Lock(self.work / LOCK, self.name)
            write_json(self.work / RECORD, {"key": self.key, "overwrite": False, **self.parts.to_mapping()})
            write_atomic(self.work / READY, b"")
            manifest_path(self.path).unlink(missing_ok=True)
        self.manifest, self.done, self.resumed = {}, False, True

    def exists(self) -> bool:
        if self.path.is_dir():
            return any(self.path.iterdir())
        return self.path.exists() or self.path.is_symlink()

    def check_whole(self, manifest: Mapping[str, Any]) -> None:
        for name, digest in dict(manifest.get("files") or {}).items():
            if not (self.path / name).is_file() or digest_file(self.path / name) != digest:
                raise self.changed()

    def is_own(self) -> bool:
        return (self.work / READY).exists()

    def prepare(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UserError("expected a folder to write to, found a file", where=self.name)
        if (self.work / READY).exists():
            return
        if self.exists() and not (self.work / OLD).exists():
            os.rename(self.path, self.work / OLD)
            console.say(f"{self.name}: the old one is kept in {self.work / OLD} until the new one is done")
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(self.work / READY, b"")

    def has_work(self) -> bool:
        return self.shards.any() or ((self.work / READY).exists() and self.exists())

    def clear(self, *, finished: bool) -> None:
        """Empty the work folder; what stood here before comes back if nothing new was made."""
        old = self.work / OLD
        if old.exists() and not finished:  # the half-done work of another run is what must go
            if self.path.exists():
                remove(self.path)
        elif old.exists() and not self.exists():
            if self.path.is_dir():
                self.path.rmdir()
            os.rename(old, self.path)
        for entry in self.work.iterdir():
            if entry.name != "lock" and (finished or entry.name != OLD):
                remove(entry)


def digest_output(path: str | Path) -> str:
    """Return the hex sha256 of an output as its manifest has it: of a folder without what others may add later."""
    place = Path(path)
    return _total(_sealed(place)) if place.is_dir() else digest_file(place)


def _sealed(folder: Path) -> dict[str, str]:
    return {name: digest_file(folder / name) for name in _listing(folder)}


def _total(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _listing(folder: Path) -> list[str]:
    names = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    sealed = (name for name in names if not name.parts[0].startswith(UNSEALED))
    return sorted(str(name) for name in sealed if not TEMPORARY.fullmatch(name.name))
