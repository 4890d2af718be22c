"""DeepSpeed files: what they say to the trainer, what is left for DeepSpeed, what cannot be."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from finerank.core.errors import UsageError, UserError
from finerank.core.train_options import RerankerOptions
from finerank.training import parallel, zero

SEED: dict[str, Any] = {
    "zero_optimization": {"stage": 0},
    "fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 10, "loss_scale_window": 1000},
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto"},
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}
"""The shape of seed 003's ds_stage0.json."""


def write(folder: Path, content: Any, name: str = "ds.json") -> str:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder / name)


def options(**values: Any) -> RerankerOptions:
    return RerankerOptions(train_data=["rows.jsonl"], **values)


def test_what_is_automatic_says_only_its_schedule() -> None:
    assert zero.trainer_settings(SEED) == {"lr_scheduler_type": "linear"}
    assert zero.trainer_settings({}) == {}


def test_numbers_go_to_the_trainer() -> None:
    content = {
        "gradient_clipping": 0.5,
        "gradient_accumulation_steps": 4,
        "optimizer": {"type": "Adam", "params": {"lr": 1e-5, "betas": [0.8, 0.9], "weight_decay": 0}},
        "scheduler": {"type": "WarmupCosineLR", "params": {"warmup_num_steps": 7}},
    }
    assert zero.trainer_settings(content) == {
        "max_grad_norm": 0.5, "gradient_accumulation_steps": 4, "learning_rate": 1e-5, "weight_decay": 0,
        "adam_beta1": 0.8, "adam_beta2": 0.9, "lr_scheduler_type": "cosine", "warmup_steps": 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "word"),
    [({"optimizer": {"type": "Lamb"}}, "optimizer Lamb"), ({"scheduler": {"type": "OneCycle"}}, "schedule OneCycle")],
)
def test_what_the_trainer_has_not_is_named(content: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        zero.trainer_settings(content)


def test_deepspeed_keeps_the_spreading() -> None:
    content = SEED | {"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "overlap_comm": True}}
    before = copy.deepcopy(content)
    part = zero.own_part(content)
    assert content == before
    assert "optimizer" not in part
    assert "scheduler" not in part
    assert part["gradient_accumulation_steps"] == part["train_batch_size"] == "auto"
    assert part["zero_optimization"] == {
        "stage": 3, "overlap_comm": True, "stage3_gather_16bit_weights_on_model_save": True
    }  # fmt: skip
    assert zero.own_part({})["zero_optimization"] == {"stage": 0}


@pytest.mark.parametrize(
    ("sections", "dtype", "on_cpu", "sixteen", "autocast"),
    [
        ({}, "float32", True, False, False),
        ({}, "bfloat16", True, False, True),
        ({"bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}}, "bfloat16", False, False, True),
        ({"bf16": {"enabled": True}}, "bfloat16", False, True, False),
        ({"fp16": {"enabled": True}}, "float32", True, False, False),
        ({"fp16": {"enabled": True}}, "bfloat16", True, False, True),
        ({"fp16": {"enabled": True}}, "float16", False, True, False),
        ({"fp16": {"enabled": "auto"}}, "float16", False, True, False),
    ],
)
def test_weights_stay_float32_unless_the_file_says_so(
    sections: dict[str, Any], dtype: str, on_cpu: bool, sixteen: bool, autocast: bool
) -> None:
    part = zero.own_part(sections)
    said = zero.number_format(part, dtype, on_cpu=on_cpu)
    assert zero.sixteen_bit(part) is sixteen
    assert part["torch_autocast"]["enabled"] is autocast
    assert (said is not None) == (on_cpu and "fp16" in sections)


@pytest.mark.parametrize(
    ("content", "word"), [("{", "not JSON"), ("[]", "must hold a JSON object, not a list"),
                          ({"zero_optimization": {"stage": 4}}, "ZeRO stage 4")],
)  # fmt: skip
def test_a_bad_file_is_one_sentence(tmp_path: Path, content: Any, word: str) -> None:
    with pytest.raises(UserError, match=word):
        parallel.settle(options(deepspeed=write(tmp_path, content)), {}, on_cpu=True)


def test_a_missing_file_is_an_error_even_without_deepspeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero, "missing", lambda: "deepspeed is not installed")
    with pytest.raises(UserError, match="no such file"):
        parallel.settle(options(deepspeed=str(tmp_path / "ds.json"), use_deepspeed=True), {}, on_cpu=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="needs a configuration file"):
        parallel.settle(options(use_deepspeed=True), {}, on_cpu=True)
    write(tmp_path, SEED, "ds_stage0.json")
    parallel.settle(options(use_deepspeed=True), {}, on_cpu=True)


def test_without_deepspeed_the_file_is_used_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zero, "missing", lambda: "deepspeed is not installed")
    path = write(
        tmp_path, {"gradient_accumulation_steps": 4, "gradient_clipping": 2.0, "zero_optimization": {"stage": 2}}
    )
    given, typed = options(deepspeed=path, use_deepspeed=True), dict[str, Any]()
    parallel.settle(given, typed, on_cpu=True)
    assert given.gradient_accumulation_steps == 4
    assert typed == {"max_grad_norm": 2.0}
    said = capsys.readouterr().err
    assert "deepspeed is not installed" in said
    assert "ZeRO stage 2 spreads nothing" in said
    with pytest.raises(UserError, match="deepspeed is not installed"):
        parallel.settle(options(deepspeed=path), {}, on_cpu=True)


def test_use_deepspeed_false_leaves_the_file_aside(tmp_path: Path) -> None:
    typed: dict[str, Any] = {}
    parallel.settle(options(deepspeed=str(tmp_path / "nothing"), use_deepspeed=False), typed, on_cpu=True)
    assert typed == {}


def test_the_command_line_and_the_file_must_not_disagree(tmp_path: Path) -> None:
    path = write(tmp_path, {"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}})
    with pytest.raises(UsageError, match=r"--learning_rate is 0.01, but the DeepSpeed file says 0.001"):
        parallel.settle(options(deepspeed=path, use_deepspeed=True, learning_rate=0.01), {}, on_cpu=True)
    given = options(deepspeed=path, use_deepspeed=True)
    parallel.settle(given, {}, on_cpu=True)
    assert given.learning_rate == 1e-3
