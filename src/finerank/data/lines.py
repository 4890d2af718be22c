"""Bytes to JSON objects, each with its place. Nothing here raises on bad content: a bad line is a Problem.

Lines end at ``\\n`` and nowhere else (``str.splitlines`` would also cut at U+2028 inside a text); a ``\\r`` before it
and a byte order mark at the start are dropped. Memory is bounded by the longest line allowed.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from finerank.core.errors import Problem
from finerank.core.records import kind

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
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)


def read_lines(stream: BinaryIO, name: str) -> Iterator[Record]:
    """Yield the objects of a JSONL stream."""
    yield from _objects(stream, name, refuse_array=True)


def read_json(stream: BinaryIO, name: str) -> Iterator[Record]:
    """Yield the objects of a ``.json`` stream: an array, one object over several lines, or JSONL."""
    buffered = io.BufferedReader(stream, SNIFFED) if isinstance(stream, io.RawIOBase) else stream
    head = buffered.readline(MAX_LINE)
    while head and not head.removeprefix(BOM).strip() and head.endswith(b"\n"):
        yield_blank = buffered.readline(MAX_LINE)
        head += yield_blank
        if not yield_blank or len(head) > MAX_LINE:
            break
    whole = head.removeprefix(BOM).lstrip()
    if sniff(head) is None and (whole.startswith(b"[") or (whole.startswith(b"{") and not _is_json(whole))):
        rest = buffered.read(MAX_ARRAY + 1)
        if len(head) + len(rest) > MAX_ARRAY:
            yield name, Problem(name, "huge-array", f"an array of more than {MAX_ARRAY:,} bytes; make it one per line")
            return
        yield from _whole(head + rest, name)
        return
    yield from _objects(_Chained(head, buffered), name, refuse_array=False)


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


def parse_object(line: bytes, where: str) -> dict[str, Any] | Problem:
    """Parse one JSON object, or say what is wrong with the line."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return _explain(line, where, error)
    if not isinstance(value, dict):
        return Problem(where, "not-an-object", f"expected a JSON object {{…}}, got {kind(value)}")
    twice = _duplicate_key(line, value)
    if twice is not None:
        return Problem(where, "duplicate-key", f'the key "{twice}" stands twice in one object')
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


def _objects(stream: BinaryIO | _Chained, name: str, refuse_array: bool) -> Iterator[Record]:
    number, seen = 0, False
    while line := stream.readline(MAX_LINE + 1):
        number += 1
        where = f"{name}:{number}"
        if number == 1:
            verdict = sniff(line)
            if verdict is not None:
                yield where, Problem(name, verdict[0], f"this is {verdict[1]}")
                return
            line = line.removeprefix(BOM)
        if len(line) > MAX_LINE:
            yield where, Problem(where, "long-line", f"a line of more than {MAX_LINE:,} bytes")
            _skip_line(stream)
            seen = True
            continue
        text = line.strip(b" \t\r\n")
        if not text:
            continue
        if refuse_array and not seen and text.startswith(b"["):
            yield (
                where,
                Problem(where, "json-array", "a JSON array, but one object per line is expected: name it .json"),
            )
            return
        seen = True
        yield where, parse_object(text, where)


def _skip_line(stream: BinaryIO | _Chained) -> None:
    while (part := stream.readline(MAX_LINE)) and not part.endswith(b"\n"):
        pass


def _whole(text: bytes, name: str) -> Iterator[Record]:
    """Yield the elements of an array, or one object, each at the line on which it starts."""
    body = text.removeprefix(BOM)
    if body.lstrip()[:1] == b"{":
        number = 1 + body[: len(body) - len(body.lstrip())].count(b"\n")
        where = f"{name}:{number}"
        yield where, parse_object(body.strip(b" \t\r\n"), where)
        return
    line, at = 1, 0
    for start, stop, closed in _elements(body):
        line, at = line + body.count(b"\n", at, start), start
        where = f"{name}:{line}"
        if not closed:
            yield where, Problem(where, "truncated", "the JSON array is not closed where the file ends")
            return
        element = body[start:stop].strip(b" \t\r\n")
        if element:
            yield where, parse_object(element, where)
        elif stop < len(body) and body[stop : stop + 1] == b",":
            yield where, Problem(where, "bad-json", "two commas with nothing between them")
        elif start and body[start - 1 : start] == b",":
            yield where, Problem(where, "trailing-comma", "a comma before the closing bracket of the array")


def _elements(body: bytes) -> Iterator[tuple[int, int, bool]]:
    """Yield ``[start, stop)`` of each element of the outermost array, and whether a ``,`` or ``]`` ended it."""
    depth, start = 0, 0
    for token in _TOKENS.finditer(body):
        mark = token.group()
        if mark in b"[{":
            depth += 1
            if depth == 1:
                start = _past_space(body, token.end())
        elif mark in b"]}":
            depth -= 1
            if depth == 0:
                yield start, token.start(), True
                if body[token.end() :].strip():
                    yield token.end(), len(body), False
                return
        elif mark == b"," and depth == 1:
            yield start, token.start(), True
            start = token.end()
    yield min(start, len(body)), len(body), False


def _past_space(body: bytes, at: int) -> int:
    found = re.compile(rb"\s*").match(body, at)
    return found.end() if found else at


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _explain(line: bytes, where: str, error: orjson.JSONDecodeError) -> Problem:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as bad:
        message = f"byte 0x{line[bad.start]:02x} at column {bad.start + 1} is not UTF-8 (Latin-1 text?)"
        return Problem(where, "not-utf8", message)
    code = next((code for text, code in CODES.items() if text in error.msg), "bad-json")
    rest = line.decode("utf-8")[error.pos :]
    if rest.lstrip("-").startswith(("NaN", "Infinity")) or error.msg.startswith("no digit after sign"):
        return Problem(where, "not-finite", f"NaN and Infinity are not JSON numbers (column {error.colno})")
    quoted = " (strings and keys take double quotes, not single ones)" if rest.startswith("'") else ""
    return Problem(where, "single-quotes" if quoted else code, f"not JSON at column {error.colno}: {error.msg}{quoted}")


def _duplicate_key(line: bytes, value: dict[str, Any]) -> str | None:
    """Return a key that stands twice at the top level. Parsers keep the last one in silence; half the row is lost."""
    if not any(line.count(orjson.dumps(key)) > 1 for key in value):
        return None
    twice: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [key for key, _ in pairs]
        twice.extend(key for key in dict.fromkeys(names) if names.count(key) > 1)
        return dict(pairs)

    try:
        json.loads(line, object_pairs_hook=collect)
    except (ValueError, RecursionError):
        return None
    return twice[0] if twice else None
