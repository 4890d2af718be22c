"""What happens beside the steps: the epoch's order, the bar, the journal, patience, signals."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from finerank.core.seeding import stream_seed
from finerank.data.console import launched, progress, say, warn
from finerank.training import distributed
from finerank.training.dataset import EpochBatches

JOURNAL = "metrics.jsonl"
ONE_SIGNAL = 2.0
"""Seconds in which a second signal to a launched process counts as the first one again."""


class NamedRandomness(TrainerCallback):  # type: ignore[misc]
    """Makes an epoch's order a function of its number, and a step's dropout one of the seed, the step and the rank.

    So nothing that draws from the global generators meanwhile (data loader workers, an evaluation) changes a run.
    """

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # On a resume state.epoch is a fraction: the epoch that was interrupted.
        self.batches.epoch = int(state.epoch or 0)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        torch.manual_seed(stream_seed(args.seed, "dropout", state.global_step, args.process_index))


class Bar(TrainerCallback):  # type: ignore[misc]
    """Shows how far the training is, in rows; begins with the first step, so that loading does not count."""

    def __init__(self, label: str, batches: EpochBatches) -> None:
        self.label = label
        self.batches = batches
        self.stack = ExitStack()
        self.update: Any = None

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.update is None:
            left = self._rows_at(args, state.max_steps) - self._rows_at(args, state.global_step)
            self.update = self.stack.enter_context(progress(left, self.label, unit="rows"))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.update(self._rows_at(args, state.global_step) - self._rows_at(args, state.global_step - 1))

    def _rows_at(self, args: TrainingArguments, step: int) -> int:
        """Return how many rows have been trained on after ``step`` steps."""
        return self.batches.rows_after(step, int(args.gradient_accumulation_steps))

    def close(self, *_: Any, **__: Any) -> None:
        """End the bar, also when training ends by an error."""
        self.stack.close()

    on_train_end = close


class Journal(TrainerCallback):  # type: ignore[misc]
    """Writes every logged figure as one line of ``metrics.jsonl``; a resume first drops what came after its step."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.write(state.log_history)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and state.log_history:
            with self.path.open("a", encoding="utf-8") as journal:
                journal.write(_line(state.log_history[-1]))

    def write(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the journal anew."""
        self.path.write_text("".join(map(_line, history)), encoding="utf-8")


def _line(entry: Mapping[str, Any]) -> str:
    # Sorted, as transformers sorts the log that a resume reads back.
    return json.dumps(dict(entry), sort_keys=True) + "\n"


class LastEvaluation(TrainerCallback):  # type: ignore[misc]
    """Has the weights of the last step measured too, whatever the interval, so that they can be the best ones."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step >= state.max_steps and args.eval_strategy == IntervalStrategy.STEPS:
            control.should_evaluate = True


def out_of_patience(history: Sequence[Mapping[str, Any]], metric: str, patience: int | None, sign: int = 1) -> bool:
    """Say whether the last ``patience`` evaluations all failed to beat the best one before them.

    The evaluation before the first step is left out: it is not a trained model's. Reads the log only, so that a
    resumed run stops where the uninterrupted one would.
    """
    key = f"eval_{metric}"
    values = [sign * entry[key] for entry in history if key in entry and entry["step"] > 0]
    if patience is None or len(values) <= patience:
        return False
    return bool(max(values[-patience:]) <= max(values[:-patience]))


class Patience(TrainerCallback):  # type: ignore[misc]
    """Stops a training that no longer gets better; see :func:`out_of_patience`."""

    def __init__(self, metric: str, patience: int | None, sign: int = 1) -> None:
        self.metric = metric
        self.patience = patience
        self.sign = sign

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if out_of_patience(state.log_history, self.metric, self.patience, self.sign):
            say(f"no better {self.metric} in {self.patience} evaluations: stopping at step {state.global_step}")
            control.should_training_stop = True


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Says each evaluation in one line: step, loss since the last one, every figure."""

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        figures = {name: value for name, value in state.log_history[-1].items() if name.startswith("eval_")}
        loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), None)
        facts = ([f"loss {loss:.4f}"] if loss is not None else []) + [
            f"{name[5:]} {value:.4f}" for name, value in figures.items()
        ]
        where = f"step {state.global_step:,} of {state.max_steps:,}" if state.global_step else "before the first step"
        say(f"{where}: {', '.join(facts)}")


class Signals(TrainerCallback):  # type: ignore[misc]
    """On the first Ctrl-C or SIGTERM: finish the step, save, leave. On the second: leave at once.

    A terminal's Ctrl-C reaches a launched process twice, from the terminal and from the launcher: that is one.
    """

    def __init__(self) -> None:
        self.received = False
        self.at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and time.monotonic() - self.at < ONE_SIGNAL and launched():
            return
        if self.received:
            raise KeyboardInterrupt
        self.received, self.at = True, time.monotonic()
        name = signal.Signals(number).name
        warn(f"{name}: saving after this step and its evaluation, then leaving (once more: at once)")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # The processes of one run stop after the same step: each hears of its signal at another time.
        if distributed.total(float(self.received), args.device):
            self.received = True
            control.should_save = True
            control.should_training_stop = True
