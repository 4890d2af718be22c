"""The rows that a training reads, by its options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finerank.core.errors import DataError, Problem
from finerank.core.records import Row
from finerank.core.seeding import stream
from finerank.core.train_options import TrainOptions
from finerank.data.hub import HubSet
from finerank.data.sources import inputs_of, read_rows


def training_rows(options: TrainOptions) -> list[Row]:
    """Read each data set; draw from it no more rows than asked, in file order.

    Raises:
        DataError: for bad rows; for rows without teacher scores where they are learnt from.
    """
    rows: list[Row] = []
    for number, path in enumerate(options.train_data):
        found = read_rows([path], sub_data_name=options.sub_data_name, split=options.split)
        limit = options.max_example_num_per_dataset
        if limit is not None and len(found) > limit:
            chosen = stream(options.seed, "sample", number).sample(range(len(found)), limit)
            found = [found[index] for index in sorted(chosen)]
        rows += found
    if options.learns_from_teacher:
        _check_teacher(rows)
    return rows


def training_inputs(options: TrainOptions) -> list[str | Path | HubSet]:
    """Return what a manifest digests: the training data, then what the best weights are chosen by."""
    read = inputs_of(options.train_data, sub_data_name=options.sub_data_name, split=options.split)
    return [*read, *inputs_of(options.eval_data)]


def _check_teacher(rows: Sequence[Row]) -> None:
    """Refuse rows that a teacher has not scored."""
    bare = [row for row in rows if row.pos_scores is None or (row.negatives and row.neg_scores is None)]
    if bare:
        raise DataError(
            [
                Problem(row.where, "no-teacher-score", "distillation needs pos_scores and neg_scores in every row")
                for row in bare
            ],
            hint="finerank score --input_file ROWS --output_file SCORED --reranker_name_or_path TEACHER",
        )
