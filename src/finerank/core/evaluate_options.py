"""The options of ``finerank evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from finerank.core.errors import UsageError
from finerank.core.fusion_weight import parse_weight
from finerank.core.model_options import ModelOptions
from finerank.core.options import ignored, option
from finerank.core.reranker_options import RerankerModelOptions
from finerank.core.row_options import split_option, sub_data_name_option
from finerank.core.seeding import DEFAULT_SEED


def record_times_option() -> Any:
    """Declare ``--record_times``, for verbs whose result may hold figures of time."""
    return option(
        False, "write seconds and the time of day into the JSON as well; then no two runs give the same bytes"
    )


@dataclass(kw_only=True)
class EvaluateOptions(RerankerModelOptions, ModelOptions):
    """Options of ``finerank evaluate``."""

    model_name_or_path: list[str] = option(
        [], "models to compare: embedders and rerankers, local folders or hub names", metavar="M"
    )
    data: list[str] = option(
        help="a judged folder (corpus.jsonl, queries.jsonl, qrels/), or rows: files and folders; with --runs alone "
        "also a TREC qrels file",
        metavar="D",
    )
    runs: list[str] = option(
        [], "TREC runs to compare, of any tool; a file's name without its suffix names the arm", metavar="FILE.trec"
    )
    qrels: str | None = option(
        None, "TREC qrels file to judge a folder's queries by, in the place of its --split", metavar="FILE"
    )
    sub_data_name: str | None = sub_data_name_option()
    split: str = split_option("test")
    also: list[str] = option(
        [],
        "further judged folders that every model is tried on: has it forgotten what it could do before?",
        metavar="DIR",
    )
    also_split: str | None = option(None, "split of those folders (default: --split)")
    output_file: str | None = option(
        None, "JSON to write: figures, tests, values per query", metavar="OUT.json", semantic=False
    )
    report: str | None = option(None, "HTML page to write, self-contained", metavar="OUT.html", semantic=False)
    run_dir: str | None = option(
        None, "folder to write one TREC run per arm and the qrels to", metavar="DIR", semantic=False
    )
    top_k: int = option(100, "passages per query: what a search returns and a reranker scores", ge=1)
    first_stage: list[str] = option(
        [],
        "what finds the candidates that rerankers score: bm25, an embedder or a TREC run; several give several arms "
        "(default: bm25 if there is a reranker)",
        metavar="bm25|M|FILE.trec",
    )
    baseline: str | None = option(
        None, "the arm that the others are tested against: bm25, a model or an arm's name (default: the first arm)"
    )
    metrics: list[str] = option(
        [],
        "e.g. nDCG@10 MRR@10 MAP Recall@100 hit@1 or AP(rel=2); the first is the headline (default: nDCG@10 MRR@10 MAP "
        "and Recall@top_k; for rows their ranking and pair figures)",
    )
    depths: list[int] = option(
        [],
        "reranking depths to show as a curve, up to --top_k, e.g. 10 20 50 100: how good at each, how good at best",
        metavar="N",
        ge=1,
    )
    slices: bool = option(
        False, "compare on parts of the queries, too: by length, by script (language), by the data's own type"
    )
    calibration: bool = option(
        False,
        "for those who cut by score: how often a reranker's probability is right, and the threshold of the best F1, "
        "chosen on --dev_split or --dev_data if given, else on the judged queries, which flatters it",
    )
    fusion: Literal["none", "zscore", "rrf"] = option(
        "none", "add an arm that joins each reranker with its first stage: per-query z-scores, or reciprocal ranks"
    )
    fusion_weight: str = option(
        "auto",
        "weight of the reranker against 1 for the first stage; auto: chosen on --dev_split and stored with the "
        "model, or the stored one",
        metavar="W|auto",
    )
    dev_split: str | None = option(
        None,
        "qrels split that auto chooses the weight on, and --calibration the threshold; queries that are judged here "
        "are left out of it",
    )
    dev_data: list[str] = option([], "rows: other rows to choose --calibration's threshold on", metavar="D")
    max_len: int | None = option(None, "tokens of a reranker's query and passage together (default: the model's)", ge=4)
    query_max_len: int | None = option(None, "tokens of a query (default: the model's)", ge=3)
    passage_max_len: int | None = option(None, "tokens of a passage (default: the model's)", ge=3)
    query_instruction_for_retrieval: str | None = option(
        None, "text put before each query of an embedder; without it, the model's own prompt"
    )
    query_instruction_format_for_retrieval: str = option(
        "{}{}", "how that text (first {}) and a query (second {}) are joined"
    )
    strip_titles: bool = option(
        False, "rows: judge them once more without their passages' title lines, lest a title gives the answer away"
    )
    limit: int | None = option(None, "evaluate only N queries or rows, drawn by --seed", ge=1)
    embedding_cache: str = option(
        "auto",
        "folder of vectors and rerankers' scores kept between runs; auto: $FINERANK_CACHE/vectors, else "
        "~/.cache/finerank/vectors; none",
        metavar="DIR|auto|none",
        semantic=False,
    )
    record_times: bool = record_times_option()
    batch_size: Any = ignored("batches are formed by tokens, to fit the machine, and do not change the result")
    sample_queries: int = option(20, "queries shown side by side in the HTML page", ge=0)
    seed: int = option(DEFAULT_SEED, "seed of the intervals, the tests, the sample and --limit", ge=0)
    overwrite: bool = option(
        False, "replace an output, a page or runs made with other options or inputs", semantic=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise UsageError("evaluate needs --data", hint="finerank evaluate --help")
        parse_weight(self.fusion_weight)
        if not self.model_name_or_path and not self.first_stage and not self.runs:
            raise UsageError("evaluate needs a model or a run", hint="-m MODEL, --first_stage bm25, or --runs FILE")
        deepest = max(self.depths, default=0)
        if deepest > self.top_k:
            raise UsageError(
                f"--depths {deepest} is deeper than the first stage searches, --top_k {self.top_k}",
                hint=f"--top_k {deepest}",
            )
