"""Candidates by words and by vectors; sparse cosines are those of the plain formula."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from finerank.generation.assembly import Wanted, negatives_of, row_of, without
from finerank.generation.candidates import DenseCandidates, SparseCandidates
from finerank.generation.entities import EntityIndex
from finerank.generation.queries import GeneratedQuery
from finerank.retrieval.bm25 import tokens
from finerank.retrieval.diverse import weights
from finerank.retrieval.sparse import SparseIndex

from .conftest import number_of


def test_sparse_cosines_by_hand() -> None:
    passages = ["red fox runs", "red fox sleeps sleeps", "blue whale swims", "fox"]
    index = SparseIndex(passages)
    terms = [Counter(tokens(text)) for text in passages]
    mean = sum(sum(each.values()) for each in terms) / 4
    often = Counter(term for each in terms for term in each)

    def idf(term: str) -> float:
        return math.log(1 + (4 - often[term] + 0.5) / (often[term] + 0.5))

    def vector(each: Counter[str]) -> dict[str, float]:
        length = sum(each.values())
        return {t: idf(t) * n / (0.9 * (1 - 0.4 + 0.4 * length / mean) + n) for t, n in each.items()}

    def cosine(one: dict[str, float], other: dict[str, float]) -> float:
        dot = sum(value * other.get(term, 0.0) for term, value in one.items())
        return dot / math.sqrt(sum(v * v for v in one.values()) * sum(v * v for v in other.values()))

    vectors = [vector(each) for each in terms]
    asked = {term: idf(term) for term in ("red", "fox")}
    relevance, to_source, gram = index.cosines("red fox unheard", np.array([0, 1, 2]), 3)
    assert relevance.tolist() == pytest.approx([cosine(asked, each) for each in vectors[:3]], abs=1e-6)
    assert to_source is not None
    assert to_source.tolist() == pytest.approx([cosine(vectors[3], each) for each in vectors[:3]], abs=1e-6)
    assert gram[0, 1] == pytest.approx(cosine(vectors[0], vectors[1]), abs=1e-6)
    assert np.diag(gram).tolist() == pytest.approx([1, 1, 1])


def test_the_source_is_no_candidate_and_lambda_one_is_the_plain_order(ill: EntityIndex) -> None:
    found = SparseCandidates(ill.documents.passages())
    source = number_of(ill, "brandt-signs")
    query = GeneratedQuery("signs of Brandt disease", "template", None, source, "symptoms")
    (plain,) = found.find([query], 5, weights(1, 0, 0), 3)
    assert source not in plain.positions
    assert plain.rank_of(source) is not None
    assert plain.scores == sorted(plain.scores, reverse=True)
    similar = [plain.similarities[number] for number in plain.positions]
    assert similar == sorted(similar, reverse=True)
    (diverse,) = found.find([query], 5, weights(0.3, 0.1, 0.6), 3)
    assert diverse.positions[0] == plain.positions[0] or diverse.positions != plain.positions
    assert set(diverse.positions) <= set(diverse.similarities)


def test_a_query_without_a_known_word_finds_nothing(ill: EntityIndex) -> None:
    (found,) = SparseCandidates(ill.documents.passages()).find(
        [GeneratedQuery("zzzz qqqq", "ict", None, 0)], 3, weights(1, 0, 0), 3
    )
    assert found.positions == found.ranking == []


class Letters:
    """An encoder that counts letters."""

    dimension = 26
    cosine = True

    def encode(self, texts: list[str], side: str, progress: object = None) -> np.ndarray:  # type: ignore[type-arg]
        vectors = np.zeros((len(texts), 26), dtype=np.float32)
        for row, text in enumerate(texts):
            for letter in text.lower():
                if "a" <= letter <= "z":
                    vectors[row, ord(letter) - 97] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    def fingerprint(self, side: str) -> str:
        return f"letters {side}"


def test_dense_candidates(ill: EntityIndex) -> None:
    passages = list(ill.documents.passages())
    found = DenseCandidates(Letters(), passages, None)  # type: ignore[arg-type]
    query = GeneratedQuery(passages[5], "ict", None, 5)
    (plain,) = found.find([query], 4, weights(1, 0, 0), 3)
    assert plain.rank_of(5) == 0
    cosines = found.vectors @ found.vectors[5]
    best = [int(n) for n in np.argsort(-cosines, kind="stable") if n != 5][:4]
    assert plain.positions == best


def test_what_is_cut_out_of_a_positive(ill: EntityIndex, lands: EntityIndex) -> None:
    titled = lands.documents[0]
    assert without(titled, titled.head) == titled.text
    document = ill.documents[number_of(ill, "brandt-signs")]
    question = "What are the signs and symptoms of Brandt disease?"
    assert without(document, question) == document.text.replace(question, "").strip()
    assert without(document, "not there") == document.passage


def test_a_row_keeps_the_whole_document_as_a_positive_too(lands: EntityIndex) -> None:
    made = {
        "query": "Torvik", "mode": "title", "entity": "Torvik", "key": "torvik", "source": 0, "facet": "", "avoid": "",
        "removed": lands.documents[0].head, "pos": [0], "neg": [3, 4, 5], "neg_source": ["judged", "judged", "mined"],
        "near": [False, True, False], "similarities": {"3": 0.5, "4": 0.25, "5": 0.125}, "id": "title-0",
    }  # fmt: skip
    row = row_of(made, lands.documents, {4}, Wanted(5, 0))
    assert row["pos"] == [lands.documents[0].text, lands.documents[0].passage]
    assert row["pos_id"] == ["w0#cut", "w0"]
    assert row["neg_id"] == ["w3", "w5"]
    assert row["neg_source"] == ["judged", "mined"]
    assert row["neg_similarities"] == [0.5, 0.125]


def test_negatives_about_the_rows_own_topic_stand_alone() -> None:
    """Others beside them would be drawn in their place; where there are none, it is said which to take."""
    near = [False, True, True, False]
    made = {"neg": [3, 4, 5, 6], "neg_source": ["judged", "judged", "judged", "mined"], "near": near}

    def chosen(about: Any, barred: set[int], most: int = 5) -> list[int]:
        return [number for number, _ in negatives_of(made, barred, Wanted(most, 0, about))]

    assert chosen("auto", set()) == [4, 5]
    assert chosen("auto", set(), most=1) == [4]
    assert chosen("auto", {4, 5}) == [3, 6]
    assert chosen("topic", {4, 5}) == []
    assert chosen("any", {4}) == [3, 5, 6]
