"""Any file of texts to (id, text): pools, judged folders, a named key of any records, plain lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from finerank.core.errors import DataError, Problem, UserError
from finerank.core.records import kind
from finerank.data.files import check_file, kind_of, open_bytes
from finerank.data.judged import is_judged
from finerank.data.lines import BOM, sniff
from finerank.data.origins import find_origins, records_of
from finerank.data.sources import ID_KEYS, MAX_PROBLEMS, iter_pool_records

Text = tuple[str | None, str]
"""Its id, if it has one, and itself."""
FILES = {"query": "queries.jsonl", "passage": "corpus.jsonl"}
"""What of a judged folder is read."""


def iter_texts(
    paths: Sequence[str], side: Literal["query", "passage"] = "passage", text_key: str | None = None
) -> Iterator[Text]:
    """Yield the texts of files and folders, in order.

    Takes pools (``sources.iter_pool_records``), judged folders (their queries or their corpus, by ``side``) and
    ``.txt`` files, one text per line; lines end at ``\\n`` only.

    Args:
        text_key: read this key of every record instead; lists of texts count as several texts.

    Raises:
        DataError: behind the last line of a file, if any was bad or there was none.
    """
    for path in paths:
        if kind_of(path) == ".txt":
            yield from ((None, line) for line in _lines(path))
        elif text_key is not None:
            yield from _of_key(path, text_key)
        else:
            yield from _of_pool(path, side)


def files_of(paths: Sequence[str], side: Literal["query", "passage"]) -> list[str]:
    """Return what is read of each path: a judged folder's one file, else the path itself."""
    return [str(Path(path) / FILES[side]) if is_judged(path) else path for path in paths]


def _of_pool(path: str, side: Literal["query", "passage"]) -> Iterator[Text]:
    try:
        yield from iter_pool_records(files_of([path], side)[0])
    except DataError as error:
        if error.problems[0].code == "missing-text":
            error.hint = "--text_key NAME says which key holds the text, e.g. --text_key query"
        raise


def _of_key(path: str, key: str) -> Iterator[Text]:
    problems: list[Problem] = []
    empty = True
    for origin in find_origins(path):
        for where, value in records_of(origin):
            if isinstance(value, Problem):
                problems.append(value)
            else:
                found = _texts(value, key, where)
                empty = False
                if isinstance(found, Problem):
                    problems.append(found)
                else:
                    yield from found
            if len(problems) >= MAX_PROBLEMS:
                break
    if problems:
        raise DataError(problems)
    if empty:
        raise DataError([Problem(path, "empty-file", "the file holds no record")])


def _texts(value: dict[str, Any], key: str, where: str) -> list[Text] | Problem:
    if key not in value:
        return Problem(where, "missing-text", f'the record has no "{key}", only {", ".join(list(value)[:8]) or "{}"}')
    texts = value[key] if isinstance(value[key], list) else [value[key]]
    for text in texts:
        if not isinstance(text, str):
            return Problem(where, f"bad-{key}", f'"{key}" must be a string or a list of strings, got {kind(text)}')
        if not text.strip():
            return Problem(where, "blank-text", f'"{key}" is blank')
    name = next((str(value[each]) for each in ID_KEYS if value.get(each) is not None), None)
    return [(name, text) for text in texts]


def _lines(path: str) -> Iterator[str]:
    """Yield the lines of a text file; blank ones behind the last text do not count, others are an error.

    Raises:
        DataError: for a blank line between texts, since a vector's place is its line; for bytes that are not UTF-8.
    """
    check_file(path)
    blank = number = texts = 0
    with open_bytes(path) as stream:
        for number, data in enumerate(stream, start=1):
            where = f"{path}:{number}"
            if number == 1:
                data = data.removeprefix(BOM)
                verdict = sniff(data)
                if verdict is not None:
                    raise DataError([Problem(path, verdict[0], f"this is {verdict[1]}")])
            try:
                line = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                message = f"byte 0x{data[error.start]:02x} at column {error.start + 1} is not UTF-8 (Latin-1 text?)"
                raise DataError([Problem(where, "not-utf8", message)]) from None
            if not line.strip():
                blank = blank or number
                continue
            if blank:
                message = "the line is blank, but lines with text follow, and a text's place is its line"
                raise DataError([Problem(f"{path}:{blank}", "blank-line", message)], hint="remove the blank lines")
            texts += 1
            yield line
    if not texts:
        raise UserError("the file holds no text", where=path)
