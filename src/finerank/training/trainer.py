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
from safetensors.torch import load_model, save_file, save_model
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from finerank.batching.groups import GroupMaker
from finerank.core.errors import UsageError, UserError
from finerank.core.protocols import Trainable
from finerank.training import checkpoint, distributed
from finerank.training.callbacks import NamedRandomness
from finerank.training.dataset import COUNTS_KEY, Collator, EpochBatches, GroupDataset
from finerank.training.gradient_cache import cached_step
from finerank.training.ledger import Ledger
from finerank.training.objectives import Loss
from finerank.training.tripwires import Flatness

WEIGHTS = "model.safetensors"
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
    ) -> None:
        self.trainable = trainable
        self.keep_best = keep_best
        self.cached = cached
        self.ledger = Ledger()
        self.batches = epoch_batches(len(groups), args)
        self.loss = loss
        self.evaluator = evaluator
        self.autocast = autocast
        self.flatness = Flatness()
        self.rows_seen = 0
        self.evaluation_seconds = 0.0
        _checkpoint_activations(trainable.module, args)
        super().__init__(
            model=trainable.module,
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
        self.flatness.look(outputs)
        losses: torch.Tensor = self.loss(outputs, inputs) * inputs[COUNTS_KEY]
        # Processes average their gradients; the mean over all rows is the sum of their shares.
        return losses.sum() / (rows or len(losses)) * distributed.world_size()

    def _cached_training_step(self, model: Any, inputs: Any, rows: Any) -> torch.Tensor:
        model.train()
        inputs = self._prepare_inputs(inputs)
        return cached_step(
            model,
            inputs["micro"],
            lambda results: self._share(results, inputs, rows),
            self.accelerator.backward,
            autocast=self.compute_loss_context_manager,
            unsynchronised=lambda: self.accelerator.no_sync(model),
        )

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Take one batch forward and backward.

        Raises:
            UserError: if the loss is not a number; the weights are still those of the last good step.
        """
        cached = self.cached and len(inputs["micro"]) > 1
        step = self._cached_training_step if cached else super().training_step
        loss: torch.Tensor = step(model, inputs, num_items_in_batch)
        value = distributed.total(loss.item(), self.args.device) / distributed.world_size()
        if not math.isfinite(value):
            raise self.stopped(
                f"the loss became {value}",
                hint="a lower --learning_rate, more --warmup_ratio, or --dtype bfloat16 instead of float16",
            )
        self.ledger.loss += value
        return loss

    def stopped(self, reason: str, hint: str) -> UserError:
        """Return the error that ends a training, with the step and what can be gone on from."""
        last = checkpoint.find(Path(self.args.output_dir)).newest
        return UserError(
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
        with _undisturbed(self.model), self._mixed_precision():
            values = distributed.from_first(self.evaluator)
        self.evaluation_seconds += time.monotonic() - start
        figures = {f"{metric_key_prefix}_{name}": math.fsum(each) / max(len(each), 1) for name, each in values.items()}
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
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(folder / f"checkpoint-{self.state.best_global_step}")
        self.state.save_to_json(str(staging / STATE))
        self.ledger.save(staging)
        checkpoint.land(staging, final)
        checkpoint.rotate(folder, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if state_dict is None:
            save_model(self.model, str(folder / WEIGHTS))
        else:
            save_file(state_dict, str(folder / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(model if model is not None else self.model, Path(resume_from_checkpoint))
        self.ledger = Ledger.load(Path(resume_from_checkpoint))


def epoch_batches(rows: int, args: TrainingArguments) -> EpochBatches:
    """Return the batches that these arguments make of so many rows."""
    return EpochBatches(
        rows,
        args.per_device_train_batch_size,
        args.seed,
        drop_last=args.dataloader_drop_last,
        rank=distributed.rank(),
        processes=distributed.world_size(),
    )


def _checkpoint_activations(module: torch.nn.Module, args: TrainingArguments) -> None:
    """Switch gradient checkpointing on where it can be: in the transformers models inside ``module``.

    The parent would look for it on ``module`` itself.
    """
    if not (args.gradient_checkpointing or getattr(args, "activation_checkpointing", False)):
        return
    keywords = args.gradient_checkpointing_kwargs or getattr(args, "activation_checkpointing_kwargs", None)
    for part in module.modules():
        if not isinstance(part, PreTrainedModel) or not part.supports_gradient_checkpointing:
            continue
        if hasattr(part, "activation_checkpointing_enable"):
            part.activation_checkpointing_enable(activation_checkpointing_kwargs=keywords)
        else:
            part.gradient_checkpointing_enable(gradient_checkpointing_kwargs=keywords)
    args.gradient_checkpointing = args.activation_checkpointing = False


def load_weights(module: torch.nn.Module, folder: Path) -> None:
    """Put a checkpoint's weights into ``module``, all of them.

    Raises:
        UserError: if the checkpoint is of another model.
    """
    try:
        load_model(module, str(folder / WEIGHTS), strict=True)
    except (RuntimeError, FileNotFoundError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the checkpoint does not fit the model: {reason}", where=str(folder)) from None


@contextmanager
def _undisturbed(module: torch.nn.Module) -> Iterator[None]:
    """Evaluate without leaving a trace: dropout off, no gradients, the random state as before."""
    was_training = module.training
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        module.train(was_training)
