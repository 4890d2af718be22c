"""``finerank ablate``: which retriever, which reranker, which λ, on the same queries, with tests between them?

From documents alone: source documents give queries, six retrievers answer them, an oracle says which answers succeed.
On a judged folder (``--dataset``): a grid of first stages, diversities, rerankers and depths.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finerank.core.ablate_options import AblateOptions
from finerank.core.options import semantic
from finerank.core.outcomes import Outcome

if TYPE_CHECKING:
    from finerank.core.protocols import Scorer
    from finerank.data.documents import Documents
    from finerank.data.manifest import Parts
    from finerank.evaluation.ablation import Setting
    from finerank.evaluation.ablation_trials import Trial
    from finerank.evaluation.claims import Claims
    from finerank.evaluation.retriever_lists import Sizes
    from finerank.generation.entities import EntityIndex
    from finerank.generation.oracle import Oracle
    from finerank.generation.queries import GeneratedQuery
    from finerank.retrieval.spaces import Space

__all__ = ["AblateOptions", "run"]

SAMPLED = 200
"""Documents whose language is looked at."""
SHARD_TRIALS = 10
SHOWN_CHARACTERS = 1000


@dataclass
class Task:
    """What an ablation from documents works on.

    Attributes:
        kinds: retrievers that run; ``skipped``: those that cannot, and why.
        seconds: part of the work -> seconds.
        failures: why a language model gave no verdict -> how often; those verdicts are unknown.
    """

    documents: Documents
    index: EntityIndex
    queries: list[GeneratedQuery]
    oracle: Oracle
    encoder: Any
    scorers: dict[str, Scorer]
    kinds: list[str]
    skipped: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)

    def fingerprints(self) -> dict[str, str]:
        found = {name: scorer.fingerprint() for name, scorer in self.scorers.items()}
        if self.encoder is not None:
            found |= {f"embedder, {side}": self.encoder.fingerprint(side) for side in ("query", "passage")}
        return found


def run(options: AblateOptions) -> Outcome:
    """Compare retrievers on queries made from documents, or pipelines on a judged folder."""
    if options.dataset is not None:
        from finerank.evaluation.grid_report import run_grid

        return run_grid(options)
    from finerank.data.console import say
    from finerank.data.documents import open_documents
    from finerank.evaluation.claims import check_places, claim

    assert options.corpus is not None
    output, page = options.result_path(), options.page_path()
    check_places({"output_file": output, "report": page}, [])
    documents = open_documents(options.corpus)
    task = _task(options, documents)
    with ExitStack() as stack:
        parts = _parts(options, task, output)
        claims = claim(parts, result=output, page=page, run_dir=None, overwrite=options.overwrite, stack=stack)
        if claims.done:
            say(f"{output} is done already; --overwrite runs it again")
            return _stored(output)
        _banner(options, task)
        trials = _trials(options, task, claims)
        return _write(options, task, trials, claims, output, page)


def _task(options: AblateOptions, documents: Documents) -> Task:
    """Make the queries, and load what the retrievers need; whatever can be wrong is found here."""
    from finerank.data.console import progress
    from finerank.evaluation.ablation_models import encoder_of, rerankers_of
    from finerank.generation.drawn import drawn_queries
    from finerank.generation.entities import build_index
    from finerank.generation.language import language_of

    language: str = options.language
    if language == "auto":
        language = language_of([document.passage for document in documents[:SAMPLED]])
    kinds, scorers, skipped = rerankers_of(options)
    with progress(len(documents), "reading documents", "documents"):
        index = build_index(documents, language)
    oracle = _oracle(options, index, documents)
    queries = drawn_queries(
        index, options.num, options.seed, options.query_mode, options.min_length, options.doc_ids_file,
        getattr(oracle, "partners", None),
    )  # fmt: skip
    return Task(documents, index, queries, oracle, encoder_of(options, options.embedder), scorers, kinds, skipped)


def _oracle(options: AblateOptions, index: EntityIndex, documents: Documents) -> Oracle:
    from finerank.data.judged import read_judged
    from finerank.generation.llm import client_of
    from finerank.generation.llm_oracle import LlmOracle
    from finerank.generation.oracle import GoldOracle, RuleOracle

    if options.oracle == "rule":
        return RuleOracle(index, documents)
    if options.oracle == "llm":
        return LlmOracle(client_of(options), documents)
    assert options.corpus is not None
    judged = read_judged(options.corpus, options.split)
    numbers = ({documents.number_of(name) for name, grade in grades.items() if grade > 0}
               for grades in judged.qrels.values())  # fmt: skip
    return GoldOracle([[number for number in found if number is not None] for found in numbers])


def _trials(options: AblateOptions, task: Task, claims: Claims) -> list[Trial]:
    """Run all retrievers on all queries, in pieces that survive a crash."""
    import orjson

    from finerank.data.console import progress
    from finerank.evaluation.ablation_models import space_of
    from finerank.evaluation.ablation_trials import Trial
    from finerank.evaluation.retriever_lists import Sizes
    from finerank.generation.llm_oracle import asked_of, spent

    assert claims.result is not None
    if claims.result.done:  # only the page is missing
        return [Trial.of(value) for value in orjson.loads(Path(options.result_path()).read_bytes())["trials"]]
    sizes = Sizes(options.candidates, options.pool_factor, options.rerank_pool_factor)
    space = space_of(options, task.encoder, task.documents.passages())
    scores: dict[str, Any] = {}
    shards, found = claims.result.shards, []
    with progress(len(task.queries), "retrieving and judging", "queries") as update:
        for index, start in enumerate(range(0, len(task.queries), SHARD_TRIALS)):
            part = task.queries[start : start + SHARD_TRIALS]
            counts = shards.counts(index)
            if counts is None:
                seconds: dict[str, float] = {}
                with asked_of(task.oracle) as asked:
                    lines = _shard(options, task, part, space, sizes, scores, seconds)
                body = b"".join(orjson.dumps(line.to_mapping()) + b"\n" for line in lines)
                counts = shards.land(index, body, {"seconds": seconds, **asked})
            else:
                spent(task.oracle, counts["calls"])
            for name, value in counts["seconds"].items():
                task.seconds[name] = task.seconds.get(name, 0.0) + value
            task.failures.update(counts["failures"])
            found += [Trial.of(orjson.loads(line)) for line in shards.body(index).splitlines()]
            update(len(part))
    return found


def _shard(
    options: AblateOptions, task: Task, queries: Sequence[GeneratedQuery], space: Space, sizes: Sizes,
    scores: dict[str, Any], seconds: dict[str, float],
) -> list[Trial]:  # fmt: skip
    """Return the trials of some queries; ``seconds`` gets what each part of them took."""
    from finerank.evaluation.ablation_trials import Naming, trial_of, verdicts_of
    from finerank.evaluation.retriever_lists import retriever_lists
    from finerank.retrieval.diverse import weights
    from finerank.retrieval.spaces import pools

    texts, passages = [query.text for query in queries], task.documents.passages()
    started = time.monotonic()
    found = list(pools(space, texts, [query.source for query in queries], sizes.breadth))
    seconds["search"] = time.monotonic() - started
    given = weights(options.lambda1, options.lambda2, options.lambda3)
    lists = retriever_lists(found, texts, passages, task.kinds, sizes, given, task.scorers, scores, seconds)
    numbers = [
        {kind: [int(pool.positions[place]) for place in places] for kind, places in listed.items()}
        for pool, listed in zip(found, lists)
    ]
    started = time.monotonic()
    verdicts = verdicts_of(
        numbers,
        lambda pairs: [item.verdict for item in task.oracle.judge_all([(queries[each], doc) for each, doc in pairs])],
    )
    seconds["verdicts"] = time.monotonic() - started
    naming = Naming(lambda number: task.documents[number].id, partial(_names, task.index))
    return [
        trial_of(
            pool, listed, judged, naming, source=query.source, query=query.text,
            entity="" if query.entity is None else query.entity.name,
        )
        for pool, listed, judged, query in zip(found, lists, verdicts, queries)
    ]  # fmt: skip


def _names(index: EntityIndex, number: int) -> set[str]:
    """Return the entities of a document, in the form in which they are compared."""
    from finerank.generation.mentions import key_of

    return {key_of(mention.name) for mention in index.ranked(number)}


def _setting(options: AblateOptions, task: Task) -> Setting:
    from finerank.evaluation.ablation import Setting

    times = {kind: round(_seconds(task.seconds, kind), 3) for kind in task.kinds}
    return Setting(
        k=options.candidates,
        config_path=options.config_file,
        num=options.num,
        min_length=options.min_length,
        doc_ids_file=options.doc_ids_file,
        skipped=task.skipped,
        seconds=times,
        timestamp=datetime.now(timezone.utc).isoformat(timespec="seconds") if options.record_times else None,
        seed=options.seed,
    )


def _seconds(parts: Mapping[str, float], kind: str) -> float:
    """Return what a retriever took; shared work counts for each that uses it."""
    from finerank.evaluation.retriever_lists import parts_of

    names = ["search", "lists", "verdicts", parts_of(kind)[1]]
    return sum(parts.get(name, 0.0) for name in names if name is not None)


def _write(
    options: AblateOptions, task: Task, trials: Sequence[Trial], claims: Claims, output: str, page: str | None
) -> Outcome:
    """Write the page, then the result, so that a done result has its page."""
    from finerank.data.console import say, warn
    from finerank.evaluation import ablation, report_html
    from finerank.evaluation.report import report_data

    setting = _setting(options, task)
    report = ablation.build(trials, _texts(task.documents, trials), setting)
    original = (
        ablation.original_keys(trials, setting)
        if options.single is None
        else ablation.one_type(trials, options.single, setting)
    )
    data = original | report_data(report) | {"trials": [trial.to_mapping() for trial in trials]}
    if task.failures:
        data["verdict_failures"] = dict(sorted(task.failures.items()))
        told = ", ".join(f"{count:,} {why}" for why, count in data["verdict_failures"].items())
        warn(f"verdicts that the language model did not give count as no success: {told}")
    counts = {"queries": len(trials), "retrievers": len(task.kinds)}
    if claims.page is not None and not claims.page.done:
        claims.page.write_whole(report_html.render(report, kind="finerank ablate").encode(), counts)
        say(f"report: {page}")
    if claims.result is not None and not claims.result.done:
        times = {"seconds": setting.seconds, "seconds_of_parts": task.seconds}
        claims.result.write_whole(_json(data), counts, times)
        say(f"result: {output}")
    return Outcome(ablation.text_of(data), data)


def _texts(documents: Documents, trials: Sequence[Trial]) -> dict[str, str]:
    """Return the beginnings of the listed documents, for the page."""
    names = {name for trial in trials for found in trial.lists.values() for name in found.documents}
    numbers = {name: documents.number_of(name) for name in sorted(names)}
    return {
        name: documents[number].passage[:SHOWN_CHARACTERS] for name, number in numbers.items() if number is not None
    }


def _parts(options: AblateOptions, task: Task, output: str) -> Parts:
    from finerank.data.documents import text_files
    from finerank.data.manifest import parts_of

    assert options.corpus is not None
    corpus = Path(options.corpus).expanduser()
    inputs: list[Any] = list(text_files(corpus)) or [corpus]
    inputs += [options.doc_ids_file] if options.doc_ids_file is not None else []
    return parts_of("ablate", semantic(options), inputs, task.fingerprints(), output)


def _banner(options: AblateOptions, task: Task) -> None:
    from finerank.data.console import banner

    given = f"{options.lambda1:g} {options.lambda2:g} {options.lambda3:g}"
    banner(
        f"ablate {options.result_path()}",
        {
            "documents": f"{len(task.documents):,} from {options.corpus}",
            "queries": f"{len(task.queries):,} ({' '.join(options.query_mode)}), seed {options.seed}",
            "retrievers": ", ".join(task.kinds),
            "found by": options.embedder or "words (BM25; tf·idf for likeness)",
            "lists": f"{options.candidates} documents; λ {given}, pool factor {options.pool_factor}; rerankers see "
            f"{options.candidates * options.rerank_pool_factor}",
            "verdicts by": options.oracle
            if options.oracle != "llm"
            else f"{options.llm_model} at {options.llm_base_url}",
            **{f"reranker {name}": str(getattr(scorer, "name", "")) for name, scorer in task.scorers.items()},
        },
    )


def _stored(path: str) -> Outcome:
    import orjson

    from finerank.evaluation.ablation import text_of

    data = orjson.loads(Path(path).read_bytes())
    return Outcome(text_of(data), data)


def _json(data: dict[str, Any]) -> bytes:
    import orjson

    return orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
