"""Records in blocks, for work that is shared out: lines of a JSONL file as they stand, or parsed objects.

Where a block ends depends on the file alone, never on who works on it, so that results do not either.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import orjson

from finerank.core.errors import DataError, Problem
from finerank.core.records import Row
from finerank.data import console
from finerank.data.files import check_file, kind_of, open_bytes
from finerank.data.formats import format_of, parse_record
from finerank.data.grouping import Grouping
from finerank.data.lines import BOM, MAX_LINE, NEWLINE, SPACE, Record, is_no_jsonl, read_block
from finerank.data.origins import Origin, records_of

MAX_RECORDS = 1024
"""Parsed objects in one block."""
UNREADABLE = (OSError, EOFError, zlib.error)
_BLANK_LINES = re.compile(rb"\n[ \t\r]*(?=\n)")


@dataclass(frozen=True)
class Block:
    """Consecutive records of one origin.

    Attributes:
        origin: which of the origins, from 0.
        name: how its places begin (``name:line``).
        first: number of the first line, for lines.
        data: whole lines of a JSONL file, or records.
    """

    origin: int
    name: str
    first: int
    data: bytes | list[Record]

    def records(self) -> Iterator[Record]:
        """Yield ``("name:line", object or Problem)``; nothing raises on bad content."""
        return read_block(self.data, self.name, self.first) if isinstance(self.data, bytes) else iter(self.data)

    def lines(self) -> list[bytes]:
        """Return each record as one line without its newline; the file's own bytes where it has lines."""
        if isinstance(self.data, bytes):
            body = self.data.removeprefix(BOM) if self.first == 1 else self.data
            return [text for line in body.split(NEWLINE) if (text := line.strip(SPACE))]
        return [orjson.dumps(value, default=str) for _, value in self.data if not isinstance(value, Problem)]


def blocks_of(origins: Iterable[Origin], *, max_bytes: int, max_lines: int, gather: bool = False) -> Iterator[Block]:
    """Cut origins into blocks of about ``max_bytes`` of whole lines, and at most ``max_lines`` of them.

    An origin without a record, or one that cannot be read to its end, gives a block with that Problem.

    Args:
        gather: make rows of labeled pairs first, one of each query.
    """
    for number, origin in enumerate(origins):
        if gather and _holds_labeled_pairs(origin):
            pieces = record_blocks(number, str(origin), _gathered(origin), min(max_lines, MAX_RECORDS))
        elif is_lines(origin):
            pieces = _line_blocks(number, Path(str(origin)), max_bytes, max_lines)
        else:
            pieces = record_blocks(number, str(origin), records_of(origin), min(max_lines, MAX_RECORDS))
        empty = True
        for piece in pieces:
            empty = False
            yield piece
        if empty:
            problem = Problem(str(origin), "empty-file", "the file holds no row")
            yield Block(number, str(origin), 0, [(str(origin), problem)])


def is_lines(origin: Origin) -> bool:
    """Say whether an origin is a file whose lines can be cut out unparsed."""
    return isinstance(origin, Path) and kind_of(origin) not in (".json", ".parquet")


def record_blocks(number: int, name: str, records: Iterator[Record], size: int) -> Iterator[Block]:
    """Gather records into blocks of ``size``."""
    while piece := list(islice(records, size)):
        yield Block(number, name, 0, piece)


def _line_blocks(number: int, path: Path, max_bytes: int, max_lines: int) -> Iterator[Block]:
    name = str(path)
    check_file(path)
    try:
        with open_bytes(path) as stream:
            yield from _cut(stream, number, name, max_bytes, max_lines)
    except UNREADABLE as error:
        yield _unreadable(number, name, error)
    except Exception as error:
        if type(error).__name__ != "ZstdError":
            raise
        yield _unreadable(number, name, error)


def _cut(stream: BinaryIO, number: int, name: str, max_bytes: int, max_lines: int) -> Iterator[Block]:
    first, blank, waiting = 1, 0, 0
    while body := stream.read(max_bytes):
        body += stream.readline(MAX_LINE + 1)
        _skip_line(stream, body)
        if first == 1 and is_no_jsonl(body):
            yield Block(number, name, 1, body)  # holds what is wrong; the rest would only say it again
            return
        if body.removeprefix(BOM if first == 1 else b"").strip(SPACE):
            blank, waiting = blank + waiting + len(_BLANK_LINES.findall(body.rstrip(SPACE))), 0
            for start, piece in _pieces(body, max_lines):
                yield Block(number, name, first + start, piece)
        else:
            waiting += body.count(NEWLINE)
        first += body.count(NEWLINE) + (not body.endswith(NEWLINE))
    if blank:
        console.say(f"{name}: skipped {blank:,} blank lines")


def _pieces(body: bytes, max_lines: int) -> Iterator[tuple[int, bytes]]:
    """Yield runs of at most ``max_lines`` lines, each with the number of lines before it."""
    if body.count(NEWLINE) <= max_lines:
        yield 0, body
        return
    lines = body.split(NEWLINE)
    for start in range(0, len(lines), max_lines):
        piece = NEWLINE.join(lines[start : start + max_lines])
        if piece.strip(SPACE):
            yield start, piece + (NEWLINE if start + max_lines < len(lines) else b"")


def _skip_line(stream: BinaryIO, body: bytes) -> None:
    """Read past the rest of a line that is longer than any that is taken."""
    rest = body
    while rest and not rest.endswith(NEWLINE):
        rest = stream.readline(MAX_LINE)


def _unreadable(number: int, name: str, error: Exception) -> Block:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return Block(number, name, 0, [(name, Problem(name, "unreadable", f"cannot be read to its end: {reason}"))])


def _holds_labeled_pairs(origin: Origin) -> bool:
    first = next((value for _, value in records_of(origin)), None)
    return isinstance(first, dict) and format_of(first) == "labeled-pair"


def _gathered(origin: Origin) -> Iterator[Record]:
    with Grouping() as grouping:
        for where, value in records_of(origin):
            try:
                found, row = ("", None) if isinstance(value, Problem) else parse_record(value, where)
            except DataError as error:
                yield from ((problem.where, problem) for problem in error.problems)
                continue
            if found == "labeled-pair" and row is not None:
                grouping.add(row)
            else:
                yield where, value
        for item in grouping.rows():
            if isinstance(item, Row):
                yield item.where, item.to_mapping()
            else:
                yield from ((problem.where, problem) for problem in item)
