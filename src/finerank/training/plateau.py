"""A learning rate that falls when the held-out figure stands still, and the end of a run that learns no more.

torch's ReduceLROnPlateau does the lowering; here its course is read off the log, so that a resumed run, and one that
was killed after its last step, know what an unbroken one knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finerank.core.train_options import TrainOptions
from finerank.core.watch_options import PLATEAU, sign_of
from finerank.data.console import say

THRESHOLD = 1e-4
"""An evaluation counts as better where it beats the best one by more than this share of it."""


@dataclass(frozen=True)
class Plateau:
    """The rule.

    Attributes:
        metric: figure that is watched; ``sign`` is -1 where lower is better.
        factor: what the learning rate is multiplied by.
        patience: evaluations without progress that are borne before that.
        stop: share of the first learning rate below which training ends.
    """

    metric: str
    sign: int
    factor: float
    patience: int
    stop: float

    def scheduler_arguments(self) -> dict[str, Any]:
        """Return the arguments of torch's ReduceLROnPlateau."""
        return {
            "mode": "min" if self.sign < 0 else "max",
            "factor": self.factor,
            "patience": self.patience,
            "threshold": THRESHOLD,
            "threshold_mode": "rel",
            # Else torch leaves learning rates alone that would change by less than 1e-8.
            "eps": 0.0,
        }

    def reductions(self, history: Sequence[Mapping[str, Any]]) -> int:
        """Return how often the learning rate has fallen; the evaluation before the first step does not count."""
        key = f"eval_{self.metric}"
        best: float | None = None
        bad = fallen = 0
        for value in (entry[key] for entry in history if key in entry and entry["step"] > 0):
            if best is None or self._beats(value, best):
                best, bad = value, 0
            else:
                bad += 1
            if bad > self.patience:
                fallen, bad = fallen + 1, 0
        return fallen

    def exhausted(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Say whether the learning rate has fallen below the share at which to stop."""
        return self.factor ** self.reductions(history) < self.stop

    def _beats(self, value: float, best: float) -> bool:
        if self.sign < 0:
            return value < best * (1 - THRESHOLD)
        return value > best * (1 + THRESHOLD)


def plateau_of(options: TrainOptions) -> Plateau | None:
    """Return the rule that a run's options ask for, or None."""
    if options.lr_scheduler_type != PLATEAU or options.factor is None or options.patience is None:
        return None
    metric = options.metric_for_best_model
    return Plateau(metric, sign_of(metric), options.factor, options.patience, options.plateau_stop)


class PlateauWatch(TrainerCallback):  # type: ignore[misc]
    """Says when the learning rate falls, and ends a training whose rate has fallen far enough."""

    def __init__(self, rule: Plateau) -> None:
        self.rule = rule

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        fallen = self.rule.reductions(state.log_history)
        if not state.global_step or fallen == self.rule.reductions(state.log_history[:-1]):
            return
        rate = args.learning_rate * self.rule.factor**fallen
        say(
            f"no better {self.rule.metric} in {self.rule.patience + 1} evaluations: the learning rate falls to {rate:g}"
        )
        if self.rule.exhausted(state.log_history):
            say(
                f"that is below {self.rule.stop:g} of the first one (--plateau_stop): "
                f"stopping at step {state.global_step:,}"
            )
            control.should_training_stop = True
