"""BM25 against the formula, its tokenizer, its order."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from finerank.core.errors import UserError
from finerank.retrieval import bm25
from finerank.retrieval.bm25 import Bm25Retriever, tokens

POOL = ["the cat sat", "a cat and a cat", "dogs bark loudly here", "cat dogs"]


def test_scores_equal_the_formula() -> None:
    found = Bm25Retriever(POOL, k1=0.9, b=0.4).scores("cat")
    lengths = [2, 2, 4, 2]  # stop words left out
    counts = [1, 2, 0, 1]
    inverse = math.log(1 + (4 - 3 + 0.5) / (3 + 0.5))
    mean = sum(lengths) / 4
    expected = [
        inverse * count / (count + 0.9 * (1 - 0.4 + 0.4 * length / mean)) if count else 0.0
        for count, length in zip(counts, lengths)
    ]
    assert found == pytest.approx(expected, rel=1e-5)


def test_search_order_ties_and_depth() -> None:
    retriever = Bm25Retriever(["x cat", "y cat", "z dog", "w cat"])
    (positions, scores), (nothing, zeros) = retriever.search(["cat", "absent"], 10)
    assert positions.tolist() == [0, 1, 3, 2]
    assert positions.dtype == np.int64
    assert scores.dtype == np.float32
    assert scores[3] == 0.0
    assert nothing.tolist() == [0, 1, 2, 3]
    assert zeros.tolist() == [0.0] * 4
    assert next(iter(retriever.search(["cat"], 2)))[0].tolist() == [0, 1]


def test_a_repeated_query_word_counts_twice() -> None:
    retriever = Bm25Retriever(POOL)
    assert retriever.scores("cat cat") == pytest.approx(2 * retriever.scores("cat"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The getUserName of HTTP_SERVER", ["getusername", "get", "user", "name", "http_server", "http", "server"]),
        ("parseHTTPResponse", ["parsehttpresponse", "parse", "http", "response"]),
        ("__init__ DNA x", ["init", "dna"]),
        ("read_text(self)", ["read_text", "read", "text", "self"]),
        ("It is Straße", ["straße"]),
        ("检索模型 v2", ["检索", "索模", "模型", "v2"]),
        ("用BM25检索", ["用", "bm25", "检索"]),
        ("", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


def test_a_word_finds_an_identifier() -> None:
    retriever = Bm25Retriever(["def load_config_file(path)", "def parseJson(text)", "class Thing"])
    assert next(iter(retriever.search(["config file"], 1)))[0].tolist() == [0]
    assert next(iter(retriever.search(["json"], 1)))[0].tolist() == [1]
    assert next(iter(retriever.search(["parseJson"], 1)))[0].tolist() == [1]


def test_stemmer() -> None:
    plain, stemmed = Bm25Retriever(POOL), Bm25Retriever(POOL, stemmer=lambda word: word.rstrip("s"))
    assert plain.scores("dog").max() == 0.0
    assert stemmed.scores("dog").max() > 0.0


def test_pools_without_words() -> None:
    retriever = Bm25Retriever(["", "the"])
    assert next(iter(retriever.search(["the cat"], 5)))[0].tolist() == [0, 1]
    with pytest.raises(UserError, match="empty pool"):
        Bm25Retriever([])


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_matrix_is_that_of_bm25s_bit_for_bit(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import bm25s

    monkeypatch.setattr(bm25, "PASSAGES_AT_ONCE", block)
    rng = random.Random(block)
    words = [f"word{number}" for number in range(40)]
    pool = [" ".join(rng.choices(words, k=rng.choice([0, 1, 5, 300]))) for _ in range(60)]
    retriever = Bm25Retriever(pool, k1=1.2, b=0.75)
    numbered = [[retriever._vocabulary[term] for term in tokens(text)] for text in pool]
    theirs = bm25s.BM25(k1=1.2, b=0.75, method="lucene", csc_backend="scipy")
    theirs.index((numbered, retriever._vocabulary), create_empty_token=False, show_progress=False)
    for part in ("data", "indices", "indptr"):
        assert np.array_equal(theirs.scores[part], retriever._index.scores[part])
    query = [retriever._vocabulary[term] for term in ("word1", "word2", "word2")]
    assert np.array_equal(theirs.get_scores_from_ids(query), retriever.scores("word1 word2 word2"))


def test_clauses_without_spaces_are_not_kept() -> None:
    retriever = Bm25Retriever(["检索模型用于搜索", "plain words", "用BM25检索"])
    assert set(retriever._seen) == {"plain", "words"}
