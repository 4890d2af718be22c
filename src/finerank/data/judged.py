"""Retrieval evaluation sets: a BEIR folder, or FlagEmbedding's custom set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finerank.core.errors import DataError, Problem, UserError
from finerank.core.records import kind
from finerank.core.runs import Qrels
from finerank.data import console
from finerank.data.files import iter_records
from finerank.data.trec import read_qrels

MAX_PROBLEMS = 10_000


@dataclass(frozen=True)
class Judged:
    """A retrieval evaluation set.

    Attributes:
        passages: texts aligned with ``passage_ids``, title and text joined by a space.
        queries: texts aligned with ``query_ids``: only queries that the split judges, in file order.
        qrels: grades of those queries; passages outside the corpus stay in, as missed ones.
        name: the folder's name.
    """

    passage_ids: list[str]
    passages: list[str]
    query_ids: list[str]
    queries: list[str]
    qrels: Qrels
    name: str


def is_judged(path: str | Path) -> bool:
    """Say whether ``path`` is a folder with a ``corpus.jsonl``."""
    return (Path(path) / "corpus.jsonl").is_file()


def read_judged(folder: str | Path, split: str = "test", *, qrels_file: str | Path | None = None) -> Judged:
    """Read ``corpus.jsonl``, the queries and the qrels of one split.

    Args:
        qrels_file: judge by this file instead of the split's.

    Raises:
        UserError: if a file is missing; the splits that are there are named.
        DataError: for bad lines, with their places.
    """
    root = Path(folder)
    if not is_judged(root):
        raise UserError(
            "expected a folder with corpus.jsonl, queries.jsonl and qrels/, found no corpus.jsonl", where=str(root)
        )
    if qrels_file is None:
        queries_file, qrels = where_judged(root, split)
    else:
        queries_file, qrels, split = _queries_file(root, split), read_qrels(qrels_file), Path(qrels_file).name
    corpus = _texts(root / "corpus.jsonl", blank=True)
    queries = {name: text for name, text in _texts(queries_file, blank=False).items() if name in qrels}
    _say_what_is_lost(root, split, corpus, queries, qrels)
    if not queries:
        raise UserError(f'no query of {queries_file.name} is judged in split "{split}"', where=str(root))
    kept = {name: qrels[name] for name in queries}
    return Judged(list(corpus), list(corpus.values()), list(queries), list(queries.values()), kept, root.resolve().name)


def query_types(folder: str | Path, split: str = "test") -> dict[str, str]:
    """Return query id -> the type that its line gives it (``type``, else ``metadata.type``), where it does."""
    found: dict[str, str] = {}
    for _, line in _good_lines(_queries_file(Path(folder), split), []):
        more = line.get("metadata")
        kind_of_query = line.get("type", more.get("type") if isinstance(more, Mapping) else None)
        if isinstance(kind_of_query, str) and kind_of_query.strip():
            found[str(line.get("_id", line.get("id")))] = kind_of_query.strip()
    return found


def _queries_file(root: Path, split: str) -> Path:
    custom = root / f"{split}_queries.jsonl"
    return custom if custom.is_file() and not (root / "queries.jsonl").is_file() else root / "queries.jsonl"


def where_judged(root: Path, split: str) -> tuple[Path, Qrels]:
    """Return the file of the queries and the grades of one split.

    Raises:
        UserError: if a file is missing; the splits that are there are named.
        DataError: for bad lines of the qrels.
    """
    custom, tsv = root / f"{split}_qrels.jsonl", root / "qrels" / f"{split}.tsv"
    if tsv.is_file() and (root / "queries.jsonl").is_file():
        return root / "queries.jsonl", read_qrels(tsv)
    if custom.is_file() and (root / f"{split}_queries.jsonl").is_file():
        return root / f"{split}_queries.jsonl", _custom_qrels(custom)
    splits = sorted(file.stem for file in (root / "qrels").glob("*.tsv")) if (root / "qrels").is_dir() else []
    splits += sorted(file.name.removesuffix("_qrels.jsonl") for file in root.glob("*_qrels.jsonl"))
    there = f"it has the splits {', '.join(splits)}" if splits else f"expected qrels/{split}.tsv or {split}_qrels.jsonl"
    if split in splits:
        there = "its queries.jsonl is missing"
    raise UserError(
        f'no split "{split}" here: {there}', where=str(root), hint=f"--split {splits[0]}" if splits else None
    )


def _custom_qrels(path: Path) -> Qrels:
    qrels: Qrels = {}
    problems: list[Problem] = []
    for where, line in _good_lines(path, problems):
        query, passage, grade = line.get("qid"), line.get("docid"), line.get("relevance", 1)
        whole = isinstance(grade, (int, float)) and not isinstance(grade, bool) and grade == int(grade)
        if not _is_id(query) or not _is_id(passage) or not whole:
            problems.append(Problem(where, "bad-qrels", 'expected {"qid", "docid", "relevance"} with a whole grade'))
            continue
        if qrels.setdefault(str(query), {}).setdefault(str(passage), int(grade)) != int(grade):
            problems.append(
                Problem(where, "two-grades", f"query {query}, passage {passage} is judged twice, differently")
            )
    if problems or not qrels:
        raise DataError(problems or [Problem(str(path), "empty-file", "the file holds no line")])
    return qrels


def _texts(path: Path, *, blank: bool) -> dict[str, str]:
    """Read id -> text (title, a space, text); ``blank`` texts are legal in a corpus, not as queries."""
    texts: dict[str, str] = {}
    problems: list[Problem] = []
    for where, line in _good_lines(path, problems):
        item = text_entry(line, where, blank)
        if isinstance(item, Problem):
            problems.append(item)
        elif texts.setdefault(*item) != item[1]:
            problems.append(Problem(where, "duplicate-id", f'the id "{item[0]}" stands twice with different texts'))
    if problems or not texts:
        raise DataError(problems or [Problem(str(path), "empty-file", "the file holds no line")])
    return texts


def _good_lines(path: Path, problems: list[Problem]) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, value in iter_records(path):
        if isinstance(value, Problem):
            problems.append(value)
        else:
            yield where, value
        if len(problems) >= MAX_PROBLEMS:
            return


def text_entry(line: Mapping[str, Any], where: str, blank: bool) -> tuple[str, str] | Problem:
    """Return id and text (title, a space, text) of a line of a corpus or of queries, or what is wrong with it."""
    name = line.get("_id", line.get("id"))
    if not _is_id(name):
        return Problem(where, "bad-id", f'"_id" must be a string, got {kind(name)}')
    title, text = line.get("title") or "", line.get("text")
    if not isinstance(text, str) or not isinstance(title, str):
        return Problem(where, "bad-text", f'"text" must be a string, got {kind(text)}')
    if not blank and not text.strip():
        return Problem(where, "blank-text", '"text" is blank')
    return str(name), f"{title} {text}".strip() if title else text


def _is_id(value: Any) -> bool:
    return (isinstance(value, str) and bool(value)) or (isinstance(value, int) and not isinstance(value, bool))


def _say_what_is_lost(root: Path, split: str, corpus: dict[str, str], queries: dict[str, str], qrels: Qrels) -> None:
    unknown = sum(name not in queries for name in qrels)
    outside = sum(passage not in corpus for name in queries for passage, grade in qrels[name].items() if grade > 0)
    if unknown:
        console.warn(f'{root}: {unknown:,} judged queries of split "{split}" have no text and are left out')
    if outside:
        console.warn(f"{root}: {outside:,} relevant passages are not in corpus.jsonl and count as missed")
