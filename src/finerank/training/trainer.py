"""The trainer: transformers' loop with our order of rows, losses, evaluation and checkpoints.

It knows a :class:`finerank.core.protocols.Trainable` and a loss, never a model family.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from finerank.batching.groups import GroupMaker
from finerank.core.errors import UsageError, UserError
from finerank.core.protocols import Trainable
from finerank.core.watch_options import HIDDEN, NORM
from finerank.training import checkpoint, clipping, distributed, fully_sharded, modules
from finerank.training.callbacks import NamedRandomness
from finerank.training.dataset import COUNTS_KEY, Collator, EpochBatches, GroupDataset, filled
from finerank.training.gradient_cache import cached_step
from finerank.training.ledger import Ledger
from finerank.training.objectives import Loss
from finerank.training.tripwires import COLLAPSED, LOWER_RATE, PATIENCE_STEPS, Tripwires, is_flat

STATE = "trainer_state.json"

Evaluator = Callable[[], Mapping[str, Sequence[float]]]
"""Measures the model as it is now: figure -> its value for each held-out query, higher is better. The mean decides."""


class GroupTrainer(Trainer):  # type: ignore[misc]
    """Trains on groups.

    Differences from its parent: the order of the rows and the negatives are pure functions of the seed, the epoch and
    the row; the loss is the mean over all rows of an optimizer step, also across accumulated batches of unequal size;
    evaluation calls ``evaluator``; a new best evaluation always makes a checkpoint; checkpoints land whole (see
    :mod:`finerank.training.checkpoint`).

    Args:
        trainable: the model.
        groups: the data.
        loss: from the module's outputs and the batch to one loss per row.
        evaluator: called before the first step and at each evaluation; None for no evaluation.
        autocast: number format of the evaluation's matrix products.
        keep_best: whether a new best evaluation makes a checkpoint.
        cached: whether a step of several micro-batches keeps the activations of one only (gradient caching).
        tripwires: told when the model comes to say the same of everything.
        clip: what ``args.max_grad_norm`` bounds: ``norm`` or ``value``.
    """

    # The loss is already divided by the rows of the whole step (two spellings, of two releases of transformers).
    loss_is_scaled_for_ga = True
    control: Any

    def __init__(
        self,
        trainable: Trainable,
        args: TrainingArguments,
        groups: GroupMaker,
        loss: Loss,
        evaluator: Evaluator | None = None,
        callbacks: list[Any] | None = None,
        autocast: torch.dtype | None = None,
        keep_best: bool = True,
        cached: bool = False,
        tripwires: Tripwires | None = None,
        clip: str = NORM,
    ) -> None:
        self.trainable = trainable
        self.keep_best = keep_best
        self.cached = cached
        self.clip = clip
        self.ledger = Ledger()
        self.batches = epoch_batches(groups, args)
        self.loss = loss
        self.evaluator = evaluator
        self.autocast = autocast
        self.tripwires = tripwires or Tripwires()
        self.rows_seen = 0
        self.evaluation_seconds = 0.0
        self.spread = modules.spread(args)
        model = modules.trained_copy(trainable.module, args)
        if distributed.joined():
            first = trainable.collate([groups.group(0, 0)])
            modules.set_aside_unused(model, first["micro"], args.device)
        modules.checkpoint_activations(model, args)
        fully_sharded.complete(args, model, autocast)
        super().__init__(
            model=model,
            args=args,
            data_collator=Collator(trainable.collate),
            train_dataset=GroupDataset(groups),
            # Never read: the parent wants one to be there before it calls evaluate().
            eval_dataset=GroupDataset(groups),
            callbacks=[NamedRandomness(self.batches), *(callbacks or [])],
        )
        self.model_accepts_loss_kwargs = True
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator, and have it shard where that is asked for."""
        super().create_accelerator_and_postprocess()
        self.is_fsdp_enabled = fully_sharded.enter(self.accelerator, self.args)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of this process's batches; accelerate need not share them out."""
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self.train_dataset,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=bool(workers) and self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
        )

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], int]:
        """Return this process's batches of one optimizer step and the number of rows in all processes' batches."""
        batches = []
        for _ in range(num_batches):
            batch = next(epoch_iterator, None)
            if batch is None:
                break
            batches.append(batch)
        own = sum(float(batch[COUNTS_KEY].sum()) for batch in batches)
        rows = round(distributed.total(own, self.args.device))
        self.rows_seen += rows
        self.ledger.steps += bool(batches)
        return batches, rows

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return this batch's share of the step's loss: the sum of its rows' losses over the rows of the step."""
        return self._share(model(inputs["micro"]), inputs, num_items_in_batch)

    def _share(self, results: torch.Tensor, inputs: Any, rows: Any) -> torch.Tensor:
        outputs = self.trainable.outputs(results, inputs)
        # Flat to one process is not flat to all: they must agree on what to do about it.
        flat = not distributed.most(int(not is_flat(outputs)), self.args.device)
        if self.ledger.looked(flat, PATIENCE_STEPS):
            self._collapsed()
        losses: torch.Tensor = self.loss(outputs, inputs) * inputs[COUNTS_KEY]
        # Processes average their gradients; the mean over all rows is the sum of their shares.
        share = losses.sum() / (rows or len(losses)) * distributed.world_size()
        self._note(share)
        # Micro-batches that only keep step with other processes must be gone back through as well.
        return share + 0 * results.sum() if inputs.get("filled") else share

    def _collapsed(self) -> None:
        if self.tripwires.strict:
            raise self.stopped(f"{COLLAPSED} (--strict)", hint=LOWER_RATE)
        self.tripwires.trip(COLLAPSED, LOWER_RATE)

    def _note(self, share: torch.Tensor) -> None:
        """Add a share to the ledger, before any weight has moved by it."""
        value = distributed.total(share.item(), self.args.device) / distributed.world_size()
        if not math.isfinite(value):
            raise self.stopped(
                f"the loss became {value}",
                hint="a lower --learning_rate, more --warmup_ratio, or --dtype bfloat16 instead of float16",
            )
        self.ledger.loss += value

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Take one batch forward and backward.

        Raises:
            UserError: if the loss is not a number; the weights are still those of the last good step.
        """
        # A pass through sharded weights is a meeting of all processes.
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        passes = distributed.most(len(inputs["micro"]), self.args.device) if sharded or self.cached else 1
        if sharded:
            inputs = filled(inputs, passes)
        # Cached or not, all processes alike: DDP's own messages must come in one order.
        if self.cached and passes > 1:
            return self._cached_training_step(model, inputs, num_items_in_batch)
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def _cached_training_step(self, model: Any, inputs: Any, rows: Any) -> torch.Tensor:
        model.train()
        inputs = self._prepare_inputs(inputs)
        # As the parent does: the loss is already divided by all rows of the step.
        keywords = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
        return cached_step(
            model,
            inputs["micro"],
            lambda results: self._share(results, inputs, rows),
            lambda loss: self.accelerator.backward(loss, **keywords),
            autocast=self.compute_loss_context_manager,
            unsynchronised=lambda: self._unsynchronised(model),
        )

    def _clip_grad_norm(self, model: Any) -> Any:
        return clipping.clip(self.accelerator, model.parameters(), self.args.max_grad_norm, self.clip)

    @contextmanager
    def _unsynchronised(self, model: Any) -> Iterator[None]:
        """Add gradients up without sharing them, or, with DeepSpeed, without taking an optimizer step."""
        if not self.is_deepspeed_enabled:
            with self.accelerator.no_sync(model):
                yield
            return
        gradients = self.accelerator.gradient_state
        before = gradients.sync_gradients
        gradients._set_sync_gradients(False)
        try:
            yield
        finally:
            gradients._set_sync_gradients(before)

    def stopped(self, reason: str, hint: str, kind: type[UserError] = UserError) -> UserError:
        """Return the error that ends a training, with the step and what can be gone on from."""
        last = checkpoint.find(Path(self.args.output_dir)).newest
        return kind(
            f"{reason} at step {self.state.global_step + 1}; training stopped, "
            f"{f'the last good checkpoint is {last}' if last else 'no checkpoint was saved before'}",
            hint=hint,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log figures; not how long they took, which is another at each run (the manifest and the bar say it).

        A mean loss counts all steps since the last logged one, also those before an interruption.
        """
        if "train_runtime" in logs:
            return
        if "loss" in logs:
            logs["loss"] = self.ledger.mean_loss()
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure the model, log the figures and return them, each name with ``eval_`` in front."""
        if self.evaluator is None:
            return {}
        start = time.monotonic()
        self.settle()
        with modules.undisturbed(self.trainable.module), self._mixed_precision():
            values = distributed.from_first(self.evaluator)
        self.evaluation_seconds += time.monotonic() - start
        figures = {
            f"{metric_key_prefix}_{name}": math.fsum(each) / max(len(each), 1)
            for name, each in values.items()
            if not name.startswith(HIDDEN)
        }
        self._check_metric(figures)
        self.ledger.evaluated(self.state.global_step, self.state.best_global_step, values)
        self.log(dict(figures))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    def _check_metric(self, figures: Mapping[str, float]) -> None:
        wanted = self.args.metric_for_best_model
        if wanted and wanted not in figures and f"eval_{wanted}" not in figures:
            known = ", ".join(name.removeprefix("eval_") for name in figures)
            raise UsageError(f'--metric_for_best_model "{wanted}" is not among the measured figures', hint=known)

    def _mixed_precision(self) -> Any:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.args.device.type, dtype=self.autocast)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        best: bool = super()._determine_best_metric(metrics, trial)
        if best and self.keep_best and self.args.save_strategy != "no":
            self.control.should_save = True
        return best

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write weights, optimizer, scheduler, scaler, random states and log; make them a checkpoint all at once."""
        self.store_flos()
        folder = Path(self.args.output_dir)
        final = folder / f"checkpoint-{self.state.global_step}"
        staging = (
            checkpoint.staging_folder(final) if self.args.should_save else final.with_name(f".{final.name}.partial")
        )
        self.accelerator.wait_for_everyone()
        self.save_model(str(staging), _internal_call=True)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(staging))
            self._save_scaler(str(staging))
            self._save_rng_state(str(staging))
        self.accelerator.wait_for_everyone()
        if not self.args.should_save:
            return
        fully_sharded.drop_second_copy(staging)
        best = folder / f"checkpoint-{self.state.best_global_step}"
        # The best evaluation made no checkpoint where best weights are not kept; the parent looks for the folder.
        self.state.best_model_checkpoint = str(best) if best == final or best.is_dir() else None
        self.state.save_to_json(str(staging / STATE))
        self.ledger.save(staging)
        checkpoint.land(staging, final)
        checkpoint.rotate(folder, self.args.save_total_limit, self.state.best_model_checkpoint)

    def settle(self) -> None:
        """Bring spread weights together in the first process's ``trainable.module``; nothing to do for others."""
        if not self.spread or self.model_wrapped is self.model and self.is_deepspeed_enabled:
            return
        weights = modules.whole_weights(self.accelerator, self.model_wrapped)
        if distributed.rank() == 0:
            modules.put(self.trainable.module, weights)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the whole weights of a checkpoint, however they are spread; all processes must call it."""
        self.settle()
        if self.args.should_save:
            modules.save_weights(self.trainable.module, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # FSDP's call comes when the weights are spread already; ``resume`` has loaded them before.
        if not self.is_fsdp_enabled:
            modules.load_weights(self.model, Path(resume_from_checkpoint))

    def resume(self, folder: Path) -> None:
        """Take up what a checkpoint holds beyond what the parent reads."""
        self.ledger = Ledger.load(folder)
        if self.is_fsdp_enabled:
            modules.load_weights(self.model, folder)


def epoch_batches(groups: GroupMaker, args: TrainingArguments) -> EpochBatches:
    """Return the batches that these arguments make of the groups."""
    return EpochBatches(
        groups.strata(),
        args.per_device_train_batch_size,
        args.seed,
        drop_last=args.dataloader_drop_last,
        rank=distributed.rank(),
        processes=distributed.world_size(),
    )
