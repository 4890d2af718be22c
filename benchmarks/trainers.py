"""Training beside the peers on one job: quality on judged dev queries, wall time and memory; same data, several seeds.

    python benchmarks/trainers.py embedder|reranker --data BEIR_DIR --model M --work DIR --out FILE.json
        [--queries 2000] [--seeds 3] [--engines finerank st fe] [--first_stage M] [--depth 50]
        [--judged_queries 300] [--train_only]

Train queries of the folder are given negatives once, by finerank mine from the base model; every engine trains on that
file, each run a fresh process, start-up included. The engines take turns within a seed. finerank runs the recipe in
recipes/train/; the peers run what their documentation shows (trainer_engines.py), FlagEmbedding in the environment of
FLAGEMBEDDING_PYTHON (README.md). All models are judged by finerank evaluate on split dev: embedders search the whole
corpus, rerankers order the first stage's best ``--depth``. A stopped benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memory import measured

from finerank.data.judged import read_judged
from finerank.evaluation.significance import bootstrap_interval, paired_interval, paired_randomisation

HERE = Path(__file__).parent
RECIPES = HERE.parent / "recipes" / "train"
METRIC = "nDCG@10"
RANKS = {"embedder": "10-100", "reranker": "1-50"}
EMBEDDER_LENGTHS = ("--query_max_len", "48", "--passage_max_len", "128")
PAIR_LEN = 256


def finerank(*words: str) -> None:
    """Run one command; a failing one ends the benchmark."""
    print("$ finerank", *words, flush=True)
    subprocess.run([sys.executable, "-m", "finerank", *words], check=True)


def prepare(options: argparse.Namespace) -> Path:
    """Write the rows, mine their negatives; return the mined file."""
    rows, mined = options.work / "rows.jsonl", options.work / "mined.jsonl"
    if not rows.exists():
        train = read_judged(options.data, "train")
        texts = dict(zip(train.passage_ids, train.passages))
        lines = [
            {"query": query, "pos": [texts[key] for key, grade in train.qrels[name].items() if grade > 0]}
            for name, query in zip(train.query_ids, train.queries)
        ]
        usable = [line for line in lines if line["pos"]]
        chosen = random.Random(7).sample(usable, min(options.queries, len(usable)))
        rows.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in chosen), encoding="utf-8")
    finerank(
        "mine", "--model_name_or_path", options.first_stage or options.model, "--input_file", str(rows),
        "--output_file", str(mined), "--candidate_pool", str(options.data / "corpus.jsonl"), "--range_for_sampling",
        RANKS[options.family], "--max_positive_ratio", "0.95", "--negative_number", "8", "--embedding_cache",
        str(options.work / "vectors"),
    )  # fmt: skip
    return mined


def command(engine: str, options: argparse.Namespace, mined: Path, out: Path, seed: int) -> list[str]:
    """Return the command line of one training."""
    if engine == "finerank":
        recipe = str(RECIPES / f"{options.family}.yaml")
        return [
            sys.executable, "-m", "finerank", "train", options.family, "--config", recipe, "--model_name_or_path",
            options.model, "--train_data", str(mined), "--output_dir", str(out), "--seed", str(seed), "--device", "cpu",
            "--overwrite",
        ]  # fmt: skip
    job = options.work / f"job-{engine}-{seed}.json"
    job.write_text(json.dumps({"model": options.model, "rows": str(mined), "out": str(out), "seed": seed}))
    python = os.environ.get("FLAGEMBEDDING_PYTHON", sys.executable) if engine == "fe" else sys.executable
    return [python, str(HERE / "trainer_engines.py"), engine, options.family, str(job)]


def train_all(options: argparse.Namespace, mined: Path) -> list[dict[str, Any]]:
    """Train each engine once per seed, in turns; return what each run took."""
    done = options.work / "runs.json"
    runs: list[dict[str, Any]] = json.loads(done.read_text()) if done.exists() else []
    for place in range(options.seeds):
        seed, turn = 42 + place, place % len(options.engines)
        for engine in (*options.engines[turn:], *options.engines[:turn]):
            if any(run["engine"] == engine and run["seed"] == seed and run["exit"] == 0 for run in runs):
                continue
            out = options.work / f"{engine}-{seed}"
            result = measured(
                command(engine, options, mined, out, seed), options.work / f"log-{engine}-{seed}.txt",
                environment={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"},
            )  # fmt: skip
            runs.append({"engine": engine, "seed": seed, "folder": str(out), **result})
            print(json.dumps(runs[-1]), flush=True)
            done.write_text(json.dumps(runs, indent=1))
    return [run for run in runs if run["exit"] == 0]


def judge(options: argparse.Namespace, runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return each model's value per dev query: the runs' folders, the base or first stage, and BM25.

    Rerankers read as many tokens as they were trained on: finerank's what its folder says, the peers' PAIR_LEN.
    """
    own = [run["folder"] for run in runs if run["engine"] == "finerank"]
    peers = [run["folder"] for run in runs if run["engine"] != "finerank"]
    if options.family == "embedder":
        return evaluated(options, "results", "bm25", options.model, *own, *peers, lengths=EMBEDDER_LENGTHS)
    values = evaluated(options, "own", "bm25", *own) if own else {}
    return values | (evaluated(options, "peers", *peers, lengths=("--max_len", str(PAIR_LEN))) if peers else {})


def evaluated(
    options: argparse.Namespace, name: str, *models: str, lengths: Sequence[str] = ()
) -> dict[str, list[float]]:
    """Return each model's value per dev query."""
    out = options.work / f"{name}.json"
    over = () if options.family == "embedder" else ("--first_stage", options.first_stage or options.model)
    finerank(
        "evaluate", "--model_name_or_path", *models, "--data", str(options.data), "--split", "dev",
        "--metrics", METRIC, *over, "--top_k", str(options.depth), *lengths, "--embedding_cache",
        str(options.work / "vectors"), "--output_file", str(out), "--overwrite",
        *(("--limit", str(options.judged_queries)) if options.judged_queries else ()),
    )  # fmt: skip
    results = json.loads(out.read_text())
    queries = sorted(next(iter(results["per_query"].values()))[METRIC])
    # A reranker's arm is named with its first stage, which is one for all.
    arms = {arm.partition(" over ")[0]: values[METRIC] for arm, values in results["per_query"].items()}
    return {model: [values[query] for query in queries] for model, values in arms.items()}


def summary(runs: list[dict[str, Any]], values: dict[str, list[float]]) -> dict[str, Any]:
    """Return per engine its quality, its difference to finerank's and its time and memory over finerank's."""
    engines = list(dict.fromkeys(run["engine"] for run in runs))
    mean: dict[str, list[float]] = {}
    for engine in engines:
        each = [values[Path(run["folder"]).name] for run in runs if run["engine"] == engine]
        mean[engine] = [statistics.fmean(column) for column in zip(*each)]
    aside = {name: scores for name, scores in values.items() if name not in {Path(run["folder"]).name for run in runs}}
    own = {run["seed"]: run for run in runs if run["engine"] == "finerank"}
    found: dict[str, Any] = {
        name: {"mean": list(bootstrap_interval(scores))} for name, scores in [*aside.items(), *mean.items()]
    }
    for engine in engines:
        same = [run for run in runs if run["engine"] == engine and run["seed"] in own]
        found[engine] |= {
            "seconds": statistics.median(run["seconds"] for run in same),
            "peak": statistics.median(run["peak"] for run in same),
            "seconds over finerank's": statistics.median(run["seconds"] / own[run["seed"]]["seconds"] for run in same),
            "cpu seconds over finerank's": statistics.median(
                run["cpu_seconds"] / own[run["seed"]]["cpu_seconds"] for run in same
            ),
            "per_seed": [statistics.fmean(values[Path(run["folder"]).name]) for run in same],
        }
    for name, scores in [*aside.items(), *mean.items()]:
        if name != "finerank" and "finerank" in mean:
            found[name] |= {
                "finerank minus this": list(paired_interval(mean["finerank"], scores)),
                "p": paired_randomisation(mean["finerank"], scores),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=["embedder", "reranker"])
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder with qrels train and dev")
    parser.add_argument("--model", required=True, help="what every training starts from")
    parser.add_argument("--first_stage", help="embedder before the rerankers, mines for them (default: model)")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=50, help="passages of the first stage that rerankers order")
    parser.add_argument("--engines", nargs="+", default=["finerank", "st", "fe"], choices=["finerank", "st", "fe"])
    parser.add_argument("--judged_queries", type=int, help="judge on so many dev queries, drawn (default: all)")
    parser.add_argument("--train_only", action="store_true", help="judge later: the same call without this")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    runs = train_all(options, prepare(options))
    if options.train_only:
        return
    result = {
        "family": options.family,
        "queries": options.queries,
        "data": options.data.name,
        "runs": [{key: value for key, value in run.items() if key != "folder"} for run in runs],
        "summary": summary(runs, judge(options, runs)),
    }
    print(json.dumps(result["summary"], indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
