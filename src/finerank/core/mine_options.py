"""What ``finerank mine`` takes, and which options do not go together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from finerank.core.diverse_options import DiverseOptions
from finerank.core.errors import UsageError
from finerank.core.model_options import EncoderOptions
from finerank.core.options import ignored, option, parse_range
from finerank.core.reranker_options import RERANKER_READS, RerankerModelOptions
from finerank.core.row_options import split_option, sub_data_name_option
from finerank.core.seeding import DEFAULT_SEED

REPORTS = (".html", ".json", ".md")
MOST_SUSPECTS = 100
NEED_COSINES = ("similarity_range", "max_positive_ratio", "margin")
NEED_RERANKER = (
    "max_negative_score", "reranker_margin", "max_reranker_ratio", "relabel_from", "reranker_max_length",
    *RERANKER_READS, "reranker_peft_path",
)  # fmt: skip


@dataclass(kw_only=True)
class MineOptions(RerankerModelOptions, EncoderOptions, DiverseOptions):
    """Options of ``finerank mine``."""

    model_name_or_path: str | None = option(
        None,
        "embedder that ranks the pool: a local folder or a hub name; --retriever bm25 can do without, then there are "
        "no similarities",
        metavar="M",
    )
    input_file: list[str] = option(help="rows with query, pos and maybe neg: files or folders", metavar="ROWS")
    sub_data_name: list[str] | None = sub_data_name_option()
    split: str = split_option()
    output_file: str = option(help="JSONL file to write: every row, with new negatives", metavar="OUT", semantic=False)
    candidate_pool: str | None = option(
        None,
        "JSONL of passages to take negatives from; without it, the distinct texts of all pos and neg",
        metavar="POOL",
    )
    retriever: Literal["dense", "bm25", "hybrid"] = option(
        "dense",
        "what ranks the pool: the embedder; bm25, by shared words; or hybrid, both rankings fused by reciprocal "
        "ranks. bm25 and hybrid write each side's 0-based rank of every negative as neg_ranks",
    )
    segmenter: Literal["auto", "jieba", "bigrams"] = option(
        "auto",
        "terms of Chinese for bm25 and hybrid: words by jieba, or pairs of characters; auto is jieba where the pool is "
        "mostly Chinese and jieba is installed. Japanese and Korean are always pairs",
    )
    rrf_k: float = option(60.0, "hybrid: a side gives 1 / (rrf_k + rank); a larger one levels the first ranks", gt=0)
    index: Literal["flat", "ivfpq", "hnsw"] | None = option(
        None,
        "search vectors through faiss: flat is exact; ivfpq (compressed) and hnsw (a graph) are faster in pools of "
        "millions and may miss passages; without it every vector is compared, which is exact",
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
        "same rules (harder ones never; with bm25 at last any passage that shares no word); keep it short; drop it; "
        "or stop with an error",
    )
    keep_negatives: bool = option(
        False, "keep the row's own negatives, first; they count towards --negative_number and are never cut"
    )
    reranker_name_or_path: str | None = option(
        None,
        "reranker that looks at candidates before they become negatives, as few as needed; its raw scores are written "
        "as pos_scores and neg_scores",
        metavar="R",
    )
    max_negative_score: float | None = option(
        None, "highest reranker score (logit) of a negative; above it a candidate counts as a false negative"
    )
    reranker_margin: float | None = option(
        None, "how far a negative's reranker score (logit) stays below that of the row's lowest positive", ge=0
    )
    max_reranker_ratio: float | None = option(
        None,
        "a negative's probability by the reranker (sigmoid of its score) is at most this share of that of the row's "
        "lowest positive",
        gt=0,
        le=1,
    )
    false_negatives: Literal["drop", "relabel"] = option(
        "drop", "what becomes of a false negative: it goes, or it becomes a positive of its row (key relabelled)"
    )
    relabel_from: float | None = option(
        None,
        "lowest reranker score (logit) at which --false_negatives relabel makes a positive; without it, "
        "--max_negative_score",
    )
    reranker_max_length: int | None = option(
        None, "tokens of a pair that the reranker reads; without it, 512 or the model's own limit", ge=5
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
    report: str | None = option(
        None,
        "page to write: what each rule removed, and suspected false negatives side by side with their positives",
        metavar="OUT.html|OUT.json|OUT.md",
        semantic=False,
    )
    suspects: int = option(
        10,
        "suspected false negatives in --report and --json (three of them on the terminal): the mined negatives closest "
        "to their row's lowest positive, or above it",
        ge=0,
        le=MOST_SUSPECTS,
        semantic=False,
    )
    seed: int = option(DEFAULT_SEED, "seed of the sampling; each row has its own stream", ge=0)
    overwrite: bool = option(False, "replace an output made with other options or inputs", semantic=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_ranges()
        self._check_retriever()
        self._check_reranker()
        self.check_diverse(embedder=self.model_name_or_path is not None, sampling=self.sampling)
        if self.report is not None:
            self._check_report(self.report)

    def bounds(self) -> tuple[int, int]:
        """Return the range of ranks, [start, stop)."""
        start, stop = parse_range(self.range_for_sampling, "--range_for_sampling")
        if start < 0:
            raise UsageError(f"--range_for_sampling {self.range_for_sampling}: ranks start at 0")
        return start, stop

    def cosines(self) -> tuple[float, float] | None:
        """Return the range of cosines, ends included."""
        asked = self.similarity_range
        return None if asked is None else parse_range(asked, "--similarity_range", float)

    def relabel_score(self) -> float | None:
        """Return the reranker score from which a false negative becomes a positive; None drops them all."""
        if self.false_negatives == "drop":
            return None
        return self.max_negative_score if self.relabel_from is None else self.relabel_from

    def _check_ranges(self) -> None:
        self.bounds()
        self.cosines()
        if self.max_positive_ratio is not None and self.margin is not None:
            raise UsageError("--max_positive_ratio and --margin are two forms of one bound", hint="give one of them")

    def _check_retriever(self) -> None:
        sparse = self.retriever == "bm25"
        if self.model_name_or_path is None:
            if not sparse:
                hint = "--model_name_or_path MODEL, or --retriever bm25, which needs none"
                raise UsageError("mine needs --model_name_or_path", hint=hint)
            for name in NEED_COSINES:
                if getattr(self, name) is not None:
                    raise UsageError(
                        f"--{name} compares cosines, and --retriever bm25 has none without an embedder",
                        hint=f"add --model_name_or_path MODEL, or leave --{name} out",
                    )
        if sparse and self.index is not None:
            raise UsageError("--index searches vectors, and --retriever bm25 ranks by words", hint="leave one out")
        if self.retriever == "dense" and self.segmenter != "auto":
            raise UsageError("--segmenter cuts words for bm25 and hybrid, not for dense", hint="--retriever hybrid")

    def _check_reranker(self) -> None:
        if self.reranker_name_or_path is None:
            given = next((name for name in NEED_RERANKER if getattr(self, name) not in (None, [])), None)
            given = given or ("false_negatives" if self.false_negatives == "relabel" else None)
            if given is not None:
                raise UsageError(f"--{given} needs --reranker_name_or_path", hint="--reranker_name_or_path RERANKER")
            return
        if self.max_negative_score is None and self.reranker_margin is None and self.max_reranker_ratio is None:
            raise UsageError(
                "--reranker_name_or_path needs to be told what a false negative is",
                hint="--max_negative_score 0, --reranker_margin 1 or --max_reranker_ratio 0.95",
            )
        if self.false_negatives == "relabel" and self.relabel_score() is None:
            raise UsageError("--false_negatives relabel needs --relabel_from or --max_negative_score")
        if self.relabel_from is not None and self.false_negatives == "drop":
            raise UsageError("--relabel_from goes with --false_negatives relabel")

    def _check_report(self, report: str) -> None:
        if PurePath(report).suffix.lower() not in REPORTS:
            raise UsageError(f"--report {report}: a page ends in {', '.join(REPORTS)}", hint="--report mined.html")
        for taken in (self.output_file, self.candidate_pool, *self.input_file):
            if taken is not None and PurePath(taken) == PurePath(report):
                raise UsageError(f"--report {report} is already an input or the output", hint="name another file")
