"""The worker's half of check: a block of rows in, digests, counts and what is wrong with single rows out.

Texts stay here; what goes back is arrays. ``lint`` joins the blocks and compares rows with each other.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finerank.core.errors import DataError, Problem
from finerank.core.records import Row
from finerank.data.blocks import Block
from finerank.data.findings import Places
from finerank.data.formats import parse_record
from finerank.data.lengths import Histogram, Ruler
from finerank.data.plain_rows import plain_row
from finerank.data.row_keys import odd_keys
from finerank.data.text_looks import FLAGS, SHORT, Looks, nearly_same

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
        self._signatures: dict[tuple[str, ...], list[tuple[str, str]]] = {}

    def __call__(self, block: Block) -> Seen:
        """Look at one block."""
        seen, places = Seen(), Places()
        rows: list[tuple[list[str], int]] = []
        for where, record in block.records():
            try:
                texts, count, row = _sound(where, record)
            except DataError as error:
                seen.unusable += 1
                for problem in error.problems:
                    seen.bad[problem.code].append(places.pack(problem.where))
                seen.problems += error.problems[: MAX_PROBLEMS - len(seen.problems)]
                continue
            seen.places.append(places.pack(where))
            self._add(seen, texts, count, row, record)  # type: ignore[arg-type]
            rows.append((texts, count))
        if self._ruler is not None:
            self._measure(seen, rows, self._ruler)
        seen.names = list(places.names)
        self._looks.settle()
        return seen

    def _add(self, seen: Seen, texts: list[str], count: int, row: Row | None, record: Mapping[str, Any]) -> None:
        number = len(seen.queries)
        looks = list(map(self._looks.__getitem__, texts))
        digests = [look[0] for look in looks]
        query, positives, negatives = digests[0], digests[1 : count + 1], digests[count + 1 :]
        seen.queries.frombytes(query)
        seen.passages.frombytes(b"".join(digests[1:]))
        seen.positives.append(count)
        seen.negatives.append(len(negatives))
        codes = [*self._contradictions(texts, count, query, positives, negatives), *_flagged(looks)]
        extra = record if row is None else row.extra
        codes += _look_at_ids(seen, number, extra, count, len(negatives))
        codes += self._keys(seen, record)
        codes += _look_at_scores(seen, row)
        for code in codes:
            seen.found[code].append(number)

    def _contradictions(
        self, texts: list[str], count: int, query: bytes, positives: list[bytes], negatives: list[bytes]
    ) -> Iterator[str]:
        pos, neg = set(positives), set(negatives)
        if not pos.isdisjoint(neg):
            exact = not set(texts[1 : count + 1]).isdisjoint(texts[count + 1 :])
            yield "positive-in-negatives" if exact else "positive-in-negatives-folded"
        elif nearly_same(texts[1 : count + 1], texts[count + 1 :]):
            yield "positive-in-negatives-near"
        if query in pos:
            yield "query-in-positives"
        if query in neg:
            yield "query-in-negatives"
        if len(pos) < len(positives) or len(neg) < len(negatives):
            yield "repeated-passage"
        if not neg:
            yield "no-negatives"
        elif len(neg - pos) < self.group_size - 1:
            yield "short-group"

    def _keys(self, seen: Seen, record: Mapping[str, Any]) -> list[str]:
        signature = tuple(record)
        if signature not in self._signatures:
            if len(self._signatures) > 1000:
                self._signatures.clear()
            self._signatures[signature] = list(odd_keys(signature))
        found = self._signatures[signature]
        for _, key in found:
            seen.keys[key] += 1
        return list(dict.fromkeys(code for code, _ in found))

    def _measure(self, seen: Seen, rows: list[tuple[list[str], int]], ruler: Ruler) -> None:
        """Count tokens; each distinct text of the block is measured once."""
        distinct = list(dict.fromkeys(text for texts, _ in rows for text in texts))
        counts, unknown = ruler.measure(distinct)
        tokens, strange = dict(zip(distinct, counts)), {}
        for text, count, missing in zip(distinct, counts, unknown):
            if missing:
                strange[text] = (missing, missing >= UNKNOWN_SHARE * count)
        lengths: dict[str, list[int]] = {side: [] for side in SIDES}
        for number, (texts, positives) in enumerate(rows):
            query, *passages = map(tokens.__getitem__, texts)
            lengths["query"].append(query)
            lengths["positive"] += passages[:positives]
            lengths["negative"] += passages[positives:]
            lengths["pair"] += [query + passage for passage in passages]
            if strange:
                self._count_unknown(seen, number, texts, positives, strange)
        for side, found in lengths.items():
            added = ruler.paired if side == "pair" else ruler.single
            for length, times in Histogram(found).items():
                seen.lengths[side][length + added] += times
            if side in seen.tokens:
                seen.tokens[side][0] += sum(found)

    @staticmethod
    def _count_unknown(
        seen: Seen, number: int, texts: list[str], positives: int, strange: Mapping[str, tuple[int, bool]]
    ) -> None:
        found = [(index, strange[text]) for index, text in enumerate(texts) if text in strange]
        for index, (missing, _) in found:
            side = "query" if index == 0 else "positive" if index <= positives else "negative"
            seen.tokens[side][1] += missing
        if any(many for _, (_, many) in found):
            seen.found["unknown-tokens"].append(number)


def _sound(where: str, record: Mapping[str, Any] | Problem) -> tuple[list[str], int, Row | None]:
    """Return a record's texts, its number of positives, and the Row unless it is a plain one; raise DataError."""
    if isinstance(record, Problem):
        raise DataError([record])
    plain = plain_row(record)
    if plain is not None:
        return *plain, None
    row = parse_record(record, where)[1]
    return [row.query, *row.positives, *row.negatives], len(row.positives), row


def _flagged(looks: list[tuple[bytes, int]]) -> list[str]:
    flags = 0
    for _, each in looks[1:]:
        flags |= each
    flags |= looks[0][1] & ~SHORT
    return [code for bit, code in enumerate(FLAGS) if flags >> bit & 1] if flags else []


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


def _look_at_scores(seen: Seen, row: Row | None) -> list[str]:
    if row is None or (row.pos_scores is None and row.neg_scores is None):
        seen.scored.append(0)
        return []
    seen.scored.append(row.pos_scores is not None and (row.neg_scores is not None or not row.negatives))
    seen.scores["pos_scores"].add(row.pos_scores or ())
    seen.scores["neg_scores"].add(row.neg_scores or ())
    upside = row.pos_scores and row.neg_scores and max(row.neg_scores) > min(row.pos_scores)
    return ["score-order"] if upside else []
