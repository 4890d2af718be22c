"""What ``finerank generate`` takes, and which options do not go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finerank.core.errors import UsageError, did_you_mean
from finerank.core.llm_options import LlmOptions
from finerank.core.model_options import EncoderOptions
from finerank.core.options import option
from finerank.core.row_options import split_option
from finerank.core.seed_config import is_seed_config, translate
from finerank.core.seeding import DEFAULT_SEED

MODES = ("auto", "bridge", "template", "claim", "title", "keyphrase", "ict", "cloze", "judged", "llm", "llm_bridge")
USUAL_CONFIGS = tuple(
    f"{folder}/config_lib/{name}"
    for folder in ("..", ".")
    for name in ("extract_config_wikifulldoc.yaml", "example_config.yaml")
)
"""Where seed 003's documents keep their config; looked for when neither a corpus nor a config is named."""
SHORTEST, SHORTEST_PAGE = 300, 120
"""Characters of a source document: of a corpus of records, of a folder of pages."""
ATTEMPTS = 20


@dataclass(kw_only=True)
class GenerateOptions(LlmOptions, EncoderOptions):
    """Options of ``finerank generate``."""

    corpus: str | None = option(
        None,
        "documents: JSONL of {id, contents} (FlashRAG), {_id, title, text} (BEIR) or {text}, a folder of those, or a "
        "folder of .md and .txt files; --config may name it (corpus_path)",
        metavar="DOCS",
        positional=True,
    )
    num_examples: int = option(100, "rows wanted, train and test together; fewer if the corpus gives no more", ge=1)
    query_mode: list[str] = option(
        ["auto"],
        "what queries are made of, one or several, with weights after a colon: template (questions about a document's "
        "topic; of a paper, a claim), claim (what it says that it has found), title, keyphrase, ict (a sentence taken "
        "out of the document), cloze, bridge (an entity's other "
        "aspects, answered by another document), llm, llm_bridge, judged (the corpus's own queries). auto mixes those "
        "that train a retriever; with a config of seed 003 it is bridge, with --oracle gold judged",
        metavar="MODE[:WEIGHT]",
    )
    oracle: Literal["rule", "llm", "gold"] = option(
        "rule",
        "what says whether a candidate is a positive or a negative: rules, a language model, or the corpus's own "
        "qrels; what it cannot tell is no label",
    )
    max_doc_candidates: int = option(10, "candidates that are retrieved for a query and judged", ge=1)
    lambda1: float = option(0.7, "diverse retriever: weight of a candidate's likeness to the query", ge=0)
    lambda2: float = option(0.1, "diverse retriever: weight of unlikeness to the source document", ge=0)
    lambda3: float = option(0.2, "diverse retriever: weight of unlikeness to the candidates chosen before", ge=0)
    pool_factor: int = option(3, "diverse retriever: chooses among this many times the candidates wanted", ge=1)
    early_stop: bool = option(
        False, "stop judging a query's candidates at its first positive and first negative, as seed 003's script does"
    )
    negatives: int = option(
        7, "negatives per row: those judged first, topped up from further down the ranking; 0 writes none", ge=0
    )
    negatives_about: Literal["auto", "topic", "any"] = option(
        "auto",
        "which negatives a training row gets: those about its own topic that answer something else, and any where "
        "there are none (auto); those or none, and mine --keep_negatives fills up (topic); or any",
    )
    min_length: int | None = option(
        None,
        "characters of a document that a query is made from; shorter ones can still be candidates. Without it "
        f"{SHORTEST}, or {SHORTEST_PAGE} for folders of pages",
        ge=1,
    )
    doc_ids_file: str | None = option(
        None, "ids of source documents, one a line: used first, in this order, then others at random", metavar="FILE"
    )
    max_attempts: int | None = option(
        None, f"tries at a row before the run ends with what it has; without it {ATTEMPTS} per row wanted", ge=1
    )
    max_per_entity: int = option(
        20, "rows about one entity (topic); more would teach the entity rather than the task", ge=1
    )
    round_trip: int = option(
        20,
        "a row made from one document is kept if the document is among this many best for its query; 0 keeps all",
        ge=0,
    )
    test_share: float = option(
        0.1,
        "part of the rows that becomes test data, which shares no entity and no document with the rest",
        ge=0,
        le=0.9,
    )
    split: str = split_option()
    language: Literal["auto", "en", "zh"] = option("auto", "language of the documents; auto looks at their letters")
    embedder: str | None = option(
        None,
        "model whose vectors find and compare candidates: a local folder or a hub name; without it words do (BM25, "
        "and cosines of its weights)",
        metavar="M",
    )
    embedding_cache: str = option(
        "auto",
        "folder of vectors kept between runs; auto is $FINERANK_CACHE/vectors or ~/.cache/finerank/vectors; none is "
        "no cache",
        metavar="DIR|auto|none",
        semantic=False,
    )
    output_dir: str = option(
        "./data",
        "folder for train_data.jsonl, test_data.jsonl, test_data_sample.jsonl and the summary",
        metavar="DIR",
        semantic=False,
    )
    write_pool: bool = option(
        False,
        "write the documents to corpus.jsonl in --output_dir too, a pool for mine and evaluate; for a folder of pages "
        "that is always done",
    )
    data_output: str | None = option(
        None, "file for all rows together as well, in the order in which they were made", metavar="FILE", semantic=False
    )
    summary: str | None = option(
        None, "summary file; without it contrastive_data_summary.json in --output_dir", metavar="FILE", semantic=False
    )
    config_file: str | None = option(None, "the config that was read, for the summary", metavar="FILE", semantic=False)
    seed: int = option(DEFAULT_SEED, "seed of everything that is drawn", ge=0)
    overwrite: bool = option(False, "replace outputs made with other options or documents", semantic=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.modes()
        if not self.lambda1 + self.lambda2 + self.lambda3:
            raise UsageError("--lambda1, --lambda2 and --lambda3 are all 0", hint="--lambda1 0.7")
        if self.corpus is None:
            raise UsageError(
                "generate needs documents: --corpus, or a --config with corpus_path (none stands at "
                f"{', '.join(USUAL_CONFIGS)})",
                hint="finerank generate --corpus docs/",
            )
        if self.uses_llm():
            self.check_llm()

    def modes(self) -> dict[str, float]:
        """Return mode -> weight.

        Raises:
            UsageError: for an unknown mode or a weight that is none.
        """
        found: dict[str, float] = {}
        for word in (part for text in self.query_mode for part in text.split(",") if part):
            name, _, weight = word.partition(":")
            if name not in MODES:
                raise UsageError(f'unknown --query_mode "{name}"{did_you_mean(name, MODES)}', hint=", ".join(MODES))
            try:
                found[name] = float(weight or 1)
            except ValueError:
                raise UsageError(f'--query_mode {word}: "{weight}" is no weight', hint=f"{name}:0.5") from None
            if not 0 < found[name] < float("inf"):
                raise UsageError(f"--query_mode {word}: a weight is more than 0", hint=f"{name}:0.5")
        return found

    def uses_llm(self) -> bool:
        """Say whether a language model is asked."""
        return self.oracle == "llm" or not {"llm", "llm_bridge"}.isdisjoint(self.modes())

    def tries(self) -> int:
        """Return how many attempts the run has."""
        return self.max_attempts if self.max_attempts is not None else ATTEMPTS * self.num_examples

    @classmethod
    def find_config(cls, typed: Mapping[str, Any]) -> str | None:
        """Return seed 003's config where it usually stands, if the command line names neither corpus nor config."""
        return None if "corpus" in typed else next((path for path in USUAL_CONFIGS if Path(path).is_file()), None)

    @classmethod
    def adapt_config(
        cls, config: Mapping[str, Any], path: str, names: Sequence[str]
    ) -> tuple[dict[str, Any], list[str]]:
        """Read a config, seed 003's too; theirs makes two-hop queries unless it says otherwise."""
        values, notes = translate(config, names)
        values["config_file"] = path
        if not is_seed_config(config):
            return values, notes
        values.setdefault("query_mode", ["bridge"])
        return values, [f"--config {path}: taken for a config of seed 003, so --query_mode is bridge", *notes]
