"""Pools on disk: the same texts as a list, without the memory of one."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from finerank.core.errors import UserError
from finerank.core.protocols import Progress, Side
from finerank.core.records import Row
from finerank.retrieval import pool, vectors
from finerank.retrieval.mining import Miner, Setup
from finerank.retrieval.negatives import Rules
from finerank.retrieval.pool import StoredTexts, digests_of
from finerank.retrieval.vectors import cached_encode
from tests.retrieval.hash_encoder import HashEncoder
from tests.retrieval.test_mining import POOL, ROWS, mine, silent

SIZE, LENGTH = 10_000, 1_000


@pytest.mark.parametrize("in_memory", [1, 10**6])
def test_reads_like_a_list_of_the_distinct_texts(in_memory: int) -> None:
    rng = random.Random(3)
    texts = ["".join(rng.choices("aé漢\U0001f600 \n\0", k=rng.randrange(1, 4))) for _ in range(300)]
    distinct = list(dict.fromkeys(texts))
    stored = StoredTexts(iter(texts), in_memory)
    assert len(texts) > len(distinct) == len(stored)
    assert list(stored) == distinct
    places = rng.sample(range(len(distinct)), len(distinct))
    assert [stored[place] for place in places] == [distinct[place] for place in places]
    assert stored[-1] == distinct[-1]
    assert stored[3:9] == distinct[3:9]
    assert stored[np.int64(5)] == distinct[5]
    with pytest.raises(IndexError):
        stored[len(distinct)]


@pytest.mark.parametrize("sorted_at_once", [1, 7, 64, 10**6])
def test_repeated_texts_are_found_whatever_is_compared_at_once(sorted_at_once: int) -> None:
    rng = random.Random(5)
    texts = [str(rng.randrange(400)) for _ in range(900)]
    distinct = list(dict.fromkeys(texts))
    stored = StoredTexts(texts, in_memory=1, sorted_at_once=sorted_at_once)
    assert list(stored) == distinct
    assert stored[5:2] == []
    assert stored[-3:] == distinct[-3:]
    assert stored[1:20:4] == distinct[1:20:4]


def test_digests_are_those_of_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "AT_ONCE", 7)
    texts = [f"text {number % 31}" for number in range(50)]
    stored = StoredTexts(texts)
    assert np.array_equal(stored.digests(3, 30), digests_of(texts[:31], 3, 30))
    assert np.array_equal(digests_of(stored, 0, 31), digests_of(texts, 0, 31))
    assert digests_of(texts, 4, 5).tobytes() == hashlib.blake2b(b"text 4", digest_size=16).digest()


def test_no_texts() -> None:
    assert list(StoredTexts([])) == []


def test_a_full_disk_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.write", full)
    with pytest.raises(UserError, match="(?s)No space left on device.*TMPDIR"):
        StoredTexts(["a"])


def test_mining_finds_the_same_as_with_a_list() -> None:
    for keep in (False, True):
        setup = Setup(Rules(0, 8, 5), seed=3, keep_negatives=keep)
        wanted = mine(ROWS, setup)
        miner = Miner(ROWS, StoredTexts([*POOL, *POOL[:5]], in_memory=1), HashEncoder(), setup, silent)
        assert miner.mine(0, len(ROWS)) == wanted
        few = [text for text in POOL if text not in {passage for row in ROWS for passage in row.positives}]
        outside = Miner(ROWS, StoredTexts(few), HashEncoder(), setup, silent).mine(0, len(ROWS))
        assert [mined.pos_similarities for mined in outside] == [mined.pos_similarities for mined in wanted]


class Flat(HashEncoder):
    """Remembers nothing."""

    def encode(self, texts: Sequence[str], side: Side, progress: Progress | None = None) -> np.ndarray:
        digests = b"".join(hashlib.sha256(text.encode()).digest()[:8] for text in texts)
        return np.frombuffer(digests, dtype=np.uint8).reshape(-1, 8).astype(np.float32) - 127


def long_texts() -> Iterator[str]:
    return (f"{number} ".ljust(LENGTH, "x") for number in range(SIZE))


def test_memory_does_not_grow_with_the_texts_of_the_pool() -> None:
    rows = [Row(f"query {number}", (text,), ()) for number, text in zip(range(5), long_texts())]
    tracemalloc.start()
    stored = StoredTexts(long_texts(), in_memory=1)
    miner = Miner(rows, stored, Flat(), Setup(Rules(0, 20, 5), seed=0), silent)
    mined = miner.mine(0, len(rows))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(len(row.mined) == 5 for row in mined)
    assert peak < 0.7 * SIZE * LENGTH  # one window of 4,096 texts is 0.41 of it


def held_after(size: int) -> int:
    """Return the peak of traced memory, in bytes, while short texts are stored and encoded."""
    tracemalloc.start()
    stored = StoredTexts((f"text {number}" for number in range(size)), in_memory=1, sorted_at_once=1000)
    assert len(cached_encode(Flat(), stored, "passage", None, window=512)) == size
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_neither_storing_nor_encoding_holds_anything_per_passage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "IN_MEMORY_BYTES", 1)
    monkeypatch.setattr(vectors, "SECTION", 1024)
    monkeypatch.setattr(pool, "SCANNED_AT_ONCE", 1024)
    held_after(2_000)  # imports
    assert held_after(20_000) - held_after(8_000) < 12_000 * 4  # one byte says whether a text came before
