"""``finerank train`` with FSDP in two processes on a CPU: the model that one process trains, whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import several
import train_process

from finerank.training import checkpoint
from tests.stages.test_train_several import given, same_weights

NOUNS = ["cat", "code", "dog", "file", "find", "fish", "list", "name", "path", "string", "text"]
LAYERS = {"fsdp": ["True"], "optim": ["sgd"]}
"""Adam would blow rounding errors of near-zero gradients up to whole steps."""


@pytest.fixture
def rows_file(tmp_path: Path) -> str:
    rows = [
        {
            "query": f"{noun} {index}",
            "pos": [f"the {noun} of {NOUNS[index - 3]} {index} is " + "read and write " * (index % 4)],
            "neg": [f"{NOUNS[index - step]} search " * step for step in (1, 2, 4)],
        }
        for index, noun in enumerate(NOUNS)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.slow
def test_shards_train_what_one_process_does(
    tmp_path: Path, rows_file: str, tiny_encoder: str, tiny_reranker: str, tiny_decoder: str
) -> None:
    """Layer by layer, with activations kept and run again, cached, by adapters, frozen below, measured on the way."""
    from sentence_transformers import CrossEncoder, SentenceTransformer

    again = {"gradient_checkpointing": ["True"]}
    config = tmp_path / "fsdp.json"
    config.write_text(json.dumps({"fsdp_activation_checkpointing": True, "transformer_layer_cls_to_wrap": "BertLayer"}))
    cases: dict[str, Any] = {
        "layers": ("EmbedderOptions", tiny_encoder, {}, {}),
        "again": ("EmbedderOptions", tiny_encoder, again, {}),
        "file": ("EmbedderOptions", tiny_encoder, {"fsdp_config": [str(config)]}, {"sub_batch_size": 4}),
        "low": ("EmbedderOptions", tiny_encoder, {}, {"dtype": "bfloat16"}),
        "frozen": ("RerankerOptions", tiny_reranker, again, {"freeze": ["embeddings", "layers:0"]}),
        "adapters": (
            "EmbedderOptions",
            tiny_decoder,
            {},
            {"use_lora": True, "save_merged_lora_model": True, "lora_dropout": 0.0},
        ),
        "measured": ("RerankerOptions", tiny_reranker, {}, {"eval_data": [rows_file], "eval_steps": 1}),
    }

    def run(way: str, name: str, **more: Any) -> tuple[str, dict[str, Any]]:
        kind, model, extras, values = cases[name]
        return given(kind, model, rows_file, tmp_path / way / name, **values | {"extras": LAYERS | extras} | more)

    several.finish(several.start(tmp_path / "log", [run("two", name) for name in cases]), tmp_path / "log")
    for name, (_, _, extras, _) in cases.items():
        plain = {key: value for key, value in (LAYERS | extras).items() if "fsdp" not in key}
        train_process.train(*run("one", name, extras=plain, per_device_train_batch_size=6), quiet=True)
        same_weights(tmp_path / "one" / name, tmp_path / "two" / name, 1e-2 if name == "low" else 1e-4)
    assert several.said(tmp_path / "log", 1) == ""
    assert len(SentenceTransformer(str(tmp_path / "two" / "layers"), device="cpu").encode(["a cat"])[0]) == 32
    assert CrossEncoder(str(tmp_path / "two" / "measured"), device="cpu").predict([("a cat", "a dog")]).shape == (1,)


@pytest.mark.slow
def test_a_killed_sharded_training_goes_on_with_the_same_bits(
    tmp_path: Path, rows_file: str, tiny_encoder: str
) -> None:
    """Adam and dropout included: what is sharded is gathered and shared out again without a rounding."""
    values: dict[str, Any] = {
        "extras": {"fsdp": ["True"]}, "dropout": 0.1, "num_train_epochs": 2, "save_steps": 1, "save_total_limit": 9,
        "learning_rate": 1e-3,
    }  # fmt: skip

    def trained(name: str, **more: Any) -> Path:
        run = given("EmbedderOptions", tiny_encoder, rows_file, tmp_path / name, **values | more)
        several.finish(several.start(tmp_path / f"{name}.log", [run]), tmp_path / f"{name}.log")
        return tmp_path / name

    whole = trained("whole")
    torn = whole / "checkpoint-3"
    assert not checkpoint.fault(torn)
    assert not list(torn.glob("pytorch_model*"))
    shutil.copytree(whole / "checkpoint-1", tmp_path / "checkpoint-1")
    resumed = trained("resumed", resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    same_weights(whole, resumed, tolerance=0.0)
    assert (whole / "metrics.jsonl").read_bytes() == (resumed / "metrics.jsonl").read_bytes()
