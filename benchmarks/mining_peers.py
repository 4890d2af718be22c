"""Mining beside the peers on one job: finerank mine, sentence-transformers, FlagEmbedding; wall time and peak memory.

    python benchmarks/mining_peers.py --data BEIR_DIR [BEIR_DIR …] --model M --work DIR --out FILE.json
        [--passages 20000] [--queries 1000] [--rounds 3] [--engines finerank st st-bf16 fe fe-32] [--limit 3600]

Rows are train queries of the first folder with their judged passages; the pool is those passages and others, of the
folders after the first in order (of the first itself where it is the only one). Every run is a fresh process, start-up
and model loading included, without a cache of vectors; the engines take turns, and the turn's order moves on by one
each round. FlagEmbedding runs in the environment of FLAGEMBEDDING_PYTHON (README.md). Its wheel has no mining script;
``--hn_mine`` names the one of its repository, otherwise mining_engines.py takes the same steps. ``fe-32`` is
FlagEmbedding with batches of 32 texts instead of its default of 3,000. FILE is written after every run and read at the
start: a benchmark that was stopped goes on, and tries again what failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
from pathlib import Path
from typing import Any

from memory import measured

HERE = Path(__file__).parent
ENGINES = ("finerank", "st", "st-bf16", "fe", "fe-32")
RANGE, NUMBER = (10, 210), 15


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_lines(path: Path, items: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")


def corpus(folder: Path) -> dict[str, str]:
    """Return id -> title and text of a BEIR folder."""
    return {item["_id"]: f"{item.get('title') or ''} {item['text']}".strip() for item in lines(folder / "corpus.jsonl")}


def prepare(folders: list[Path], passages: int, queries: int, work: Path) -> None:
    """Write rows.jsonl and pool.jsonl."""
    rng = random.Random(7)
    texts = corpus(folders[0])
    names = {item["_id"]: item["text"] for item in lines(folders[0] / "queries.jsonl")}
    positives: dict[str, list[str]] = {}
    for line in (folders[0] / "qrels" / "train.tsv").read_text(encoding="utf-8").split("\n")[1:]:
        query, passage, grade = (line.split("\t") + ["", "0"])[:3]
        if int(grade) > 0 and query in names and texts.get(passage):
            positives.setdefault(query, []).append(texts[passage])
    chosen = rng.sample(sorted(positives), min(queries, len(positives)))
    rows = [{"query": names[query], "pos": positives[query]} for query in chosen]
    pool = dict.fromkeys(text for row in rows for text in row["pos"])
    for folder in folders[1:] or folders:
        others = sorted(set(corpus(folder).values()) - {""})
        rng.shuffle(others)
        for text in others:
            if len(pool) < passages:
                pool[text] = None
    write_lines(work / "rows.jsonl", rows)
    write_lines(work / "pool.jsonl", [{"text": text} for text in pool])
    print(f"{len(rows):,} rows, {len(pool):,} passages", flush=True)


def command(engine: str, options: argparse.Namespace, out: Path) -> list[str]:
    """Return the command line of one run."""
    rows, pool = str(options.work / "rows.jsonl"), str(options.work / "pool.jsonl")
    ranks, length = f"{RANGE[0]}-{RANGE[1]}", options.max_length
    limits = ["--embedder_query_max_length", str(length), "--embedder_passage_max_length", str(length)]
    common = [
        "--input_file", rows, "--candidate_pool", pool, "--output_file", str(out), "--range_for_sampling", ranks,
        "--negative_number", str(NUMBER), *(limits if length else []),
    ]  # fmt: skip
    if engine == "finerank":
        own = ["--model_name_or_path", options.model, "--embedding_cache", "none", "--overwrite", "--device", "cpu"]
        return [sys.executable, "-m", "finerank", "mine", *own, *common]
    python = os.environ.get("FLAGEMBEDDING_PYTHON", sys.executable) if engine.startswith("fe") else sys.executable
    if engine == "fe" and options.hn_mine:
        own = ["--embedder_name_or_path", options.model, "--embedder_model_class", "encoder-only-base"]
        return [python, str(options.hn_mine), *own, "--pooling_method", options.pooling, "--devices", "cpu", *common]
    job = options.work / f"job-{engine}.json"
    settings = {"range": RANGE, "number": NUMBER, "max_length": length, "pooling": options.pooling}
    job.write_text(json.dumps({"model": options.model, "rows": rows, "pool": pool, "out": str(out), **settings}))
    return [python, str(HERE / "mining_engines.py"), engine, str(job)]


def one_run(engine: str, options: argparse.Namespace) -> dict[str, Any]:
    """Mine once; add how many rows and negatives came out."""
    out = options.work / f"out-{engine}.jsonl"
    out.unlink(missing_ok=True)
    environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    log = options.work / f"log-{engine}.txt"
    result = measured(command(engine, options, out), log, limit=options.limit, environment=environment)
    found = lines(out) if result["exit"] == 0 and out.exists() else []
    return result | {"rows": len(found), "negatives": sum(len(row["neg"]) for row in found)}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return each engine's median seconds and peak, and the median of its seconds over finerank's in the same round."""
    whole = [run for run in runs if run["exit"] == 0]
    own = {run["round"]: run for run in whole if run["engine"] == "finerank"}
    found = {}
    for engine in dict.fromkeys(run["engine"] for run in whole):
        mine = [run for run in whole if run["engine"] == engine]
        both = [(run, own[run["round"]]) for run in mine if run["round"] in own]
        found[engine] = {
            "rounds": len(mine),
            "seconds": statistics.median(run["seconds"] for run in mine),
            "peak": statistics.median(run["peak"] for run in mine),
            **({} if not both else ratios(both)),
        }
    return found


def ratios(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, float]:
    """Return the medians of an engine's seconds and memory over finerank's."""
    return {
        f"{name} over finerank's": round(statistics.median(one[name] / other[name] for one, other in pairs), 3)
        for name in ("seconds", "peak")
    }


def save(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="BEIR folders; the first has qrels train")
    parser.add_argument("--model", required=True, help="embedder folder")
    parser.add_argument("--work", type=Path, required=True, help="folder for rows, pool, logs and outputs")
    parser.add_argument("--out", type=Path, required=True, help="results, added to after every run")
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--limit", type=float, default=3600, help="seconds a run may take; who needs more is left out")
    parser.add_argument("--max_length", type=int, help="tokens for all engines; without it, each engine's own default")
    parser.add_argument("--pooling", default="mean", help="what FlagEmbedding cannot read from the model")
    parser.add_argument("--hn_mine", type=Path, help="FlagEmbedding's own script, run in its environment")
    return parser.parse_args()


def main() -> None:
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    prepare(options.data, options.passages, options.queries, options.work)
    keys = ("passages", "queries", "max_length", "model", "hn_mine")
    setup = {key: str(getattr(options, key)) for key in keys} | {"data": [folder.name for folder in options.data]}
    runs: list[dict[str, Any]] = []
    if options.out.exists():
        before = json.loads(options.out.read_text(encoding="utf-8"))
        if before["setup"] != setup:
            raise SystemExit(f"{options.out} holds results of another setup: {before['setup']}")
        runs = [run for run in before["runs"] if run["exit"] == 0]
    for number in range(options.rounds):
        turn = number % len(options.engines)
        for engine in (*options.engines[turn:], *options.engines[:turn]):
            known = [run for run in runs if run["engine"] == engine]
            if any(run["round"] == number or run["exit"] == "limit" for run in known):
                continue
            runs.append({"engine": engine, "round": number, **one_run(engine, options)})
            print(json.dumps(runs[-1]), flush=True)
            save(options.out, {"setup": setup, "threads": os.cpu_count(), "runs": runs, "summary": summary(runs)})
    print(json.dumps(summary(runs), indent=2))


if __name__ == "__main__":
    main()
