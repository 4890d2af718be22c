"""An ablation's verdict: which retriever finds a document that carries a question on, and how soon?

Every retriever has the same sources, queries and verdicts, so all comparisons are paired. A list is tried from its
head until a document succeeds, as the original tool does; that decides the success rate, the attempts, success@k and
the reciprocal rank. Keys of the original's JSON stand beside those of a comparison (``evaluation.report``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finerank.core.runs import Qrels, Run
from finerank.data.console import table
from finerank.evaluation.ablation_trials import Trial
from finerank.evaluation.report import Report, Values, build_report
from finerank.evaluation.report_text import text_of as report_text
from finerank.evaluation.retriever_lists import PLAIN, TYPES, parts_of
from finerank.evaluation.significance import holm, mcnemar

NAMES = {
    "standard": "Base Retriever",
    "standard_zs": "Zero-shot Reranker Retriever",
    "standard_ft": "Fine-tuned Reranker Retriever",
    "diverse": "Diverse Retriever",
    "diverse_zs": "Diverse + Zero-shot Reranker Retriever",
    "diverse_ft": "Diverse + Fine-tuned Reranker Retriever",
}
"""What the original's documents call them; it has no third one."""
INTRA, NEAR, COVERAGE, ENTITIES = "cosine within the list", "cosine to the source", "entity coverage", "entities"
NOTES = (
    "All retrievers have the same source documents, queries and verdicts; each verdict was asked for once.",
    "A list is tried from its head until a document succeeds; a verdict that cannot be told is no success.",
    "Entity coverage: the part of the entities in any list of a query that stands in this list; entities of the source "
    "are left out.",
    "Cosines are of the documents' vectors (of their words, where there is no embedder); lower is more varied.",
)


@dataclass(frozen=True)
class Setting:
    """What a result repeats of its run.

    Attributes:
        skipped: type -> why it did not run.
        seconds: type -> seconds; written only where they are asked for.
    """

    k: int
    config_path: str | None
    num: int
    min_length: int
    doc_ids_file: str | None
    skipped: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    timestamp: str | None = None
    seed: int = 42


def build(trials: Sequence[Trial], texts: Mapping[str, str], setting: Setting, notes: Sequence[str] = ()) -> Report:
    """Compare the retrievers that ran; ``texts`` are the listed documents', for the page."""
    kinds = [kind for kind in TYPES if kind in trials[0].lists]
    queries = {f"q{number}": trial for number, trial in enumerate(trials, start=1)}
    qrels: Qrels = {name: _positives(trial) for name, trial in queries.items()}
    depths = sorted({1, min(3, setting.k), setting.k})
    skipped = [f"{kind} was skipped: {why}" for kind, why in setting.skipped.items()]
    return build_report(
        {kind: _run(queries, kind) for kind in kinds},
        qrels,
        {name: trial.query for name, trial in queries.items()},
        texts,
        metrics=[f"Success@{setting.k}", f"MRR@{setting.k}", *(f"Success@{depth}" for depth in depths[:-1])],
        baseline=PLAIN if PLAIN in kinds else kinds[0],
        comparisons=[(kind, parts_of(kind)[0]) for kind in kinds if parts_of(kind)[1] and parts_of(kind)[0] in kinds],
        title="Ablation of retrievers",
        notes=[*NOTES, *notes, *skipped],
        more_values={kind: _measures(queries, kind) for kind in kinds},
        facts={kind: {"retriever": NAMES[kind]} for kind in kinds},
        seed=setting.seed,
    )


def original_keys(trials: Sequence[Trial], setting: Setting) -> dict[str, Any]:
    """Return the result of all types under the original's keys, and what is new of each type."""
    kinds = [kind for kind in TYPES if kind in trials[0].lists]
    results: dict[str, Any] = {kind: one_type(trials, kind, setting) for kind in kinds}
    for kind, test in _mcnemar_tests(trials, kinds).items():
        results[kind]["against_standard"] = test
    results |= {
        kind: {"retriever_type": kind, "retriever_name": NAMES[kind], "skipped": why}
        for kind, why in setting.skipped.items()
    }
    return {
        "config_path": setting.config_path,
        "num_examples": setting.num,
        "min_length": setting.min_length,
        "max_doc_candidates": setting.k,
        "doc_ids_file": setting.doc_ids_file,
        "timestamp": setting.timestamp,
        "results": {kind: results[kind] for kind in TYPES if kind in results},
        "summary_table": {
            "retrievers": [NAMES[kind] for kind in kinds],
            "success_rates": [results[kind]["success_rate"] for kind in kinds],
            "avg_attempts": [results[kind]["avg_attempts_per_success"] for kind in kinds],
        },
    }


def one_type(trials: Sequence[Trial], kind: str, setting: Setting) -> dict[str, Any]:
    """Return the result of one type: the original's keys, then new ones."""
    lists = [trial.lists[kind] for trial in trials]
    ranks = [found.rank for found in lists if found.rank is not None]
    tried = Counter(verdict for found in lists for verdict in found.verdicts)
    total = len(lists)
    return {
        "retriever_type": kind,
        "retriever_name": NAMES[kind],
        "total_attempts": total,
        "successful_examples": len(ranks),
        "failed_attempts": total - len(ranks),
        "success_rate": len(ranks) / total,
        "avg_attempts_per_success": sum(ranks) / len(ranks) if ranks else 0.0,
        "execution_time": setting.seconds.get(kind) if setting.timestamp is not None else None,
        "first_success_mrr": sum(1.0 / rank for rank in ranks) / total,
        **{f"success@{depth}": sum(rank <= depth for rank in ranks) / total for depth in (1, 3, setting.k)},
        "intra_list_cosine": _mean([found.likeness for found in lists]),
        "source_cosine": _mean([found.nearness for found in lists]),
        "distinct_entities": _mean([float(len(found.entities)) for found in lists]),
        "entity_coverage": _mean(list(_coverage(trials, kind))),
        "verdicts": {verdict: tried[verdict] for verdict in ("positive", "negative", "unknown")},
    }


def text_of(data: Mapping[str, Any]) -> str:
    """Return the original's table, then the comparison's, also when ``data`` comes back from a file."""
    results = data.get("results") or {data["retriever_type"]: data}
    ran = [found for found in results.values() if "skipped" not in found]
    rows = [
        [
            found["retriever_name"], f"{found['successful_examples']}/{found['total_attempts']}",
            f"{found['success_rate']:.3f}", f"{found['avg_attempts_per_success']:.2f}",
            f"{found['first_success_mrr']:.3f}", _shown(found["intra_list_cosine"]), _shown(found["source_cosine"]),
            f"p = {found['against_standard']['mcnemar_p_holm']:.3f}" if "against_standard" in found else "",
        ]
        for found in ran
    ]  # fmt: skip
    heads = ["retriever", "successes", "rate", "attempts", "first-success MRR", "within", "to source", "McNemar (Holm)"]
    return f"{table(heads, rows)}\n\n{report_text(data)}"


def _mcnemar_tests(trials: Sequence[Trial], kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Test each type's successes against the plain retriever's, exactly; Holm-corrected over the types."""
    if PLAIN not in kinds:
        return {}
    others = [kind for kind in kinds if kind != PLAIN]
    found = []
    for kind in others:
        pairs = Counter(
            (trial.lists[kind].rank is not None, trial.lists[PLAIN].rank is not None) for trial in trials
        )  # fmt: skip
        found.append((pairs[True, False], pairs[False, True]))
    p_values = [mcnemar(*pair) for pair in found]
    return {
        kind: {"only_this": gained, "only_standard": lost, "mcnemar_p": p, "mcnemar_p_holm": corrected}
        for kind, (gained, lost), p, corrected in zip(others, found, p_values, holm(p_values))
    }


def _positives(trial: Trial) -> dict[str, int]:
    return {
        document: 1
        for found in trial.lists.values()
        for document, verdict in zip(found.documents, found.verdicts)
        if verdict == "positive"
    }


def _run(queries: Mapping[str, Trial], kind: str) -> Run:
    return {
        name: {document: -float(rank) for rank, document in enumerate(trial.lists[kind].documents)}
        for name, trial in queries.items()
    }


def _measures(queries: Mapping[str, Trial], kind: str) -> Values:
    """Return what is no ranking metric; a list too short to have a cosine counts 0."""
    lists = {name: trial.lists[kind] for name, trial in queries.items()}
    coverage = _coverage(list(queries.values()), kind)
    return {
        INTRA: {name: found.likeness or 0.0 for name, found in lists.items()},
        NEAR: {name: found.nearness or 0.0 for name, found in lists.items()},
        COVERAGE: dict(zip(queries, coverage)),
    }


def _coverage(trials: Sequence[Trial], kind: str) -> list[float]:
    found = []
    for trial in trials:
        everything = {name for listed in trial.lists.values() for name in listed.entities}
        found.append(len(trial.lists[kind].entities) / len(everything) if everything else 0.0)
    return found


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
