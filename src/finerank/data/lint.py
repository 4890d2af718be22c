"""What can be wrong with rows that parse: contradictions, repeats, short groups, odd scores, leaks.

Rows are looked at one by one and kept as 64-bit digests of their normal forms, so a million rows of sixteen passages
need about 200 MB, not their texts.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from finerank.core.errors import Problem
from finerank.core.records import Row
from finerank.data.text import normal_form

SHOWN_PLACES = 5
MAX_PROBLEMS = 10_000

MESSAGES: dict[str, str] = {
    "positive-in-negatives": "a positive stands among the row's own negatives",
    "positive-in-negatives-folded": "a positive stands among the negatives, but for case, width or white space",
    "sibling-positive": "a negative is a positive of the same query in another row",
    "duplicate-row": "query and positives stand in an earlier row",
    "duplicate-query": "the query stands in an earlier row, with other positives",
    "duplicate-id": 'the "id" stands in an earlier row with another query',
    "repeated-passage": "a passage stands twice in the row's positives or twice in its negatives",
    "no-negatives": "the row has no negative: in-batch and random ones will be used",
    "short-group": "fewer distinct negatives than the group size asks for: others will be filled in",
    "mixed-scores": "the row has no teacher scores while other rows have them",
    "score-order": "a negative's teacher score is above the row's lowest positive's: a false negative, maybe",
    "leaked-query": "the query is in the test data",
    "leaked-passage": "a positive is relevant in the test data",
}
"""Code -> what it says of one row, in the order of the report."""


@dataclass
class Finding:
    """A kind of trouble: its code, how many rows have it, where the first ones stand."""

    code: str
    message: str
    unusable: bool
    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, where: str) -> None:
        self.count += 1
        if len(self.places) < SHOWN_PLACES:
            self.places.append(where)


@dataclass(frozen=True)
class Judgements:
    """What must not be learnt from: normal-form digests of test queries and of their relevant passages."""

    queries: frozenset[int]
    passages: frozenset[int]


def fingerprint(text: str) -> int:
    """Return 64 bits that stand for a text's normal form."""
    return int.from_bytes(hashlib.blake2b(normal_form(text).encode(), digest_size=8).digest(), "big")


def judgements(pairs: Iterable[tuple[str, Iterable[str]]]) -> Judgements:
    """Return the digests of test queries with their relevant passages."""
    queries: set[int] = set()
    passages: set[int] = set()
    for query, relevant in pairs:
        queries.add(fingerprint(query))
        passages.update(map(fingerprint, relevant))
    return Judgements(frozenset(queries), frozenset(passages))


class Lint:
    """Looks at rows as they come; ``findings`` and ``facts`` say what was seen.

    Args:
        train_group_size: passages of a group, the positive included.
        test: leakage is looked for if given.
    """

    def __init__(self, train_group_size: int, test: Judgements | None = None) -> None:
        self.group_size = train_group_size
        self.test = test
        self.problems: list[Problem] = []
        self.rows = self.unusable = 0
        self._found: dict[str, Finding] = {}
        self._files: dict[str, int] = {}
        self._places = array("Q")
        self._queries = array("Q")
        self._sides: list[tuple[array[int], array[int]]] = []
        self._passages: set[int] = set()
        self._passage_uses = 0
        self._ids: dict[str, int] = {}
        self._scores: dict[str, _Range] = {"pos_scores": _Range(), "neg_scores": _Range()}
        self._scored = bytearray()

    def add(self, item: Row | list[Problem]) -> None:
        """Look at one row, or at what kept a line from being one."""
        if isinstance(item, Row):
            self._add_row(item)
            return
        self.unusable += 1
        for problem in item:
            self._find(problem.code, problem.where, problem.message)
            if len(self.problems) < MAX_PROBLEMS:
                self.problems.append(problem)

    def findings(self) -> list[Finding]:
        """Return all kinds of trouble: unusable rows first, then warnings in the order of ``MESSAGES``."""
        self._compare_rows()
        order = list(MESSAGES)
        rank = {code: order.index(code) if code in MESSAGES else -1 for code in self._found}
        return sorted(self._found.values(), key=lambda finding: (rank[finding.code], -finding.count, finding.code))

    def facts(self) -> dict[str, Any]:
        """Return counts of what is there."""
        scored = sum(self._scored)
        facts: dict[str, Any] = {
            "rows": self.rows,
            "unusable": self.unusable,
            "distinct_queries": len(set(self._queries)),
            "distinct_passages": len(self._passages),
            "passages": self._passage_uses,
            "negatives_per_row": round(sum(len(neg) for _, neg in self._sides) / max(self.rows, 1), 2),
            "rows_with_teacher_scores": scored,
        }
        if scored:
            facts["teacher_scores"] = {name: seen.facts() for name, seen in self._scores.items() if seen.count}
            facts["teacher_score_scale"] = _scale(self._scores.values())
        return facts

    def _add_row(self, row: Row) -> None:
        query = fingerprint(row.query)
        pos, neg = (array("Q", map(fingerprint, texts)) for texts in (row.positives, row.negatives))
        self.rows += 1
        self._queries.append(query)
        self._sides.append((pos, neg))
        self._places.append(self._place(row.where))
        self._passages.update(pos, neg)
        self._passage_uses += len(pos) + len(neg)
        for code in self._of_one_row(row, query, pos, neg):
            self._find(code, row.where)
        self._look_at_scores(row)

    def _of_one_row(self, row: Row, query: int, pos: array[int], neg: array[int]) -> Iterator[str]:
        if not set(row.positives).isdisjoint(row.negatives):
            yield "positive-in-negatives"
        elif not set(pos).isdisjoint(neg):
            yield "positive-in-negatives-folded"
        if len(set(pos)) < len(pos) or len(set(neg)) < len(neg):
            yield "repeated-passage"
        if not neg:
            yield "no-negatives"
        elif len(set(neg) - set(pos)) < self.group_size - 1:
            yield "short-group"
        if self.test is not None and query in self.test.queries:
            yield "leaked-query"
        if self.test is not None and not self.test.passages.isdisjoint(pos):
            yield "leaked-passage"
        name = row.extra.get("id")
        if isinstance(name, (str, int)) and self._ids.setdefault(str(name), query) != query:
            yield "duplicate-id"

    def _look_at_scores(self, row: Row) -> None:
        self._scored.append(row.pos_scores is not None and (row.neg_scores is not None or not row.negatives))
        self._scores["pos_scores"].add(row.pos_scores or ())
        self._scores["neg_scores"].add(row.neg_scores or ())
        if row.pos_scores and row.neg_scores and max(row.neg_scores) > min(row.pos_scores):
            self._find("score-order", row.where)

    def _compare_rows(self) -> None:
        """Find what only shows between rows; once, when all have been seen."""
        positives: dict[int, set[int]] = defaultdict(set)
        times = Counter(self._queries)
        some_scored = any(self._scored)
        for code in ("sibling-positive", "duplicate-row", "duplicate-query", "mixed-scores"):
            self._found.pop(code, None)
        for query, (pos, _) in zip(self._queries, self._sides):
            if times[query] > 1:
                positives[query].update(pos)
        seen: dict[int, set[frozenset[int]]] = defaultdict(set)
        for index, (query, (pos, neg)) in enumerate(zip(self._queries, self._sides)):
            if some_scored and not self._scored[index]:
                self._find("mixed-scores", self._where(index))
            if times[query] == 1:
                continue
            if not (positives[query] - set(pos)).isdisjoint(neg):
                self._find("sibling-positive", self._where(index))
            before, these = seen[query], frozenset(pos)
            if before:
                self._find("duplicate-row" if these in before else "duplicate-query", self._where(index))
            before.add(these)

    def _find(self, code: str, where: str, message: str = "") -> None:
        finding = self._found.setdefault(code, Finding(code, MESSAGES.get(code, message), code not in MESSAGES))
        finding.add(where)

    def _place(self, where: str) -> int:
        name, _, line = where.rpartition(":")
        return self._files.setdefault(name, len(self._files)) << 40 | int(line)

    def _where(self, index: int) -> str:
        place = self._places[index]
        return f"{list(self._files)[place >> 40]}:{place & (1 << 40) - 1}"


class _Range:
    """Count, least, greatest and mean of numbers that pass by."""

    def __init__(self) -> None:
        self.count, self.total = 0, 0.0
        self.low, self.high = float("inf"), float("-inf")

    def add(self, numbers: Iterable[float]) -> None:
        for number in numbers:
            self.count += 1
            self.total += number
            self.low, self.high = min(self.low, number), max(self.high, number)

    def facts(self) -> dict[str, float]:
        return {"min": self.low, "mean": self.total / self.count, "max": self.high}


def _scale(ranges: Iterable[_Range]) -> str:
    """Name the scale of teacher scores by their range: a guess that a person can check."""
    seen = [each for each in ranges if each.count]
    low, high = min(each.low for each in seen), max(each.high for each in seen)
    if low == high:
        return "constant"
    if low >= 0 and high <= 1:
        return "0 to 1 (probabilities)"
    return "-1 to 1 (similarities)" if low >= -1 and high <= 1 else "logits"
