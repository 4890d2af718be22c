"""``finerank mine`` by words, by both, with an index, with a reranker: the command line and its file."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from finerank.cli import main
from finerank.retrieval import segment
from tests.stages.test_mine import make_rows, read, write

CHINESE = [
    "检索模型用于搜索",
    "北京是中国的首都",
    "今天天气很好",
    "神经网络需要训练数据",
    "中国的首都在哪里",
    "天气预报说有雨",
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", make_rows())


def words(source: Path, output: Path, *more: str) -> list[str]:
    return ["mine", "--input_file", str(source), "--output_file", str(output), *more]


def counts_of(output: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(Path(f"{output}.manifest.json").read_text())
    return manifest["counts"]  # type: ignore[no-any-return]


def embedder(model: str) -> tuple[str, ...]:
    return ("--model_name_or_path", model, "--dtype", "float32", "--device", "cpu")


def test_bm25_needs_no_model(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "mined.jsonl"
    assert main(words(rows, output, "--retriever", "bm25", "--range_for_sampling", "0-40")) == 0
    shown = capsys.readouterr()
    assert "words (BM25)" in shown.err
    assert "there is no embedder" in shown.out
    before, after = read(rows), read(output)
    for old, new in zip(before, after):
        assert set(new) == {"query", "pos", "neg", "id", "neg_ranks"}
        assert len(new["neg"]) == len(set(new["neg"])) == len(new["neg_ranks"]["bm25"]) == 15
        assert not set(new["neg"]) & {*old["pos"], old["query"]}
        known = [rank for rank in new["neg_ranks"]["bm25"] if rank is not None]
        assert known == sorted(set(known))
    assert main(words(rows, output, "--retriever", "bm25", "--range_for_sampling", "0-40")) == 0
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize("when_short", ["pad", "keep", "drop", "error"])
def test_when_short_by_words(when_short: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"query": "find the cat", "pos": ["the cat is here"], "neg": ["a cat", "find it"]}]
    lines += [{"query": f"number{i}", "pos": [f"number{i} is one"], "neg": [f"blue{i} sky"]} for i in range(6)]
    source, output = write(tmp_path / "rows.jsonl", lines), tmp_path / "mined.jsonl"
    more = ("--retriever", "bm25", "--range_for_sampling", "0-9", "--negative_number", "2", "--when_short", when_short)
    code = main(words(source, output, *more))
    if when_short == "error":
        assert code == 1
        assert "--negative_number 2 cannot be met for 6 of 7 rows" in capsys.readouterr().err
        assert not output.exists()
        return
    assert code == 0
    found = read(output)
    assert sorted(found[0]["neg"]) == ["a cat", "find it"]
    lengths = [len(row["neg"]) for row in found]
    assert lengths == {"pad": [2] * 7, "keep": [2] + [0] * 6, "drop": [2]}[when_short]
    assert counts_of(output)["padded"] == (12 if when_short == "pad" else 0)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "mine needs --model_name_or_path"),
        (["--retriever", "hybrid"], "mine needs --model_name_or_path"),
        (["--retriever", "bm25", "--similarity_range", "0.3-0.8"], "--similarity_range compares cosines"),
        (["--retriever", "bm25", "--max_positive_ratio", "0.9"], "--max_positive_ratio compares cosines"),
        (["--retriever", "bm25", "--margin", "0.1"], "--margin compares cosines"),
        (["--retriever", "bm25", "--index", "flat"], "--index searches vectors"),
        (["--model_name_or_path", "m", "--segmenter", "jieba"], "--segmenter cuts words for bm25 and hybrid"),
        (["--model_name_or_path", "m", "--max_negative_score", "0"], "--max_negative_score needs --reranker_name"),
        (["--model_name_or_path", "m", "--false_negatives", "relabel"], "--false_negatives needs --reranker_name"),
        (["--model_name_or_path", "m", "--reranker_name_or_path", "r"], "told what a false negative is"),
        (
            ["--model_name_or_path", "m", "--reranker_name_or_path", "r", "--reranker_margin", "1",
             "--false_negatives", "relabel"],
            "relabel needs --relabel_from",
        ),
        (
            ["--model_name_or_path", "m", "--reranker_name_or_path", "r", "--max_negative_score", "1",
             "--relabel_from", "3"],
            "--relabel_from goes with --false_negatives relabel",
        ),
        (["--retriever", "bm25", "--report", "out.pdf"], "a page ends in .html, .json, .md"),
        (["--retriever", "bm25", "--suspects", "1000"], "--suspects must be at most 100"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(
    more: list[str], said: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(rows, tmp_path / "mined.jsonl", *more)) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_bm25_with_an_embedder_and_hybrid(tiny_encoder: str, rows: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer, util

    model = SentenceTransformer(tiny_encoder, device="cpu")
    for retriever, sides in (("bm25", {"bm25"}), ("hybrid", {"dense", "bm25"})):
        output = tmp_path / f"{retriever}.jsonl"
        more = ("--retriever", retriever, "--range_for_sampling", "0-20", "--negative_number", "5")
        assert main(words(rows, output, *embedder(tiny_encoder), *more)) == 0
        for row in read(output)[:5]:
            assert set(row["neg_ranks"]) == sides
            assert all(len(ranks) == 5 for ranks in row["neg_ranks"].values())
            vectors = model.encode([row["query"], *row["pos"], *row["neg"]])
            cosines = util.cos_sim(vectors[:1], vectors[1:])[0].tolist()
            assert row["pos_similarities"] + row["neg_similarities"] == pytest.approx(cosines, abs=2e-5)


def test_the_cache_and_the_batches_change_no_byte(tiny_encoder: str, rows: Path, tmp_path: Path) -> None:
    made = []
    for index, more in enumerate(([], ["--embedding_cache", "none", "--search_batch_size", "3"])):
        output = tmp_path / f"{index}.jsonl"
        assert main(words(rows, output, *embedder(tiny_encoder), "--retriever", "bm25", *more)) == 0
        made.append(output.read_bytes())
    assert made[0] == made[1]


def test_a_flat_index_changes_no_byte(tiny_encoder: str, rows: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    made = []
    for index, more in enumerate(([], ["--index", "flat"])):
        output = tmp_path / f"{index}.jsonl"
        assert main(words(rows, output, *embedder(tiny_encoder), "--range_for_sampling", "1-60", *more)) == 0
        made.append(output.read_bytes())
    assert made[0] == made[1]


def test_the_segmenter_is_said_and_decides_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "rows.jsonl", [{"query": "首都", "pos": [CHINESE[1]], "neg": CHINESE}])
    output = tmp_path / "mined.jsonl"
    line = words(source, output, "--retriever", "bm25", "--range_for_sampling", "0-5", "--when_short", "keep")
    monkeypatch.setattr(segment, "jieba_version", lambda: None)
    assert main(line) == 0
    assert "Chinese cut into" in (said := capsys.readouterr().err)
    assert "pairs of characters" in said
    assert read(output)[0]["neg"] == [CHINESE[4]]
    assert json.loads(Path(f"{output}.manifest.json").read_text())["options"]["segmenter"] == "bigrams"
    monkeypatch.setattr(segment, "jieba_version", lambda: "0.0")
    assert main(line) == 1  # an installed jieba makes it another run, aloud
    assert "--segmenter bigrams → jieba 0.0" in capsys.readouterr().err
    assert main([*line, "--segmenter", "bigrams"]) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_chinese_by_jieba(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jieba")
    source = write(tmp_path / "rows.jsonl", [{"query": "首都", "pos": [CHINESE[1]], "neg": CHINESE}])
    output = tmp_path / "mined.jsonl"
    assert (
        main(words(source, output, "--retriever", "bm25", "--range_for_sampling", "0-5", "--when_short", "keep")) == 0
    )
    assert read(output)[0]["neg"] == [CHINESE[4]]
    assert f"words by jieba {metadata.version('jieba')}" in capsys.readouterr().err


def test_a_rerankers_scores_are_written_and_obeyed(
    tiny_reranker: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = ("--retriever", "bm25", "--range_for_sampling", "0-30", "--negative_number", "4", "--device", "cpu",
              "--dtype", "float32", "--reranker_name_or_path", tiny_reranker)  # fmt: skip
    free = tmp_path / "free.jsonl"
    assert main(words(rows, free, *judged, "--max_negative_score", "1000")) == 0
    scores = sorted(score for row in read(free) for score in row["neg_scores"])
    middle = scores[len(scores) // 2]
    bound = ("--max_negative_score", str(middle))
    veto, moved = tmp_path / "veto.jsonl", tmp_path / "moved.jsonl"
    assert main(words(rows, veto, *judged, *bound)) == 0
    assert counts_of(veto)["reranker_above_score"] > 0
    capsys.readouterr()
    assert main(words(rows, moved, *judged, *bound, "--false_negatives", "relabel")) == 0
    shown = capsys.readouterr()
    assert "false negatives became positives" in shown.err
    assert "reranker relabelled" in shown.out
    for old, dropped, relabelled in zip(read(rows), read(veto), read(moved)):
        for row in (dropped, relabelled):
            assert len(row["pos_scores"]) == len(row["pos"])
            assert len(row["neg_scores"]) == len(row["neg"])
            assert all(score <= middle for score in row["neg_scores"])
        assert dropped["pos"] == old["pos"]
        assert dropped["neg"] == relabelled["neg"]
        new = relabelled.get("relabelled", [])
        assert relabelled["pos"][: len(old["pos"])] == old["pos"]
        assert new == list(range(len(old["pos"]), len(relabelled["pos"])))
        assert all(relabelled["pos_scores"][place] >= middle for place in new)
        assert not set(relabelled["pos"]) & set(relabelled["neg"])


def test_the_report_is_a_page_and_comes_again_from_a_finished_run(
    tiny_encoder: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, report = tmp_path / "mined.jsonl", tmp_path / "report.html"
    line = words(rows, output, *embedder(tiny_encoder), "--range_for_sampling", "0-20", "--report", str(report))
    assert main(line) == 0
    shown = capsys.readouterr().out
    assert "false negatives, perhaps: the 3 closest" in shown
    assert "--report and --json have 10" in shown
    first = report.read_bytes()
    assert first.count(b"<article ") == 10
    report.unlink()
    assert main(line) == 0
    assert report.read_bytes() == first
    assert capsys.readouterr().out == shown
    assert main([*line, "--suspects", "2", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["suspects"]) == 2
    assert report.read_bytes().count(b"<article ") == 2
