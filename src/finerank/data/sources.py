"""Files to rows, pools and candidates. Every row knows its ``file:line``; every error says it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finerank.core.errors import DataError, Problem
from finerank.core.records import CANDIDATE_KEYS, Row, kind
from finerank.data.files import iter_records
from finerank.data.formats import GROUPED, POOL_KEYS, named_passages, parse_record
from finerank.data.grouping import Grouping
from finerank.data.judged import Judged, is_judged, read_judged
from finerank.data.judged_rows import JudgedRows
from finerank.data.origins import find_origins, inputs_of, records_of

__all__ = [
    "Judged",
    "ids_named",
    "inputs_of",
    "is_judged",
    "iter_pool",
    "iter_pool_records",
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
HINTS = {
    "a-pool": 'a pool is what --candidate_pool takes; rows are {"query": …, "pos": […], "neg": […]}',
    "candidates": "finerank rerank scores them",
    "ids-without-texts": "finerank convert … --corpus FILE puts the texts in their places",
    "json-array": "give the file the suffix .json",
}
ID_KEYS = ("_id", "id", "docid")


def read_rows(
    paths: Sequence[str | Path] | str | Path,
    *,
    sub_data_name: Sequence[str] | str | None = None,
    split: str = "train",
) -> list[Row]:
    """Read all rows of files, folders, judged folders and data sets of the hub, in order.

    Args:
        sub_data_name: read these subsets of each path; ``origins.find_origins`` says how.
        split: of subsets, judged folders and data sets.

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
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise DataError(problems, hint=row_hint(problems))
    return rows


def row_hint(problems: Sequence[Problem]) -> str | None:
    """Return what to do about lines that are no rows."""
    if problems[0].code in HINTS:
        return HINTS[problems[0].code]
    return ROW_HINT if len(problems) > 1 else None


def scan_rows(
    paths: Sequence[str | Path] | str | Path,
    *,
    sub_data_name: Sequence[str] | str | None = None,
    split: str = "train",
    form: str = "auto",
    min_grade: float = 1,
    group: bool = False,
    folder: Path | None = None,
    texts: Mapping[str, str] | None = None,
) -> Iterator[Row | list[Problem]]:
    """Yield each row, or the problems of a bad one; an empty file is a problem too.

    Records of other tools are told by their keys (``formats``). Labeled pairs hold one passage each, so they are
    gathered by query and come last; so do pairs, triplets and n-tuples with ``group``.

    Args:
        form: the format of every record; "auto" goes by its keys.
        min_grade: the least label or grade of a positive.
        folder: where lines that are gathered may wait on disk.
        texts: of passages that records name by id only.
    """
    gathered = GROUPED if group else {"labeled-pair"}
    with Grouping(folder) as grouping:
        for origin in find_origins(paths, sub_data_name=sub_data_name, split=split, min_grade=min_grade):
            known = "rows" if isinstance(origin, JudgedRows) else form
            empty = True
            for where, value in records_of(origin):
                empty = False
                if isinstance(value, Problem):
                    yield [value]
                    continue
                try:
                    found, row = parse_record(value, where, known, min_grade=min_grade, texts=texts)
                except DataError as error:
                    yield error.problems
                    continue
                if found in gathered:
                    grouping.add(row)
                else:
                    yield row
            if empty:
                yield [Problem(str(origin), "empty-file", "the file holds no row")]
        yield from grouping.rows()


def ids_named(
    paths: Sequence[str | Path] | str | Path, *, sub_data_name: Sequence[str] | str | None = None, split: str = "train"
) -> set[str]:
    """Return the ids of passages that records name without their texts."""
    origins = find_origins(paths, sub_data_name=sub_data_name, split=split)
    records = (value for origin in origins for _, value in records_of(origin) if not isinstance(value, Problem))
    return {name for record in records for name in named_passages(record)}


def read_pool(path: str | Path) -> list[str]:
    """Read a pool of passages: distinct texts, in first-seen order; ``iter_pool`` says which formats."""
    return list(dict.fromkeys(iter_pool(path)))


def iter_pool(path: str | Path) -> Iterator[str]:
    """Yield the texts of a pool one by one; ``iter_pool_records`` says which formats."""
    return (text for _, text in iter_pool_records(path))


def iter_pool_records(path: str | Path) -> Iterator[tuple[str | None, str]]:
    """Yield ``(id or None, text)`` of each passage of a pool: a file, a folder of files, or a judged folder's corpus.

    Takes ``{"text"}``, BEIR's ``{"_id", "title", "text"}`` (title, a space, text), Tevatron's, with ``docid``, and
    FlashRAG's ``{"id", "contents"}``; ``{"content"}``, as FlagEmbedding's examples have it.

    Raises:
        DataError: behind the last line, if any was bad or there was none.
    """
    file = Path(path) / "corpus.jsonl" if is_judged(path) else path
    problems: list[Problem] = []
    empty = True
    for origin in find_origins([file]):
        for where, value in records_of(origin):
            found = value if isinstance(value, Problem) else _pool_entry(value, where)
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


def _raise_if(problems: list[Problem]) -> None:
    if problems:
        raise DataError(problems)


def _pool_entry(value: Mapping[str, Any], where: str) -> tuple[str | None, str] | Problem:
    key = next((key for key in POOL_KEYS if key in value), None)
    if key is None:
        return Problem(where, "missing-text", f'a pool line needs "text" or "contents", got {_keys(value)}')
    title = value.get("title") or ""
    for name, part in ((key, value[key]), ("title", title)):
        if not isinstance(part, str):
            return Problem(where, f"bad-{name}", f'"{name}" must be a string, got {kind(part)}')
    text = f"{title} {value[key]}".strip() if key == "text" and title else value[key]
    if not text.strip():
        return Problem(where, "blank-text", f'"{key}" is blank')
    ids = [value[each] for each in ID_KEYS if value.get(each) is not None]
    return str(ids[0]) if ids else None, str(text)


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
