"""``finerank mine``: rows in, the same rows with hard negatives out.

Reads rows and a pool, ranks the pool for each query with an embedder, applies the rules of ``retrieval.negatives``
and writes every row with its new ``neg``, ``pos_similarities`` and ``neg_similarities``, in resumable shards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from finerank.core.errors import UsageError, UserError
from finerank.core.model_options import ModelOptions
from finerank.core.options import ignored, option, parse_range, semantic
from finerank.core.outcomes import Outcome
from finerank.core.seeding import DEFAULT_SEED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finerank.core.records import Row
    from finerank.data.outputs import Output
    from finerank.models.bi_encoder import BiEncoder
    from finerank.retrieval.mining import Miner
    from finerank.retrieval.negatives import Rules

SHARD_ROWS = 1024


@dataclass(kw_only=True)
class MineOptions(ModelOptions):
    """Options of ``finerank mine``."""

    model_name_or_path: str = option(help="embedder that ranks the pool: a local folder or a hub name", metavar="M")
    input_file: list[str] = option(help="rows with query, pos and maybe neg: files or folders", metavar="ROWS")
    output_file: str = option(help="JSONL file to write: every row, with new negatives", metavar="OUT", semantic=False)
    candidate_pool: str | None = option(
        None,
        "JSONL of passages to take negatives from; without it, the distinct texts of all pos and neg",
        metavar="POOL",
    )
    range_for_sampling: str = option(
        "10-210",
        "0-based half-open slice of each query's ranking to take negatives from, cut before positives are removed: "
        "2-200 is ranks 3 to 200; a higher start gives easier negatives",
        metavar="A-B",
    )
    negative_number: int = option(15, "negatives wanted per row", ge=1)
    similarity_range: str | None = option(
        None,
        "take only negatives whose cosine to the query lies in this range, ends included, e.g. 0.3-0.8",
        metavar="A-B",
    )
    max_positive_ratio: float | None = option(
        None,
        "take only negatives whose cosine is at most this share of the row's lowest positive cosine, e.g. 0.95; "
        "lower removes more false negatives",
        gt=0,
        le=1,
    )
    margin: float | None = option(
        None, "take only negatives whose cosine is at least this far below the row's lowest positive cosine", ge=0
    )
    sampling: Literal["random", "top"] = option(
        "random", "random: any of the survivors, drawn with the row's own stream; top: the hardest"
    )
    when_short: Literal["pad", "keep", "drop", "error"] = option(
        "pad",
        "what to do with a row that has too few negatives left: pad from ranks below the range, best first, by the "
        "same rules (harder ones never); keep it short; drop it; or stop with an error",
    )
    keep_negatives: bool = option(
        False, "keep the row's own negatives, first; they count towards --negative_number and are never cut"
    )
    query_instruction_for_retrieval: str | None = option(
        None, "instruction put before each query; without it, the model's own prompt"
    )
    query_instruction_format_for_retrieval: str = option(
        "{}{}", "how the instruction (first {}) and the query (second {}) are joined"
    )
    normalize_embeddings: bool | None = option(
        None,
        "True ranks by cosine, False by inner product of the raw vectors; without it, the model's own configuration "
        "decides; the rules on similarity always compare cosines",
    )
    pooling_method: str | None = option(
        None, "cls, mean or last_token; without it, the model's own configuration decides", metavar="NAME"
    )
    embedder_query_max_length: int | None = option(
        None, "tokens of a query, special tokens included; without it, the model's own limit", ge=3
    )
    embedder_passage_max_length: int | None = option(
        None, "tokens of a passage, special tokens included; without it, the model's own limit", ge=3
    )
    batch_size: Any = ignored("batches are formed by tokens, to fit the machine, and do not change the result")
    use_gpu_for_searching: bool = option(
        False, "search on the CUDA device if there is one; the result is the same", semantic=False
    )
    search_batch_size: int = option(
        64, "queries compared with a block of the pool at once; memory and speed only", ge=1, semantic=False
    )
    embedding_cache: str = option(
        "auto",
        "folder of vectors kept between runs; auto is $FINERANK_CACHE/vectors or ~/.cache/finerank/vectors; none is "
        "no cache",
        metavar="DIR|auto|none",
        semantic=False,
    )
    seed: int = option(DEFAULT_SEED, "seed of the sampling; each row has its own stream", ge=0)
    overwrite: bool = option(False, "replace an output made with other options or inputs", semantic=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_positive_ratio is not None and self.margin is not None:
            raise UsageError("--max_positive_ratio and --margin are two forms of one bound", hint="give one of them")
        rules_of(self)


def rules_of(options: MineOptions) -> Rules:
    """Return the rules that the options ask for.

    Raises:
        UsageError: for a malformed range.
    """
    from finerank.retrieval.negatives import Rules

    start, stop = parse_range(options.range_for_sampling, "--range_for_sampling")
    if start < 0:
        raise UsageError(f"--range_for_sampling {options.range_for_sampling}: ranks start at 0")
    cosines = options.similarity_range
    return Rules(
        start=start,
        stop=stop,
        number=options.negative_number,
        similarity_range=parse_range(cosines, "--similarity_range", float) if cosines is not None else None,
        max_positive_ratio=options.max_positive_ratio,
        margin=options.margin,
        sampling=options.sampling,
        pad=options.when_short == "pad",
    )


def run(options: MineOptions) -> Outcome:
    """Mine hard negatives for every row.

    Raises:
        UserError: for bad rows, an empty pool, a range beyond the pool, a model that cannot be had, or rows left short
            under ``--when_short error``.
    """
    from finerank.data import console
    from finerank.data.outputs import Output
    from finerank.data.sources import read_rows

    rules = rules_of(options)
    rows = read_rows(options.input_file)
    pool = _pool(options, rows)
    _check_sizes(options, rows, pool, rules)
    encoder = _load(options)
    inputs = [*options.input_file, *([options.candidate_pool] if options.candidate_pool is not None else [])]
    fingerprints = {"embedder, queries": encoder.fingerprint("query"), "passages": encoder.fingerprint("passage")}
    with Output.open(
        options.output_file, command="mine", options=semantic(options), inputs=inputs, models=fingerprints,
        overwrite=options.overwrite,
    ) as output:  # fmt: skip
        if output.done:
            console.say(f"{options.output_file}: already mined with these options and inputs, nothing to do")
            return _outcome(output.manifest["counts"], options)
        _banner(options, encoder, rows, pool)
        counts = _mine(options, rows, pool, encoder, rules, output)
        _refuse_short(options, counts, output)
        output.finish(counts)
    _say_aloud(counts)
    return _outcome(counts, options)


def _pool(options: MineOptions, rows: Sequence[Row]) -> Sequence[str]:
    """Return the distinct passages of the pool: a file's stay on disk, the rows' are in memory anyway."""
    from finerank.data.sources import iter_pool, pool_of
    from finerank.retrieval.pool import StoredTexts

    return pool_of(rows) if options.candidate_pool is None else StoredTexts(iter_pool(options.candidate_pool))


def _check_sizes(options: MineOptions, rows: Sequence[Row], pool: Sequence[str], rules: Rules) -> None:
    from finerank.data import console

    if not rows:
        raise UserError("holds no row, so there is nothing to mine for", where=" ".join(options.input_file))
    if not pool:
        raise UserError("the pool holds no passage", where=options.candidate_pool, hint='a line is {"text": "…"}')
    if rules.start >= len(pool):
        raise UserError(
            f"--range_for_sampling {options.range_for_sampling} starts beyond the pool of {len(pool):,} passage(s), so "
            "no row could get a negative",
            hint=f"--range_for_sampling 0-{max(len(pool), 1)}, or a larger --candidate_pool",
        )
    if rules.stop > len(pool):
        console.say(
            f"--range_for_sampling {options.range_for_sampling} ends beyond the pool: it stops at {len(pool):,}"
        )
    if len(pool) < options.negative_number:
        console.warn(f"the pool of {len(pool):,} is smaller than --negative_number {options.negative_number}")


def _mine(
    options: MineOptions, rows: Sequence[Row], pool: Sequence[str], encoder: BiEncoder, rules: Rules, output: Output
) -> dict[str, Any]:
    """Mine shard by shard; return the counts of the whole."""
    from finerank.data import console
    from finerank.retrieval.mining import Miner, Setup
    from finerank.retrieval.mining_report import total
    from finerank.retrieval.vectors import cache_folder

    setup = Setup(
        rules=rules,
        seed=options.seed,
        cosine=encoder.cosine,
        keep_negatives=options.keep_negatives,
        cache=cache_folder(options.embedding_cache),
        device=_search_device(options),
        query_block=options.search_batch_size,
    )
    miner = Miner(rows, pool, encoder, setup, console.progress)
    shards = []
    with console.progress(len(rows), "mining", "rows") as update:
        for index in range(math.ceil(len(rows) / SHARD_ROWS)):
            shards.append(output.shard(index, partial(_shard, miner, index, options)))
            update(min(SHARD_ROWS, len(rows) - index * SHARD_ROWS))
    return total(shards, len(pool))


def _shard(miner: Miner, index: int, options: MineOptions) -> tuple[list[bytes], dict[str, Any]]:
    """Return the lines and counts of rows [index · SHARD_ROWS, (index + 1) · SHARD_ROWS)."""
    import orjson

    from finerank.retrieval.mining_report import Tally

    tally, lines = Tally(), []
    for mined in miner.mine(index * SHARD_ROWS, (index + 1) * SHARD_ROWS):
        dropped = options.when_short == "drop" and mined.selection.short
        line = tally.add(mined, dropped=dropped)
        if line is not None:
            lines.append(orjson.dumps(line))
    return lines, tally.to_mapping()


def _refuse_short(options: MineOptions, counts: dict[str, Any], output: Output) -> None:
    """Stop where the user asked for it, or where nothing would be written; leave no half-done work behind."""
    problem = ""
    if options.when_short == "error" and counts["rows_short"]:
        problem = f"cannot be met for {counts['rows_short']:,} of {counts['rows']:,} rows"
    elif not counts["rows_written"]:
        problem = f"cannot be met for any of {counts['rows']:,} rows, so --when_short drop leaves none"
    if problem:
        output.clear(finished=True)
        left = counts["survivors"] / counts["rows"]
        raise UserError(
            f"--negative_number {options.negative_number} {problem} "
            f"(range {options.range_for_sampling} leaves {left:.1f} on average)",
            hint="widen --range_for_sampling, or choose --when_short pad|keep",
        )


def _load(options: MineOptions) -> BiEncoder:
    """Load the embedder; None leaves a setting to the model's own configuration."""
    from finerank.batching.prompts import format_prompt
    from finerank.models.load import load_encoder

    instruction = options.query_instruction_for_retrieval
    return load_encoder(
        options.model_name_or_path,
        device=options.device,
        dtype=options.dtype,
        query_prompt=None
        if instruction is None
        else format_prompt(instruction, options.query_instruction_format_for_retrieval),
        pooling=options.pooling_method,
        normalize=options.normalize_embeddings,
        query_max_len=options.embedder_query_max_length,
        passage_max_len=options.embedder_passage_max_length,
        cache_dir=options.cache_dir,
        trust_remote_code=options.trust_remote_code,
    )


def _search_device(options: MineOptions) -> str:
    if not options.use_gpu_for_searching:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    from finerank.data.console import say

    say("--use_gpu_for_searching: there is no CUDA device here, so the search runs on the CPU; the result is the same")
    return "cpu"


def _banner(options: MineOptions, encoder: BiEncoder, rows: Sequence[Row], pool: Sequence[str]) -> None:
    from finerank.data import console
    from finerank.retrieval.vectors import cache_folder

    console.banner(
        f"mine {options.output_file}",
        {
            **encoder.describe(),
            "rows": len(rows),
            "pool": f"{len(pool):,} passages from {options.candidate_pool or 'the rows'}",
            "range": f"{options.range_for_sampling} of each ranking, {options.negative_number} negatives a row",
            "vectors kept in": cache_folder(options.embedding_cache) or "nothing (--embedding_cache none)",
        },
    )


def _say_aloud(counts: dict[str, Any]) -> None:
    from finerank.data.console import say, warn

    stale = counts["stale_keys_removed"]
    if stale:
        named = ", ".join(f"{key} ({number:,} rows)" for key, number in stale.items())
        say(f"left out because they described the old negatives: {named}; finerank score writes new teacher scores")
    if counts["rows_still_short"]:
        warn(f"{counts['rows_still_short']:,} rows have fewer negatives than asked for")


def _outcome(counts: dict[str, Any], options: MineOptions) -> Outcome:
    from finerank.retrieval.mining_report import text

    return Outcome(
        text(counts, options.range_for_sampling, options.output_file), {"output_file": options.output_file, **counts}
    )
