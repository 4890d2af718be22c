"""The run's own loss on rows that it does not train on: fixed groups in fixed batches, one value per row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from finerank.batching.groups import GroupMaker
from finerank.core.protocols import Trainable
from finerank.data.console import progress
from finerank.training.dataset import Collator, EpochBatches
from finerank.training.objectives import Loss


def held_out_loss(
    trainable: Trainable, groups: GroupMaker, loss: Loss, batch_size: int, seed: int
) -> Callable[[], list[float]]:
    """Return what measures the loss [rows] of the model as it is now; it expects evaluation mode without gradients.

    The groups and batches are those of a first epoch over the held-out rows, the same each time.

    Args:
        batch_size: rows of a batch; in-batch negatives come from it, so it is part of the figure.
    """
    collate = Collator(trainable.collate)
    batches = list(EpochBatches(groups.strata(), batch_size, seed))

    def measure() -> list[float]:
        values: list[float] = []
        with progress(sum(map(len, batches)), "held-out loss", unit="rows") as update:
            for places in batches:
                items = [(groups.group(place.epoch, place.index), place.counts) for place in places]
                batch = moved(collate(items), trainable.device)
                results = trainable.module(batch["micro"]).float()
                # As in training: autocast covers the model, the loss is taken in float32.
                with torch.autocast(trainable.device.type, enabled=False):
                    values += loss(trainable.outputs(results, batch), batch).tolist()
                update(len(places))
        return values

    return measure


def moved(value: Any, device: torch.device) -> Any:
    """Return a batch with every tensor, in lists and dictionaries too, on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: moved(item, device) for name, item in value.items()}
    return [moved(item, device) for item in value] if isinstance(value, list) else value
