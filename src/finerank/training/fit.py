"""One training run from its start, or from where it stopped, to the best model found."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from finerank.batching.groups import GroupMaker
from finerank.core.errors import ProcessError, UserError
from finerank.core.protocols import Trainable
from finerank.core.watch_options import NORM, sign_of
from finerank.data.console import say, warn
from finerank.training import checkpoint, distributed, fully_sharded
from finerank.training.callbacks import Bar, Journal, LastEvaluation, Patience, Reporter, Signals, out_of_patience
from finerank.training.ledger import Ledger, Values
from finerank.training.modules import load_weights
from finerank.training.objectives import Loss
from finerank.training.plateau import Plateau, PlateauWatch
from finerank.training.trainer import STATE, Evaluator, GroupTrainer, epoch_batches
from finerank.training.tripwires import COLLAPSED, LOWER_RATE, Tripwires

LESS_MEMORY = (
    "a smaller --per_device_train_batch_size (with more --gradient_accumulation_steps), --train_group_size or "
    "--max_len, or --gradient_checkpointing True"
)

LOST_CONTACT = ("gloo", "Gloo", "NCCL", "Connection", "connection", "recv", "Broken pipe", "Socket", "Timed out")
"""Words of what torch.distributed says when a process of the group is gone."""


@dataclass
class Fit:
    """What a run did.

    Attributes:
        steps: optimizer steps of the whole run, interruptions included.
        seconds: of this process, evaluation included.
        rows_per_second: rows trained on per second of this process, evaluation left out; 0 if it trained none.
        history: every logged figure, as in ``metrics.jsonl``.
        base, best: figures of the model before the first step and of the model that is kept, without ``eval_``.
        best_step: the step whose weights are kept.
        base_values, best_values: of those two, each figure's value per held-out query, aligned.
    """

    steps: int
    seconds: float
    rows_per_second: float
    history: list[dict[str, Any]] = field(default_factory=list)
    base: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    base_values: Values = field(default_factory=dict)
    best_values: Values = field(default_factory=dict)

    @property
    def final_loss(self) -> float | None:
        """Return the last logged training loss."""
        return next((entry["loss"] for entry in reversed(self.history) if "loss" in entry), None)


def total_steps(args: TrainingArguments, groups: GroupMaker) -> int:
    """Return the number of optimizer steps that transformers will take over the groups."""
    if args.max_steps > 0:
        return int(args.max_steps)
    per_epoch = max(math.ceil(len(epoch_batches(groups, args)) / args.gradient_accumulation_steps), 1)
    return int(math.ceil(args.num_train_epochs * per_epoch))


def choose_checkpoint(output_dir: Path, asked: str | None) -> Path | None:
    """Return the checkpoint to go on from: the one asked for, else the newest whole one in the output folder.

    Torn ones that are newer are named and deleted.

    Raises:
        UserError: if the checkpoint asked for is missing or torn.
    """
    if asked is not None:
        folder = Path(asked)
        if not folder.is_dir():
            raise UserError(f"--resume_from_checkpoint {asked}: there is no such folder")
        wrong = checkpoint.fault(folder)
        if wrong is not None:
            raise UserError(
                f"--resume_from_checkpoint {asked}: the checkpoint is torn: {wrong}",
                hint="leave the path out to take the newest whole one in --output_dir",
            )
        return _resumable(folder)
    found = checkpoint.find(output_dir)
    for folder, wrong in found.torn.items():
        instead = f"{found.newest.name} is used instead" if found.newest else "training starts again"
        warn(f"{folder} is torn ({wrong}): {instead}")
        shutil.rmtree(folder, ignore_errors=True)
    for leftover in output_dir.glob(".checkpoint-*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    return _resumable(found.newest) if found.newest else None


def _resumable(folder: Path) -> Path:
    """Return a checkpoint that holds more than weights.

    Raises:
        UserError: for one of --save_only_model, from which the optimizer and the learning rate would start anew.
    """
    if not any(folder.glob("rng_state*.pth")):
        raise UserError(
            f"{folder} has weights only (--save_only_model): a training cannot go on from it as if it had not stopped",
            hint="--overwrite to start again",
        )
    return folder


def fit(
    trainable: Trainable,
    groups: GroupMaker,
    loss: Loss,
    args: TrainingArguments,
    *,
    evaluator: Evaluator | None = None,
    patience: int | None = None,
    plateau: Plateau | None = None,
    tripwires: Tripwires | None = None,
    keep_best: bool = True,
    cached: bool = False,
    clip: str = NORM,
    autocast: torch.dtype | None = None,
    resume_from: Path | None = None,
    label: str = "training",
) -> Fit:
    """Train, evaluate, keep the best; the module holds the weights to be saved when this returns.

    Args:
        evaluator: measures the model; the figure ``args.metric_for_best_model`` decides which weights are kept.
        patience: evaluations without progress before an early stop; None for never.
        plateau: the rule by which the learning rate falls where ``args`` ask for that.
        tripwires: told what must not be hidden.
        keep_best: put the best evaluated weights back at the end, rather than keep the last ones.
        cached: keep the activations of one micro-batch only (gradient caching).
        clip: what ``args.max_grad_norm`` bounds: the norm of all gradients (``norm``) or each element (``value``).
        autocast: number format for evaluation, None for the weights' own.
        resume_from: a whole checkpoint.

    Raises:
        KeyboardInterrupt: after a Ctrl-C or SIGTERM, once a checkpoint stands.
    """
    metric = str(args.metric_for_best_model or "").removeprefix("eval_")
    sign = sign_of(metric)
    tripwires = tripwires or Tripwires()
    args.eval_on_start = evaluator is not None and resume_from is None
    bar = Bar(label, epoch_batches(groups, args))
    signals = Signals()
    journal = Journal(Path(args.output_dir))
    callbacks = [journal, bar, LastEvaluation(), Reporter(), Patience(metric, patience, sign), signals]
    callbacks += [PlateauWatch(plateau)] if plateau else []
    trainer = GroupTrainer(
        trainable, args, groups, loss, evaluator, callbacks, autocast, keep_best, cached, tripwires, clip
    )
    start = time.monotonic()
    before = _resumed_state(resume_from)
    if before and _finished(before, total_steps(args, groups), metric, patience, plateau):
        assert resume_from is not None
        _take_back(trainer, resume_from, journal)
    else:
        _train(trainer, resume_from, signals, bar)
    seconds = time.monotonic() - start
    if trainer.ledger.collapsed:
        tripwires.trip(COLLAPSED, LOWER_RATE)
    _release(trainer)
    if keep_best and evaluator is not None:
        _keep_best(trainer)
    rate = trainer.rows_seen / max(seconds - trainer.evaluation_seconds, 1e-9)
    return _report(trainer, seconds, rate, keep_best)


def _take_back(trainer: GroupTrainer, finished: Path, journal: Journal) -> None:
    """Take weights, state and journal of a run that its last checkpoint has seen to the end."""
    load_weights(trainer.trainable.module, finished)
    trainer.state = trainer.state.load_from_json(str(finished / STATE))
    trainer.ledger = Ledger.load(finished)
    if distributed.rank() == 0:
        journal.write(trainer.state.log_history)


def _train(trainer: GroupTrainer, resume_from: Path | None, signals: Signals, bar: Bar) -> None:
    if resume_from is not None:
        say(f"going on from {resume_from}")
        trainer.resume(resume_from)
    try:
        # DeepSpeed tells stdout what it has compiled; that is the place of the verb's result.
        with signals, redirect_stdout(sys.stderr):
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
            trainer.settle()
    except torch.OutOfMemoryError:
        raise trainer.stopped("memory ran out", LESS_MEMORY, ProcessError) from None
    except RuntimeError as error:
        if distributed.world_size() == 1 or not any(word in str(error) for word in LOST_CONTACT):
            raise
        raise trainer.stopped(
            f"another process of this run has ended ({' '.join(str(error).split())[:120]})",
            "its own error stands above, if it had one; the same command goes on from the last checkpoint",
            ProcessError,
        ) from None
    finally:
        bar.close()
    if signals.received:
        raise KeyboardInterrupt


def _resumed_state(resume_from: Path | None) -> dict[str, Any]:
    if resume_from is None:
        return {}
    state: dict[str, Any] = json.loads((resume_from / STATE).read_text(encoding="utf-8"))
    return state


def _finished(state: Mapping[str, Any], steps: int, metric: str, patience: int | None, plateau: Plateau | None) -> bool:
    """Say whether a checkpoint is the last of its run: a killed process had only the saving left to do."""
    history = state["log_history"]
    if int(state["global_step"]) >= steps or out_of_patience(history, metric, patience, sign_of(metric)):
        return True
    return plateau is not None and plateau.exhausted(history)


def _release(trainer: GroupTrainer) -> None:
    """Take accelerate's autocast off the module again, and let go of the optimizer's twofold copy of the weights."""
    if not trainer.spread:
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        trainer.model.zero_grad(set_to_none=True)
    trainer.model = trainer.model_wrapped = trainer.trainable.module
    trainer.deepspeed = None
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.callback_handler.optimizer = trainer.callback_handler.lr_scheduler = None
    trainer.accelerator.free_memory()
    fully_sharded.forget()


def _keep_best(trainer: GroupTrainer) -> None:
    best = trainer.state.best_model_checkpoint
    if best is None or trainer.state.best_global_step == trainer.state.global_step:
        return
    # The folder may have been moved since: look beside the others.
    folder = Path(trainer.args.output_dir) / Path(best).name
    wrong = checkpoint.fault(folder) if folder.is_dir() else "it is missing"
    if wrong is None:
        # Where weights were spread, only the first process holds a whole module.
        if not trainer.spread or distributed.rank() == 0:
            load_weights(trainer.trainable.module, folder)
    else:
        warn(f"the best checkpoint {folder} cannot be used ({wrong}): the last weights are kept")
        trainer.state.best_global_step = None


def _report(trainer: GroupTrainer, seconds: float, rows_per_second: float, keep_best: bool) -> Fit:
    state = trainer.state
    kept = (keep_best and state.best_global_step) or state.global_step
    figures = {entry["step"]: _figures(entry) for entry in state.log_history if _figures(entry)}
    return Fit(
        steps=state.global_step,
        seconds=seconds,
        rows_per_second=rows_per_second,
        history=list(state.log_history),
        base=figures.get(0, {}),
        best=figures.get(kept, {}),
        best_step=kept,
        base_values=trainer.ledger.values.get(0, {}),
        best_values=trainer.ledger.values.get(kept, {}),
    )


def _figures(entry: Mapping[str, Any]) -> dict[str, float]:
    return {name[5:]: value for name, value in entry.items() if name.startswith("eval_")}
