"""``finerank evaluate`` as a test of one reranker on rows: the flat layout, BM25 and chance beside it, titles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finerank.cli import main
from finerank.core.records import Row
from finerank.evaluation.row_report import without_titles
from finerank.evaluation.rows import lay_out

PASSAGES = [
    "find a file by name", "sort the list of numbers", "read the text of a file", "remove a word from a string",
    "open the red fish", "write zero to the tree", "search code for a word", "return two new lists",
]  # fmt: skip
KEYS = [
    "model_path", "test_data", "num_queries", "num_pairs", "metrics", "ci95", "baseline", "mean_pos_score",
    "mean_neg_score", "margin", "per_query",
]  # fmt: skip
METRICS = [
    "hit@1", "accuracy_all_pos", "pair_accuracy", "mrr", "map", "ndcg@1", "ndcg@3", "ndcg@5", "ndcg@10", "auc",
    "precision", "recall", "f1", "best_f1", "threshold",
]  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Queries that share three words with their positive and none that tells the negatives apart."""
    path = tmp_path / "rows.jsonl"
    lines = [
        {"query": " ".join(text.split()[:3]), "pos": [f"Name{place}\n{text}"],
         "neg": [PASSAGES[place - 1], PASSAGES[place - 2]]}
        for place, text in enumerate(PASSAGES)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def evaluated(out: Path, *words: str) -> dict[str, Any]:
    assert main(["evaluate", f"--output_file={out}", "--dtype", "float32", *words]) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_the_flat_layout_by_hand(rows: Path, tiny_reranker: str, tmp_path: Path) -> None:
    data = evaluated(tmp_path / "out.json", f"--model_path={tiny_reranker}", f"--test_data={rows}")
    assert set(KEYS) <= set(data)
    assert (data["model_path"], data["test_data"]) == (tiny_reranker, str(rows))
    assert (data["num_queries"], data["num_pairs"]) == (8, 24)
    assert list(data["metrics"]) == METRICS
    scores = np.array([row["scores"] for row in data["per_query"]])
    assert scores.shape == (8, 3)
    ranks = 1 + (scores[:, 1:] >= scores[:, :1]).sum(axis=1)
    assert [row["rank_first_pos"] for row in data["per_query"]] == ranks.tolist()
    assert [(row["n_pos"], row["n_neg"]) for row in data["per_query"]] == [(1, 2)] * 8
    expected = {
        "hit@1": (ranks == 1).mean(), "mrr": (1 / ranks).mean(), "map": (1 / ranks).mean(),
        "ndcg@10": (1 / np.log2(1 + ranks)).mean(), "accuracy_all_pos": (ranks == 1).mean(),
        "pair_accuracy": (scores[:, :1] > scores[:, 1:]).mean(),
        "auc": (scores[:, :1, None] > scores[None, :, 1:].reshape(1, 1, -1)).mean(),
        "recall": (scores[:, 0] > 0).mean(),
    }  # fmt: skip
    for name, value in expected.items():
        assert data["metrics"][name] == pytest.approx(value, abs=1e-6), name
        low, high = data["ci95"][name]
        assert low <= value + 1e-9
        assert value - 1e-9 <= high
    assert data["mean_pos_score"] == pytest.approx(scores[:, 0].mean())
    assert data["margin"] == pytest.approx(scores[:, 0].mean() - scores[:, 1:].mean())
    best = scores >= data["metrics"]["threshold"]
    precision, recall = best[:, 0].sum() / best.sum(), best[:, 0].mean()
    assert data["metrics"]["best_f1"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_the_reports_own_keys_are_all_there(rows: Path, tiny_reranker: str, tmp_path: Path) -> None:
    data = evaluated(tmp_path / "out.json", "-m", tiny_reranker, "-d", str(rows))
    (arm,) = data["arms"]
    assert data["headline"]
    assert data["report"]["metrics"][0] == "nDCG@10"
    assert data["report"]["baseline"] == arm["name"]
    assert arm["metrics"]["nDCG@10"]["mean"] == data["metrics"]["ndcg@10"]
    assert set(data["report"]["per_query"][arm["name"]]["MRR"]) == {f"row-{number}" for number in range(1, 9)}


@pytest.mark.parametrize("kind", ["embedder", "reranker"])
def test_rows_are_read_with_the_prompts_that_they_bring(
    kind: str, rows: Path, tiny_encoder: str, tiny_reranker: str, tmp_path: Path
) -> None:
    model, use, key = {
        "embedder": (tiny_encoder, "retrieval", "prompt"), "reranker": (tiny_reranker, "rerank", "query_prompt")
    }[kind]  # fmt: skip
    prompted = tmp_path / "prompted.jsonl"
    own = [json.loads(line) | {key: "sort two dog: "} for line in rows.read_text().splitlines()]
    prompted.write_text("".join(json.dumps(line) + "\n" for line in own))

    def scores(name: str, data: Path, instruction: str, cache: str = "none") -> list[float]:
        given = [f"--query_instruction_for_{use}", instruction, "--embedding_cache", cache, "--strip_titles"]
        found = evaluated(tmp_path / f"{name}.json", "-m", model, "-d", str(data), *given)
        noted = any("8 of 8 rows bring an instruction" in note for note in found["notes"])
        assert noted == (data == prompted)
        return [score for row in found["per_query"] for score in row["scores"]]

    found = scores("prompted", prompted, "read: ")
    assert found == pytest.approx(scores("given", rows, "sort two dog: "), abs=1e-5)
    assert found != pytest.approx(scores("bare", rows, "read: "), abs=1e-3)
    cache = str(tmp_path / "cache")
    assert scores("bare, kept", rows, "read: ", cache) == scores("bare, again", rows, "read: ", cache)
    assert scores("kept", prompted, "read: ", cache) == found
    assert scores("again", prompted, "read: ", cache) == found


def test_a_reranker_that_loses_to_bm25_is_told_aloud(
    rows: Path, tiny_reranker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = rows.read_text() * 4  # enough rows for a loss that is no chance
    rows.write_text(lines)
    data = evaluated(tmp_path / "out.json", "-m", tiny_reranker, "-d", str(rows), "--report", str(tmp_path / "p.html"))
    assert data["baseline"]["bm25"]["hit@1"] == 1.0
    assert 0.1 < data["baseline"]["random"]["hit@1"] < 0.6
    (against,) = data["against_bm25"]
    assert against["verdict"] == "worse"
    assert against["difference"]["high"] < 0
    shown = capsys.readouterr()
    assert "WORSE than BM25" in shown.err
    assert "WORSE than BM25" in shown.out
    assert "beside" in shown.out
    assert "WORSE than BM25" in (tmp_path / "p.html").read_text()


def test_bm25_is_scored_once_where_it_is_an_arm_already(rows: Path, tiny_reranker: str, tmp_path: Path) -> None:
    data = evaluated(tmp_path / "out.json", "-m", tiny_reranker, "-d", str(rows), "--baseline", "bm25")
    assert [arm["name"] for arm in data["arms"]][0] == "bm25"
    assert data["baselines"]["bm25"]["metrics"] == data["arms"][0]["metrics"]
    assert [item["arm"] for item in data["against_bm25"]] == [data["arms"][1]["name"]]
    assert data["metrics"]["mrr"] == data["arms"][1]["metrics"]["MRR"]["mean"]


def test_several_models_keep_the_reports_layout_and_each_is_tested(
    rows: Path, tiny_reranker: str, tiny_encoder: str, tmp_path: Path
) -> None:
    data = evaluated(tmp_path / "out.json", "-m", tiny_reranker, tiny_encoder, "-d", str(rows))
    assert isinstance(data["metrics"], list)
    assert isinstance(data["baseline"], str)
    assert set(data["baselines"]) == {"bm25", "random"}
    assert len(data["against_bm25"]) == 2
    assert "model_path" not in data


def test_titles_can_be_left_out(rows: Path, tiny_reranker: str, tmp_path: Path) -> None:
    plain = evaluated(tmp_path / "plain.json", "-m", tiny_reranker, "-d", str(rows))
    data = evaluated(tmp_path / "out.json", "-m", tiny_reranker, "-d", str(rows), "--strip_titles")
    assert data["metrics"] == plain["metrics"]
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({**line, "pos": [line["pos"][0].split("\n")[1]]}) + "\n" for line in lines))
    by_hand = evaluated(tmp_path / "bare.json", "-m", tiny_reranker, "-d", str(bare))
    found = data["strip_titles"]["metrics"]
    assert {name: found[name] for name in METRICS} == by_hand["metrics"]
    assert data["strip_titles"]["baseline"]["bm25"]["mrr"] == by_hand["baseline"]["bm25"]["mrr"]
    assert any("8 of 24 passages begin with a title line" in note for note in data["notes"])


def test_what_counts_as_a_title() -> None:
    long = "x" * 201
    rows = lay_out([Row("q", ("Title\nbody\nmore", f"{long}\nbody"), ("one line", "Title\n "))])
    bare, count = without_titles(rows)
    assert list(bare.passages.values()) == ["body\nmore", f"{long}\nbody", "one line", "Title\n "]
    assert count == 1


def test_equal_runs_give_equal_bytes_and_a_done_one_is_shown_again(
    rows: Path, tiny_reranker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("-m", tiny_reranker, "-d", str(rows))
    evaluated(tmp_path / "one.json", *words)
    first = capsys.readouterr().out
    evaluated(tmp_path / "one.json", *words)
    assert capsys.readouterr().out == first
    evaluated(tmp_path / "two.json", *words)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    manifest = json.loads((tmp_path / "one.json.manifest.json").read_text())
    assert len(manifest["seconds_per_arm"]) == 1


def test_rows_without_negatives(tiny_reranker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"query": text[:9], "pos": [text]}) + "\n" for text in PASSAGES))
    data = evaluated(tmp_path / "out.json", "-m", tiny_reranker, "-d", str(path))
    assert data["metrics"]["hit@1"] == 1.0
    assert "pair_accuracy" not in data["metrics"]
    assert (data["mean_neg_score"], data["margin"]) == (None, None)
    told = f"{len(PASSAGES)} of {len(PASSAGES)} rows have no negative, so every order of their passages is right"
    assert f"warning: {told}" in capsys.readouterr().err
    data = evaluated(tmp_path / "two.json", "-m", tiny_reranker, "bm25", "-d", str(path))
    assert any(note.startswith(told) for note in data["notes"])
