"""A judged corpus's own queries, each with the documents that answer it."""

from __future__ import annotations

from pathlib import Path

from finerank.core.errors import DataError, Problem, UserError
from finerank.data import console
from finerank.data.documents import Documents
from finerank.data.files import iter_records
from finerank.data.judged import is_judged, text_entry, where_judged
from finerank.generation.queries import GeneratedQuery

JUDGED = "judged"


def judged_queries(documents: Documents, folder: str | Path, split: str) -> list[GeneratedQuery]:
    """Return the queries of one split, in file order; those without a document in the corpus are left out and said.

    Raises:
        UserError: if the corpus is no folder with queries and qrels.
    """
    root = Path(folder).expanduser()
    if not is_judged(root):
        raise UserError(
            "--oracle gold and the mode judged need a folder with corpus.jsonl, queries.jsonl and qrels/",
            where=str(root),
        )
    file, qrels = where_judged(root, split)
    found, lost = [], 0
    for where, value in iter_records(file):
        entry = value if isinstance(value, Problem) else text_entry(value, where, False)
        if isinstance(entry, Problem):
            raise DataError([entry])
        name, text = entry
        if name not in qrels:
            continue
        numbers = [documents.number_of(each) for each, grade in qrels[name].items() if grade > 0]
        relevant = tuple(number for number in numbers if number is not None)
        lost += not relevant
        if relevant:
            found.append(GeneratedQuery(text, JUDGED, None, relevant[0], relevant=relevant))
    if lost:
        console.warn(f"{root}: {lost:,} judged queries have no relevant document in the corpus and are left out")
    if not found:
        raise UserError(f'no query of split "{split}" has a relevant document in the corpus', where=str(root))
    return found
