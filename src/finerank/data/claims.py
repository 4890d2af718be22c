"""A run's claim on an output: the key of what decides it, the lock, the record of who began it, the refusal.

<output>                    appears when everything is done
<output>.manifest.json      what made it; the same run again sees it and does nothing
<output>.work/              while it is being made: lock, run.json (the record), shards that have landed
"""

from __future__ import annotations

import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from finerank.core.errors import UserError
from finerank.data.atomic import Lock, writing
from finerank.data.manifest import (
    WORK_SUFFIX,
    Parts,
    differences,
    manifest_path,
    read_manifest,
    versions,
    write_json,
)

LOCK, RECORD = "lock", "run.json"


class Claim(ABC):
    """What an output file and an output folder share.

    Attributes:
        done: a finished output with the same key stands here: say so and return.
        manifest: of a done output.
        resumed: an earlier process with the same key left work here that is being gone on with.
    """

    def __init__(self, path: str | Path, parts: Parts, overwrite: bool) -> None:
        self.name = str(path)
        self.path = Path(path).expanduser()
        self.parts = parts
        self.key = parts.key
        self.overwrite = overwrite
        self.started = time.monotonic()
        self.work = self.path.with_name(self.path.name + WORK_SUFFIX)
        self.manifest: dict[str, Any] = {}
        self.done = False
        self.resumed = False
        self._lock: Lock | None = None

    def enter(self) -> None:
        """Find the finished output, or take the lock and settle what may be done here.

        Raises:
            UserError: if another process writes here, or something stands here that another run made.
        """
        if self._is_done():
            self._sweep()
            return
        with writing(self.name):
            self._lock = Lock(self.work / LOCK, self.name)
        try:
            if not self._is_done():  # it may have been finished between the first look and the lock
                self._settle()
        except BaseException:
            self._release()
            raise
        if self.done:
            self._release()

    def close(self) -> None:
        """Let go of the lock; work that has landed stays for the next run, an empty work folder does not."""
        if self._lock is None:
            return
        with suppress(OSError):
            for stray in self.work.glob(".*.tmp"):
                stray.unlink()
            if not self.has_work():
                self.clear(finished=True)
        self._release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def complete(self, facts: Mapping[str, Any], counts: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest, remove the work folder, let go; return the manifest as it reads back."""
        manifest = {
            "key": self.key,
            **self.parts.to_mapping(),
            "seed": self.parts.options.get("seed"),
            **facts,
            "counts": dict(counts),
            "seconds": round(time.monotonic() - self.started, 3),
            "resumed": self.resumed,
            "versions": versions(),
            **extra,
        }
        with writing(self.name):
            write_json(manifest_path(self.path), manifest)
            self.clear(finished=True)
        self.manifest, self.done = json.loads(json.dumps(manifest, default=str)), True
        self._release()
        return self.manifest

    def clear(self, *, finished: bool) -> None:
        """Empty the work folder, but for the lock."""
        for entry in self.work.iterdir():
            if entry.name != LOCK:
                remove(entry)

    def changed(self) -> UserError:
        """Return the error for a finished output that somebody has edited."""
        return self._refusal("was changed after it was written: it no longer has the digest in its manifest")

    def _sweep(self) -> None:
        """Remove the work folder of a run that died between its manifest and its last deletion."""
        if not self.work.is_dir():
            return
        with suppress(UserError, OSError):  # held by another process, or not ours to delete: no harm
            self._lock = Lock(self.work / LOCK, self.name)
            record = read_manifest(self.work / RECORD)
            if record is None or record.get("key") == self.key:
                self.clear(finished=True)
        self._release()

    def _is_done(self) -> bool:
        found = read_manifest(manifest_path(self.path))
        if self.overwrite or found is None or found.get("key") != self.key or not self.exists():
            return False
        self.check_whole(found)
        self.manifest, self.done = found, True
        return True

    def _settle(self) -> None:
        before = read_manifest(self.work / RECORD)
        same = before is not None and before.get("key") == self.key
        if before is not None and not same and not self.overwrite:
            raise self._refusal(
                f"half-done work of another run stands here; it differs in {differences(before, self.parts)}"
            )
        allowed = self.overwrite or (same and before is not None and bool(before.get("overwrite")))
        if self.exists() and not allowed and not (same and self.is_own()):
            found = read_manifest(manifest_path(self.path))
            if found is None:
                raise self._refusal("already exists, and no manifest says what made it")
            raise self._refusal(f"already exists, made by another run; it differs in {differences(found, self.parts)}")
        with writing(self.name):
            if not same:
                self.clear(finished=False)
            record = {"key": self.key, "overwrite": allowed, **self.parts.to_mapping()}
            write_json(self.work / RECORD, record)
            self.prepare()
        self.resumed = same and self.has_work()

    def _refusal(self, message: str) -> UserError:
        return UserError(message, where=self.name, hint="add --overwrite to replace it, or name another output")

    def _release(self) -> None:
        if self._lock is not None:
            empty = all(entry.name == LOCK for entry in self.work.iterdir()) if self.work.is_dir() else True
            self._lock.release(remove=empty)
            self._lock = None

    @abstractmethod
    def exists(self) -> bool:
        """Say whether something stands at the output's place."""

    @abstractmethod
    def check_whole(self, manifest: Mapping[str, Any]) -> None:
        """Raise ``changed()`` unless the output is the one that its manifest describes."""

    @abstractmethod
    def is_own(self) -> bool:
        """Say whether what stands here was put here by this very run, before it died."""

    @abstractmethod
    def prepare(self) -> None:
        """Make ready to write; called again on every resume."""

    @abstractmethod
    def has_work(self) -> bool:
        """Say whether anything has landed that is worth keeping."""


def remove(entry: Path) -> None:
    """Delete a file or a whole folder."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()
