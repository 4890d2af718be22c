"""ModelOptions: every spelling of a precision ends in one --dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from finerank.core.command_line import parse
from finerank.core.errors import UsageError
from finerank.core.model_options import ModelOptions
from finerank.core.options import effective, semantic


@pytest.mark.parametrize(
    ("words", "dtype"),
    [
        ([], "auto"),
        (["--fp16"], "float16"),
        (["--use_fp16", "True"], "float16"),
        (["--use-bf16"], "bfloat16"),
        (["--bf16", "False"], "auto"),
        (["--dtype", "bfloat16", "--use_bf16"], "bfloat16"),
        (["--dtype", "float32"], "float32"),
    ],
)
def test_precision_spellings_fold_into_dtype(words: list[str], dtype: str) -> None:
    assert parse(ModelOptions, words, "mine").options.dtype == dtype


def test_precisions_that_disagree_are_an_error() -> None:
    with pytest.raises(UsageError, match="--fp16 means float16 but --use_bf16 means bfloat16|--use_bf16 means"):
        ModelOptions(fp16=True, use_bf16=True)
    with pytest.raises(UsageError, match="--dtype means float32"):
        ModelOptions(dtype="float32", fp16=True)


def test_unknown_dtype_is_an_error() -> None:
    with pytest.raises(UsageError, match='unknown --dtype "float8"'):
        ModelOptions(dtype="float8")


def test_the_way_of_asking_does_not_make_another_run() -> None:
    assert semantic(ModelOptions(fp16=True)) == semantic(ModelOptions(dtype="float16")) == {"dtype": "float16"}


@pytest.mark.parametrize(
    ("words", "device"),
    [
        (["--devices", "cuda:0"], "cuda:0"),
        (["--devices", "0"], "cuda:0"),
        (["--devices", "cpu", "--device", "cpu"], "cpu"),
        (["--devices", "cuda:1", "cuda:1"], "cuda:1"),
        (["--device", "mps"], "mps"),
        ([], "auto"),
    ],
)
def test_one_of_devices_is_the_device(words: list[str], device: str) -> None:
    options = parse(ModelOptions, words, "mine").options
    assert (options.device, options.devices) == (device, [])


@pytest.mark.parametrize("words", [["cuda:0", "cuda:1"], ["cuda:0,cuda:1"], ["0", "1"]])
def test_several_devices_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match="several devices come later.*give one"):
        parse(ModelOptions, ["--devices", *words], "mine")


def test_devices_that_disagree_are_an_error() -> None:
    with pytest.raises(UsageError, match="--device means cpu but --devices means cuda:0"):
        ModelOptions(device="cpu", devices=["cuda:0"])


@dataclass(kw_only=True)
class Several(ModelOptions):
    several_devices: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("words", "devices"),
    [
        ([], ["auto"]),
        (["--device", "cpu"], ["cpu"]),
        (["--devices", "cpu", "cpu"], ["cpu", "cpu"]),
        (["--devices", "0", "1"], ["cuda:0", "cuda:1"]),
        (["--devices", "cuda:0,cuda:1", "--device", "cuda:0"], ["cuda:0", "cuda:1"]),
    ],
)
def test_verbs_for_several_devices_get_them_all(words: list[str], devices: list[str]) -> None:
    options = parse(Several, words, "score").options
    assert (options.device, options.devices) == (devices[0], devices)
    again = Several(**effective(options))
    assert (again.device, again.devices) == (devices[0], devices)


def test_several_devices_must_be_of_one_kind() -> None:
    with pytest.raises(UsageError, match="--devices cuda:0 cpu: all must be of one kind"):
        Several(devices=["cuda:0", "cpu"])


def test_the_number_of_devices_does_not_make_another_run() -> None:
    assert semantic(Several(devices=["cpu", "cpu"])) == semantic(Several(device="cpu")) == {"dtype": "auto"}
