"""Options of a training that say how its data sets are mixed and laid before the model."""

from __future__ import annotations

from dataclasses import dataclass

from finerank.core.options import option


@dataclass(kw_only=True)
class MixOptions:
    """How several data sets become the batches of one training."""

    data_weights: list[float] = option(
        [],
        "how often the rows of each --train_data come in an epoch, one number for each: 2 is twice, 0.5 every second "
        "row, others in each epoch; without it 1",
        metavar="W",
        gt=0,
    )
    same_dataset_within_batch: bool = option(
        False,
        "every batch, over all devices, holds rows of one data set: in-batch negatives are then of its own kind. A row "
        "key batch_size decides the size of its batches",
    )
    small_threshold: int = option(
        0, "with --same_dataset_within_batch: files of one folder with fewer rows than this are one data set", ge=0
    )
    drop_threshold: int = option(
        0, "and where such a merged data set has fewer rows than this, it is left out, with a warning", ge=0
    )
    shuffle_ratio: float = option(
        0.0,
        "share of the positives over 100 characters that are cut in three and joined in another order: the model "
        "learns to look at the whole passage",
        ge=0,
        le=1,
    )
