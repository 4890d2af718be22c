"""``finerank score``: rows in, the same rows with a teacher's scores out.

The rows are read three times, and never held: once to check them and to number their distinct pairs, once to score
those, in resumable shards on one or several devices, once to write every row with ``pos_scores`` and ``neg_scores``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finerank.core.errors import DataError, Problem
from finerank.core.model_options import ModelOptions
from finerank.core.options import ignored, option, semantic
from finerank.core.outcomes import Outcome
from finerank.core.reranker_options import RerankerModelOptions
from finerank.core.row_options import split_option, sub_data_name_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from finerank.batching.row_pairs import PairLayout
    from finerank.core.protocols import AnyPair
    from finerank.core.records import Row
    from finerank.data.distinct import Distinct
    from finerank.data.outputs import Output
    from finerank.models.fleet import Fleet
    from finerank.models.recipes import ScorerRecipe

DEFAULT_TEACHER = "BAAI/bge-reranker-v2-m3"
SHARD_PAIRS = 4096
OF_MINE = "it is an option of finerank mine"


@dataclass(kw_only=True)
class ScoreOptions(RerankerModelOptions, ModelOptions):
    """Options of ``finerank score``."""

    several_devices: ClassVar[bool] = True

    input_file: list[str] = option(help="rows with query, pos and maybe neg: files or folders", metavar="ROWS")
    output_file: str = option(
        help="JSONL file to write: every row, in order, with pos_scores and neg_scores", metavar="OUT", semantic=False
    )
    sub_data_name: str | None = sub_data_name_option()
    split: str = split_option()
    reranker_name_or_path: str | None = option(
        None, f"teacher: a local folder or a hub name; without it {DEFAULT_TEACHER}", metavar="M"
    )
    normalize: bool = option(
        False, "put the scores through a sigmoid, into 0 to 1; without it they are logits, which distillation wants"
    )
    reranker_max_length: int | None = option(
        None,
        "tokens of query and passage together, the longer one cut first; without it the length that the model was "
        "tuned with, else 512",
        ge=4,
    )
    reranker_query_max_length: int | None = option(None, "tokens that a query is cut to first (default: not cut)", ge=3)
    reranker_batch_size: Any = ignored("batches are formed by tokens, to fit the machine, and do not change the result")
    embedder_name_or_path: Any = ignored(OF_MINE)
    range_for_sampling: Any = ignored(OF_MINE)
    negative_number: Any = ignored(OF_MINE)
    similarity_range: Any = ignored(OF_MINE)
    candidate_pool: Any = ignored(OF_MINE)
    use_gpu_for_searching: Any = ignored(OF_MINE)
    search_batch_size: Any = ignored(OF_MINE)
    overwrite: bool = option(False, "replace an output made with other options or inputs", semantic=False)

    @property
    def teacher(self) -> str:
        """The reranker asked for, or the default one."""
        return self.reranker_name_or_path or DEFAULT_TEACHER


@dataclass
class Survey:
    """What the first reading finds.

    Attributes:
        distinct: the pairs of all rows, numbered.
        bare: rows without negatives.
        stale: rows that carry scores already.
        unused: rows whose own instruction does nothing.
    """

    distinct: Distinct
    rows: int
    bare: int
    stale: int
    unused: int


def run(options: ScoreOptions) -> Outcome:
    """Score every row's passages.

    Raises:
        UserError: for bad rows, a teacher that cannot be had, a score that is not a number, a worker that died.
    """
    from finerank.data import console

    with console.once():
        return _run(options)


def _run(options: ScoreOptions) -> Outcome:
    from finerank.data import console
    from finerank.data.distinct import Unchanged
    from finerank.data.outputs import Output
    from finerank.data.scored_rows import Tally, scored_lines
    from finerank.data.sources import inputs_of
    from finerank.models.fleet import open_fleet

    recipe = _recipe(options)
    unchanged = Unchanged(options.input_file, options.sub_data_name, options.split)
    layout = _layout(options, recipe)
    survey = _survey(options, layout)
    with (
        open_fleet(recipe, options.devices) as fleet,
        Output.open(
            options.output_file, command="score", options=semantic(options),
            inputs=inputs_of(options.input_file, sub_data_name=options.sub_data_name, split=options.split),
            models={"teacher": fleet.facts["fingerprint"]}, overwrite=options.overwrite,
        ) as output,
    ):  # fmt: skip
        if output.done:
            console.say(f"{options.output_file}: already scored with these options and inputs, nothing to do")
            return _outcome(options, output.manifest["counts"])
        _banner(options, fleet, survey)
        _score(options, layout, survey.distinct, fleet, output)
        tally = Tally(_counts(survey))
        logits = _logits(output, survey.distinct)
        lines = scored_lines(_rows(options), survey.distinct, logits, tally, normalize=options.normalize)
        output.finish(tally.counts, {"teacher": _facts(options, fleet)}, unchanged.guard(lines))
    _say_aloud(survey)
    return _outcome(options, tally.counts)


def _recipe(options: ScoreOptions) -> ScorerRecipe:
    """Return how the teacher is opened.

    Raises:
        UserError: if it is not of the class asked for.
    """
    from finerank.models.recipes import ScorerRecipe
    from finerank.models.reranker_arguments import scorer_arguments

    asked = scorer_arguments(options, options.teacher, options.cache_dir, placed=True)
    return ScorerRecipe(
        options.teacher,
        {
            **asked,
            "dtype": options.dtype,
            "max_len": options.reranker_max_length,
            "query_max_len": options.reranker_query_max_length,
            "cache_dir": options.cache_dir,
            "peft_path": options.reranker_peft_path,
            "trust_remote_code": options.trust_remote_code,
        },
    )


def _layout(options: ScoreOptions, recipe: ScorerRecipe) -> PairLayout:
    """Return the one rule by which rows become the texts that the teacher reads."""
    from finerank.batching.row_pairs import PairLayout
    from finerank.models.reranker_arguments import prompt_stands_last

    return PairLayout.of(options, prompt_last=prompt_stands_last(recipe.options["family"]))


def _survey(options: ScoreOptions, layout: PairLayout) -> Survey:
    """Check every row and number the distinct pairs.

    Raises:
        DataError: with every bad line, as far as they are collected.
    """
    from finerank.data.console import progress
    from finerank.data.distinct import DIGEST_BYTES, Distinct, key_of

    digests, counts = bytearray(), Counter[str]()
    with progress(0, "reading", "pairs") as update:
        for row in _rows(options):
            before = len(digests)
            for pair in layout.pairs(row):
                digests += key_of(*pair)
            update((len(digests) - before) // DIGEST_BYTES)
            counts["rows"] += 1
            counts["bare"] += not row.negatives
            counts["stale"] += row.pos_scores is not None or row.neg_scores is not None
            counts["unused"] += layout.unused(row)
    return Survey(Distinct(digests), counts["rows"], counts["bare"], counts["stale"], counts["unused"])


def _rows(options: ScoreOptions) -> Iterator[Row]:
    """Yield all rows.

    Raises:
        DataError: behind the last one, if any line was bad.
    """
    from finerank.data.sources import MAX_PROBLEMS, row_hint, scan_rows

    problems: list[Problem] = []
    for item in scan_rows(options.input_file, sub_data_name=options.sub_data_name, split=options.split):
        if not isinstance(item, list):
            yield item
        else:
            problems += item
            if len(problems) >= MAX_PROBLEMS:
                break
    if problems:
        raise DataError(problems, hint=row_hint(problems))


def _pairs(options: ScoreOptions, layout: PairLayout) -> Iterator[AnyPair]:
    for row in _rows(options):
        yield from layout.pairs(row)


def _score(options: ScoreOptions, layout: PairLayout, distinct: Distinct, fleet: Fleet, output: Output) -> None:
    """Score the distinct pairs that have not been scored before, shard by shard."""
    from finerank.models.pieces import land_missing, pack_float32

    land_missing(
        fleet, output.shards, distinct, _pairs(options, layout), size=SHARD_PAIRS, pack=pack_float32, label="scoring",
        unit="pairs",
    )  # fmt: skip


def _logits(output: Output, distinct: Distinct) -> NDArray[np.float32]:
    """Return the logits of the distinct pairs [D]."""
    import numpy as np

    parts = [np.frombuffer(output.shards.body(index), "<f4") for index in range(len(distinct.sizes(SHARD_PAIRS)))]
    return np.concatenate(parts).astype(np.float32)


def _counts(survey: Survey) -> dict[str, int]:
    return {
        "rows": survey.rows,
        "pairs": len(survey.distinct),
        "pairs_distinct": survey.distinct.count,
        "rows_without_negatives": survey.bare,
        "rows_rescored": survey.stale,
    }


def _facts(options: ScoreOptions, fleet: Fleet) -> dict[str, Any]:
    """Return what the manifest says of the teacher and of the text that it read."""
    return {
        "name": options.teacher,
        "prompt": None,
        **{name: value for name, value in fleet.facts.items() if name != "describe"},
        "query_instruction": options.query_instruction_for_rerank,
        "query_format": options.query_instruction_format_for_rerank,
        "passage_instruction": options.passage_instruction_for_rerank,
        "passage_format": options.passage_instruction_format_for_rerank,
        "scores": "sigmoid of the logits" if options.normalize else "logits",
    }


def _banner(options: ScoreOptions, fleet: Fleet, survey: Survey) -> None:
    from finerank.data import console

    default = "" if options.reranker_name_or_path else " (the default, since no --reranker_name_or_path is given)"
    distinct = survey.distinct
    console.banner(
        f"score {options.output_file}",
        {
            **fleet.facts["describe"],
            "model": f"{options.teacher}{default}",
            "scores": "probabilities (sigmoid of the logits)" if options.normalize else "logits",
            "rows": survey.rows,
            "pairs": f"{len(distinct):,}, of them {distinct.count:,} distinct ones to score",
        },
    )


def _say_aloud(survey: Survey) -> None:
    from finerank.data.console import say

    if survey.stale:
        say(f"{survey.stale:,} rows had scores already: they are replaced")
    if survey.bare:
        say(f'{survey.bare:,} rows have no negatives: their "neg_scores" is an empty list')
    if survey.unused:
        say(
            f"{survey.unused:,} rows carry an instruction of their own (query_prompt, prompt or passage_prompt) that "
            "was not used: it takes the place of --query_instruction_for_rerank or --passage_instruction_for_rerank, "
            "as in training, and neither was given for it"
        )


def _outcome(options: ScoreOptions, counts: dict[str, Any]) -> Outcome:
    from finerank.data.console import table

    rows: list[list[object]] = [
        ["rows", counts["rows"]],
        ["pairs", counts["pairs"]],
        ["distinct pairs, scored once each", counts["pairs_distinct"]],
        ["mean logit of positives", _figure(counts["logit_mean_positive"])],
        ["mean logit of negatives", _figure(counts["logit_mean_negative"])],
        ["rows with a negative above a positive", counts["rows_negative_above_positive"]],
    ]
    text = f"{table(['scores', 'count'], rows)}\n\nwritten to {options.output_file}"
    return Outcome(text, {"output_file": options.output_file, **counts})


def _figure(value: float | None) -> str | float:
    return "-" if value is None else value
