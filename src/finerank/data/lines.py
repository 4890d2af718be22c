"""Bytes to JSON objects, each with its place. Nothing here raises on bad content: a bad line is a Problem.

Lines end at ``\\n`` and nowhere else (``str.splitlines`` would also cut at U+2028 inside a text); a ``\\r`` before it
and a byte order mark at the start are dropped. Memory is bounded by the longest line allowed.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, BinaryIO

import orjson

from finerank.core.errors import Problem
from finerank.core.records import kind
from finerank.data import console

MAX_LINE = 64 * 2**20
"""Longest line read, in bytes; about ten times a passage of a million tokens."""
MAX_ARRAY = 2**30
"""Largest JSON array (or one object over several lines) read, in bytes: it has to be held whole."""
SNIFFED = 4096

Record = tuple[str, "dict[str, Any] | Problem"]
"""``("file:line", object or what is wrong with it)``."""

BOM = b"\xef\xbb\xbf"
SIGNATURES = {
    b"\x1f\x8b": ("gzip", "gzip data: give it the suffix .gz"),
    b"PK\x03\x04": ("zip", "a zip archive: unpack it first"),
    b"\x28\xb5\x2f\xfd": ("zstandard", "zstandard data: give it the suffix .zst"),
    b"PAR1": ("parquet", "a parquet file: give it the suffix .parquet"),
    b"\x89PNG": ("binary", "an image (PNG), not text"),
    b"\xff\xd8\xff": ("binary", "an image (JPEG), not text"),
    b"%PDF-": ("binary", "a PDF document: extract its text first"),
    b"\xff\xfe": ("utf-16", "UTF-16 text: convert it, e.g. iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": ("utf-16", "UTF-16 text: convert it, e.g. iconv -f UTF-16 -t UTF-8"),
}
CODES = {
    "trailing comma": "trailing-comma",
    "unexpected content after document": "two-values",
    "unexpected end of data": "truncated",
    "surrogate": "lone-surrogate",
    "control character": "control-character",
    "number is infinity": "not-finite",
    "depth limit": "too-deep",
}
SPACE, NEWLINE = b" \t\r\n", b"\n"
FEW_KEYS = 64
# A string runs to its closing quote or to the end of the data, so that the scan is linear whatever the bytes.
_TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
_BLANK = re.compile(rb"\s*")


def read_lines(stream: BinaryIO, name: str) -> Iterator[Record]:
    """Yield the objects of a JSONL stream."""
    yield from _objects(stream, name, refuse_array=True)


def read_block(block: bytes, name: str, first: int) -> Iterator[Record]:
    """Yield the objects of whole lines out of a JSONL stream.

    Args:
        first: number of the block's first line in the stream; 1 is the stream's head, which is looked at as such.
    """
    yield from _objects(io.BytesIO(block), name, refuse_array=True, first=first)


def is_no_jsonl(head: bytes) -> bool:
    """Say whether the head of a stream shows something else than JSONL, of which only that is said."""
    return sniff(head) is not None or head.removeprefix(BOM).lstrip(SPACE).startswith(b"[")


def read_json(stream: BinaryIO, name: str) -> Iterator[Record]:
    """Yield the objects of a ``.json`` stream: an array, one object over several lines, or JSONL."""
    head = line = stream.readline(MAX_LINE)
    while line and not head.removeprefix(BOM).strip() and len(head) < MAX_LINE:
        line = stream.readline(MAX_LINE)
        head += line
    if sniff(head) is None and _goes_on(head.removeprefix(BOM).strip()):
        body = head + stream.read(max(MAX_ARRAY + 1 - len(head), 0))
        if len(body) > MAX_ARRAY:
            yield (
                name,
                Problem(name, "huge-array", f"an array of more than {MAX_ARRAY:,} bytes; write one object per line"),
            )
        else:
            yield from _whole(body.removeprefix(BOM), name)
        return
    yield from _objects(_Chained(head, stream), name, refuse_array=False)


def sniff(head: bytes) -> tuple[str, str] | None:
    """Return ``(code, sentence)`` if the first bytes are not those of a UTF-8 text file."""
    for signature, verdict in SIGNATURES.items():
        if head.startswith(signature):
            return verdict
    if b"\x00" not in head[:SNIFFED]:
        return None
    sample = head[:SNIFFED].rstrip(b"\x00") + b"\x00"
    if max(sample[0::2].count(0), sample[1::2].count(0)) > 0.4 * len(sample):
        return "utf-16", "UTF-16 text: convert it, e.g. iconv -f UTF-16LE -t UTF-8"
    return "binary", "binary data, not text"


def parse_object(text: bytes, name: str, number: int) -> dict[str, Any] | Problem:
    """Parse one JSON object that starts on line ``number``, or say what is wrong with it."""
    where = f"{name}:{number}"
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return _explain(text, f"{name}:{number + error.lineno - 1}", error)
    if not isinstance(value, dict):
        return Problem(where, "not-an-object", f"expected a JSON object {{…}}, got {kind(value)}")
    twice = _duplicate_key(text, value)
    if twice is not None:
        return Problem(where, "duplicate-key", f'the key "{twice[:80]}" stands twice in one object')
    return value


class _Chained:
    """A stream that gives back the bytes already taken from it, then goes on."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self.head = io.BytesIO(head)
        self.stream = stream

    def readline(self, limit: int) -> bytes:
        line = self.head.readline(limit)
        if line.endswith(b"\n") or len(line) >= limit:
            return line
        return line + self.stream.readline(limit - len(line))


def _objects(stream: BinaryIO | _Chained, name: str, refuse_array: bool, first: int = 1) -> Iterator[Record]:
    number, blank, skipped = first - 1, 0, 0
    seen = first > 1
    while line := stream.readline(MAX_LINE + 1):
        number += 1
        where = f"{name}:{number}"
        if number == 1:
            verdict = sniff(line)
            if verdict is not None:
                yield where, Problem(name, verdict[0], f"this is {verdict[1]}")
                return
            line = line.removeprefix(BOM)
        text = line.strip(SPACE)
        if not text:
            blank += 1
            continue
        if refuse_array and not seen and text.startswith(b"["):
            yield (
                where,
                Problem(where, "json-array", "a JSON array where one object per line is expected: name it .json"),
            )
            return
        seen, skipped = True, blank
        if len(line) > MAX_LINE:
            _skip_line(stream, line)
            yield where, Problem(where, "long-line", f"a line of more than {MAX_LINE:,} bytes")
        else:
            yield where, parse_object(text, name, number)
    if skipped:  # blank lines at the end are nobody's concern
        console.say(f"{name}: skipped {skipped:,} blank lines")


def _skip_line(stream: BinaryIO | _Chained, line: bytes) -> None:
    while line and not line.endswith(NEWLINE):
        line = stream.readline(MAX_LINE)


def _whole(body: bytes, name: str) -> Iterator[Record]:
    """Yield the elements of an array, or one object, each at the line on which it starts."""
    if body.lstrip().startswith(b"{"):
        start = len(body) - len(body.lstrip())
        number = 1 + body.count(NEWLINE, 0, start)
        yield f"{name}:{number}", parse_object(body.strip(SPACE), name, number)
        return
    number, at = 1, 0
    for start, stop, closed in _elements(body):
        start = _past_space(body, start)
        number, at = number + body.count(NEWLINE, at, start), start
        where = f"{name}:{number}"
        element = body[start:stop].strip(SPACE)
        if not closed:
            yield where, Problem(where, "truncated", "the JSON array is not closed where the file ends")
        elif element:
            yield where, parse_object(element, name, number)
        elif body[stop : stop + 1] == b"," or body[:start].rstrip().endswith(b","):
            yield where, Problem(where, "trailing-comma", "a comma with no object after or before it")


def _elements(body: bytes) -> Iterator[tuple[int, int, bool]]:
    """Yield ``[start, stop)`` of each element of the outermost array, and whether a ``,`` or ``]`` ended it.

    What follows the array's end, if not white space, comes last, as an element that is not JSON.
    """
    depth, start = 0, 0
    for token in _TOKENS.finditer(body):
        mark = token.group()
        if mark in (b"[", b"{"):
            depth += 1
            start = token.end() if depth == 1 else start
        elif mark in (b"]", b"}"):
            depth -= 1
            if depth == 0:
                yield start, token.start(), True
                if body[token.end() :].strip():
                    yield token.end(), len(body), True
                return
        elif mark == b"," and depth == 1:
            yield start, token.start(), True
            start = token.end()
    yield start, len(body), False


def _past_space(body: bytes, at: int) -> int:
    found = _BLANK.match(body, at)
    return found.end() if found else at


def _goes_on(line: bytes) -> bool:
    """Say whether the first line opens an array, or an object that it does not close."""
    if not line.startswith(b"{"):
        return line.startswith(b"[")
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return error.msg.startswith("unexpected end of data")
    return False


def _explain(text: bytes, where: str, error: orjson.JSONDecodeError) -> Problem:
    try:
        rest = text.decode("utf-8")[error.pos :]
    except UnicodeDecodeError as bad:
        message = f"byte 0x{text[bad.start]:02x} at column {bad.start + 1} is not UTF-8 (Latin-1 text?)"
        return Problem(where, "not-utf8", message)
    if rest.lstrip("-").startswith(("NaN", "Infinity")) or error.msg.startswith("no digit after sign"):
        return Problem(where, "not-finite", f"NaN and Infinity are not JSON numbers (column {error.colno})")
    if rest.startswith("'"):
        return Problem(where, "single-quotes", f"not JSON at column {error.colno}: strings take double quotes")
    code = next((code for words, code in CODES.items() if words in error.msg), "bad-json")
    return Problem(where, code, f"not JSON at column {error.colno}: {error.msg}")


@lru_cache(256)
def _quoted(keys: tuple[str, ...]) -> list[bytes]:
    return [orjson.dumps(key) for key in keys]


def _duplicate_key(text: bytes, value: dict[str, Any]) -> str | None:
    """Return a key that stands twice in an object. Parsers keep the last one in silence; half the row is lost.

    Counting the quoted keys settles nearly every line at a hundredth of the price of a second parse.
    """
    if len(value) <= FEW_KEYS and max(map(text.count, _quoted(tuple(value))), default=0) <= 1:
        return None
    twice: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        whole = dict(pairs)
        if len(whole) < len(pairs):
            times = Counter(key for key, _ in pairs)
            twice.extend(key for key, count in times.items() if count > 1)
        return whole

    try:
        json.loads(text, object_pairs_hook=collect)
    except (ValueError, RecursionError):
        return None
    return twice[0] if twice else None
