"""Training as a whole: one step by hand, resume bit by bit, torn checkpoints, order, best weights."""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import several
import torch
from safetensors.torch import load_file
from tiny import TinyEncoder, TinyScorer, make_rows, train

from finerank.batching.groups import GroupMaker
from finerank.core.errors import UsageError, UserError
from finerank.training import checkpoint
from finerank.training.arguments import training_arguments
from finerank.training.dataset import EpochBatches
from finerank.training.fit import choose_checkpoint, total_steps
from finerank.training.ledger import Ledger
from finerank.training.trainer import GroupTrainer


def same(one: TinyScorer, other: TinyScorer) -> bool:
    pairs = zip(one.module.state_dict().values(), other.module.state_dict().values())
    return all(torch.equal(left, right) for left, right in pairs)


def plain_loop(rows: int, batch_size: int, steps: int, lr: float) -> tuple[TinyScorer, list[float]]:
    """Train with nothing but torch, over the same order and groups."""
    groups = GroupMaker(make_rows(rows), 3, seed=0)
    model = TinyScorer(dropout=0.0)
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=lr, weight_decay=0.0)
    batches = EpochBatches(rows, batch_size, 0)
    losses: list[float] = []
    while len(losses) < steps:
        for places in batches:
            if len(losses) == steps:
                break
            batch = model.collate([groups.group(place.epoch, place.index) for place in places])
            scores = model.run(batch)["scores"]
            loss = -torch.log_softmax(scores, dim=1)[:, 0].mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.module.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        batches.epoch += 1
    return model, losses


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 1), (2, 2), (16, 1)])
def test_steps_equal_a_plain_loop_short_last_batch_included(tmp_path: Path, batch: int, accumulation: int) -> None:
    # 10 rows by 4: the last step of an epoch has 2 rows, and two of the epochs end inside the run.
    result, model = train(
        tmp_path, dropout=0.0, max_steps=5, lr_scheduler_type="constant",
        per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    expected, losses = plain_loop(10, batch * accumulation, 5, 0.01)
    assert [entry["loss"] for entry in result.history if "loss" in entry] == pytest.approx(losses, abs=1e-5)
    for got, wanted in zip(model.module.state_dict().values(), expected.module.state_dict().values()):
        assert torch.allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("family", [TinyScorer, TinyEncoder])
def test_loss_falls(tmp_path: Path, family: type[TinyScorer]) -> None:
    result, _ = train(tmp_path, rows=8, family=family, num_train_epochs=40, dropout=0.0)
    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("evaluate", [False, True])
def test_resume_equals_uninterrupted_from_every_checkpoint(tmp_path: Path, evaluate: bool) -> None:
    options: dict[str, Any] = {"evaluate": evaluate, "eval_steps": 2, "save_total_limit": None}
    whole, model = train(tmp_path / "whole", **options)
    # 3 steps an epoch, 9 in all: 2, 4, 8 lie inside an epoch, 6 at its end.
    for step in (2, 4, 6, 8):
        folder = tmp_path / f"from{step}"
        copy_up_to(tmp_path / "whole", folder, step)
        resumed, again = train(folder, **options)
        assert same(model, again), step
        assert figures(resumed) == figures(whole)
        assert resumed.best_step == whole.best_step


def copy_up_to(source: Path, target: Path, step: int) -> None:
    target.mkdir()
    for folder in checkpoint.all_checkpoints(source):
        if checkpoint.step_of(folder) <= step:
            shutil.copytree(folder, target / folder.name)


def figures(result: Any) -> list[dict[str, float]]:
    kept = ("loss", "step", "learning_rate", "eval_margin")
    return [
        {key: entry[key] for key in kept if key in entry} for entry in result.history if "train_runtime" not in entry
    ]


def test_the_journal_of_a_resumed_run_has_the_same_bytes(tmp_path: Path) -> None:
    # A line of the log covers three steps, of which a checkpoint may lie in the middle; no line tells the time.
    options: dict[str, Any] = {"evaluate": True, "eval_steps": 4, "logging_steps": 3, "save_total_limit": None}
    whole, _ = train(tmp_path / "whole", **options)
    expected = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert b"runtime" not in expected
    assert b"per_second" not in expected
    for step in (2, 4, 9):
        folder = tmp_path / f"from{step}"
        copy_up_to(tmp_path / "whole", folder, step)
        resumed, _ = train(folder, **options)
        assert (folder / "metrics.jsonl").read_bytes() == expected, step
        assert (resumed.base_values, resumed.best_values) == (whole.base_values, whole.best_values)


def test_values_per_query_belong_to_the_base_and_the_best(tmp_path: Path) -> None:
    result, _ = train(tmp_path, evaluate=True, eval_steps=1, max_steps=3)
    assert [len(values["margin"]) for values in (result.base_values, result.best_values)] == [10, 10]
    assert sum(result.base_values["margin"]) / 10 == pytest.approx(result.base["margin"])
    assert sum(result.best_values["margin"]) / 10 == pytest.approx(result.best["margin"])


def test_a_ledger_keeps_first_best_and_latest(tmp_path: Path) -> None:
    ledger = Ledger(loss=0.1, steps=1)
    for step, best in [(0, None), (1, None), (2, 1), (3, 1), (4, 1)]:
        ledger.evaluated(step, best, {"MRR": [float(step), 0.5]})
    assert ledger.values == {step: {"MRR": [float(step), 0.5]} for step in (0, 1, 4)}
    ledger.save(tmp_path)
    assert Ledger.load(tmp_path) == ledger
    assert Ledger.load(tmp_path / "nothing") == Ledger()


def test_the_last_step_is_measured_whatever_the_interval(tmp_path: Path) -> None:
    result, _ = train(tmp_path, evaluate=True, eval_steps=2, eval_delay=100, max_steps=5)
    assert [entry["step"] for entry in result.history if "eval_margin" in entry] == [0, 5]
    assert result.best_step == 5


def test_memory_that_runs_out_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = GroupTrainer.compute_loss

    def hungry(self: GroupTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(self, *args, **kwargs)

    monkeypatch.setattr(GroupTrainer, "compute_loss", hungry)
    with pytest.raises(UserError, match=r"memory ran out at step 4.*checkpoint-2") as caught:
        train(tmp_path)
    assert "--gradient_checkpointing" in str(caught.value)


def test_workers_change_nothing(tmp_path: Path) -> None:
    _, alone = train(tmp_path / "0")
    _, helped = train(tmp_path / "2", dataloader_num_workers=2)
    _, kept = train(tmp_path / "3", dataloader_num_workers=2, dataloader_persistent_workers=True)
    assert same(alone, helped)
    assert same(alone, kept)


def test_a_finished_run_only_loads(tmp_path: Path) -> None:
    first, model = train(tmp_path, max_steps=4)
    again, loaded = train(tmp_path, max_steps=4)
    assert same(model, loaded)
    assert (again.steps, again.rows_per_second) == (4, 0.0)


PARTS = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "ledger.json")


def damage(folder: Path, how: str, name: str) -> None:
    path = folder / name
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"truncated": content[: len(content) // 2], "zeroed": b"\0" * len(content), "longer": content + b"x"}[how]
        )


def test_a_torn_newest_checkpoint_is_named_and_the_one_before_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, whole = train(tmp_path / "whole", max_steps=6)
    names = {path.name for path in (tmp_path / "whole" / "checkpoint-6").iterdir()}
    assert {*PARTS, checkpoint.SEAL} <= names
    for name in sorted(names):
        for how in ("truncated", "zeroed", "missing", "longer"):
            torn = tmp_path / f"{how}-{name}"
            shutil.copytree(tmp_path / "whole", torn)
            damage(torn / "checkpoint-6", how, name)
            assert checkpoint.fault(torn / "checkpoint-6") is not None, (name, how)
            assert choose_checkpoint(torn, None) == torn / "checkpoint-4"
            said = capsys.readouterr().err
            assert "checkpoint-6 is torn" in said
            assert "checkpoint-4 is used instead" in said
    _, again = train(torn, max_steps=6)
    assert same(whole, again)


def test_all_torn_starts_again(tmp_path: Path) -> None:
    _, whole = train(tmp_path, max_steps=4)
    for folder in checkpoint.all_checkpoints(tmp_path):
        (folder / "model.safetensors").write_bytes(b"")
    _, again = train(tmp_path, max_steps=4)
    assert same(whole, again)


def test_asking_for_a_bad_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        choose_checkpoint(tmp_path, str(tmp_path / "nothing"))
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(UserError, match="torn: it has no complete.json"):
        choose_checkpoint(tmp_path, str(tmp_path / "checkpoint-1"))


def test_weights_alone_are_not_gone_on_from(tmp_path: Path) -> None:
    train(tmp_path, max_steps=2, save_only_model=True)
    with pytest.raises(UserError, match=r"checkpoint-2 has weights only \(--save_only_model\)"):
        train(tmp_path, max_steps=4)
    with pytest.raises(UserError, match="weights only"):
        choose_checkpoint(tmp_path / "other", str(tmp_path / "checkpoint-2"))


def test_a_best_evaluation_that_was_not_kept(tmp_path: Path) -> None:
    """The best figure fell between two checkpoints: the run ends all the same, with its last weights."""
    result, model = train(
        tmp_path, evaluate=True, eval_steps=1, sign=-1.0, dropout=0.0, save_steps=4, save_total_limit=1, keep_best=False
    )
    margins = {entry["step"]: entry["eval_margin"] for entry in result.history if "eval_margin" in entry}
    assert max((step for step in margins if step), key=lambda step: margins[step]) % 4
    _, last = train(tmp_path / "other", dropout=0.0)
    assert same(model, last)


def test_best_weights_come_back(tmp_path: Path) -> None:
    # Measured upside down, so that the best weights are early ones and not the last.
    result, model = train(tmp_path / "run", evaluate=True, eval_steps=1, sign=-1.0, dropout=0.0, save_steps=100)
    margins = {entry["step"]: entry["eval_margin"] for entry in result.history if "eval_margin" in entry}
    best = max((step for step in margins if step), key=lambda step: margins[step])
    assert 0 in margins
    assert result.best_step == best < result.steps
    assert result.best["margin"] == margins[best]
    assert result.base["margin"] == margins[0]
    stored = load_file(tmp_path / "run" / f"checkpoint-{best}" / "model.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in model.module.state_dict().items())
    _, last = train(tmp_path / "other", dropout=0.0)
    assert not same(model, last)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history


def test_early_stop_and_its_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"evaluate": True, "eval_steps": 1, "learning_rate": 1e-12, "patience": 2, "rows": 8}
    result, model = train(tmp_path, **options, dropout=0.0)
    assert result.steps < 6
    assert "no better margin in 2 evaluations" in capsys.readouterr().err
    again, loaded = train(tmp_path, **options, dropout=0.0)
    assert again.steps == result.steps
    assert same(model, loaded)


def test_unknown_metric_is_said_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="margn"):
        train(tmp_path, evaluate=True, eval_steps=1, metric_for_best_model="margn")


def test_loss_that_is_not_a_number_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = GroupTrainer._note

    def spoiled(self: GroupTrainer, share: torch.Tensor) -> None:
        honest(self, share * math.nan if self.state.global_step == 3 else share)

    monkeypatch.setattr(GroupTrainer, "_note", spoiled)
    with pytest.raises(UserError, match=r"became nan at step 4.*checkpoint-2"):
        train(tmp_path)


def test_evaluation_does_not_disturb_training(tmp_path: Path) -> None:
    _, quiet = train(tmp_path / "quiet")
    watched, model = train(tmp_path / "watched", evaluate=True, eval_steps=1)
    if watched.best_step == watched.steps:
        assert same(quiet, model)
    assert [e["loss"] for e in watched.history if "loss" in e] == [
        e["loss"] for e in train(tmp_path / "third")[0].history if "loss" in e
    ]


def test_total_steps_is_what_transformers_takes(tmp_path: Path) -> None:
    for rows, batch, accumulation, drop, epochs in [(10, 4, 1, False, 3), (10, 4, 2, True, 1.5), (3, 8, 1, False, 2)]:
        folder = tmp_path / f"{rows}-{batch}-{accumulation}"
        values = {
            "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation,
            "dataloader_drop_last": drop, "num_train_epochs": epochs,
        }  # fmt: skip
        result, _ = train(folder, rows=rows, **values)
        args = training_arguments({"output_dir": str(folder), "use_cpu": True, **values}, {})
        assert result.steps == total_steps(args, GroupMaker(make_rows(rows), 3, seed=0))


def wait_for_steps(folder: Path, steps: int, process: Any) -> None:
    """Wait until the process, after its start, has journalled ``steps`` lines, or has ended."""
    journal = folder / "metrics.jsonl"
    before = journal.stat().st_mtime_ns if journal.exists() else 0
    start = None
    while process.is_alive():
        if journal.exists() and journal.stat().st_mtime_ns != before:
            count = len(journal.read_bytes().splitlines())
            start = count if start is None else start
            if count - start >= steps:
                return
        time.sleep(0.002)


def state_of(folder: Path) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Return a finished run's weights, its optimizer and its journal."""
    newest = checkpoint.find(folder).newest
    assert newest is not None
    optimizer = torch.load(newest / "optimizer.pt", weights_only=True)
    weights = torch.load(folder / "final" / "tiny.pt", weights_only=True)
    return weights, optimizer, (folder / "metrics.jsonl").read_bytes()


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.mark.parametrize(
    ("kills", "processes"), [(2, 1), pytest.param(20, 1, marks=pytest.mark.slow),
                             pytest.param(12, 2, marks=pytest.mark.slow)],
)  # fmt: skip
def test_sigkill_then_the_same_command_gives_the_same_bits(tmp_path: Path, kills: int, processes: int) -> None:
    """Several epochs, dropout, evaluations; of two processes one is killed and the other must end by itself."""
    options: dict[str, Any] = {
        "num_train_epochs": 4 * kills, "save_steps": 1, "save_total_limit": 2, "evaluate": True, "eval_steps": 5,
    }  # fmt: skip
    killed = {**options, "output_dir": str(tmp_path / "killed")}
    whole = {**options, "output_dir": str(tmp_path / "whole")}
    several.finish(several.start(tmp_path / "whole.log", [("tiny", whole)], processes), tmp_path / "whole.log")
    generator = random.Random(kills)
    log = tmp_path / "killed.log"
    for _ in range(kills):
        group = several.start(log, [("tiny", killed)], processes)
        wait_for_steps(tmp_path / "killed", generator.randint(1, 9), group[0])
        time.sleep(generator.random() * 0.05)
        group.pop(generator.randrange(processes)).kill()
        for left in group:
            left.join(60)
            assert left.exitcode is not None, "a process waits for a dead one"
    several.finish(several.start(log, [("tiny", killed)], processes), log)
    assert equal(state_of(tmp_path / "killed"), state_of(tmp_path / "whole"))
    assert several.said(log, 0).count("going on from") >= 1


def test_sigterm_saves_and_leaves(tmp_path: Path) -> None:
    options = {"num_train_epochs": 400, "save_steps": 10_000, "output_dir": str(tmp_path / "run")}
    (process,) = several.start(tmp_path / "log", [("tiny", options)], 1)
    wait_for_steps(tmp_path / "run", 3, process)
    process.terminate()
    process.join()
    assert process.exitcode != 0
    assert "SIGTERM: saving after this step" in several.said(tmp_path / "log", 0)
    newest = checkpoint.find(tmp_path / "run").newest
    assert newest is not None
    assert 3 <= checkpoint.step_of(newest) < 1200


@pytest.mark.parametrize("family", [TinyScorer, TinyEncoder])
def test_gradient_caching_gives_the_same_weights_dropout_included(tmp_path: Path, family: type[TinyScorer]) -> None:
    """Micro-batches of 4 texts, kept whole or run twice: the same dropout, the same gradients."""
    found = [
        train(tmp_path / str(cached), family=family, dropout=0.2, max_steps=4, texts_per_forward=4, cached=cached)
        for cached in (False, True)
    ]
    losses = [[entry["loss"] for entry in result.history if "loss" in entry] for result, _ in found]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for one, other in zip(*(model.module.state_dict().values() for _, model in found)):
        assert torch.allclose(one, other, atol=1e-5)


def test_gradient_caching_is_indifferent_to_the_size_of_the_parts(tmp_path: Path) -> None:
    models = [
        train(tmp_path / str(size), family=TinyEncoder, dropout=0.0, max_steps=4, texts_per_forward=size, cached=True)[
            1
        ]
        for size in (1, 3, 1000)
    ]
    for other in models[1:]:
        for left, right in zip(models[0].module.state_dict().values(), other.module.state_dict().values()):
            assert torch.allclose(left, right, atol=1e-5)
