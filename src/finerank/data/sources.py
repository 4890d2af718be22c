"""Files to rows, pools and candidates. Every row knows its ``file:line``; every error says it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finerank.core.errors import DataError, Problem
from finerank.core.records import CANDIDATE_KEYS, Row, kind, parse_row
from finerank.data.files import expand, iter_records
from finerank.data.judged import Judged, is_judged, read_judged

__all__ = [
    "Judged",
    "is_judged",
    "iter_pool",
    "pool_of",
    "read_candidates",
    "read_judged",
    "read_pool",
    "read_rows",
    "scan_rows",
]

MAX_PROBLEMS = 10_000
"""Problems collected before reading stops: a file of another kind altogether is not worth reading to its end."""
ROW_HINT = "finerank check lists every bad line"


def read_rows(
    paths: Sequence[str | Path] | str | Path,
    *,
    sub_data_name: Sequence[str] | str | None = None,
    split: str = "train",
    limit: int | None = None,
) -> list[Row]:
    """Read all rows of files and folders, in order.

    Args:
        sub_data_name: read ``<folder>/<sub_data_name>/<split>.jsonl`` of each path.
        limit: stop after this many rows.

    Raises:
        DataError: if any line is bad; it holds all of them.
        UserError: if a file cannot be opened.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    for item in scan_rows(paths, sub_data_name=sub_data_name, split=split):
        if isinstance(item, Row):
            rows.append(item)
        else:
            problems += item
        if (limit is not None and len(rows) >= limit) or len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise DataError(problems, hint=ROW_HINT if len(problems) > 1 else None)
    return rows


def scan_rows(
    paths: Sequence[str | Path] | str | Path,
    *,
    sub_data_name: Sequence[str] | str | None = None,
    split: str = "train",
) -> Iterator[Row | list[Problem]]:
    """Yield each row, or the problems of a bad one; an empty file is a problem too."""
    for path in expand(_listed(paths), sub_data_name=sub_data_name, split=split):
        yield from _scan_file(path)


def read_pool(path: str | Path) -> list[str]:
    """Read a pool of passages: distinct texts, in first-seen order; ``iter_pool`` says which formats."""
    return list(dict.fromkeys(iter_pool(path)))


def iter_pool(path: str | Path) -> Iterator[str]:
    """Yield the texts of a pool one by one.

    Takes ``{"text"}``, BEIR's ``{"_id", "title", "text"}`` (title, a space, text) and
    FlashRAG's ``{"id", "contents"}``.

    Raises:
        DataError: behind the last line, if any was bad or there was none.
    """
    file = Path(path) / "corpus.jsonl" if is_judged(path) else path
    problems: list[Problem] = []
    empty = True
    for item in expand([file]):
        for where, value in iter_records(item):
            found = value if isinstance(value, Problem) else _pool_text(value, where)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                empty = False
                yield found
            if len(problems) >= MAX_PROBLEMS:
                break
    _raise_if(problems)
    if empty:
        raise DataError([Problem(str(path), "empty-file", "the pool holds no passage")])


def pool_of(rows: Iterable[Row]) -> list[str]:
    """Return the distinct positives and negatives of rows, in first-seen order."""
    return list(dict.fromkeys(text for row in rows for text in (*row.positives, *row.negatives)))


def read_candidates(path: str | Path) -> list[tuple[str, list[str]]]:
    """Read queries with their candidate passages: one object, an array, or JSONL, whatever the file's name."""
    found: list[tuple[str, list[str]]] = []
    problems: list[Problem] = []
    for where, value in iter_records(path, loose=True):
        item = [value] if isinstance(value, Problem) else _candidates(value, where)
        if isinstance(item, tuple):
            found.append(item)
        else:
            problems += item
        if len(problems) >= MAX_PROBLEMS:
            break
    _raise_if(problems)
    if not found:
        raise DataError([Problem(str(path), "empty-file", 'no {"query", "passages"} object was found')])
    return found


def _listed(paths: Sequence[str | Path] | str | Path) -> Sequence[str | Path]:
    return [paths] if isinstance(paths, (str, Path)) else paths


def _scan_file(path: Path) -> Iterator[Row | list[Problem]]:
    empty = True
    for where, value in iter_records(path):
        empty = False
        if isinstance(value, Problem):
            yield [value]
            continue
        try:
            yield parse_row(value, where)
        except DataError as error:
            yield error.problems
    if empty:
        yield [Problem(str(path), "empty-file", "the file holds no row")]


def _raise_if(problems: list[Problem]) -> None:
    if problems:
        raise DataError(problems)


def _pool_text(value: Mapping[str, Any], where: str) -> str | Problem:
    key = next((key for key in ("text", "contents") if key in value), None)
    if key is None:
        return Problem(where, "missing-text", f'a pool line needs "text" or "contents", got {_keys(value)}')
    title = value.get("title") or ""
    for name, part in ((key, value[key]), ("title", title)):
        if not isinstance(part, str):
            return Problem(where, f"bad-{name}", f'"{name}" must be a string, got {kind(part)}')
    text = f"{title} {value[key]}".strip() if key == "text" and title else value[key]
    if not text.strip():
        return Problem(where, "blank-text", f'"{key}" is blank')
    return str(text)


def _candidates(value: Mapping[str, Any], where: str) -> tuple[str, list[str]] | list[Problem]:
    query, key = value.get("query"), next((key for key in CANDIDATE_KEYS if key in value), None)
    problems = []
    if not isinstance(query, str) or not query.strip():
        found = "a blank string" if isinstance(query, str) else kind(query) if "query" in value else _keys(value)
        problems.append(Problem(where, "bad-query", f'"query" must be a string, got {found}'))
    if key is None:
        wanted = " or ".join(f'"{name}"' for name in CANDIDATE_KEYS)
        problems.append(Problem(where, "missing-passages", f"candidates need {wanted}, got {_keys(value)}"))
    elif not isinstance(value[key], list) or not value[key]:
        found = "an empty list" if value[key] == [] else kind(value[key])
        problems.append(Problem(where, "bad-passages", f'"{key}" must be a list of strings, got {found}'))
    else:
        wrong = [item for item in value[key] if not isinstance(item, str)]
        if wrong:
            problems.append(Problem(where, "bad-passages", f'"{key}" must hold strings, got {kind(wrong[0])}'))
    return problems or (str(query), list(value[str(key)]))


def _keys(value: Mapping[str, Any]) -> str:
    return f"the keys {', '.join(list(value)[:8])}" if value else "an empty object"
