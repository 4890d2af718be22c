"""What a run is watched by: a plateau's learning rate, queries held out, its first stage, tripwires, reports."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from finerank.core.errors import DataError, UsageError, UserError
from finerank.evaluation.fusion_store import load_fusions, query_digests
from finerank.stages.train import EmbedderOptions, RerankerOptions, run
from finerank.training import reports

from .test_train import journal, options, write_judged, write_rows

STILL: dict[str, Any] = {"learning_rate": 1e-12, "factor": 0.5, "patience": 0, "plateau_stop": 0.1}
"""Nothing is learnt: from the second epoch on, each halves the learning rate; the fourth time it is below a tenth."""


@pytest.fixture
def rows_file(tmp_path: Path) -> str:
    return write_rows(tmp_path / "rows.jsonl", 10)


def figures(folder: Path, name: str) -> dict[int, float]:
    return {entry["step"]: entry[f"eval_{name}"] for entry in journal(folder) if f"eval_{name}" in entry}


def test_a_thousand_epochs_end_with_the_learning_rate(
    tmp_path: Path, rows_file: str, tiny_reranker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", num_train_epochs=1000, **STILL)
    outcome = run(given)
    # 7 rows left, 4 a batch: 2 steps an epoch.
    assert outcome.data["rows"] == 7
    assert list(figures(tmp_path / "out", "loss")) == [0, 2, 4, 6, 8, 10]
    rates = {entry["step"]: entry["learning_rate"] for entry in journal(tmp_path / "out") if "learning_rate" in entry}
    assert [rates[step] for step in (1, 4, 6, 8, 10)] == pytest.approx([1e-12, 1e-12, 5e-13, 2.5e-13, 1.25e-13])
    said = capsys.readouterr().err
    assert "no --eval_data: 30% of the queries are held out" in said
    assert "3 queries (3 of 10 rows) are held out to measure on" in said
    assert "below 0.1 of the first one (--plateau_stop): stopping at step 10" in said
    assert outcome.data["exhausted"] is True
    # More epochs of it have nothing to add.
    again = options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", num_train_epochs=2000, **STILL)
    assert run(again).data["steps"] == 10
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize("family", [EmbedderOptions, RerankerOptions])
def test_more_epochs_of_a_finished_run_are_those_of_a_longer_one(
    tmp_path: Path, rows_file: str, tiny_encoder: str, family: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    values: dict[str, Any] = {"factor": 0.5, "patience": 0, "dropout": 0.1, "learning_rate": 5e-3}
    run(options(family, tiny_encoder, rows_file, tmp_path / "whole", num_train_epochs=4, **values))
    run(options(family, tiny_encoder, rows_file, tmp_path / "parts", num_train_epochs=2, **values))
    outcome = run(options(family, tiny_encoder, rows_file, tmp_path / "parts", num_train_epochs=4, **values))
    assert "finished after fewer epochs, going on from there" in capsys.readouterr().err
    assert outcome.data["steps"] == 8
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    losses = figures(tmp_path / "whole", "loss")
    assert outcome.data["best_step"] == min((step for step in losses if step), key=lambda step: losses[step])
    assert outcome.data["best"]["loss"] == min(value for step, value in losses.items() if step)
    # Fewer epochs than it has: it stands as it is.
    run(options(family, tiny_encoder, rows_file, tmp_path / "parts", num_train_epochs=3, **values))
    assert "nothing to do" in capsys.readouterr().err


def test_held_out_queries_for_any_training(tmp_path: Path, rows_file: str, tiny_encoder: str) -> None:
    given = options(EmbedderOptions, tiny_encoder, rows_file, tmp_path / "out", hold_out=0.2, max_steps=2)
    outcome = run(given)
    assert outcome.data["rows"] == 8
    assert set(outcome.data["best"]) == {"nDCG@10", "MRR", "accuracy"}


def test_options_that_contradict_each_other(tmp_path: Path, rows_file: str, tiny_reranker: str) -> None:
    both = options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", hold_out=0.2, eval_data=[rows_file])
    with pytest.raises(UsageError, match="both say what to measure on"):
        run(both)
    judged = write_judged(tmp_path / "judged", rows_file)
    given = options(
        RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", eval_data=[judged], metric_for_best_model="loss"
    )  # fmt: skip
    with pytest.raises(UsageError, match="is measured on rows"):
        run(given)


def test_a_reranker_stands_beside_its_first_stage_everywhere(
    tmp_path: Path, rows_file: str, tiny_reranker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = write_judged(tmp_path / "judged", rows_file)
    values: dict[str, Any] = {"eval_data": [judged], "max_steps": 1, "learning_rate": 1e-9}
    given = options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", **values)
    outcome = run(given)
    first, tuned, fused = (
        outcome.data["first_stage"]["figures"], outcome.data["best"], outcome.data["fused"]["figures"],
    )  # fmt: skip
    # Random weights against shared words.
    assert first["nDCG@10"] > tuned["nDCG@10"]
    assert fused["nDCG@10"] >= first["nDCG@10"]
    (sentence,) = [text for text in outcome.data["tripwires"] if "first stage" in text]
    assert "does not beat its own first stage bm25" in sentence
    said = capsys.readouterr().err
    assert f"first stage bm25: nDCG@10 {first['nDCG@10']:.4f}" in said
    assert f"warning: {sentence}" in said
    assert f"warning: {sentence}" in outcome.text
    assert "first stage bm25" in outcome.text
    for name in ("README.md", "training.html"):
        assert "does not beat its own first stage bm25" in (tmp_path / "out" / name).read_text()
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert manifest["counts"]["tripwires"] == outcome.data["tripwires"]
    stored = {item.fusion: item for item in load_fusions(tmp_path / "out")}
    assert set(stored) == {"zscore", "rrf"}
    assert stored["zscore"].weight == outcome.data["fused"]["weight"]
    assert stored["zscore"].first_stage == "bm25"
    lines = (Path(judged) / "queries.jsonl").read_text().splitlines()
    assert set(stored["zscore"].seen or ()) <= set(query_digests(json.loads(line)["text"] for line in lines))


def test_strict_leaves_no_finished_model(tmp_path: Path, rows_file: str, tiny_reranker: str) -> None:
    judged = write_judged(tmp_path / "judged", rows_file)
    values: dict[str, Any] = {"eval_data": [judged], "max_steps": 1, "learning_rate": 1e-9}
    given = options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", strict=True, **values)
    with pytest.raises(UserError, match=r"does not beat its own first stage.*\(--strict\)"):
        run(given)
    assert not (tmp_path / "out.manifest.json").exists()
    assert not (tmp_path / "out" / "model.safetensors").exists()
    # Without it, the same run only has the saving left to do.
    lenient = options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", **values)
    assert run(lenient).data["steps"] == 1
    cut = options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "cut", strict=True, max_len=8, max_steps=1)
    with pytest.raises(UserError, match="longer than 8 tokens and get cut"):
        run(cut)


def test_long_positives_of_a_later_data_set_are_seen(
    tmp_path: Path, rows_file: str, tiny_reranker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finerank.training import job

    monkeypatch.setattr(job, "POSITIVES_LOOKED_AT", 4)
    rows = [json.loads(line) for line in Path(rows_file).read_text().splitlines()]
    longer = tmp_path / "longer.jsonl"
    longer.write_text("".join(json.dumps(row | {"pos": [row["pos"][0] * 40]}) + "\n" for row in rows))
    given = options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", strict=True, max_len=60, max_steps=1)
    with pytest.raises(UserError, match="2 of 4 positives .* are longer than 60 tokens"):
        run(dataclasses.replace(given, train_data=[rows_file, str(longer)]))


def test_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match='unknown --report_to "tensorbord"; did you mean "tensorboard"'):
        reports.check_reports(["tensorbord"])
    monkeypatch.setattr(reports, "get_available_reporting_integrations", lambda: ["wandb"])
    with pytest.raises(UserError, match="--report_to tensorboard needs a package") as caught:
        reports.check_reports(["wandb", "tensorboard"])
    assert "pip install tensorboard" in str(caught.value.hint)
    for fine in (None, "none", ["all"], "wandb"):
        reports.check_reports(fine)


def test_the_loss_of_a_distillation_needs_a_teacher_on_the_held_out_rows_too(
    tmp_path: Path, rows_file: str, tiny_reranker: str
) -> None:
    taught = write_rows(tmp_path / "taught.jsonl", 6, pos_scores=[1.0], neg_scores=[0.0, 0.0, 0.0])
    values: dict[str, Any] = {"knowledge_distillation": True, "metric_for_best_model": "loss", "max_steps": 1}
    bare = options(RerankerOptions, tiny_reranker, taught, tmp_path / "out", eval_data=[rows_file], **values)
    with pytest.raises(DataError, match=r"rows.jsonl:1: the held-out loss of a distillation needs pos_scores"):
        run(bare)
    given = options(RerankerOptions, tiny_reranker, taught, tmp_path / "out", eval_data=[taught], **values)
    assert run(given).data["best"]["loss"] > 0
