"""``finerank evaluate`` end to end on a tiny judged folder and on rows, with tiny models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from finerank.cli import main
from finerank.core.protocols import Pair, Progress
from finerank.data.trec import read_qrels, read_run
from finerank.evaluation.fusion_store import FILE_NAME, Fusion, load_fusions, query_digests, save_fusion
from finerank.evaluation.metrics import evaluate_run, mean
from finerank.models.cross_encoder import CrossEncoder
from tests.stages.dot_model import without_normalisation

PASSAGES = [
    "find a file by name", "sort the list of numbers", "read the text of a file", "remove a word from a string",
    "open the red fish", "write zero to the tree", "search code for a word", "return two new lists",
]  # fmt: skip


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Eight passages; queries 0 to 5 are judged in test, 6 and 7 (and 0 again) in dev."""
    folder = tmp_path / "toy set"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{place}", "title": "", "text": text} for place, text in enumerate(PASSAGES)]
    queries = [{"_id": f"q{place}", "text": " ".join(text.split()[:3])} for place, text in enumerate(PASSAGES)]
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, numbers in (("test", range(6)), ("dev", (0, 6, 7))):
        lines = [f"q{number}\td{number}\t1" for number in numbers]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [{"query": text[:12], "pos": [text], "neg": [PASSAGES[place - 1], PASSAGES[place - 2]]}
             for place, text in enumerate(PASSAGES)]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def reranker(tiny_reranker: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_reranker, tmp_path / "reranker"))


@pytest.fixture
def dot_encoder(tiny_encoder: str, tmp_path: Path) -> Path:
    return without_normalisation(tiny_encoder, tmp_path / "dot")


def test_all_arms_of_a_judged_set(
    judged: Path, tiny_encoder: str, reranker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page, run_dir = tmp_path / "out.json", tmp_path / "out.html", tmp_path / "runs"
    command = [
        "evaluate", "-m", tiny_encoder, str(reranker), "-d", str(judged), "--first_stage", "bm25", tiny_encoder,
        "--output_file", str(out), "--report", str(page), "--run_dir", str(run_dir), "--top_k", "5",
        "--fusion", "zscore", "--dev_split", "dev", "--baseline", "bm25", "--dtype", "float32",
    ]  # fmt: skip
    assert main(command) == 0
    shown = capsys.readouterr().out
    data = json.loads(out.read_text())
    encoder = Path(tiny_encoder).name
    names = [arm["name"] for arm in data["arms"]]
    assert names[:3] == ["bm25", encoder, "reranker over bm25"]
    assert len(names) == 6
    assert data["num_queries"] == 6
    assert data["metrics"] == ["nDCG@10", "MRR@10", "MAP", "Recall@5"]
    assert "win/tie/loss" in shown
    assert "<!doctype html>" in page.read_text()

    qrels = read_qrels(run_dir / "qrels.txt")
    for file in run_dir.glob("*.run"):
        run = read_run(file)
        figure = next(arm for arm in data["arms"] if arm["name"].startswith(file.stem.split("_")[0]))
        assert all(len(found) <= 5 for found in run.values()), figure
    bm25 = evaluate_run(qrels, read_run(run_dir / "bm25.run"), ["nDCG@10"])["nDCG@10"]
    assert mean(bm25) == pytest.approx(data["arms"][0]["metrics"]["nDCG@10"]["mean"], abs=1e-12)
    assert bm25 == data["per_query"]["bm25"]["nDCG@10"]

    stored = load_fusions(reranker)
    assert [item.first_stage for item in stored] == sorted(["bm25", encoder])
    assert all(item.queries == 2 for item in stored)  # q0 is judged in test and left out

    assert main(command) == 0
    again = capsys.readouterr()
    assert "done already" in again.err
    assert again.out.splitlines()[0] == shown.splitlines()[0]


def test_a_reranker_alone_gets_bm25_and_the_stored_weight(
    judged: Path, reranker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_fusion(reranker, Fusion("zscore", 0.0, "nDCG@10", 9, "bm25", query_digests(["another query"])))
    assert main(["evaluate", "-m", str(reranker), "-d", str(judged), "--fusion", "zscore", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [arm["name"] for arm in data["arms"]] == [
        "bm25", "reranker over bm25", "reranker + bm25 (zscore, w=0)"
    ]  # fmt: skip
    assert data["per_query"]["bm25"] == data["per_query"]["reranker + bm25 (zscore, w=0)"]


def test_bm25_alone(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--first_stage", "bm25", "-d", str(judged), "--metrics", "hit@1", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["metrics"] == ["Success@1"]
    assert data["headline"].startswith("bm25: Success@1")


def test_rows_with_a_reranker_an_embedder_and_bm25(
    rows: Path, tiny_encoder: str, tiny_reranker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    command = ["evaluate", f"-m={tiny_reranker}", "-m", tiny_encoder, f"--test_data={rows}", f"--output_file={out}"]
    assert main([*command, "--baseline", "bm25", "--fusion", "rrf", "--first_stage", tiny_encoder]) == 0
    data = json.loads(out.read_text())
    assert data["num_pairs"] == 24
    assert len(data["arms"]) == 4
    for arm in data["arms"]:
        assert set(arm["overall"]) == {"precision", "recall", "F1", "best F1", "AUC"}
        assert {"nDCG@10", "MRR", "MAP", "Success@1", "pair accuracy"} <= set(arm["metrics"])
    bm25 = next(arm for arm in data["arms"] if arm["name"] == "bm25")
    assert bm25["metrics"]["pair accuracy"]["mean"] > 0.9
    assert "over all pairs" in capsys.readouterr().out


def test_rows_with_only_a_reranker_have_one_arm(
    rows: Path, tiny_reranker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--model_path", tiny_reranker, "-d", str(rows), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["arms"]) == 1


def write_split(judged: Path, name: str, numbers: range) -> None:
    lines = [f"q{number}\td{number}\t1" for number in numbers]
    (judged / "qrels" / f"{name}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")


def test_a_weight_chosen_on_test_is_not_used_on_test(
    judged: Path, reranker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_split(judged, "other", range(6, 8))
    words = ["evaluate", "-m", str(reranker), "-d", str(judged), "--fusion", "zscore", "--json"]
    assert main([*words, "--split", "other", "--dev_split", "test"]) == 0
    capsys.readouterr()
    assert main([*words, "--split", "test"]) == 1
    assert "was chosen on 6 of the 6 queries that are judged here" in capsys.readouterr().err
    assert main([*words, "--split", "other"]) == 0
    assert "none of them judged here" in capsys.readouterr().out


def test_the_same_text_under_another_id_is_no_development_query(judged: Path) -> None:
    from finerank.data.sources import read_judged
    from finerank.evaluation.ranking import unseen

    queries = [json.loads(line) for line in (judged / "queries.jsonl").read_text().splitlines()]
    queries[6]["text"] = queries[1]["text"].upper()
    (judged / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in queries))
    assert unseen(read_judged(judged, "dev"), read_judged(judged, "test")).query_ids == ["q7"]


def test_the_same_command_gives_the_same_bytes(judged: Path, reranker: Path, tmp_path: Path) -> None:
    words = ["evaluate", "-m", str(reranker), "-d", str(judged), "--fusion", "zscore", "--dev_split", "dev"]
    found = []
    for name in ("one", "two"):
        assert main([*words, "--output_file", str(tmp_path / f"{name}.json")]) == 0
        found.append((tmp_path / f"{name}.json").read_bytes())
    assert found[0] == found[1]
    assert b"seconds" not in found[0]
    manifest = json.loads((tmp_path / "one.json.manifest.json").read_text())
    assert set(manifest["seconds_per_arm"]) == {"bm25", "reranker over bm25"}


def test_a_weight_that_cannot_be_stored_stops_nothing(
    judged: Path, reranker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (reranker / FILE_NAME).mkdir()
    words = ["evaluate", "-m", str(reranker), "-d", str(judged), "--fusion", "zscore", "--dev_split", "dev", "--json"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert len(json.loads(shown.out)["arms"]) == 3
    assert "could not be stored" in shown.err
    assert "--fusion_weight" in shown.err


def test_pages_and_runs_of_others_are_not_overwritten(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, runs = tmp_path / "page.html", tmp_path / "runs"
    words = ["evaluate", "-m", "bm25", "-d", str(judged), "--report", str(page), "--run_dir", str(runs)]
    page.write_text("mine")
    assert main(words) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert page.read_text() == "mine"
    assert main([*words, "--overwrite"]) == 0
    assert "<!doctype html>" in page.read_text()
    assert main(words) == 0
    assert main([*words, "--limit", "3"]) == 1
    assert "another evaluation" in capsys.readouterr().err
    assert main([*words, "--limit", "3", "--overwrite"]) == 0
    assert len(read_qrels(runs / "qrels.txt")) == 3


def test_a_limited_number_of_queries_is_drawn(judged: Path, rows: Path, tmp_path: Path) -> None:
    def asked(data: Path, seed: int) -> list[str]:
        out = tmp_path / "out.json"
        words = ["evaluate", "-m", "bm25", "-d", str(data), "--limit", "2", "--seed", str(seed), "--overwrite"]
        assert main([*words, "--metrics", "MRR@10", "--output_file", str(out)]) == 0
        return sorted(next(iter(json.loads(out.read_text())["per_query"].values()))["MRR@10"])

    by_seed = [asked(judged, seed) for seed in range(6)]
    assert {len(names) for names in by_seed} == {2}
    assert len({tuple(names) for names in by_seed}) > 1  # not always the first ones
    assert asked(judged, 3) == by_seed[3]
    assert len(asked(rows, 0)) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--metrics", "ndgc@10"], "unknown metric"),
        (["--baseline", "bm52"], "no arm is called"),
        (["--fusion", "zscore"], "no zscore weight"),
        (["--report", "DATA/page.html"], "lies inside --data"),
        (["--run_dir", "DATA"], "lies inside --data"),
        (["--output_file", "x.json", "--report", "x.json"], "different places"),
        (["--split", "none"], 'no split "none"'),
        (["--dev_split", "gone", "--fusion", "rrf"], 'no split "gone"'),
        (["--data", "./missing.jsonl"], "missing.jsonl"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(
    judged: Path, reranker: Path, more: list[str], message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from finerank.evaluation import arms

    def never(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(arms, "_load", never)
    words = [word.replace("DATA", str(judged)) for word in more]
    data = [] if "--data" in more else ["-d", str(judged)]
    assert main(["evaluate", "-m", str(reranker), *data, *words]) in (1, 2)
    assert message in capsys.readouterr().err


def test_fusion_without_a_reranker_is_a_usage_error(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "-m", "bm25", "-d", str(judged), "--fusion", "rrf"]) == 2
    assert "there is no reranker" in capsys.readouterr().err


def test_every_arm_may_be_the_baseline(judged: Path, reranker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "-m", str(reranker), "-d", str(judged), "--fusion", "zscore", "--fusion_weight", "2", "--json"]
    for baseline in ("bm25", "reranker over bm25", "reranker + bm25 (zscore, w=2)", str(reranker)):
        assert main([*words, "--baseline", baseline]) == 0
        assert json.loads(capsys.readouterr().out)["baseline"] == baseline.replace(str(reranker), "reranker over bm25")
    assert main([*words, "--baseline", "reranker + bm25 (zscore, w=3)"]) == 2


def test_an_instruction_and_its_format_are_the_prompt(judged: Path) -> None:
    from finerank.stages.evaluate import EvaluateOptions, arm_options

    words = {"model_name_or_path": ["m"], "data": [str(judged)], "query_instruction_for_retrieval": "Find it"}
    options = EvaluateOptions(**words, query_instruction_format_for_retrieval="Instruct: {}\\nQuery: {}")
    assert arm_options(options).encoder["query_prompt"] == "Instruct: Find it\nQuery: "
    assert arm_options(EvaluateOptions(**words)).encoder["query_prompt"] == "Find it"


def test_rows_compare_as_the_model_does(rows: Path, dot_encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An inner-product model's best threshold is far beyond what a cosine can be."""
    assert main(["evaluate", "-m", str(dot_encoder), "-d", str(rows), "--dtype", "float32", "--json"]) == 0
    (arm,) = json.loads(capsys.readouterr().out)["arms"]
    assert float(arm["facts"]["best threshold"]) > 2.0


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["-m", "./nowhere"], 1, "not found"),
        (["--first_stage", "bm25", "--split", "train"], 1, 'no split "train"'),
        (["--first_stage", "bm25", "--metrics", "ndgc@10"], 2, "unknown metric"),
        (["--first_stage", "bm25", "--baseline", "bm52"], 2, "no arm is called"),
        (["--first_stage", "bm25", "--fusion_weight", "much"], 2, "--fusion_weight"),
        ([], 2, "needs a model"),
    ],
)
def test_mistakes_are_one_sentence(
    judged: Path, more: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "never.json"
    assert main(["evaluate", "-d", str(judged), "--output_file", str(out), *more]) == code
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_auto_weight_without_a_source_is_an_error(
    judged: Path, reranker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "-m", str(reranker), "-d", str(judged), "--fusion", "zscore"]) == 1
    assert "--dev_split" in capsys.readouterr().err
    assert not (reranker / FILE_NAME).exists()


def test_a_second_evaluation_scores_what_the_first_did_not(
    judged: Path, tiny_encoder: str, reranker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []
    real = CrossEncoder.score

    def counting(self: CrossEncoder, pairs: Sequence[Pair], progress: Progress | None = None) -> Any:
        scored.append(len(pairs))
        return real(self, pairs, progress)

    monkeypatch.setattr(CrossEncoder, "score", counting)
    command = ["evaluate", "-m", str(reranker), "-d", str(judged), "--embedding_cache", str(tmp_path / "cache")]
    results = {}
    for name, depth, cache in (("some", "3", []), ("all", "8", []), ("anew", "8", ["--embedding_cache", "none"])):
        out = tmp_path / f"{name}.json"
        words = [*command, *cache, "--first_stage", tiny_encoder, "--top_k", depth, "--output_file", str(out)]
        assert main(words) == 0
        results[name] = json.loads(out.read_text())
    assert scored == [6 * 3, 6 * 5, 6 * 8]
    assert results["all"] == results["anew"]
    assert main([*command, "--first_stage", tiny_encoder, "--top_k", "2"]) == 0
    assert scored[3:] == []
