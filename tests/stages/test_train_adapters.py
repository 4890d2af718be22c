"""``finerank train`` with adapters and frozen weights: what is written, resumes, other verbs that read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finerank.cli import main
from finerank.models.load import load_encoder, load_scorer
from finerank.stages.train import EmbedderOptions, RerankerOptions, run
from tests.stages.test_train import journal, losses, options, write_rows

pytest.importorskip("peft")
ADAPTER = "adapter_model.safetensors"
LORA: dict[str, Any] = {"use_lora": True, "lora_rank": 4, "learning_rate": 3e-3}


@pytest.fixture
def rows_file(tmp_path: Path) -> str:
    return write_rows(tmp_path / "rows.jsonl", 10)


@pytest.mark.parametrize(
    ("family", "base"),
    [(EmbedderOptions, "tiny_encoder"), (EmbedderOptions, "tiny_decoder"), (RerankerOptions, "tiny_encoder")],
)
def test_it_learns_and_saves_the_adapter_alone(
    family: Any, base: str, tmp_path: Path, rows_file: str, request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    name, out = request.getfixturevalue(base), tmp_path / "out"
    outcome = run(options(family, name, rows_file, out, num_train_epochs=10, eval_data=[rows_file], **LORA))
    curve = losses(out)
    assert sum(curve[-6:]) < 0.8 * sum(curve[:6])
    assert (out / ADAPTER).exists()
    assert not (out / "model.safetensors").exists()
    said = capsys.readouterr().err
    assert "LoRA of rank 4" in said
    assert "trained" in said
    load = load_scorer if family is RerankerOptions else load_encoder
    from finerank.data.sources import read_rows
    from finerank.evaluation.held_out import rows_measure

    model = load(str(out), device="cpu", dtype="float32")
    values = rows_measure(read_rows([rows_file]), **{"scorer" if family is RerankerOptions else "encoder": model})()
    assert sum(values["nDCG@10"]) / 10 == pytest.approx(outcome.data["best"]["nDCG@10"])


@pytest.mark.parametrize("family", [EmbedderOptions, RerankerOptions])
def test_a_resume_gives_the_same_bytes(family: Any, tmp_path: Path, rows_file: str, tiny_encoder: str) -> None:
    values: dict[str, Any] = {
        **LORA, "num_train_epochs": 3, "save_steps": 1, "save_total_limit": 20, "dropout": 0.1, "eval_steps": 3,
        "eval_data": [rows_file],
    }  # fmt: skip
    run(options(family, tiny_encoder, rows_file, tmp_path / "whole", **values))
    from_four = str(tmp_path / "whole" / "checkpoint-4")
    kept = load_file(f"{from_four}/model.safetensors")
    assert all("lora_" in name or "modules_to_save" in name or "position_ids" in name for name in kept)
    run(options(family, tiny_encoder, rows_file, tmp_path / "rest", **values, resume_from_checkpoint=from_four))
    for name in (ADAPTER, "metrics.jsonl"):
        assert (tmp_path / "rest" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert journal(tmp_path / "rest")[-1]["step"] == 9


def test_frozen_weights_are_not_in_checkpoints_and_a_resume_is_exact(
    tmp_path: Path, rows_file: str, tiny_encoder: str
) -> None:
    values: dict[str, Any] = {
        "freeze": ["embeddings"], "num_train_epochs": 2, "save_steps": 1, "save_total_limit": 20, "dropout": 0.1,
    }  # fmt: skip
    run(options(RerankerOptions, tiny_encoder, rows_file, tmp_path / "whole", **values))
    from_two = str(tmp_path / "whole" / "checkpoint-2")
    assert not any("embeddings" in name for name in load_file(f"{from_two}/model.safetensors"))
    run(options(RerankerOptions, tiny_encoder, rows_file, tmp_path / "rest", **values, resume_from_checkpoint=from_two))
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "rest" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_merged_at_the_end(tmp_path: Path, rows_file: str, tiny_reranker: str) -> None:
    given: dict[str, Any] = LORA | {"max_steps": 3}
    run(options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "alone", **given))
    run(options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "whole", **given, save_merged_lora_model=True))
    pairs = [("cat 1", "the cat of code"), ("dog", "search the tree")]
    scores = [
        load_scorer(str(tmp_path / name), device="cpu", dtype="float32").score(pairs) for name in ("alone", "whole")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert (
        load_file(tmp_path / "whole" / "model.safetensors").keys()
        == load_file(Path(tiny_reranker) / "model.safetensors").keys()
    )


@pytest.mark.parametrize("keywords", [[], ["--gradient_checkpointing_kwargs", '{"use_reentrant": true}']])
def test_gradient_checkpointing_and_caching_change_nothing(
    keywords: list[str], tmp_path: Path, rows_file: str, tiny_encoder: str
) -> None:
    given: dict[str, Any] = LORA | {"max_steps": 4, "lora_dropout": 0.0}
    run(options(RerankerOptions, tiny_encoder, rows_file, tmp_path / "plain", **given))
    extras = {"gradient_checkpointing": ["True"]}
    if keywords:
        extras["gradient_checkpointing_kwargs"] = keywords[1:]
    run(options(RerankerOptions, tiny_encoder, rows_file, tmp_path / "saved", **given), extras)
    run(options(RerankerOptions, tiny_encoder, rows_file, tmp_path / "cached", **given, sub_batch_size=2))
    for name in ("saved", "cached"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)


def test_frozen_weights_stay_to_the_bit(tmp_path: Path, rows_file: str, tiny_encoder: str) -> None:
    given = options(
        EmbedderOptions, tiny_encoder, rows_file, tmp_path / "out", freeze=["embeddings", "layers:0"], max_steps=3,
        weight_decay=0.1,
    )  # fmt: skip
    run(given)
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (tiny_encoder, tmp_path / "out"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith(("encoder.layer.1.", "pooler.")) for name in moved)


def test_other_verbs_read_an_adapter_folder(
    tmp_path: Path, rows_file: str, tiny_encoder: str, tiny_reranker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder, reranker = str(tmp_path / "embedder"), str(tmp_path / "reranker")
    run(options(EmbedderOptions, tiny_encoder, rows_file, Path(embedder), max_steps=2, **LORA))
    run(options(RerankerOptions, tiny_reranker, rows_file, Path(reranker), max_steps=2, **LORA))
    texts, out = tmp_path / "texts.jsonl", tmp_path / "out"
    out.mkdir()
    texts.write_text('{"text": "cat and dog"}\n')
    candidates = tmp_path / "candidates.json"
    candidates.write_text(json.dumps({"query": "cat", "knowledges": ["the cat", "the dog"]}))
    cpu = ["--device", "cpu"]
    lines = [
        ["embed", "--model_name_or_path", embedder, "--input_file", str(texts), "--output_file", f"{out}/v.npy", *cpu],
        ["mine", "--model_name_or_path", embedder, "--input_file", rows_file, "--output_file", f"{out}/m.jsonl",
         "--range_for_sampling", "0-20", "--negative_number", "2", *cpu],
        ["score", "--reranker_name_or_path", reranker, "--input_file", rows_file, "--output_file", f"{out}/s.jsonl",
         *cpu],
        ["score", "--reranker_name_or_path", tiny_reranker, "--reranker_peft_path", reranker, "--input_file", rows_file,
         "--output_file", f"{out}/p.jsonl", *cpu],
        ["rerank", "--model_dir", reranker, "--data_path", str(candidates), *cpu],
        ["evaluate", "-m", embedder, tiny_encoder, "-d", rows_file, *cpu],
        ["evaluate", "-m", reranker, tiny_reranker, "-d", rows_file, *cpu],
    ]  # fmt: skip
    for line in lines:
        assert main(line) == 0, (line, capsys.readouterr().err)
    assert (out / "s.jsonl").read_bytes() == (out / "p.jsonl").read_bytes()
