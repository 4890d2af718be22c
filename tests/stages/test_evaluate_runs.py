"""``finerank evaluate`` on TREC files: runs as arms and as first stages, a file of qrels as judgements."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from finerank.cli import main
from finerank.data.trec import read_run

QRELS = """q1 0 d1 2
q1 0 d2 1
q1 0 d3 0
q2 Q0 d4 1
q3 0 d1 1
"""
PEER = """q1 Q0 d3 9 1.0 peer
q1 Q0 d1 1 2.0 peer
q1 Q0 d2 2 1.0 peer
q2 Q0 d9 1 0.5 peer
q2 Q0 d4 2 0.5000000001 peer
q9 Q0 d1 1 3.0 peer
"""
OTHER = "q1 Q0 d2 1 3 other\nq1 Q0 d1 2 2 other\nq2 Q0 d4 1 1 other\nq3 Q0 d1 1 1 other\n"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("qrels.dl.txt", "peer.v1.trec", "other.run")}
    for path, text in zip(found.values(), (QRELS, PEER, OTHER)):
        path.write_text(text)
    return found


def result(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["evaluate", *words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_runs_by_qrels_alone_by_hand(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The rank column is not read; equal scores go by id, descending; 0.5 and 0.5000000001 are equal in 32 bits."""
    qrels, peer, other = map(str, files.values())
    words = ["--runs", peer, other, "--data", qrels, "--metrics", "nDCG@10", "MRR@10", "AP(rel=2)"]
    data = result(words, capsys)
    assert [arm["name"] for arm in data["arms"]] == ["peer.v1", "other"]
    assert (data["num_queries"], data["num_passages"], data["baseline"]) == (3, 0, "peer.v1")
    found = data["per_query"]["peer.v1"]
    ideal = 2 + 1 / math.log2(3)
    assert found["nDCG@10"]["q1"] == pytest.approx((2 + 1 / math.log2(4)) / ideal)  # d1, d3, d2
    assert found["MRR@10"] == {"q1": 1.0, "q2": 0.5, "q3": 0.0}  # d9 before d4; q3 is missing and counts 0
    assert found["AP(rel=2)"] == {"q1": 1.0, "q2": 0.0, "q3": 0.0}
    assert data["comparisons"][0]["wins"] == 2
    assert {item["query_id"]: item["query"] for item in data["extremes"][0]["gained"]} == {"q2": "q2", "q3": "q3"}
    assert "cost" not in data
    assert "trec_eval -c" in data["notes"][-1]
    assert "peer.v1 has equal scores among the 10 best passages of 2 of 2 queries" in data["notes"][0]
    assert len(data["notes"]) == 2


def test_a_run_may_be_the_baseline_and_is_written_as_it_is(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qrels, peer, other = map(str, files.values())
    words = ["--runs", peer, other, "--data", qrels, "--run_dir", str(tmp_path / "out")]
    assert result([*words, "--baseline", "other"], capsys)["baseline"] == "other"
    assert read_run(tmp_path / "out" / "other.run") == read_run(other)
    again = ["--runs", str(tmp_path / "out" / "peer.v1.run"), "--data", str(tmp_path / "out" / "qrels.txt")]
    first = result(["--runs", peer, "--data", qrels], capsys)["arms"][0]["metrics"]
    assert result(again, capsys)["arms"][0]["metrics"] == first


def test_equal_file_names_are_told_apart(files: dict[str, Path], tmp_path: Path) -> None:
    from finerank.data.trec import run_names

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.trec").write_text(f"q1 Q0 d1 1 1.0 by-{name}\n")
    paths = [str(tmp_path / name / "run.trec") for name in ("a", "b")]
    assert list(run_names(paths).values()) == ["by-a", "by-b"]
    assert run_names([str(files["other.run"])], {"other"}) == {str(files["other.run"]): "other.run"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--runs", "PEER", "--data", "STRANGE"], 1, "none of the 1 judged queries"),
        (["--runs", "PEER", "-m", "bm25", "--data", "QRELS"], 2, "holds no texts"),
        (["--first_stage", "PEER", "-m", "bm25", "--data", "QRELS"], 2, "holds no texts"),
        (["--runs", "PEER", "--data", "QRELS", "--slices"], 2, "--slices needs"),
        (["--runs", "PEER", "--data", "ROWS"], 2, "--runs needs a judged folder"),
        (["--first_stage", "PEER", "--data", "ROWS"], 2, "needs judged queries"),
        (["--runs", "TWICE", "--data", "QRELS"], 1, "stands twice"),
        (["--runs", "PEER", "--data", "QRELS", "--depths", "200"], 2, "--top_k 200"),
        (["--runs", "gone.trec", "--data", "QRELS"], 1, "gone.trec"),
        (["--runs", "PEER", "--data", "gone.txt"], 1, "gone.txt: no such file"),
        (["--runs", "PEER", "--data", "ROWS"], 2, "or a qrels file, got rows"),
        (["-m", "bm25", "--data", "gone", "--depths", "5"], 1, "gone: no such file or folder"),
        (["-m", "bm25", "--data", "QRELS"], 2, "a qrels file holds no texts, and bm25 needs them"),
        (["--runs", "PEER", "--data", "NONE"], 1, "no judged query has a relevant passage"),
    ],
)
def test_mistakes(
    files: dict[str, Path], tmp_path: Path, words: list[str], code: int, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    texts = {
        "STRANGE": "z 0 d1 1\n", "ROWS.jsonl": '{"query": "a", "pos": ["b"], "neg": ["c"]}\n', "TWICE": PEER + PEER,
        "NONE": "q1 0 d1 0\n",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    places = {name.split(".")[0]: str(tmp_path / name) for name in texts}
    places |= {"QRELS": str(files["qrels.dl.txt"]), "PEER": str(files["peer.v1.trec"])}
    assert main(["evaluate", *(places.get(word, word) for word in words)]) == code
    assert message in capsys.readouterr().err


def test_queries_without_a_relevant_passage_are_told(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files["qrels.dl.txt"].write_text(QRELS + "q9 0 d1 0\n")
    words = ["evaluate", "--runs", str(files["other.run"]), "--data", str(files["qrels.dl.txt"]), "--json"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "1 of 4 judged queries have no relevant passage; they count 0" in told.err
    assert "passages" not in told.err.split("queries")[0]
    assert json.loads(told.out)["num_queries"] == 4


def test_metrics_that_look_behind_the_end_of_the_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-m", "bm25", "--data", str(judged(tmp_path / "beir")), "--top_k", "2", "--metrics"]
    told = "Lists end at rank 2 (--top_k), so nDCG@3, Recall@10 cannot see further"
    assert any(told in note for note in result([*words, "nDCG@3", "Recall@10", "MRR@2"], capsys)["notes"])
    assert result([*words, "MRR@2", "MAP"], capsys)["notes"] == []


def judged(folder: Path) -> Path:
    texts = {
        "d1": "find a file",
        "d2": "sort numbers",
        "d3": "read the text",
        "d4": "remove a word",
        "d9": "the red fish",
    }
    queries = {"q1": "find the file", "q2": "remove words", "q3": "a file"}
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": name, "text": text} for name, text in texts.items()]
    lines = [{"_id": name, "text": text} for name, text in queries.items()]
    for name, content in (("corpus", corpus), ("queries", lines)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td4\t1\n")
    return folder


def test_a_run_as_first_stage(
    files: dict[str, Path], tmp_path: Path, tiny_reranker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, peer, qrels = judged(tmp_path / "toy"), str(files["peer.v1.trec"]), str(files["qrels.dl.txt"])
    words = ["-m", tiny_reranker, "--first_stage", peer, "--runs", str(files["other.run"]), "--data", str(folder)]
    words += ["--also", str(judged(tmp_path / "second")), "--fusion", "rrf"]
    data = result([*words, "--qrels", qrels, "--depths", "1", "2"], capsys)
    assert (data["num_queries"], data["split"]) == (3, "qrels.dl.txt")
    names = [arm["name"] for arm in data["arms"]]
    assert names[:2] == ["peer.v1", "other"]
    assert names[2].endswith("over peer.v1")
    assert len(names) == 4
    (also,) = data["also"]
    assert [arm["name"] for arm in also["arms"]] == ["bm25", names[2].replace("peer.v1", "bm25")]
    assert also["baseline"] == "bm25"
    assert "peer.v1 cannot be tried here" in also["notes"][-1]
    assert data["cost"][names[2]] == {"pairs": 5, "texts": 0, "pairs_per_query": pytest.approx(5 / 3, abs=1e-3)}
    (curve,) = data["depth"]
    assert curve["first_stage"] == "peer.v1"
    assert [point["pairs"] for point in curve["curve"]] == [2, 4]
    ndcg = next(arm for arm in data["arms"] if arm["name"] == "peer.v1")["metrics"]["nDCG@10"]["mean"]
    assert curve["first_stage_value"] == pytest.approx(ndcg)


def test_a_first_stage_with_passages_that_have_no_text(
    files: dict[str, Path], tmp_path: Path, tiny_reranker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "far.trec").write_text("q1 Q0 elsewhere 1 1.0 far\n")
    words = ["-m", tiny_reranker, "--data", str(judged(tmp_path / "toy"))]
    assert main(["evaluate", *words, "--first_stage", str(tmp_path / "far.trec")]) == 1
    assert "elsewhere for one" in capsys.readouterr().err
