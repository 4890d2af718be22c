"""FSDP: what the command line means, what is sharded, and that shards in two processes train what one process does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import several
import torch
from tiny import ScorerModule, TinyEncoder, TinyScorer, train

from finerank.core.errors import UsageError, UserError
from finerank.core.train_options import RerankerOptions
from finerank.training import checkpoint, fully_sharded, parallel
from finerank.training.arguments import training_arguments

SHARED: dict[str, Any] = {"dropout": 0.0, "rows": 11, "num_train_epochs": 2, "per_device_train_batch_size": 3}
CASES: dict[str, dict[str, Any]] = {
    # The last global batch has 5 rows, shared 3 and 2; the parts of a step are 5 and 4 texts.
    "cached": {"family": TinyEncoder, "texts_per_forward": 4, "cached": True},
    # Measured worse and worse: the weights of step 1 come back at the end, whole.
    "worse": {"family": TinyScorer, "evaluate": True, "eval_steps": 1, "sign": -1.0},
}
MORE: dict[str, dict[str, Any]] = {
    "embedder": {"family": TinyEncoder},
    "idle": {"family": TinyEncoder, "rows": 9, "per_device_train_batch_size": 4},
    "accumulated": {"family": TinyEncoder, "gradient_accumulation_steps": 2},
    "both": {"family": TinyScorer, "texts_per_forward": 5, "cached": True, "gradient_accumulation_steps": 2},
    "clamped": {"family": TinyEncoder, "clip": "value", "max_grad_norm": 0.002},
    "norm": {"family": TinyEncoder, "max_grad_norm": 0.01},
    "kept": {"family": TinyScorer, "fsdp_config": {"reshard_after_forward": False, "cpu_offload": True}},
    "pieces": {"family": TinyScorer, "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}},
}


def test_the_command_line_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "fsdp.json"
    file.write_text(json.dumps({"fsdp_transformer_layer_cls_to_wrap": ["BertLayer"], "activation_checkpointing": True}))
    options = RerankerOptions(train_data=["rows.jsonl"])
    with pytest.raises(UsageError, match="several processes"):
        parallel.settle(options, {"fsdp": True}, on_cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    typed: dict[str, Any] = {"fsdp_config": str(file)}
    parallel.settle(options, typed, on_cpu=True)
    wanted = {"transformer_layer_cls_to_wrap": ["BertLayer"]}
    assert typed == {"fsdp": True, "fsdp_config": wanted, "gradient_checkpointing": True}
    for word in ("True", "true", "1", True):
        typed = {"fsdp": word}
        parallel.settle(options, typed, on_cpu=False)
        assert typed == {"fsdp": True, "fsdp_config": {}}
    typed = {"fsdp": "False", "fsdp_config": "nothing.json"}
    parallel.settle(options, typed, on_cpu=True)
    assert typed == {}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("[]", "--fsdp_config .* must hold a JSON object"),
        ('{"version": 1}', "on a CPU is version 2, and the file asks for version 1"),
        (None, "there is no such file"),
    ],
)
def test_a_bad_file_is_one_sentence(
    content: str | None, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    file = tmp_path / "fsdp.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=word):
        parallel.settle(RerankerOptions(train_data=["rows.jsonl"]), {"fsdp_config": str(file)}, on_cpu=True)


def test_the_cpu_of_a_machine_with_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with pytest.raises(UserError, match="over this machine's GPUs"):
        parallel.settle(RerankerOptions(train_data=["rows.jsonl"]), {"fsdp": True}, on_cpu=True)


def test_a_models_own_layers_are_sharded_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertConfig, BertModel

    bert = BertModel(BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=2, num_attention_heads=1))
    assert "BertLayer" in fully_sharded._layers(torch.nn.Sequential(bert), None)
    assert fully_sharded._layers(ScorerModule(0.0), None) == []
    assert fully_sharded._layers(ScorerModule(0.0), "Tanh,Linear") == ["Tanh", "Linear"]
    with pytest.raises(UserError, match="there is no GPTBlock in the model"):
        fully_sharded._layers(torch.nn.Sequential(bert), "BertLayer,GPTBlock")
    plain = training_arguments({"output_dir": str(tmp_path), "use_cpu": True}, {})
    fully_sharded.complete(plain, bert, torch.bfloat16)
    assert "forward" not in vars(bert)


def two_are_one(folder: Path, cases: dict[str, dict[str, Any]]) -> None:
    """Check that two processes with shards train what one does with the double batch."""
    cases = {name: SHARED | case for name, case in cases.items()}
    runs = [("tiny", case | {"output_dir": str(folder / "two" / name), "fsdp": True}) for name, case in cases.items()]
    # What comes after in the same processes is not sharded.
    runs.append(("tiny", SHARED | {"output_dir": str(folder / "two" / "plain")}))
    processes = several.start(folder / "log", runs)
    for name, case in (cases | {"plain": SHARED}).items():
        alone = {key: value for key, value in case.items() if "fsdp" not in key}
        batch = 2 * case["per_device_train_batch_size"]
        result, model = train(folder / "one" / name, **alone | {"per_device_train_batch_size": batch})
        cases[name] = {"weights": model.module.state_dict(), "best": result.best_step}
    several.finish(processes, folder / "log")
    assert cases["worse"]["best"] == 1 if "worse" in cases else True
    for name, found in cases.items():
        weights = torch.load(folder / "two" / name / "final" / "tiny.pt", weights_only=True)
        for key, tensor in found["weights"].items():
            assert torch.allclose(weights[key], tensor, atol=1e-4), (name, key)
        newest = checkpoint.find(folder / "two" / name).newest
        assert newest is not None
        assert (newest / "optimizer.bin").is_file() == (name not in ("plain", "pieces"))


def test_shards_train_what_one_process_does(tmp_path: Path) -> None:
    two_are_one(tmp_path, CASES)


@pytest.mark.slow
def test_shards_train_what_one_process_does_in_every_way(tmp_path: Path) -> None:
    two_are_one(tmp_path, MORE)


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [False, True])
def test_a_resume_has_the_same_bits(tmp_path: Path, pieces: bool) -> None:
    """With Adam, dropout and an evaluation; the optimizer's state whole in one file, or in the processes' pieces."""
    config: dict[str, Any] = {"state_dict_type": "SHARDED_STATE_DICT"} if pieces else {}
    values: dict[str, Any] = {
        "fsdp": True, "evaluate": True, "eval_steps": 2, "save_steps": 2, "fsdp_config": config,
    }  # fmt: skip
    runs = [("tiny", values | {"output_dir": str(tmp_path / name)}) for name in ("whole", "resumed")]
    log = tmp_path / "log"
    several.finish(several.start(log, runs), log)
    for folder in (tmp_path / "resumed").glob("checkpoint-*"):
        if checkpoint.step_of(folder) > 2:
            (folder / checkpoint.SEAL).unlink()
    several.finish(several.start(log, runs[1:]), log)
    assert "going on from" in several.said(log, 0)
    ends = [torch.load(tmp_path / name / "final" / "tiny.pt", weights_only=True) for name in ("whole", "resumed")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    journals = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "resumed")]
    assert journals[0] == journals[1]
