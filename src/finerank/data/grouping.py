"""Lines of the same query gathered into one row, in first-seen order, with texts waiting on disk.

Memory holds 16 bytes of digest and a number per query (about 150 bytes in a dict), the lines not yet flushed, and one
bucket of queries at a time; the texts wait in one file per bucket, in a folder that is removed at the end.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from finerank.core.errors import Problem
from finerank.core.records import Row
from finerank.data.atomic import writing

BUCKET = 4096
"""Queries whose lines are held together when they are joined."""
FLUSHED = 16 * 2**20
"""Bytes of lines in memory before they go to disk."""
IDS = {"pos": "pos_id", "neg": "neg_id"}


class Grouping:
    """Gathers rows by query; ``rows`` gives the joined ones.

    Args:
        folder: where texts may wait on disk; a temporary folder of the system without it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.parent = folder
        self._folder: Path | None = None
        self._numbers: dict[bytes, int] = {}
        self._waiting: dict[int, list[bytes]] = defaultdict(list)
        self._bytes = 0

    def __enter__(self) -> Grouping:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, row: Row) -> None:
        """Take one line's row; it may be without a positive."""
        digest = hashlib.blake2b(row.query.encode(), digest_size=16).digest()
        number = self._numbers.setdefault(digest, len(self._numbers))
        parts = [number, row.where, row.query, row.positives, row.negatives, row.pos_scores, row.neg_scores]
        line = orjson.dumps([*parts, dict(row.extra)], option=orjson.OPT_PASSTHROUGH_DATACLASS) + b"\n"
        self._waiting[number // BUCKET].append(line)
        self._bytes += len(line)
        if self._bytes > FLUSHED:
            self._flush()

    def rows(self) -> Iterator[Row | list[Problem]]:
        """Yield one row per query; a query of which no line names a positive is a problem."""
        for bucket in range((len(self._numbers) + BUCKET - 1) // BUCKET):
            found: dict[int, _Joined] = {}
            for line in self._lines(bucket):
                number, where, query, *rest = orjson.loads(line)
                found.setdefault(number, _Joined(where, query)).add(*rest)
            yield from (joined.row() for _, joined in sorted(found.items()))

    def _lines(self, bucket: int) -> Iterator[bytes]:
        if self._folder is not None and self._path(bucket).exists():
            with open(self._path(bucket), "rb") as stream:
                yield from stream
        yield from self._waiting.get(bucket, ())

    def _flush(self) -> None:
        with writing(self.parent or tempfile.gettempdir()):
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="grouping-", dir=self.parent))
            for bucket, lines in self._waiting.items():
                with open(self._path(bucket), "ab") as stream:
                    stream.writelines(lines)
        self._waiting.clear()
        self._bytes = 0

    def _path(self, bucket: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{bucket:06}"


class _Joined:
    """What the lines of one query say together: each text once per side, its first score and id."""

    def __init__(self, where: str, query: str) -> None:
        self.where = where
        self.query = query
        self.sides: dict[str, dict[str, tuple[float | None, Any]]] = {"pos": {}, "neg": {}}
        self.extra: dict[str, Any] = {}

    def add(
        self,
        positives: list[str],
        negatives: list[str],
        pos_scores: list[float] | None,
        neg_scores: list[float] | None,
        extra: dict[str, Any],
    ) -> None:
        for side, texts, scores in (("pos", positives, pos_scores), ("neg", negatives, neg_scores)):
            ids = extra.pop(IDS[side], None)
            listed = ids if isinstance(ids, list) and len(ids) == len(texts) else [None] * len(texts)
            scored: list[float | None] = [None] * len(texts) if scores is None else [*scores]
            for text, score, name in zip(texts, scored, listed):
                self.sides[side].setdefault(text, (score, name))
        self.extra = extra | self.extra

    def row(self) -> Row | list[Problem]:
        if not self.sides["pos"]:
            return [Problem(self.where, "missing-pos", "no passage of this query is labelled a positive")]
        extra = dict(self.extra)
        for side, entries in self.sides.items():
            names = [name for _, name in entries.values()]
            if names and None not in names:
                extra[IDS[side]] = names
        positives, negatives = (tuple(entries) for entries in self.sides.values())
        pos_scores, neg_scores = (_scores(entries) for entries in self.sides.values())
        return Row(self.query, positives, negatives, self.where, pos_scores, neg_scores, extra)


def _scores(entries: dict[str, tuple[float | None, Any]]) -> tuple[float, ...] | None:
    scores = [score for score, _ in entries.values()]
    return tuple(float(score) for score in scores if score is not None) if scores and None not in scores else None
