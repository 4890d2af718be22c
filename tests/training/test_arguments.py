"""Flags of transformers: typed as it types them, old names taken, unknown ones refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from finerank.core.errors import UsageError
from finerank.training.arguments import NOT_OFFERED, parse_extras, training_arguments

MIGRATION = Path(__file__).parents[2] / "docs" / "migration.md"


def test_values_get_the_type_of_their_field() -> None:
    typed, notes = parse_extras(
        {"adam_beta2": ["0.95"], "save_only_model": [], "dataloader_num_workers": ["2"], "optim": ["sgd"]}, []
    )
    assert typed == {"adam_beta2": 0.95, "save_only_model": True, "dataloader_num_workers": 2, "optim": "sgd"}
    assert notes == []


def test_old_names_are_mapped_and_empty_ones_said_aloud() -> None:
    typed, notes = parse_extras({"evaluation_strategy": ["epoch"], "no_cuda": ["True"], "save_safetensors": []}, [])
    assert typed == {"eval_strategy": "epoch", "use_cpu": True}
    assert len(notes) == 1
    assert notes[0].startswith("--save_safetensors has no effect")


def test_a_bool_may_be_negated_and_nothing_else() -> None:
    assert parse_extras({"no_gradient_checkpointing": [], "no_cuda": []}, [])[0] == {
        "gradient_checkpointing": False,
        "use_cpu": True,
    }
    for extras in ({"no_adam_beta1": []}, {"no_gradient_checkpointing": ["True"]}):
        with pytest.raises(UsageError, match="unknown flag --no_"):
            parse_extras(extras, [])


@pytest.mark.parametrize(
    "flag",
    [
        "per_device_eval_batch_size",
        "label_smoothing_factor",
        "push_to_hub",
        "log_level",
        "logging_nan_inf_filter",
        "auto_find_batch_size",
        "neftune_noise_alpha",
        "use_liger_kernel",
        "fp16_full_eval",
        "bf16_full_eval",
        # Names of transformers 4 that 5 has no more.
        "tpu_num_cores",
        "ray_scope",
        "mp_parameters",
        "dispatch_batches",
        "split_batches",
        "include_inputs_for_metrics",
    ],  # fmt: skip
)
def test_what_has_no_effect_is_said(flag: str) -> None:
    typed, notes = parse_extras({flag: ["1"]}, [])
    assert typed == {}
    assert [note.split(":")[0] for note in notes] == [f"--{flag} has no effect on train"]


def test_names_of_transformers_4_that_5_writes_otherwise() -> None:
    given = {"per_gpu_train_batch_size": ["4"], "torchdynamo": ["inductor"], "adafactor": ["True"]}
    typed = {"per_device_train_batch_size": 4, "torch_compile_backend": "inductor", "optim": "adafactor"}
    assert parse_extras(given, []) == (typed, [])
    assert parse_extras({"adafactor": []}, [])[0] == {"optim": "adafactor"}
    assert parse_extras({"adafactor": ["False"]}, [])[0] == {}


@pytest.mark.parametrize("flag", NOT_OFFERED)
def test_what_flagembedding_alone_does_is_refused_with_the_reason(flag: str) -> None:
    with pytest.raises(UsageError, match=f"--{flag} is not offered: ") as caught:
        parse_extras({flag: ["True"]}, [])
    assert caught.value.hint
    assert parse_extras({flag: ["False"]}, []) == ({}, [f"--{flag} has no effect on train: it is always off"])
    assert f"`--{flag}`" in MIGRATION.read_text(encoding="utf-8")


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(UsageError, match='unknown flag --adam_beta3 for train; did you mean "adam_beta'):
        parse_extras({"adam_beta3": ["1"]}, [])
    with pytest.raises(UsageError, match='did you mean "train_group_size"'):
        parse_extras({"train_group_sise": ["1"]}, ["train_group_size"])


@pytest.mark.parametrize("extras", [{"adam_beta1": ["high"]}, {"adam_beta1": []}, {"adam_beta1": ["0.9", "0.8"]}])
def test_values_of_the_wrong_kind_are_usage_errors(extras: dict[str, list[str]]) -> None:
    with pytest.raises(UsageError):
        parse_extras(extras, [])


def test_a_combination_that_transformers_refuses_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="transformers refuses"):
        training_arguments({"output_dir": str(tmp_path), "use_cpu": True}, {"lr_scheduler_type": "lineer"})
    with pytest.raises(UsageError, match="transformers refuses"):
        training_arguments({"output_dir": str(tmp_path), "use_cpu": True, "warmup_steps": -1}, {})


def test_the_users_values_win_over_ours_but_not_over_what_is_forced(tmp_path: Path) -> None:
    args = training_arguments(
        {"output_dir": str(tmp_path), "use_cpu": True, "optim": "adamw_torch"},
        {"optim": "sgd", "logging_nan_inf_filter": True},
    )
    assert args.optim == "sgd"
    assert args.logging_nan_inf_filter is False
