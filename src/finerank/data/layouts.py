"""A row as lines of another tool's format, and what of it that format cannot hold.

The formats and their names are those of ``formats``, which reads them back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from finerank.core.records import Row
from finerank.data.text import digest

Scores = Literal["auto", "list", "margin", "none"]

LOST = {
    "rows_without_negatives": "rows without a negative give no line",
    "rows_short": "rows with fewer negatives than asked for give no line",
    "negatives_cut": "negatives behind the last column are left out",
    "rows_losing_negatives": "rows lose their negatives",
    "rows_losing_scores": "rows lose their teacher scores",
    "rows_losing_labels": "rows lose what says which passage is a positive, for the scores stand in its place",
    "rows_losing_ids": "rows lose their ids (id, pos_id, neg_id)",
}
"""What is counted when a format cannot hold it."""


@dataclass
class Layout:
    """Makes lines of one format from rows.

    Attributes:
        form: rows, pair, triplet, n-tuple, labeled-pair, labeled-list or tevatron; beir is only counted.
        scores: where teacher scores go: "list" writes them (in place of labels, if the format has labels), "margin"
            the positive's minus the negative's, "none" nowhere; "auto" is "list", but leaves labels where they are.
        negatives: columns of an n-tuple; whether a judged folder judges negatives.
        lost: what was left out so far, by the names of ``LOST``.
        keys_lost: rows that lost a key of their own, by key.
    """

    form: str
    scores: Scores = "auto"
    negatives: int = 1
    lost: Counter[str] = field(default_factory=Counter)
    keys_lost: Counter[str] = field(default_factory=Counter)

    def lines(self, row: Row) -> Iterator[dict[str, Any]]:
        """Yield the lines that hold a row."""
        if self.form == "rows":
            yield row.to_mapping()
            return
        if self.form == "tevatron":
            yield _tevatron(row)
            return
        self.count(row)
        if self.form == "labeled-list":
            yield self._labeled_list(row)
        elif self.form == "labeled-pair":
            yield from self._labeled_pairs(row)
        elif self.form == "pair":
            yield from ({"anchor": row.query, "positive": text} for text in row.positives)
        else:
            yield from self._tuples(row)

    def count(self, row: Row) -> None:
        """Count what the format cannot hold of a row."""
        ids = {"id", "pos_id", "neg_id"} & set(row.extra)
        self.keys_lost.update(set(row.extra) - ids)
        scored = row.pos_scores is not None or row.neg_scores is not None
        if self.form != "beir":
            self.lost["rows_losing_ids"] += bool(ids)
        if self.form == "pair" or (self.form == "beir" and not self.negatives):
            self.lost["rows_losing_negatives"] += bool(row.negatives)
        written = self.scores != "none" and _scored(row) and self.form not in ("pair", "beir")
        if self.form in ("labeled-pair", "labeled-list"):
            written = written and self.scores == "list"
            self.lost["rows_losing_labels"] += written
        self.lost["rows_losing_scores"] += scored and (not written or self.scores == "margin")

    def _tuples(self, row: Row) -> Iterator[dict[str, Any]]:
        """Yield triplets, one per positive and negative, or n-tuples, one per positive."""
        if not row.negatives:
            self.lost["rows_without_negatives"] += 1
            return
        if self.form == "n-tuple" and len(row.negatives) < self.negatives:
            self.lost["rows_short"] += 1
            return
        width = 1 if self.form == "triplet" else self.negatives
        starts = range(len(row.negatives)) if self.form == "triplet" else range(1)
        if self.form == "n-tuple":
            self.lost["negatives_cut"] += len(row.negatives) - width
        for index, positive in enumerate(row.positives):
            for start in starts:
                line: dict[str, Any] = {"anchor": row.query, "positive": positive}
                texts = row.negatives[start : start + width]
                names = ["negative"] if self.form == "triplet" else [f"negative_{n}" for n in range(1, width + 1)]
                yield line | dict(zip(names, texts)) | self._tuple_scores(row, index, start, width)

    def _tuple_scores(self, row: Row, index: int, start: int, width: int) -> dict[str, Any]:
        if self.scores == "none" or not _scored(row):
            return {}
        assert row.pos_scores is not None
        assert row.neg_scores is not None
        positive, negatives = row.pos_scores[index], row.neg_scores[start : start + width]
        if self.scores != "margin":
            return {"scores": [positive, *negatives]}
        margins = [positive - negative for negative in negatives]
        return {"score": margins[0]} if self.form == "triplet" else {"scores": margins}

    def _labeled_list(self, row: Row) -> dict[str, Any]:
        line: dict[str, Any] = {"query": row.query, "docs": [*row.positives, *row.negatives]}
        if self.scores == "list" and _scored(row):
            return line | {"scores": [*(row.pos_scores or ()), *(row.neg_scores or ())]}
        return line | {"labels": [1] * len(row.positives) + [0] * len(row.negatives)}

    def _labeled_pairs(self, row: Row) -> Iterator[dict[str, Any]]:
        scores = [*(row.pos_scores or ()), *(row.neg_scores or ())] if self.scores == "list" and _scored(row) else None
        for index, text in enumerate((*row.positives, *row.negatives)):
            line: dict[str, Any] = {"query": row.query, "passage": text}
            label = {"label": int(index < len(row.positives))}
            yield line | (label if scores is None else {"score": scores[index]})


def passage_ids(row: Row, side: str) -> list[str]:
    """Return an id per passage of one side ("pos" or "neg"): the row's own, or digests of the texts."""
    texts = row.positives if side == "pos" else row.negatives
    own = row.extra.get(f"{side}_id")
    if isinstance(own, (str, int)) and not isinstance(own, bool):
        own = [own]
    if isinstance(own, list) and len(own) == len(texts) and all(map(_is_id, own)):
        return [str(name) for name in own]
    return [digest(text) for text in texts]


def query_id(row: Row) -> str:
    """Return the row's own id, or a digest of the query."""
    own = row.extra.get("id")
    return str(own) if _is_id(own) else digest(row.query)


def _tevatron(row: Row) -> dict[str, Any]:
    line: dict[str, Any] = {"query_id": query_id(row), "query": row.query}
    for side, key in (("pos", "positive_passages"), ("neg", "negative_passages")):
        texts, scores = (row.positives, row.pos_scores) if side == "pos" else (row.negatives, row.neg_scores)
        passages: list[dict[str, Any]] = [
            {"docid": name, "text": text} for name, text in zip(passage_ids(row, side), texts)
        ]
        for passage, score in zip(passages, scores or ()):
            passage["score"] = score
        line[key] = passages
    return line | _rest(row.extra, {"id", "pos_id", "neg_id"})


def _rest(extra: Mapping[str, Any], without: set[str]) -> dict[str, Any]:
    return {key: value for key, value in extra.items() if key not in without}


def _scored(row: Row) -> bool:
    return row.pos_scores is not None and (row.neg_scores is not None or not row.negatives)


def _is_id(value: Any) -> bool:
    return (isinstance(value, str) and bool(value)) or (isinstance(value, int) and not isinstance(value, bool))
