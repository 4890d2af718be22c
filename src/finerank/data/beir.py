"""Rows to a BEIR folder: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``.

Texts are streamed; of each passage and query a digest of its id and of its text stays in memory (about 150 bytes).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import orjson

from finerank.core.errors import DataError, Problem
from finerank.core.records import Row
from finerank.data.atomic import writing
from finerank.data.layouts import Layout, passage_ids, query_id

HEADER = b"query-id\tcorpus-id\tscore\n"
DIGEST = 12


def write_beir(
    rows: Callable[[], Iterable[Row]], folder: Path, split: str, *, write_negatives: bool, layout: Layout
) -> Counter[str]:
    """Write rows as a judged folder; positives have grade 1.

    Ids are the rows' own (``id``, ``pos_id``, ``neg_id``) or digests of the texts. Negatives stand in the corpus.

    Args:
        rows: gives the rows from the first one; called twice with ``write_negatives``.
        write_negatives: judge negatives too, with grade 0, unless they are positives of the same query.
        layout: counts what such a folder cannot hold.

    Returns:
        Counts of what was written.

    Raises:
        DataError: for an id that stands for two texts, or that a line of tab-separated values cannot hold.
    """
    with ExitStack() as stack, writing(folder):
        (folder / "qrels").mkdir(exist_ok=True)
        files = [folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / f"{split}.tsv"]
        writer = _Writer(*(stack.enter_context(open(file, "wb")) for file in files))
        for row in rows():
            layout.count(row)
            writer.add(row)
        if write_negatives:
            for row in rows():
                writer.judge_negatives(row)
        return writer.counts


class _Writer:
    def __init__(self, corpus: BinaryIO, queries: BinaryIO, qrels: BinaryIO) -> None:
        self.corpus, self.queries, self.qrels = corpus, queries, qrels
        self.counts: Counter[str] = Counter()
        self._passages: dict[bytes, bytes] = {}
        self._queries: dict[bytes, bytes] = {}
        self._judged: set[bytes] = set()
        qrels.write(HEADER)

    def add(self, row: Row) -> None:
        name = _fit(query_id(row), row)
        if self._is_new(self._queries, name, row.query, row):
            self.queries.write(orjson.dumps({"_id": name, "text": row.query}) + b"\n")
            self.counts["queries"] += 1
        for side, texts in (("pos", row.positives), ("neg", row.negatives)):
            for passage, text in zip(passage_ids(row, side), texts):
                if self._is_new(self._passages, _fit(passage, row), text, row):
                    self.corpus.write(orjson.dumps({"_id": passage, "title": "", "text": text}) + b"\n")
                    self.counts["passages"] += 1
                if side == "pos":
                    self._judge(name, passage, 1)

    def judge_negatives(self, row: Row) -> None:
        name = query_id(row)
        for passage in passage_ids(row, "neg"):
            self._judge(name, passage, 0)

    def _judge(self, name: str, passage: str, grade: int) -> None:
        pair = _digest(f"{name}\t{passage}")
        if pair not in self._judged:
            self._judged.add(pair)
            self.qrels.write(f"{name}\t{passage}\t{grade}\n".encode())
            self.counts["judgements"] += 1

    def _is_new(self, known: dict[bytes, bytes], name: str, text: str, row: Row) -> bool:
        key, value = _digest(name), _digest(text)
        if key not in known:
            known[key] = value
            return True
        if known[key] != value:
            problem = Problem(row.where, "duplicate-id", f'the id "{name}" stands for another text in an earlier row')
            raise DataError([problem], hint="give every text an id of its own, or leave the ids out")
        return False


def _fit(name: str, row: Row) -> str:
    if any(mark in name for mark in "\t\n\r") or name != name.strip():
        message = f"the id {name[:80]!r} cannot stand in a line of tab-separated values"
        raise DataError([Problem(row.where, "bad-id", message)])
    return name


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=DIGEST).digest()
