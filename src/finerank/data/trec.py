"""Qrels and runs on disk: TREC's white-space columns, and BEIR's tab-separated qrels with a header."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from finerank.core.errors import DataError, Problem, UserError
from finerank.core.runs import Qrels, Run, ranked
from finerank.data.files import check_file
from finerank.data.outputs import write_atomic

MAX_PROBLEMS = 10_000


def read_qrels(path: str | Path) -> Qrels:
    """Read ``query 0 passage grade`` lines, or ``query<TAB>passage<TAB>grade`` with or without a header.

    Raises:
        DataError: for lines of another shape, and for a pair judged twice with different grades.
    """
    qrels: Qrels = {}
    problems: list[Problem] = []
    for number, where, words in _lines(path, problems):
        if number == 1 and words[-1].lower() in ("score", "relevance", "rel", "grade", "label"):
            continue
        grade = _whole(words[-1])
        if len(words) not in (3, 4) or grade is None:
            problems.append(
                Problem(where, "bad-qrels", f'expected query, passage and a whole grade, got "{_short(words)}"')
            )
        elif qrels.setdefault(words[0], {}).setdefault(words[-2], grade) != grade:
            problems.append(
                Problem(where, "two-grades", f"query {words[0]}, passage {words[-2]} is judged twice, differently")
            )
        if len(problems) >= MAX_PROBLEMS:
            break
    _raise_if_bad(problems, path, empty=not qrels)
    return qrels


def read_run(path: str | Path) -> Run:
    """Read ``query Q0 passage rank score tag`` lines; the score orders, the rank is not used."""
    run: Run = {}
    problems: list[Problem] = []
    for _, where, words in _lines(path, problems):
        score = _number(words[4]) if len(words) in (5, 6) else None
        if score is None:
            problems.append(
                Problem(where, "bad-run", f'expected query, Q0, passage, rank, score and tag, got "{_short(words)}"')
            )
        elif words[2] in run.setdefault(words[0], {}):
            problems.append(Problem(where, "duplicate-id", f"passage {words[2]} stands twice under query {words[0]}"))
        else:
            run[words[0]][words[2]] = score
        if len(problems) >= MAX_PROBLEMS:
            break
    _raise_if_bad(problems, path, empty=not run)
    return run


def run_names(paths: Sequence[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Name each run: by its file without the suffix; where that is not unique by its tag, else by its path.

    Args:
        taken: names that something else has.
    """
    for name in (lambda path: Path(path).stem, lambda path: Path(path).name, _tag, str):
        names = {path: name(path) for path in paths}
        if len(set(names.values())) == len(names) and not set(names.values()) & set(taken):
            return names
    return {path: str(path) for path in paths}


def write_qrels(path: str | Path, qrels: Qrels) -> None:
    """Write qrels in TREC form, atomically."""
    lines = [
        f"{_id(query)} 0 {_id(passage)} {grade}\n"
        for query, grades in qrels.items()
        for passage, grade in grades.items()
    ]
    write_atomic(path, "".join(lines).encode())


def write_run(path: str | Path, run: Run, tag: str) -> None:
    """Write a run in TREC form, best first, atomically; scores keep every digit."""
    write_atomic(path, "".join(_run_lines(run, _id(tag))).encode())


def _tag(path: str) -> str:
    """Return the tag of a run's first line; the path if there is none."""
    _, _, words = next(_lines(path, []), (0, "", []))
    return words[5] if len(words) == 6 else path


def _run_lines(run: Run, tag: str) -> Iterator[str]:
    for query, scores in run.items():
        for rank, (passage, score) in enumerate(ranked(scores), start=1):
            yield f"{_id(query)} Q0 {_id(passage)} {rank} {float(score)!r} {tag}\n"


def _lines(path: str | Path, problems: list[Problem]) -> Iterator[tuple[int, str, list[str]]]:
    check_file(path)
    with open(path, "rb") as stream:
        for number, raw in enumerate(stream, start=1):
            where = f"{path}:{number}"
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
            except UnicodeDecodeError:
                problems.append(Problem(where, "not-utf8", "the line is not UTF-8 text"))
                if len(problems) >= MAX_PROBLEMS:
                    return
                continue
            words = [word.strip() for word in text.split("\t")] if "\t" in text else text.split()
            if any(words):
                yield number, where, words


def _raise_if_bad(problems: list[Problem], path: str | Path, *, empty: bool) -> None:
    if empty and not problems:
        problems = [Problem(str(path), "empty-file", "the file holds no line")]
    if problems:
        raise DataError(problems)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _whole(text: str) -> int | None:
    value = _number(text)
    return int(value) if value is not None and value == int(value) else None


def _id(text: str) -> str:
    if not text or text.split() != [text]:
        raise UserError(f'the id "{text}" cannot stand in a TREC file: ids there hold no white space')
    return text


def _short(words: list[str]) -> str:
    return " ".join(words)[:80]
