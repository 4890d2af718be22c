"""``finerank mine``: rows in, the same rows with hard negatives out.

Reads rows and a pool, ranks the pool for each query by an embedder, by shared words or by both, applies the rules of
``retrieval.negatives``, has a reranker look at the candidates where there is one, and writes every row with its new
``neg`` and what is known of them, in resumable shards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from finerank.core.errors import UserError
from finerank.core.mine_options import MineOptions
from finerank.core.options import semantic
from finerank.core.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finerank.core.protocols import Progress
    from finerank.core.records import Row
    from finerank.data.outputs import Output
    from finerank.models.bi_encoder import BiEncoder
    from finerank.models.cross_encoder import CrossEncoder
    from finerank.retrieval.mining import Miner, Setup
    from finerank.retrieval.negatives import Rules

__all__ = ["MineOptions", "run"]

SHARD_ROWS = 1024
RANKED_BY = {"dense": "vectors", "bm25": "words (BM25)", "hybrid": "vectors and words (BM25), fused by ranks"}


@dataclass(frozen=True)
class Task:
    """What a run works on, read and loaded."""

    rows: Sequence[Row]
    pool: Sequence[str]
    encoder: BiEncoder | None
    scorer: CrossEncoder | None
    segmenter: str
    """How BM25 cuts Chinese, resolved; empty where nothing is cut."""

    def fingerprints(self) -> dict[str, str]:
        found = {}
        if self.encoder is not None:
            found = {
                "embedder, queries": self.encoder.fingerprint("query"),
                "passages": self.encoder.fingerprint("passage"),
            }
        return found if self.scorer is None else found | {"reranker": self.scorer.fingerprint()}


def rules_of(options: MineOptions) -> Rules:
    """Return the rules that the options ask for."""
    from finerank.retrieval.negatives import Rules

    start, stop = options.bounds()
    return Rules(
        start=start,
        stop=stop,
        number=options.negative_number,
        similarity_range=options.cosines(),
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
    from finerank.data.sources import inputs_of, read_rows

    subset: dict[str, Any] = {"sub_data_name": options.sub_data_name, "split": options.split}
    rows = read_rows(options.input_file, **subset)
    pool = _pool(options, rows)
    _check_sizes(options, rows, pool, rules_of(options))
    task = Task(rows, pool, _load_encoder(options), _load_scorer(options), _segmenter(options, pool))
    inputs = inputs_of(options.input_file, **subset)
    inputs += [options.candidate_pool] if options.candidate_pool is not None else []
    decisive = semantic(options) | {"segmenter": task.segmenter}
    with Output.open(
        options.output_file, command="mine", options=decisive, inputs=inputs, models=task.fingerprints(),
        overwrite=options.overwrite,
    ) as output:  # fmt: skip
        if output.done:
            console.say(f"{options.output_file}: already mined with these options and inputs, nothing to do")
            return _outcome(output.manifest["counts"], options, task)
        _banner(options, task)
        counts = _mine(options, task, output)
        _refuse_short(options, counts, output)
        output.finish(counts)
    _say_aloud(counts)
    return _outcome(counts, options, task)


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


def _mine(options: MineOptions, task: Task, output: Output) -> dict[str, Any]:
    """Mine shard by shard; return the counts of the whole."""
    from finerank.data import console
    from finerank.retrieval.mining import Miner
    from finerank.retrieval.mining_report import total

    rows = task.rows
    miner = Miner(rows, task.pool, task.encoder, _setup(options, task), _meter)
    shards = []
    with console.progress(len(rows), "mining", "rows") as update:
        for index in range(math.ceil(len(rows) / SHARD_ROWS)):
            shards.append(output.shard(index, partial(_shard, miner, index, options)))
            update(min(SHARD_ROWS, len(rows) - index * SHARD_ROWS))
    return total(shards, len(task.pool))


def _setup(options: MineOptions, task: Task) -> Setup:
    from finerank.retrieval.diverse import weights
    from finerank.retrieval.false_negatives import Bounds
    from finerank.retrieval.mining import Setup
    from finerank.retrieval.vectors import cache_folder

    return Setup(
        rules=rules_of(options),
        seed=options.seed,
        cosine=task.encoder is None or task.encoder.cosine,
        keep_negatives=options.keep_negatives,
        cache=cache_folder(options.embedding_cache),
        device=_search_device(options),
        query_block=options.search_batch_size,
        retriever=options.retriever,
        index=options.index,
        segmenter=task.segmenter,
        rrf_k=options.rrf_k,
        diverse=weights(options.lambda1, options.lambda2, options.lambda3) if options.diverse else None,
        scorer=task.scorer,
        bounds=Bounds(
            max_score=options.max_negative_score,
            margin=options.reranker_margin,
            max_positive_ratio=options.max_reranker_ratio,
            relabel_from=options.relabel_score(),
        ),
    )


@contextmanager
def _meter(total: int, label: str) -> Iterator[Progress]:
    from finerank.data import console

    with console.progress(total, label) as update:
        yield update


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


def _load_encoder(options: MineOptions) -> BiEncoder | None:
    """Load the embedder, if there is one."""
    from finerank.models.encoder_arguments import encoder_arguments
    from finerank.models.load import load_encoder

    if options.model_name_or_path is None:
        return None
    return load_encoder(options.model_name_or_path, device=options.device, **encoder_arguments(options))


def _load_scorer(options: MineOptions) -> CrossEncoder | None:
    from finerank.models.load import load_scorer
    from finerank.models.reranker_arguments import scorer_arguments

    if options.reranker_name_or_path is None:
        return None
    asked = scorer_arguments(options, options.reranker_name_or_path, options.cache_dir)
    return load_scorer(
        options.reranker_name_or_path,
        device=options.device,
        dtype=options.dtype,
        max_len=options.reranker_max_length,
        peft_path=options.reranker_peft_path,
        cache_dir=options.cache_dir,
        trust_remote_code=options.trust_remote_code,
        **asked,
    )


def _segmenter(options: MineOptions, pool: Sequence[str]) -> str:
    """Resolve ``--segmenter`` by what the pool holds and what is installed."""
    from finerank.retrieval.segment import resolve

    return "" if options.retriever == "dense" else resolve(options.segmenter, pool)


def _search_device(options: MineOptions) -> str:
    from finerank.data.console import say

    if not options.use_gpu_for_searching:
        return "cpu"
    if options.retriever == "bm25" or options.index is not None:
        searched = "BM25" if options.retriever == "bm25" else "faiss"
        say(f"--use_gpu_for_searching: {searched} searches on the CPU here")
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    say("--use_gpu_for_searching: there is no CUDA device here, so the search runs on the CPU; the result is the same")
    return "cpu"


def _banner(options: MineOptions, task: Task) -> None:
    from finerank.data import console
    from finerank.retrieval.segment import described
    from finerank.retrieval.vectors import cache_folder

    facts: dict[str, object] = {} if task.encoder is None else {**task.encoder.describe()}
    facts |= {
        "rows": len(task.rows),
        "pool": f"{len(task.pool):,} passages from {options.candidate_pool or 'the rows'}",
        "ranked by": RANKED_BY[options.retriever] + (f", faiss {options.index}" if options.index else ""),
    }
    if task.segmenter:
        facts["Chinese cut into"] = described(task.segmenter, options.segmenter)
    facts["range"] = f"{options.range_for_sampling} of each ranking, {options.negative_number} negatives a row"
    if options.diverse:
        facts["chosen by"] = f"diversity, λ {options.lambda1:g} {options.lambda2:g} {options.lambda3:g}"
    if task.scorer is not None:
        facts["false negatives"] = f"{options.false_negatives}, by {options.reranker_name_or_path}"
    if task.encoder is not None:
        facts["vectors kept in"] = cache_folder(options.embedding_cache) or "nothing (--embedding_cache none)"
    console.banner(f"mine {options.output_file}", facts)


def _say_aloud(counts: dict[str, Any]) -> None:
    from finerank.data.console import say, warn

    stale = counts["stale_keys_removed"]
    if stale:
        named = ", ".join(f"{key} ({number:,} rows)" for key, number in stale.items())
        say(f"left out because they described the old texts: {named}; finerank score writes new teacher scores")
    if counts["relabelled"]:
        say(f"{counts['relabelled']:,} false negatives became positives in {counts['rows_relabelled']:,} rows")
    if counts["rows_still_short"]:
        warn(f"{counts['rows_still_short']:,} rows have fewer negatives than asked for")


def _outcome(counts: dict[str, Any], options: MineOptions, task: Task) -> Outcome:
    """Return the table, and write ``--report``."""
    from finerank.retrieval.mining_page import page
    from finerank.retrieval.mining_report import suspects, text
    from finerank.retrieval.mining_shapes import texts

    found = suspects(counts, task.rows, task.pool, options.suspects)
    ranks, output = options.range_for_sampling, options.output_file
    if options.report is not None:
        from finerank.data.console import say
        from finerank.data.outputs import write_atomic

        rows = texts(counts.get("shapes", {}), task.rows, task.pool)
        write_atomic(options.report, page(options.report, counts, ranks, found, output, rows))
        say(f"report: {options.report}")
    plain = {name: value for name, value in counts.items() if name not in ("suspects", "shapes")}
    return Outcome(
        text(counts, ranks, output, found),
        {"output_file": output, **plain, "suspects": [suspect.to_mapping() for suspect in found]},
    )
