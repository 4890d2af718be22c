"""The worker's half of check: a block of rows in, digests, counts and what is wrong with single rows out.

Texts stay here; what goes back is arrays. ``lint`` joins the blocks and compares rows with each other.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from finerank.core.errors import DataError, Problem
from finerank.core.records import Row
from finerank.data.blocks import Block
from finerank.data.findings import Places
from finerank.data.formats import parse_record
from finerank.data.lengths import Histogram, Ruler
from finerank.data.plain_rows import plain_row
from finerank.data.row_keys import odd_keys
from finerank.data.text_looks import FLAGS, Looks, RowLooks, nearly_same

MAX_PROBLEMS = 10_000
SIDES = ("query", "positive", "negative", "pair")
UNKNOWN_SHARE = 0.2


@dataclass
class Range:
    """Count, least, greatest and sum of numbers."""

    count: int = 0
    total: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")

    def add(self, numbers: Sequence[float]) -> None:
        if numbers:
            self.join(Range(len(numbers), sum(numbers), min(numbers), max(numbers)))

    def join(self, other: Range) -> None:
        self.count += other.count
        self.total += other.total
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def facts(self) -> dict[str, float]:
        return {"min": self.low, "mean": self.total / self.count, "max": self.high}


@dataclass
class Seen:
    """What a block holds; R rows, P passages, the positives of a row before its negatives.

    Attributes:
        places: [R] ``file << 40 | line``, files as numbered in ``names``.
        queries, passages: [R], [P] 64-bit digests of normal forms.
        positives, negatives: [R] how many.
        scored: [R] 1 where all texts have a teacher's score.
        found: code -> rows, from 0.
        unusable: records that are no rows; ``bad`` says where, by code, ``problems`` what, the first ten thousand.
        ids: row -> digest, for rows that have one; ``passage_ids`` the same for passages.
        lengths: side -> how often each length in tokens; ``tokens`` side -> [all, unknown].
        keys: misspelt or superfluous key -> rows.
    """

    names: list[str] = field(default_factory=list)
    places: array[int] = field(default_factory=lambda: array("Q"))
    queries: array[int] = field(default_factory=lambda: array("Q"))
    passages: array[int] = field(default_factory=lambda: array("Q"))
    positives: array[int] = field(default_factory=lambda: array("I"))
    negatives: array[int] = field(default_factory=lambda: array("I"))
    scored: bytearray = field(default_factory=bytearray)
    found: dict[str, array[int]] = field(default_factory=lambda: defaultdict(_numbers))
    unusable: int = 0
    bad: dict[str, array[int]] = field(default_factory=lambda: defaultdict(_places))
    problems: list[Problem] = field(default_factory=list)
    scores: dict[str, Range] = field(default_factory=lambda: {"pos_scores": Range(), "neg_scores": Range()})
    ids: tuple[array[int], array[int]] = field(default_factory=lambda: (_numbers(), _places()))
    passage_ids: tuple[array[int], array[int]] = field(default_factory=lambda: (_numbers(), _places()))
    lengths: dict[str, Histogram] = field(default_factory=lambda: {side: Histogram() for side in SIDES})
    tokens: dict[str, list[int]] = field(default_factory=lambda: {side: [0, 0] for side in SIDES[:3]})
    keys: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def _numbers() -> array[int]:
    return array("I")


def _places() -> array[int]:
    return array("Q")


class Examiner:
    """Looks at the rows of blocks.

    Args:
        group_size: passages of a training group, the positive included.
        description: a tokenizer's JSON, to measure lengths with.
    """

    def __init__(self, group_size: int, description: str | None = None) -> None:
        self.group_size = group_size
        self._ruler = Ruler(description) if description else None
        self._looks = Looks()
        self._signatures: dict[tuple[str, ...], tuple[list[tuple[str, str]], bool]] = {}

    def __call__(self, block: Block) -> Seen:
        """Look at one block."""
        seen, places = Seen(), Places()
        rows: list[_Texts] = []
        for where, record in block.records():
            try:
                texts, row = _sound(where, record)
            except DataError as error:
                seen.unusable += 1
                for problem in error.problems:
                    seen.bad[problem.code].append(places.pack(problem.where))
                seen.problems += error.problems[: MAX_PROBLEMS - len(seen.problems)]
                continue
            seen.places.append(places.pack(where))
            self._add(seen, texts, row, record)  # type: ignore[arg-type]
            rows.append(texts)
        if self._ruler is not None:
            self._measure(seen, rows, self._ruler)
        seen.names = list(places.names)
        self._looks.settle()
        return seen

    def _add(self, seen: Seen, texts: _Texts, row: Row | None, record: Mapping[str, Any]) -> None:
        number, count = len(seen.queries), texts.positives
        looks = self._looks.of_row(texts.all, texts.joined)
        query, positives, negatives = looks.digests[0], looks.digests[1 : count + 1], looks.digests[count + 1 :]
        seen.queries.frombytes(query)
        seen.passages.frombytes(b"".join(looks.digests[1:]))
        seen.positives.append(count)
        seen.negatives.append(len(negatives))
        codes = list(self._contradictions(texts, looks, query, positives, negatives))
        if looks.flags:
            codes += [code for bit, code in enumerate(FLAGS) if looks.flags >> bit & 1]
        signature = tuple(record)
        odd, has_ids = self._signatures.get(signature) or self._signature(signature)
        if has_ids:
            codes += _look_at_ids(seen, number, record if row is None else row.extra, count, len(negatives))
        for code, key in odd:
            seen.keys[key] += 1
            codes.append(code)
        if row is not None and _look_at_scores(seen, row):
            codes.append("score-order")
        seen.scored.append(row is not None and _is_scored(row))
        for code in dict.fromkeys(codes):
            seen.found[code].append(number)

    def _contradictions(
        self, texts: _Texts, looks: RowLooks, query: bytes, positives: list[bytes], negatives: list[bytes]
    ) -> Iterator[str]:
        pos, neg, count = set(positives), set(negatives), texts.positives
        if not pos.isdisjoint(neg):
            exact = not set(texts.all[1 : count + 1]).isdisjoint(texts.all[count + 1 :])
            yield "positive-in-negatives" if exact else "positive-in-negatives-folded"
        elif looks.may_be_near(count) and nearly_same(looks.forms[1 : count + 1], looks.forms[count + 1 :]):
            yield "positive-in-negatives-near"
        if query in pos:
            yield "query-in-positives"
        if query in neg:
            yield "query-in-negatives"
        if len(pos) < len(positives) or len(neg) < len(negatives):
            yield "repeated-passage"
        if not neg:
            yield "no-negatives"
        elif len(neg) < self.group_size - 1 or len(neg - pos) < self.group_size - 1:
            yield "short-group"

    def _signature(self, keys: tuple[str, ...]) -> tuple[list[tuple[str, str]], bool]:
        """Return what is odd about a row's keys, and whether it may have ids; remembered."""
        if len(self._signatures) > 1000:
            self._signatures.clear()
        has_ids = any(key in ("id", "pos_id", "neg_id") for key in keys) or "pos" not in keys
        self._signatures[keys] = list(odd_keys(keys)), has_ids
        return self._signatures[keys]

    def _measure(self, seen: Seen, rows: list[_Texts], ruler: Ruler) -> None:
        """Count tokens; each distinct text of the block is measured once."""
        distinct = list(dict.fromkeys(text for texts in rows for text in texts.all))
        counts, unknown = ruler.measure(distinct)
        tokens, strange = dict(zip(distinct, counts)), {}
        for text, count, missing in zip(distinct, counts, unknown):
            if missing:
                strange[text] = (missing, missing >= UNKNOWN_SHARE * count)
        lengths: dict[str, list[int]] = {side: [] for side in SIDES}
        for number, texts in enumerate(rows):
            query, *passages = map(tokens.__getitem__, texts.all)
            lengths["query"].append(query)
            lengths["positive"] += passages[: texts.positives]
            lengths["negative"] += passages[texts.positives :]
            lengths["pair"] += [query + passage for passage in passages]
            if strange:
                self._count_unknown(seen, number, texts, strange)
        for side, found in lengths.items():
            added = ruler.paired if side == "pair" else ruler.single
            for length, times in Histogram(found).items():
                seen.lengths[side][length + added] += times
            if side in seen.tokens:
                seen.tokens[side][0] += sum(found)

    @staticmethod
    def _count_unknown(seen: Seen, number: int, texts: _Texts, strange: Mapping[str, tuple[int, bool]]) -> None:
        found = [(index, strange[text]) for index, text in enumerate(texts.all) if text in strange]
        for index, (missing, _) in found:
            side = "query" if index == 0 else "positive" if index <= texts.positives else "negative"
            seen.tokens[side][1] += missing
        if any(many for _, (_, many) in found):
            seen.found["unknown-tokens"].append(number)


class _Texts(NamedTuple):
    """A row's texts: the query, ``positives`` positives, the negatives; and joined by NUL if none holds one."""

    all: list[str]
    positives: int
    joined: str | None


def _sound(where: str, record: Mapping[str, Any] | Problem) -> tuple[_Texts, Row | None]:
    """Return a record's texts, and the Row unless it is a plain one.

    Raises:
        DataError: if it is none.
    """
    if isinstance(record, Problem):
        raise DataError([record])
    plain = plain_row(record)
    if plain is not None:
        return _Texts(*plain), None
    row = parse_record(record, where)[1]
    return _Texts([row.query, *row.positives, *row.negatives], len(row.positives), None), row


def _look_at_ids(seen: Seen, number: int, extra: Mapping[str, Any], positives: int, negatives: int) -> list[str]:
    name = extra.get("id")
    if isinstance(name, (str, int)):
        seen.ids[0].append(number)
        seen.ids[1].append(_id_digest(name))
    codes: list[str] = []
    start = len(seen.passages) - positives - negatives
    for key, first, count in (("pos_id", start, positives), ("neg_id", start + positives, negatives)):
        value = extra.get(key)
        listed = [value] if isinstance(value, (str, int)) else value
        if not isinstance(listed, list):
            continue
        if len(listed) != count:
            codes.append("id-count")
            continue
        seen.passage_ids[0].extend(range(first, first + count))
        seen.passage_ids[1].extend(map(_id_digest, listed))
    return list(dict.fromkeys(codes))


def _id_digest(name: object) -> int:
    return int.from_bytes(hashlib.blake2b(str(name).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _is_scored(row: Row) -> bool:
    return row.pos_scores is not None and (row.neg_scores is not None or not row.negatives)


def _look_at_scores(seen: Seen, row: Row) -> bool:
    """Add up a row's teacher scores; say whether a negative stands above a positive."""
    seen.scores["pos_scores"].add(row.pos_scores or ())
    seen.scores["neg_scores"].add(row.neg_scores or ())
    return bool(row.pos_scores and row.neg_scores and max(row.neg_scores) > min(row.pos_scores))
