"""Rankings by words and by both, cosines of candidates alone, a reranker between proposal and choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from finerank.core.protocols import Pair, Progress
from finerank.core.records import Row
from finerank.retrieval.bm25 import Bm25Retriever
from finerank.retrieval.false_negatives import Bounds
from finerank.retrieval.hybrid import fuse_ranks
from finerank.retrieval.mining import Mined, Miner, Setup
from finerank.retrieval.mining_report import Tally, output_line, suspects, text, total
from finerank.retrieval.negatives import Rules
from tests.retrieval.hash_encoder import HashEncoder

POOL = ["red cat", "red dog", "blue cat cat", "green fish", "blue bird", "grey mouse", "cat", "old house", "new house"]
ROWS = [Row("red cat", ("cat",), ("grey mouse",)), Row("house", ("old house",))]


@contextmanager
def silent(total: int, label: str) -> Iterator[Progress]:
    yield lambda count: None


def mine(
    rows: Sequence[Row], encoder: HashEncoder | None, block: int = 5, pool: list[str] = POOL, **more: Any
) -> list[Mined]:
    setup = Setup(**{"rules": Rules(0, 5, 3, sampling="top"), "seed": 0, **more})
    miner = Miner(rows, pool, encoder, setup, silent)
    return [mined for start in range(0, len(rows), block) for mined in miner.mine(start, start + block)]


def test_bm25_without_an_embedder_ranks_by_words_and_knows_no_cosine() -> None:
    first, second = mine(ROWS, None, retriever="bm25", rules=Rules(0, 5, 3, sampling="top", pad=False))
    # by words: red cat itself is the query and never a negative; cat is the positive
    assert first.mined == ["blue cat cat", "red dog"] or first.mined == ["red dog", "blue cat cat"]
    assert (first.pos_similarities, first.neg_similarities) == ([], [])
    assert second.mined == ["new house"]
    assert second.ranks == {"bm25": [1]}  # old house, the positive, stands before it
    assert (first.selection.in_range, second.selection.in_range) == (4, 2)
    assert second.selection.short
    assert second.selection.missing == 2
    line, _ = output_line(second)
    assert line == {"query": "house", "pos": ["old house"], "neg": ["new house"], "neg_ranks": {"bm25": [1]}}


def test_bm25_pads_with_passages_that_share_no_word_each_query_with_its_own() -> None:
    pool = [f"house {number}" for number in range(3)] + [f"thing{number} only" for number in range(200)]
    rows = [Row("house", ("house 0",)), Row("house 1", ("house 0",))]
    first, second = mine(rows, None, pool=pool, retriever="bm25", rules=Rules(0, 50, 12, sampling="top"))
    for mined in (first, second):
        assert len(set(mined.mined)) == 12
        assert mined.selection.padded == 12 - mined.selection.survivors
        assert {text.split()[0] for text in mined.mined[: mined.selection.survivors]} == {"house"}
        assert mined.ranks["bm25"][-1] is None
    assert not set(first.mined[3:]) <= set(pool[3:20])  # no run of the pool's first passages
    assert first.mined[3:] != second.mined[3:]


def test_a_range_behind_the_last_match_holds_nothing_and_harder_ranks_never_pad() -> None:
    (mined,) = mine(ROWS[1:], None, retriever="bm25", rules=Rules(2, 6, 4))
    assert mined.selection.in_range == 0
    assert len(mined.mined) == 4
    assert "new house" not in mined.mined


@pytest.mark.parametrize("retriever", ["bm25", "hybrid"])
def test_blocks_change_nothing(retriever: str) -> None:
    rows = [Row(f"{text} q", (text,)) for text in POOL]
    made = [mine(rows, HashEncoder(), block, retriever=retriever, rules=Rules(0, 4, 3)) for block in (1, 4, 100)]
    assert made[0] == made[1] == made[2]


def test_cosines_of_candidates_are_those_of_the_pool_and_no_other_passage_is_encoded() -> None:
    pool = POOL + [f"filler number{index}" for index in range(300)]
    encoder = HashEncoder()
    rules = Rules(0, 5, 3, sampling="top", pad=False)
    found = mine(ROWS, encoder, pool=pool, retriever="bm25", keep_negatives=True, rules=rules)
    assert encoder.encoded < 20
    for mined in found:
        query = encoder.vector(mined.row.query)
        for texts, cosines in ((mined.positives, mined.pos_similarities), (mined.negatives, mined.neg_similarities)):
            assert cosines == pytest.approx([float(encoder.vector(text) @ query) for text in texts], abs=1e-6)
    assert found[0].negatives[0] == "grey mouse"
    assert output_line(found[0])[0]["neg_ranks"]["bm25"][0] is None


def test_the_rules_on_cosines_hold_for_bm25_with_an_embedder() -> None:
    whole = mine(ROWS, HashEncoder(), retriever="bm25", rules=Rules(0, 5, 9))
    bounded = mine(ROWS, HashEncoder(), retriever="bm25", rules=Rules(0, 5, 9, similarity_range=(-0.2, 0.3)))
    for all_of, some in zip(whole, bounded):
        inside = {text for text, cosine in zip(all_of.mined, all_of.neg_similarities) if -0.2 <= cosine <= 0.3}
        assert set(some.mined) == inside


def test_hybrid_is_the_fusion_of_both_and_says_each_sides_rank() -> None:
    encoder = HashEncoder()
    vectors = np.stack([encoder.vector(passage) for passage in POOL])
    for mined in mine(ROWS, encoder, retriever="hybrid", rules=Rules(0, 9, 9, sampling="top")):
        dense = np.argsort(-(vectors @ encoder.vector(mined.row.query)), kind="stable")
        words, scores = next(iter(Bm25Retriever(POOL).search([mined.row.query], 9)))
        words = words[scores > 0]
        order = fuse_ranks({"dense": dense, "bm25": words}, 9, [9]).positions
        left = [POOL[place] for place in order if POOL[place] not in (*mined.row.positives, mined.row.query)]
        assert mined.mined == left
        for side, ranking in (("dense", dense.tolist()), ("bm25", words.tolist())):
            places = [POOL.index(passage) for passage in mined.mined]
            assert mined.ranks[side] == [ranking.index(place) if place in ranking else None for place in places]


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_an_index_over_a_small_pool_finds_what_the_products_find(kind: str) -> None:
    pytest.importorskip("faiss")
    assert mine(ROWS, HashEncoder(), index=kind) == mine(ROWS, HashEncoder())


class Table:
    """A Scorer that looks scores up; unknown pairs score 0."""

    def __init__(self, scores: Mapping[str, float]) -> None:
        self.scores = scores
        self.asked: list[Pair] = []

    def fingerprint(self) -> str:
        return "table"

    def score(self, pairs: Sequence[Pair], progress: Progress | None = None) -> np.ndarray:
        self.asked += pairs
        return np.array([self.scores.get(passage, 0.0) for _, passage in pairs], dtype=np.float32)


def test_a_reranker_that_objects_to_nothing_changes_no_choice() -> None:
    rows = [Row(f"{text} q", (text,)) for text in POOL]
    for sampling in ("random", "top"):
        rules = Rules(0, 6, 3, sampling=sampling)  # type: ignore[arg-type]
        plain = mine(rows, HashEncoder(), rules=rules)
        judged = mine(rows, HashEncoder(), rules=rules, scorer=Table({}), bounds=Bounds(max_score=1))
        assert [mined.negatives for mined in judged] == [mined.negatives for mined in plain]
        assert [mined.selection.survivors for mined in judged] == [mined.selection.survivors for mined in plain]


def test_vetoed_candidates_are_replaced_and_counted() -> None:
    (plain,) = mine(ROWS[:1], HashEncoder())
    hated = plain.mined[0]
    scorer = Table({hated: 5.0, "cat": 7.5})
    (judged,) = mine(ROWS[:1], HashEncoder(), scorer=scorer, bounds=Bounds(max_score=1))
    assert hated not in judged.negatives
    assert judged.selection.dropped["reranker_above_score"] == 1
    assert judged.selection.survivors == plain.selection.survivors - 1
    assert len(judged.mined) == 3
    assert (judged.pos_scores, judged.neg_scores) == ([7.5], [0.0, 0.0, 0.0])
    assert len(scorer.asked) == len(set(scorer.asked)) == 5  # four candidates, one positive, each once


def test_relabelled_candidates_move_to_the_positives() -> None:
    (plain,) = mine(ROWS[:1], HashEncoder())
    found = plain.mined[1]
    row = Row("red cat", ("cat",), ("grey mouse",), extra={"pos_id": ["p"], "neg_id": ["n"], "id": 1})
    bounds = Bounds(max_score=1, relabel_from=3)
    (judged,) = mine([row], HashEncoder(), scorer=Table({found: 5.0}), bounds=bounds)
    line, stale = output_line(judged)
    assert line["pos"] == ["cat", found]
    assert line["relabelled"] == [1]
    assert len(line["pos_similarities"]) == len(line["pos_scores"]) == 2
    assert line["pos_scores"] == [0.0, 5.0]
    assert found not in line["neg"]
    assert sorted(stale) == ["neg_id", "pos_id"]
    tally = Tally()
    tally.add(judged, dropped=False)
    counts = total([tally.to_mapping()], pool=len(POOL))
    assert (counts["relabelled"], counts["rows_relabelled"], counts["positives"]) == (1, 1, 2)
    assert counts["reranker_relabelled"] == 1
    assert "false negatives relabelled" in text(counts, "0-5", "out.jsonl")


def test_a_row_searches_deeper_when_the_reranker_has_taken_too_many() -> None:
    pool = [f"passage {number}" for number in range(60)]
    (plain,) = mine([Row("q", (pool[0],))], HashEncoder(), pool=pool, rules=Rules(0, 9, 9, sampling="top"))
    scorer = Table(dict.fromkeys(plain.mined, 5.0))
    rules = Rules(0, 4, 3, sampling="top")
    (judged,) = mine(
        [Row("q", (pool[0],))], HashEncoder(), pool=pool, rules=rules, scorer=scorer, bounds=Bounds(max_score=1)
    )
    assert len(judged.mined) == judged.selection.padded == 3
    assert not set(judged.mined) & set(plain.mined)
    assert judged.selection.short
    assert judged.selection.survivors == 0


def test_suspects_are_the_negatives_closest_to_their_positive() -> None:
    tally = Tally()
    for mined in mine(ROWS, HashEncoder()):
        tally.add(mined, dropped=False)
    counts = total([tally.to_mapping()], pool=len(POOL))
    shown = suspects(counts, ROWS, POOL, 4)
    gaps = [
        round(cosine - min(mined.pos_similarities), 6)
        for mined in mine(ROWS, HashEncoder())
        for cosine in mined.neg_similarities
    ]
    assert [suspect.gap for suspect in shown] == sorted(gaps, reverse=True)[:4]
    for suspect in shown:
        assert suspect.negative in POOL
        assert suspect.neg_similarity - suspect.pos_similarity == pytest.approx(suspect.gap, abs=1e-6)
    assert suspects(counts, ROWS, POOL, 0) == []


def test_without_cosines_or_scores_there_is_nothing_to_suspect_and_no_mean() -> None:
    tally = Tally()
    for mined in mine(ROWS, None, retriever="bm25"):
        tally.add(mined, dropped=False)
    counts = total([tally.to_mapping()], pool=len(POOL))
    assert (counts["suspects"], counts["positive_similarity_mean"], counts["gap_mean"]) == ([], None, None)
    assert "there is no embedder" in text(counts, "0-5", "out.jsonl")
    judged = Tally()
    for mined in mine(ROWS, None, retriever="bm25", scorer=Table({"cat": 2.0}), bounds=Bounds(max_score=1)):
        judged.add(mined, dropped=False)
    assert total([judged.to_mapping()], pool=len(POOL))["suspects"][0]["gap"] == 0.0
