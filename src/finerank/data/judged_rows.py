"""A judged folder as rows: what a split judges relevant are positives, what it judges irrelevant are negatives.

Of the corpus only the passages that the split judges are held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finerank.core.errors import DataError, Problem
from finerank.core.runs import Qrels
from finerank.data import console
from finerank.data.files import iter_records
from finerank.data.judged import text_entry, where_judged
from finerank.data.lines import Record


@dataclass(frozen=True)
class JudgedRows:
    """One split of a judged folder, read as rows.

    Attributes:
        min_grade: the least grade of a positive; negatives are those of grade 0 or less, the rest is left out.
    """

    folder: Path
    split: str
    min_grade: float = 1

    def __str__(self) -> str:
        return str(self.folder)

    def records(self) -> Iterator[Record]:
        """Yield ``("queries.jsonl:line", row)`` with the ids, in the order of the queries' file."""
        try:
            queries_file, qrels = where_judged(self.folder, self.split)
        except DataError as error:
            yield from ((problem.where, problem) for problem in error.problems)
            return
        problems: list[Record] = []
        texts = self._passages(qrels, problems)
        yield from problems
        known: dict[str, str] = {}
        without = 0
        for where, value in iter_records(queries_file):
            item = value if isinstance(value, Problem) else text_entry(value, where, blank=False)
            if isinstance(item, Problem):
                yield where, item
                continue
            name, text = item
            if name in known and known[name] != text:
                yield where, Problem(where, "duplicate-id", f'the id "{name}" stands twice with different texts')
            if name in known or name not in qrels:
                continue
            known[name] = text
            line = self._line(name, text, qrels[name], texts)
            without += not line["pos"]
            if line["pos"]:
                yield where, line
        if without:
            console.say(f'{self.folder}: {without:,} queries of split "{self.split}" have no positive and give no row')
        if len(known) < len(qrels):
            console.warn(f"{self.folder}: {len(qrels) - len(known):,} judged queries have no text and give no row")

    def _passages(self, qrels: Qrels, problems: list[Record]) -> dict[str, str]:
        wanted = {name for grades in qrels.values() for name, grade in grades.items() if self._side(grade) is not None}
        texts: dict[str, str] = {}
        for where, value in iter_records(self.folder / "corpus.jsonl"):
            item = value if isinstance(value, Problem) else text_entry(value, where, blank=True)
            if isinstance(item, Problem):
                problems.append((where, item))
            elif item[0] in wanted and item[1].strip() and texts.setdefault(*item) != item[1]:
                message = f'the id "{item[0]}" stands twice with different texts'
                problems.append((where, Problem(where, "duplicate-id", message)))
        relevant = (name for grades in qrels.values() for name, grade in grades.items() if self._side(grade) == "pos")
        lost = sum(name not in texts for name in relevant)
        if lost:
            console.warn(
                f"{self.folder}: {lost:,} relevant passages are not in corpus.jsonl, or blank, and are left out"
            )
        return texts

    def _side(self, grade: int) -> str | None:
        if grade >= self.min_grade:
            return "pos"
        return "neg" if grade <= 0 else None

    def _line(self, name: str, text: str, grades: dict[str, int], texts: dict[str, str]) -> dict[str, Any]:
        ids: dict[str, list[str]] = {"pos": [], "neg": []}
        for passage, grade in grades.items():
            side = self._side(grade)
            if side is not None and passage in texts:
                ids[side].append(passage)
        line: dict[str, Any] = {"query": text}
        line |= {side: [texts[passage] for passage in listed] for side, listed in ids.items()}
        line |= {"id": name, "pos_id": ids["pos"]}
        return line | ({"neg_id": ids["neg"]} if ids["neg"] else {})
