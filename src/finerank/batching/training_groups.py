"""The groups of a training, by its options."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from finerank.batching.groups import GroupMaker
from finerank.batching.row_pairs import PairLayout
from finerank.batching.row_prompts import Prompts, embedder_prompts, pair_prompts
from finerank.core.records import Row
from finerank.core.train_options import EmbedderOptions, RerankerOptions, TrainOptions
from finerank.data.console import say


def groups_of(options: TrainOptions, rows: Sequence[Row], *, prompt_last: bool = False) -> GroupMaker:
    """Return what makes the groups of a run.

    Args:
        prompt_last: whether a row's ``prompt`` is what a language model reads behind its pairs.

    Raises:
        DataError: for rows for which nothing in the data can serve as a negative.
        UserError: for an instruction format without its two places.
    """
    if isinstance(options, EmbedderOptions):
        return _embedder(options, rows)
    return _reranker(options, rows, prompt_last)


def prompts_of(options: TrainOptions, *, prompt_last: bool = False) -> Prompts:
    """Return what a run puts around the texts of a row, be it trained on or measured on.

    Args:
        prompt_last: whether a row's ``prompt`` is what a language model reads behind its pairs.
    """
    if isinstance(options, EmbedderOptions):
        return partial(embedder_prompts, template=options.query_instruction_format)
    assert isinstance(options, RerankerOptions)
    return partial(pair_prompts, layout=PairLayout.of(options, prompt_last=prompt_last))


def _embedder(options: EmbedderOptions, rows: Sequence[Row]) -> GroupMaker:
    groups = GroupMaker(
        rows, options.train_group_size, options.seed, typed=True, shuffle_ratio=options.shuffle_ratio,
        apart=options.same_dataset_within_batch, prompts=prompts_of(options),
    )  # fmt: skip
    for kind, count in groups.types().items():
        say(f"{count:,} rows of type {kind}: {MEANINGS[kind]}")
    prompted = groups.prompted()
    if prompted:
        say(f"{prompted:,} of {len(rows):,} rows bring an instruction of their own, in the place of the query's")
    if not options.same_dataset_within_batch and not all(each.in_batch for each in groups.sets):
        say("note: data sets named …no_in_batch_neg have batches of their own, without in-batch negatives")
    return groups


MEANINGS = {
    "only_1neg": "groups of 2",
    "symmetric_class": "groups no larger than 1 + their own negatives",
    "symmetric_sts": "passages get the query's instruction",
    "symmetric_clustering": "passages get the query's instruction",
}
"""What a row's type does to its group."""


def _reranker(options: TrainOptions, rows: Sequence[Row], prompt_last: bool) -> GroupMaker:
    assert isinstance(options, RerankerOptions)
    groups = GroupMaker(
        rows, options.train_group_size, options.seed, shuffle_ratio=options.shuffle_ratio,
        apart=options.same_dataset_within_batch, prompts=prompts_of(options, prompt_last=prompt_last),
    )  # fmt: skip
    if groups.prompted() and not (options.query_instruction_for_rerank or options.passage_instruction_for_rerank):
        read = "but prompt, which stands behind the pair, " if prompt_last else ""
        say(
            f"note: the instructions of {groups.prompted():,} rows {read}are not read: they take the place of "
            "--query_instruction_for_rerank and --passage_instruction_for_rerank"
        )
    return groups
