"""``finerank generate``: training rows out of documents alone.

Reads documents, finds what they speak of, makes queries, retrieves candidates with the diverse retriever, has an oracle
judge them, filters, tops rows up with negatives from further down the ranking, and parts train from test so that they
share no entity and no document. Tries land in shards; a killed run goes on with those that are missing.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finerank.core.errors import UserError
from finerank.core.generate_options import SHORTEST, SHORTEST_PAGE, GenerateOptions
from finerank.core.options import semantic
from finerank.core.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from finerank.data.documents import Documents
    from finerank.data.outputs import Output
    from finerank.generation.assembly import Wanted
    from finerank.generation.candidates import Candidates
    from finerank.generation.collecting import Collected
    from finerank.generation.entities import EntityIndex
    from finerank.generation.llm import LlmClient
    from finerank.generation.making import Plan, Workshop
    from finerank.generation.oracle import Oracle
    from finerank.generation.partition import Partition
    from finerank.generation.queries import GeneratedQuery
    from finerank.models.bi_encoder import BiEncoder

__all__ = ["GenerateOptions", "run"]

TRAIN, TEST, SAMPLE, POOL, ALL, SUMMARY = "train", "test", "sample", "corpus", "all", "summary"
NAMES = {TRAIN: "train_data.jsonl", TEST: "test_data.jsonl", SAMPLE: "test_data_sample.jsonl", POOL: "corpus.jsonl"}
SUMMARY_NAME = "contrastive_data_summary.json"
SAMPLED = 10


@dataclass(frozen=True)
class Task:
    """What a run works on, read and loaded."""

    documents: Documents
    pages: bool
    language: str
    segmenter: str
    modes: dict[str, float]
    min_length: int
    sources: list[int]
    judged: list[GeneratedQuery]
    encoder: BiEncoder | None


def run(options: GenerateOptions) -> Outcome:
    """Make rows out of documents.

    Raises:
        UserError: for documents that cannot be read, a model or an API that cannot be had, outputs of another run.
    """
    from finerank.data import console
    from finerank.generation.collecting import collect
    from finerank.generation.partition import parted
    from finerank.generation.report import counts_of, shortfall

    started = time.monotonic()
    task = _task(options)
    with ExitStack() as stack:
        outputs = {name: stack.enter_context(output) for name, output in _open(options, task)}
        if all(output.done for output in outputs.values()):
            console.say(f"{options.output_dir}: already generated with these options and documents, nothing to do")
            return _outcome(options, task, outputs[TRAIN].manifest["counts"], outputs)
        _banner(options, task)
        workshop = _workshop(options, task)
        train = outputs[TRAIN]
        with console.progress(options.num_examples, "generating", "rows") as update:
            found = collect(
                workshop, train.shards, options.num_examples, options.tries(), options.max_per_entity, update
            )
        parts, lost = parted(found.keys, options.test_share, options.seed, bool(options.negatives))
        counts = counts_of(task.documents, len(task.sources), found, parts, lost)
        if found.kept:
            _write(options, task, outputs, found, parts, counts, started, workshop.plan.wanted)
        else:
            for output in outputs.values():
                output.clear(finished=True)
    said = shortfall(counts, options.num_examples, task.min_length)
    if said:
        console.warn(said)
    return _outcome(options, task, counts, outputs)


def _task(options: GenerateOptions) -> Task:
    from finerank.data.documents import Pages, input_of, open_documents
    from finerank.generation.judged_queries import judged_queries
    from finerank.generation.language import language_of
    from finerank.generation.queries import resolved
    from finerank.generation.sources import sources_of
    from finerank.retrieval.segment import resolve

    assert options.corpus is not None
    documents = open_documents(options.corpus)
    pages = isinstance(input_of(options.corpus), Pages)
    passages = documents.passages()
    language = language_of(passages) if options.language == "auto" else options.language
    modes = options.modes()
    if options.oracle == "gold" and modes == {"auto": 1.0}:
        modes = {"judged": 1.0}
    if "judged" in modes and len(modes) > 1:
        raise UserError("--query_mode judged takes the corpus's own queries and goes with no other mode")
    judged = judged_queries(documents, options.corpus, options.split) if "judged" in modes else []
    llm = {mode: weight for mode, weight in modes.items() if mode in ("llm", "llm_bridge")}
    modes = modes if judged else resolved(modes, language) | llm
    shortest = options.min_length or (SHORTEST_PAGE if pages else SHORTEST)
    sources = sources_of(documents, options.doc_ids_file, shortest, options.seed)
    if judged:
        from finerank.core.seeding import stream

        stream(options.seed, "judged").shuffle(judged)
    return Task(
        documents, pages, language, resolve("auto", passages), modes, shortest, sources, judged, _encoder(options)
    )  # fmt: skip


def _open(options: GenerateOptions, task: Task) -> Iterator[tuple[str, Output]]:
    """Claim every file that the run writes; the training rows, which hold the work, come last to be finished."""
    from finerank.data.documents import input_of
    from finerank.data.outputs import Output

    assert options.corpus is not None
    models = {} if task.encoder is None else {side: task.encoder.fingerprint(side) for side in ("query", "passage")}
    decisive = semantic(options) | {"language": task.language, "segmenter": task.segmenter}
    inputs = [input_of(options.corpus), *([options.doc_ids_file] if options.doc_ids_file is not None else [])]
    if task.judged:
        inputs += [str(path) for path in _judged_files(Path(options.corpus), options.split)]
    for name, place in _places(options, task).items():
        yield name, Output.open(
            place, command="generate", options=decisive | {"part": name}, inputs=inputs, models=models,
            overwrite=options.overwrite,
        )  # fmt: skip


def _judged_files(root: Path, split: str) -> list[Path]:
    files = [root / "queries.jsonl", root / "qrels" / f"{split}.tsv"]
    files += [root / f"{split}_queries.jsonl", root / f"{split}_qrels.jsonl"]
    return [file for file in files if file.is_file()]


def _places(options: GenerateOptions, task: Task) -> dict[str, str]:
    folder = Path(options.output_dir)
    names = dict(NAMES)
    if not task.pages and not options.write_pool:
        del names[POOL]
    if not options.test_share:
        del names[TEST], names[SAMPLE]
    places = {name: str(folder / file) for name, file in names.items()}
    if options.data_output is not None:
        places[ALL] = options.data_output
    return places | {SUMMARY: options.summary or str(folder / SUMMARY_NAME)}


def _workshop(options: GenerateOptions, task: Task) -> Workshop:
    from finerank.data import console
    from finerank.generation.entities import build_index
    from finerank.generation.llm import client_of
    from finerank.generation.making import Workshop

    with console.progress(len(task.documents), "reading", "documents") as update:
        index = build_index(task.documents, task.language, update)
    client = client_of(options) if options.uses_llm() else None
    return Workshop(
        index, task.documents, _candidates(options, task), _oracle(options, task, index, client), _plan(options, task),
        task.sources, client, task.judged,
    )  # fmt: skip


def _candidates(options: GenerateOptions, task: Task) -> Candidates:
    from finerank.data import console
    from finerank.generation.candidates import DenseCandidates, SparseCandidates
    from finerank.retrieval.segment import segment_by
    from finerank.retrieval.vectors import cache_folder

    passages = task.documents.passages()
    if task.encoder is None:
        return SparseCandidates(passages, segment_by(task.segmenter))
    with console.progress(len(passages), "encoding") as update:
        return DenseCandidates(task.encoder, passages, cache_folder(options.embedding_cache), update)


def _oracle(options: GenerateOptions, task: Task, index: EntityIndex, client: LlmClient | None) -> Oracle:
    from finerank.generation.judged_queries import judged_queries
    from finerank.generation.llm_oracle import LlmOracle
    from finerank.generation.oracle import GoldOracle, RuleOracle

    if options.oracle == "llm" and client is not None:
        return LlmOracle(client, task.documents)
    if options.oracle == "gold" or task.judged:
        assert options.corpus is not None
        known = task.judged or judged_queries(task.documents, options.corpus, options.split)
        return GoldOracle(query.relevant for query in known)
    return RuleOracle(index, task.documents)


def _plan(options: GenerateOptions, task: Task) -> Plan:
    from finerank.generation.assembly import Wanted
    from finerank.generation.making import Plan
    from finerank.retrieval.diverse import weights

    return Plan(
        modes=task.modes,
        weights=weights(options.lambda1, options.lambda2, options.lambda3),
        candidates=options.max_doc_candidates,
        pool_factor=options.pool_factor,
        early_stop=options.early_stop,
        wanted=Wanted(options.negatives, options.round_trip, options.negatives_about),
        seed=options.seed,
    )


def _write(
    options: GenerateOptions, task: Task, outputs: Mapping[str, Output], found: Collected, parts: Partition,
    counts: dict[str, Any], started: float, wanted: Wanted,
) -> None:  # fmt: skip
    """Write every file that is not there yet, the training rows last: their work folder holds the tries."""
    import json

    from finerank.generation.report import summary_of
    from finerank.generation.writing import pool_lines, row_lines

    train, shards = outputs[TRAIN], outputs[TRAIN].shards
    to_judge = replace(wanted, about="any")
    all_places = sorted([*parts.train, *parts.test])
    for name, places, barred, negatives in (
        (TEST, parts.test, parts.barred_from_test, to_judge),
        (SAMPLE, parts.test[:SAMPLED], parts.barred_from_test, to_judge),
        (ALL, all_places, frozenset[int](), wanted),
    ):
        if name in outputs and not outputs[name].done:
            lines = row_lines(shards, found.kept, places, task.documents, barred, negatives)
            outputs[name].finish({"rows": len(places)}, chunks=lines)
    if POOL in outputs and not outputs[POOL].done:
        outputs[POOL].finish({"documents": len(task.documents)}, chunks=pool_lines(task.documents))
    if not outputs[SUMMARY].done:
        config = {
            "config_path": options.config_file, "lambda1": options.lambda1, "lambda2": options.lambda2,
            "lambda3": options.lambda3, "output_path": str(train.path), "seed": options.seed, "modes": task.modes,
            "oracle": options.oracle, "embedder": options.embedder, "language": task.language,
        }  # fmt: skip
        stamp = datetime.now(timezone.utc).isoformat(timespec="seconds")
        content = summary_of(counts, config, time.monotonic() - started, stamp)
        outputs[SUMMARY].write_whole(json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n", {})
    lines = row_lines(shards, found.kept, parts.train, task.documents, parts.barred_from_train, wanted)
    train.finish(counts, chunks=lines)


def _encoder(options: GenerateOptions) -> BiEncoder | None:
    """Load the embedder, if there is one."""
    if options.embedder is None:
        return None
    from finerank.models.encoder_arguments import encoder_arguments
    from finerank.models.load import load_encoder

    return load_encoder(options.embedder, device=options.device, **encoder_arguments(options))


def _banner(options: GenerateOptions, task: Task) -> None:
    from finerank.data import console

    documents = f"{len(task.documents):,} from {options.corpus}"
    skipped = ", ".join(f"{count:,} {why}" for why, count in task.documents.skipped.items())
    share = {mode: weight / sum(task.modes.values()) for mode, weight in task.modes.items()}
    facts: dict[str, object] = {} if task.encoder is None else {**task.encoder.describe()}
    facts |= {
        "documents": documents + (f" (skipped: {skipped})" if skipped else ""),
        "sources": f"{len(task.judged):,} judged queries"
        if task.judged
        else f"{len(task.sources):,} with at least {task.min_length:,} characters",
        "language": {"en": "English", "zh": "Chinese"}[task.language],
        "queries": ", ".join(f"{mode} {part:.0%}" for mode, part in share.items()),
        "candidates": f"{options.max_doc_candidates} per query, by {options.embedder or 'words (BM25)'}",
        "oracle": options.oracle + (f", {options.llm_model} at {options.llm_base_url}" if options.uses_llm() else ""),
        "rows wanted": f"{options.num_examples:,}, in {options.tries():,} tries",
    }
    console.banner(f"generate {options.output_dir}", facts)


def _outcome(options: GenerateOptions, task: Task, counts: dict[str, Any], outputs: Mapping[str, Output]) -> Outcome:
    from finerank.generation.report import text_of

    places = {name: str(output.path) for name, output in outputs.items()} if counts["rows"] else {}
    pool = places.get(POOL, options.corpus)
    following = [
        f"finerank check {places[TRAIN]}" + (f" --test_data {places[TEST]}" if TEST in places else ""),
        f"finerank mine --model_name_or_path MODEL --input_file {places[TRAIN]} --candidate_pool {pool} --output_file "
        f"{Path(options.output_dir) / 'mined.jsonl'} --max_positive_ratio 0.95 --keep_negatives --negative_number 2",
        f"finerank train embedder --model_name_or_path MODEL --train_data {Path(options.output_dir) / 'mined.jsonl'} "
        "--output_dir my-embedder",
    ] if places else []  # fmt: skip
    text = text_of(counts, options.num_examples, places, following)
    return Outcome(text, {"output_dir": options.output_dir, "outputs": places, **counts}, 0 if counts["rows"] else 1)
