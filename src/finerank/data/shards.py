"""Pieces of long work on disk: each lands whole, with its digest and its counts, or not at all.

A shard is a file: the hex sha256 of all that follows, a line of JSON counts, then the body, which is any bytes. A torn
or edited one reads as missing, so that it is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finerank.core.errors import UserError
from finerank.data.atomic import land, writing

SUFFIX = ".shard"


class Shards:
    """The shards of one output, by number.

    Args:
        folder: where they stand; it exists.
        name: the output, as errors call it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name

    def counts(self, index: int) -> dict[str, Any] | None:
        """Return the counts of shard ``index`` if it has landed whole, else None."""
        found = self._read(index)
        return None if found is None else found[0]

    def body(self, index: int) -> bytes:
        """Return the body of a shard that has landed.

        Raises:
            UserError: if it is damaged; the next run makes it again.
        """
        found = self._read(index)
        if found is None:
            raise UserError(f"shard {index} was damaged while the run went on", where=self.name, hint="run it again")
        return found[1]

    def place(self, index: int) -> tuple[Path, int]:
        """Return the file of a shard that has been found whole, and the byte at which its body begins."""
        path = self._path(index)
        with open(path, "rb") as stream:
            return path, len(stream.readline()) + len(stream.readline())

    def land(self, index: int, body: bytes, counts: Mapping[str, Any]) -> dict[str, Any]:
        """Write shard ``index``; return its counts as they will read back."""
        head = json.dumps(counts, sort_keys=True).encode() + b"\n"
        total = hashlib.sha256(head)
        total.update(body)
        target = self._path(index)
        with writing(self.name):
            land(target.with_name(f".{target.name}.tmp"), target, [total.hexdigest().encode() + b"\n", head, body])
        return dict(json.loads(head))

    def any(self) -> bool:
        """Say whether anything has landed."""
        return next(self.folder.glob(f"*{SUFFIX}"), None) is not None

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06}{SUFFIX}"

    def _read(self, index: int) -> tuple[dict[str, Any], bytes] | None:
        try:
            content = self._path(index).read_bytes()
        except OSError:
            return None
        head, _, tail = content.partition(b"\n")
        if hashlib.sha256(tail).hexdigest().encode() != head:
            return None
        counts, _, body = tail.partition(b"\n")
        return dict(json.loads(counts)), body
