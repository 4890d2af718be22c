"""``finerank train`` in several processes: both families, what is measured, what is said, DeepSpeed, a dead process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import several
import torch
import train_process
from safetensors.torch import load_file

from finerank.training import checkpoint

NOUNS = ["cat", "code", "dog", "file", "find", "fish", "list", "name", "path", "string", "text", "tree", "word"]
PLAIN = {"optim": ["sgd"]}
"""Adam would blow rounding errors of near-zero gradients up to whole steps."""
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed")


@pytest.fixture
def rows_file(tmp_path: Path) -> str:
    lines = []
    for index in range(11):
        noun, other = NOUNS[index % len(NOUNS)], NOUNS[(index * 5 + 1) % len(NOUNS)]
        negatives = [f"{other} {NOUNS[(index + step) % len(NOUNS)]} " + "search " * step for step in range(3)]
        positive = f"the {noun} of {other} {index} is " + "read and write " * (index % 4)
        lines.append(json.dumps({"query": f"{noun} {index}", "pos": [positive], "neg": negatives}))
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def given(kind: str, model: str, rows: str, folder: Path, **values: Any) -> tuple[str, dict[str, Any]]:
    defaults: dict[str, Any] = {
        "model_name_or_path": model, "train_data": [rows], "output_dir": str(folder), "train_group_size": 3,
        "per_device_train_batch_size": 3, "device": "cpu", "dtype": "float32", "learning_rate": 0.05,
        "logging_steps": 1, "dropout": 0.0, "warmup_ratio": 0.0, "weight_decay": 0.0, "lr_scheduler_type": "constant",
        "extras": dict(PLAIN),
    }  # fmt: skip
    across = {"negatives_cross_device": True} if kind == "EmbedderOptions" else {}
    return kind, defaults | across | values


def same_weights(one: Path, other: Path, tolerance: float = 1e-4) -> None:
    left, right = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.allclose(tensor, right[name], atol=tolerance), (str(other), name)


def figures(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key.startswith("eval_")} for line in lines]


def test_two_processes_train_what_one_does(
    tmp_path: Path, rows_file: str, tiny_encoder: str, tiny_reranker: str
) -> None:
    """The embedder has a pooler that nothing reads, and gets gradient checkpointing; the reranker is measured."""
    checkpointing = {"extras": PLAIN | {"gradient_checkpointing": ["True"]}}
    cases: dict[str, Any] = {
        "e": ("EmbedderOptions", tiny_encoder, checkpointing),
        "c": ("EmbedderOptions", tiny_encoder, {"sub_batch_size": 4}),
        "r": ("RerankerOptions", tiny_reranker, {"eval_data": [rows_file], "eval_steps": 1, "max_steps": 3}),
    }
    runs = [
        given(kind, model, rows_file, tmp_path / f"two-{name}", **values)
        for name, (kind, model, values) in cases.items()
    ]
    processes = several.start(tmp_path / "log", runs)
    for name, (kind, model, values) in cases.items():
        twice = values | {"per_device_train_batch_size": 6}
        train_process.train(*given(kind, model, rows_file, tmp_path / f"one-{name}", **twice), quiet=True)
    several.finish(processes, tmp_path / "log")
    for name in cases:
        same_weights(tmp_path / f"one-{name}", tmp_path / f"two-{name}")
    measured = [figures(tmp_path / f"{way}-r") for way in ("one", "two")]
    assert [each.keys() for each in measured[0]] == [each.keys() for each in measured[1]]
    for one, two in zip(*measured):
        assert one == pytest.approx(two)
    assert several.said(tmp_path / "log", 1) == ""


def deepspeed_file(folder: Path, stage: int) -> str:
    path = folder / f"ds{stage}.json"
    path.write_text(
        json.dumps(
            {
                "zero_optimization": {"stage": stage},
                "fp16": {"enabled": "auto"},
                "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
                "train_micro_batch_size_per_gpu": "auto",
                "gradient_accumulation_steps": "auto",
            }
        )
    )
    return str(path)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_zero_trains_what_ddp_does(tmp_path: Path, rows_file: str, tiny_encoder: str, stage: int) -> None:
    """Cached or not, measured on the way, and from a checkpoint in the middle."""
    file = deepspeed_file(tmp_path, stage)
    values: dict[str, Any] = {
        "eval_data": [rows_file], "eval_steps": 2, "num_train_epochs": 2, "save_steps": 2, "save_total_limit": 9,
        "load_best_model_at_end": False,
    }  # fmt: skip

    def trained(name: str, **more: Any) -> Path:
        run = given("EmbedderOptions", tiny_encoder, rows_file, tmp_path / name, **values | more)
        several.finish(several.start(tmp_path / f"{name}.log", [run]), tmp_path / f"{name}.log")
        return tmp_path / name

    plain, whole = trained("plain"), trained("whole", deepspeed=file)
    resumed = trained("resumed", deepspeed=file, resume_from_checkpoint=str(whole / "checkpoint-2"))
    same_weights(whole, resumed, tolerance=0.0)
    for other in (whole, trained("cached", deepspeed=file, sub_batch_size=4)):
        same_weights(plain, other)
        for one, two in zip(figures(plain), figures(other)):
            assert one == pytest.approx(two, abs=1e-3)


def torchrun(folder: Path, words: list[str], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with log.open("ab") as said:
        return subprocess.Popen(
            [*command, "-m", "finerank", *words], cwd=folder, stdout=said, stderr=said,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_dead_process_ends_the_run_and_the_same_command_goes_on(
    tmp_path: Path, rows_file: str, tiny_reranker: str
) -> None:
    log = tmp_path / "log"
    words = [
        "train", "reranker", "--model_name_or_path", tiny_reranker, "--train_data", rows_file, "--output_dir", "out",
        "--num_train_epochs", "400", "--save_steps", "2", "--train_group_size", "3", "--device", "cpu",
        "--per_device_train_batch_size", "3", "--ddp_backend", "nccl",
    ]  # fmt: skip
    run = torchrun(tmp_path, words, log)
    while run.poll() is None and len(checkpoint.all_checkpoints(tmp_path / "out")) < 2:
        time.sleep(0.05)
    os.kill(children(run.pid)[1], signal.SIGKILL)
    died = time.monotonic()
    assert run.wait(timeout=120) != 0, log.read_text()
    assert time.monotonic() - died < 60
    said = log.read_text()
    assert "another process of this run has ended" in said or "SIGTERM" in said
    assert said.count("--ddp_backend nccl is not for a CPU") == 1
    newest = checkpoint.find(tmp_path / "out").newest
    assert newest is not None
    again = torchrun(tmp_path, words, log)
    while again.poll() is None and f"going on from out/{newest.name}" not in log.read_text():
        time.sleep(0.05)
    time.sleep(1.0)
    again.terminate()
    assert again.wait(timeout=120) != 0
    assert "saving after this step" in log.read_text()
    later = checkpoint.find(tmp_path / "out").newest
    assert later is not None
    assert checkpoint.step_of(later) > checkpoint.step_of(newest)


@pytest.mark.slow
def test_what_all_processes_find_is_said_once(tmp_path: Path, tiny_reranker: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"query": "a"}\n')
    log = tmp_path / "log"
    words = ["train", "reranker", "--model_name_or_path", tiny_reranker, "--train_data", "bad.jsonl", "--device", "cpu"]
    assert torchrun(tmp_path, words, log).wait(timeout=300) != 0
    assert log.read_text().count("error: ") == 1, log.read_text()
