"""A training job: banner, dtype, arguments, the fit, and what must be said about it afterwards."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from finerank.batching.groups import GroupMaker
from finerank.core.protocols import Trainable
from finerank.core.watch_options import NORM
from finerank.data.console import banner, say, warn
from finerank.models.load import resolve_dtype
from finerank.training import zero
from finerank.training.arguments import LONGEST_WAIT, training_arguments
from finerank.training.distributed import from_first
from finerank.training.fit import Fit, choose_checkpoint, fit, total_steps
from finerank.training.objectives import Loss
from finerank.training.plateau import Plateau
from finerank.training.trainer import Evaluator, epoch_batches
from finerank.training.tripwires import Tripwires, truncated_positives, worse_than_base

MOST_STEPS_BETWEEN_SAVES = 500
SAVES_PER_RUN = 10
POSITIVES_LOOKED_AT = 2_000


@dataclass
class Job:
    """Everything that one run needs; ``run`` does it.

    Attributes:
        values: our options by TrainingArguments name; ``typed`` are the user's own TrainingArguments.
        dtype: of the matrix products: auto, float32, bfloat16, float16. Weights are float32 whatever it says.
        measure: measures the model; None for no evaluation.
        plateau: when the learning rate falls; then the model is measured after each epoch.
        tripwires: told what must not be hidden.
        cached: keep the activations of one micro-batch only (gradient caching).
        clip: what --max_grad_norm bounds: ``norm`` or ``value``.
    """

    title: str
    model: Trainable
    groups: GroupMaker
    folder: Path
    loss: Loss
    values: Mapping[str, Any]
    typed: Mapping[str, Any]
    dtype: str
    measure: Evaluator | None
    patience: int | None = None
    plateau: Plateau | None = None
    tripwires: Tripwires = field(default_factory=Tripwires)
    keep_best: bool = True
    cached: bool = False
    clip: str = NORM
    save_steps: float | None = None
    resume_from: str | None = None

    def run(self) -> Fit:
        """Train; the model holds the weights to be saved when this returns."""
        device = self.model.device
        dtype = resolve_dtype(device, self.dtype)
        args = self._arguments(device, dtype)
        self._banner(args, dtype)
        self._say_counts()
        result = fit(
            self.model,
            self.groups,
            self.loss,
            args,
            evaluator=self.measure,
            patience=self.patience,
            plateau=self.plateau,
            tripwires=self.tripwires,
            keep_best=self.keep_best,
            cached=self.cached,
            clip=self.clip,
            autocast=None if dtype == torch.float32 else dtype,
            resume_from=from_first(lambda: choose_checkpoint(self.folder, self.resume_from)),
            label=self.title,
        )
        worse = worse_than_base(result.base, result.best, self.values["metric_for_best_model"])
        self.tripwires.trip(worse, "a lower --learning_rate, other negatives, or more rows may mend that")
        return result

    def counts(self, result: Fit) -> dict[str, Any]:
        """Return what the manifest, the card and ``--json`` say of the run."""
        return {
            "rows": len(self.groups),
            "groups": self.groups.counts().to_mapping(),
            "steps": result.steps,
            "best_step": result.best_step,
            "base": result.base,
            "best": result.best,
            "final_loss": result.final_loss,
            "tripwires": list(self.tripwires.tripped),
            "train_seconds": round(result.seconds, 1),
            "rows_per_second": round(result.rows_per_second, 2),
        }

    def _arguments(self, device: torch.device, dtype: torch.dtype) -> TrainingArguments:
        typed = dict(self.typed)
        own = dict(self.values) | {
            "output_dir": str(self.folder),
            **_number_format(typed, device, dtype),
            "dataloader_pin_memory": device.type == "cuda",
            "eval_strategy": "steps" if self.measure else "no",
            "ddp_timeout": LONGEST_WAIT,
            "ddp_find_unused_parameters": False,
        }
        if self.measure is None:
            typed.pop("eval_strategy", None)
            own["metric_for_best_model"] = None
        batch = own["per_device_train_batch_size"]
        if own["dataloader_drop_last"] and len(self.groups) < batch:
            rows = len(self.groups)
            warn(f"--dataloader_drop_last would drop all {rows:,} rows (a batch is {batch:,}): they are kept")
            own["dataloader_drop_last"] = False
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
        best_only = str(typed.get("save_strategy")) in ("no", "best") and self.keep_best and self.measure is not None
        if best_only:
            say(f"--save_strategy {typed.pop('save_strategy')}: each new best is saved, and the last step")
        args = training_arguments(own, typed)
        self._measure_after_epochs(args)
        steps = total_steps(args, self.groups)
        automatic = min(MOST_STEPS_BETWEEN_SAVES, max(1, math.ceil(steps / SAVES_PER_RUN)))
        args.save_steps = steps if best_only else self.save_steps or automatic
        return args

    def _measure_after_epochs(self, args: TrainingArguments) -> None:
        """Turn evaluation after each epoch into so many steps: a signal must not have an epoch's end measured early."""
        if self.measure is None or (self.plateau is None and args.eval_strategy != IntervalStrategy.EPOCH):
            return
        args.eval_strategy = IntervalStrategy.STEPS
        batches = len(epoch_batches(self.groups, args))
        args.eval_steps = max(math.ceil(batches / args.gradient_accumulation_steps), 1)

    def _banner(self, args: TrainingArguments, dtype: torch.dtype) -> None:
        batch = args.per_device_train_batch_size
        total = batch * args.gradient_accumulation_steps * args.world_size
        facts = dict(self.model.describe()) | {
            "dtype": f"float32 weights, {str(dtype).removeprefix('torch.')} products",
            "rows": len(self.groups),
            "groups": f"1 positive + {self.groups.group_size - 1} negatives",
            "batch": f"{total:,} rows a step: {batch} x {args.gradient_accumulation_steps} x {args.world_size} devices",
            "steps": f"{total_steps(args, self.groups):,} at learning rate {args.learning_rate:g}",
            "evaluation": self._evaluation(args),
            "output": str(self.folder),
        }
        banner(f"finerank {self.title}", facts)

    def _evaluation(self, args: TrainingArguments) -> str:
        if self.measure is None:
            return "none (--eval_data chooses the best weights)"
        every = f"{args.eval_steps:.0%} of the steps" if args.eval_steps < 1 else f"{args.eval_steps:,.0f} steps"
        return f"before the first step and every {every}, by {self.values['metric_for_best_model']}"

    def _say_counts(self) -> None:
        counts = self.groups.counts()
        if counts.short_rows:
            say(
                f"{counts.short_rows:,} of {counts.rows:,} rows have under {self.groups.group_size - 1} usable "
                f"negatives: {counts.random:,} random passages and {counts.repeated:,} repeats stand in"
            )
        if counts.refused:
            say(f"{counts.refused:,} labelled negatives are a positive of the same query or a repeat: left out")
        rows = self.groups.rows
        # Equally far from each other: a later data set may have other lengths.
        looked_at = [rows[index] for index in range(0, len(rows), -(-len(rows) // POSITIVES_LOOKED_AT))]
        positives = [(row.query, row.positives[0]) for row in looked_at]
        cut, limit = self.model.truncated(positives)
        sentence = truncated_positives(cut, len(positives), limit)
        self.tripwires.trip(sentence, "a larger --max_len or --passage_max_len reads more of them")


def _number_format(typed: dict[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return what the trainer is told of device and number format; DeepSpeed's part of ``typed`` is settled."""
    part = typed.get("deepspeed")
    on_cpu = device.type == "cpu"
    if not part:
        return {"use_cpu": on_cpu, "bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16}
    typed["deepspeed"] = part = copy.deepcopy(part)
    said = zero.number_format(part, str(dtype).removeprefix("torch."), on_cpu=on_cpu)
    if said:
        say(f"note: {said}")
    return {"use_cpu": on_cpu, "bf16": part["bf16"]["enabled"], "fp16": part["fp16"]["enabled"]}
