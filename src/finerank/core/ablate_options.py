"""What ``finerank ablate`` takes, and which options do not go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finerank.core.errors import UsageError
from finerank.core.evaluate_options import record_times_option
from finerank.core.generate_options import SHORTEST, USUAL_CONFIGS
from finerank.core.llm_options import LlmOptions
from finerank.core.model_options import EncoderOptions
from finerank.core.options import ignored, option
from finerank.core.reranker_options import RerankerModelOptions
from finerank.core.row_options import split_option
from finerank.core.seed_config import translate
from finerank.core.seeding import DEFAULT_SEED

Kind = Literal["standard", "standard_zs", "standard_ft", "diverse", "diverse_zs", "diverse_ft"]
ZERO_SHOT = ("./models/bge-reranker-v2-m3", "BAAI/bge-reranker-v2-m3")
FINE_TUNED = "./output_new"
RESULTS = "./ablation_results"
GRID_ONLY = ("first_stage", "reranker", "depth", "metrics", "run_dir", "baseline")
SOURCES_ONLY = ("single", "doc_ids_file", "reranker_path", "finetuned_path")


@dataclass(kw_only=True)
class AblateOptions(LlmOptions, RerankerModelOptions, EncoderOptions):
    """Options of ``finerank ablate``."""

    corpus: str | None = option(
        None,
        "documents: what finerank generate takes; --config may name them (corpus_path)",
        metavar="DOCS",
        positional=True,
    )
    dataset: str | None = option(
        None,
        "judged folder (corpus.jsonl, queries.jsonl, qrels/): compare any grid of --first_stage, --diverse, --reranker "
        "and --depth on its queries instead",
        metavar="BEIR_DIR",
    )
    num: int = option(50, "queries, each from a source document of its own; all retrievers get the same", ge=1)
    candidates: int = option(10, "documents that a retriever returns for a query, tried from the first", ge=1)
    min_length: int = option(SHORTEST, "characters of a source document drawn at random", ge=1)
    doc_ids_file: str | None = option(
        None, "ids of source documents, one a line: used first, in this order, then others at random", metavar="FILE"
    )
    single: Kind | None = option(
        None, "run one retriever alone: the result is its object, without comparisons", metavar="TYPE"
    )
    lambda1: float = option(0.87, "diverse retriever: weight of relevance", ge=0)
    lambda2: float = option(0.03, "diverse retriever: weight of unlikeness to the source document", ge=0)
    lambda3: float = option(0.1, "diverse retriever: weight of unlikeness to what is chosen before", ge=0)
    pool_factor: int = option(3, "diverse retriever: picks from this many times the documents wanted", ge=1)
    rerank_pool_factor: int = option(
        3, "a reranker sees this many times --candidates; 1 only re-orders the list, as seed 003's script does", ge=1
    )
    reranker_path: str | None = option(
        None, f"zero-shot reranker (default: {' or '.join(ZERO_SHOT)}; skipped where neither can be had)", metavar="R"
    )
    finetuned_path: str | None = option(
        None, f"fine-tuned reranker (default: {FINE_TUNED}; skipped where it is not there)", metavar="R"
    )
    query_mode: list[str] = option(
        ["bridge"], "what queries are made of, as for finerank generate: bridge, template, title, ict …", metavar="MODE"
    )
    oracle: Literal["rule", "llm", "gold"] = option(
        "rule",
        "what says whether a document succeeds: rules, a language model, or the corpus's own qrels (gold; then sources "
        "are judged)",
    )
    language: Literal["auto", "en", "zh"] = option("auto", "language of the documents; auto looks at their letters")
    embedder: str | None = option(
        None,
        "model whose vectors find and compare documents: a local folder or a hub name; without it words do (BM25, and "
        "tf·idf for likeness)",
        metavar="M",
    )
    first_stage: list[str] = option(
        [], "--dataset: what finds the candidates, bm25 or embedders (default: --embedder, else bm25)", metavar="bm25|M"
    )
    diverse: list[str] = option(
        [],
        "--dataset: diversities to compare, none or three λ as 0.8,0,0.2 (default: none and --lambda1 to --lambda3)",
        metavar="none|λ,λ,λ",
    )
    reranker: list[str] = option(
        [], "--dataset: rerankers to compare, none among them (default: none)", metavar="none|R"
    )
    depth: list[int] = option(
        [], "--dataset: how many candidates are kept, and scored by a reranker (default: 100)", ge=1, metavar="N"
    )
    metrics: list[str] = option([], "--dataset: e.g. nDCG@10 Recall@100; the first is the headline", metavar="METRIC")
    baseline: str | None = option(None, "--dataset: arm that the others are tested against (default: the first)")
    run_dir: str | None = option(
        None, "--dataset: folder to write one TREC run per arm and the qrels to", metavar="DIR", semantic=False
    )
    split: str = split_option("test")
    limit: int | None = option(None, "--dataset: only N queries, drawn by --seed", ge=1)
    output_file: str | None = option(
        None, f"JSON to write (default: one in {RESULTS}/)", metavar="OUT.json", semantic=False
    )
    report: str = option(
        "auto", "HTML page with plots; auto: beside the JSON; none", metavar="auto|none|OUT.html", semantic=False
    )
    record_times: bool = record_times_option()
    embedding_cache: str = option(
        "auto",
        "folder of vectors kept between runs; auto: $FINERANK_CACHE/vectors, else ~/.cache/finerank/vectors; none",
        metavar="DIR|auto|none",
        semantic=False,
    )
    batch_size: Any = ignored("batches are formed by tokens, to fit the machine, and do not change the result")
    seed: int = option(DEFAULT_SEED, "seed of sources, queries, intervals and tests", ge=0)
    overwrite: bool = option(False, "replace a result made with other options or inputs", semantic=False)
    config_file: str | None = option(None, "named in the result as config_path; set by --config", semantic=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lambda1 + self.lambda2 + self.lambda3:
            raise UsageError("--lambda1, --lambda2 and --lambda3 are all 0", hint="--lambda1 0.87")
        if self.dataset is not None and self.corpus is not None:
            raise UsageError("--dataset judges queries of its own, --corpus makes queries", hint="give one of them")
        if self.dataset is None and self.corpus is None:
            raise UsageError(
                f"ablate needs documents: --corpus, a --config with corpus_path (none stands at "
                f"{', '.join(USUAL_CONFIGS)}), or --dataset",
                hint="finerank ablate --corpus docs/",
            )
        self._check_part()

    def _check_part(self) -> None:
        """Refuse an option of the one part in the other: it would be ignored in silence."""
        names, flag = (SOURCES_ONLY, "--corpus") if self.dataset is not None else (GRID_ONLY, "--dataset")
        for name in names:
            if getattr(self, name):
                raise UsageError(f"--{name} goes with {flag}", hint=f"leave --{name} out")
        if self.dataset is None and self.diverse:
            raise UsageError("--diverse goes with --dataset", hint="--lambda1, --lambda2 and --lambda3 set the weights")
        if self.dataset is None and self.oracle == "llm":
            self.check_llm()

    def result_path(self) -> str:
        """Return where the JSON goes."""
        if self.output_file is not None:
            return self.output_file
        name = "judged_ablation" if self.dataset is not None else f"rerank_ablation_{self.single or 'test'}"
        return f"{RESULTS}/{name}.json"

    def page_path(self) -> str | None:
        """Return where the page goes; None for nowhere."""
        if self.report == "none":
            return None
        return str(Path(self.result_path()).with_suffix(".html")) if self.report == "auto" else self.report

    @classmethod
    def find_config(cls, typed: Mapping[str, Any]) -> str | None:
        """Return seed 003's config where it usually stands, if the command line names neither documents nor config."""
        if "corpus" in typed or "dataset" in typed:
            return None
        return next((path for path in USUAL_CONFIGS if Path(path).is_file()), None)

    @classmethod
    def adapt_config(
        cls, config: Mapping[str, Any], path: str, names: Sequence[str]
    ) -> tuple[dict[str, Any], list[str]]:
        """Read a config, seed 003's too, and remember its name."""
        values, notes = translate(config, names)
        return values | {"config_file": path}, notes
