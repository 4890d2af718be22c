"""Which negatives teach an embedder most: positive-aware, naive top-k or random; same rows, steps and seeds.

    python benchmarks/negatives.py --data BEIR_DIR --model M --work DIR [--rows 2000] [--seeds 3] [--out FILE.json]

Every arm mines one negative-list file from the base model's ranking of the same pool, then trains one embedder per
seed; all are judged on the dev queries, whose passages no arm could mine. Each step is a finerank command that stands
in DIR when it is done, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from finerank.data.judged import Judged, read_judged
from finerank.evaluation.significance import bootstrap_interval, paired_interval, paired_randomisation

ARMS = {
    "positive-aware": ("--range_for_sampling", "0-100", "--sampling", "top", "--max_positive_ratio", "0.95"),
    "naive top-k": ("--range_for_sampling", "0-100", "--sampling", "top"),
    "random": ("--range_for_sampling", "0-1000000", "--sampling", "random"),
}
"""The first two differ in the bound only: the hardest seven of the same hundred, with and without it."""
NEGATIVES = "7"
LENGTHS = ("--query_max_len", "48", "--passage_max_len", "128")
TRAINING = (
    "--train_group_size", "2", "--per_device_train_batch_size", "32", "--learning_rate", "1e-4",
    "--temperature", "0.05", "--num_train_epochs", "1", "--dropout", "0",
)  # fmt: skip
METRIC = "nDCG@10"


def finerank(*words: str) -> None:
    """Run one command; a failing one ends the benchmark."""
    print("$ finerank", *words, flush=True)
    subprocess.run([sys.executable, "-m", "finerank", *words], check=True)


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def prepare(data: Path, work: Path, count: int, distractors: int) -> None:
    """Write train rows, the pool to mine (no passage that dev judges) and a smaller judged folder of dev."""
    train, dev = read_judged(data, "train"), read_judged(data, "dev")
    judged = {passage for grades in dev.qrels.values() for passage in grades}
    passages = dict(zip(train.passage_ids, train.passages))
    rng = random.Random(7)
    write_lines(work / "pool.jsonl", [{"text": text} for name, text in passages.items() if name not in judged])
    usable = [
        {"query": query, "pos": pos}
        for name, query in zip(train.query_ids, train.queries)
        if (pos := [passages[key] for key, grade in train.qrels[name].items() if grade > 0 and key not in judged])
    ]
    write_lines(work / "train.jsonl", rng.sample(usable, count))
    write_dev(dev, work / "dev", judged, rng, distractors)


def write_dev(dev: Judged, folder: Path, judged: set[str], rng: random.Random, distractors: int) -> None:
    others = sorted(set(dev.passage_ids) - judged)
    kept = judged | set(rng.sample(others, min(distractors, len(others))))
    texts = zip(dev.passage_ids, dev.passages)
    write_lines(
        folder / "corpus.jsonl", [{"_id": key, "title": "", "text": text} for key, text in texts if key in kept]
    )
    write_lines(folder / "queries.jsonl", [{"_id": key, "text": text} for key, text in zip(dev.query_ids, dev.queries)])
    lines = [f"{query}\t{key}\t{grade}" for query, grades in dev.qrels.items() for key, grade in grades.items()]
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / "dev.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")


def train_all(model: str, work: Path, seeds: range) -> dict[str, list[str]]:
    """Mine each arm, train it once per seed; return arm -> model folders."""
    cache = ("--embedding_cache", str(work / "vectors"))
    lengths = ("--embedder_query_max_length", LENGTHS[1], "--embedder_passage_max_length", LENGTHS[3])
    folders: dict[str, list[str]] = {}
    for arm, flags in ARMS.items():
        mined = work / f"{arm.replace(' ', '_')}.jsonl"
        finerank(
            "mine", "--model_name_or_path", model, "--input_file", str(work / "train.jsonl"), "--candidate_pool",
            str(work / "pool.jsonl"), "--output_file", str(mined), "--negative_number", NEGATIVES, *flags, *lengths,
            *cache,
        )  # fmt: skip
        folders[arm] = [str(work / f"{mined.stem}_{seed}") for seed in seeds]
    for seed in seeds:
        for arm in ARMS:
            mined = work / f"{arm.replace(' ', '_')}.jsonl"
            finerank(
                "train", "embedder", "--model_name_or_path", model, "--train_data", str(mined), "--output_dir",
                folders[arm][seed - seeds.start], *LENGTHS, *TRAINING, "--seed", str(seed),
            )  # fmt: skip
    return folders


def judge(model: str, folders: dict[str, list[str]], work: Path) -> dict[str, Any]:
    """Evaluate base and all tuned models in one call; an arm's value per query is its mean over the seeds."""
    out = work / "results.json"
    finerank(
        "evaluate", "--model_name_or_path", model, *(name for names in folders.values() for name in names), "--data",
        str(work / "dev"), "--split", "dev", "--metrics", METRIC, *LENGTHS, "--embedding_cache", str(work / "vectors"),
        "--output_file", str(out),
    )  # fmt: skip
    results = json.loads(out.read_text())
    shown = [arm["name"] for arm in results["arms"]]
    asked = [model, *(name for names in folders.values() for name in names)]
    values = {name: results["per_query"][short][METRIC] for name, short in zip(asked, shown)}
    queries = sorted(values[model])
    mean = {
        arm: [sum(values[name][query] for name in names) / len(names) for query in queries]
        for arm, names in folders.items()
    }
    mean = {"base": [values[model][query] for query in queries]} | mean
    best = mean["positive-aware"]
    return {
        "metric": METRIC,
        "queries": len(queries),
        "arms": {
            arm: {
                "mean": list(bootstrap_interval(scores)),
                "per_seed": [sum(values[name].values()) / len(queries) for name in folders.get(arm, [model])],
                "positive_aware_minus_this": list(paired_interval(best, scores)),
                "p": paired_randomisation(best, scores) if arm != "positive-aware" else None,
            }
            for arm, scores in mean.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder with qrels train and dev")
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything in between")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--distractors", type=int, default=4000, help="unjudged passages in the dev pool")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not (options.work / "dev" / "qrels" / "dev.tsv").exists():
        prepare(options.data, options.work, options.rows, options.distractors)
    folders = train_all(options.model, options.work, range(42, 42 + options.seeds))
    result = judge(options.model, folders, options.work) | {
        "rows": options.rows,
        "training": TRAINING,
        "arms_flags": ARMS,
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
