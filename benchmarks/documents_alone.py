"""Does training on queries made from documents alone help on real ones? The recipes of that name, several seeds.

    python benchmarks/documents_alone.py embedder --data BEIR_DIR --split dev --model M --work DIR --out FILE.json
        [--seeds 3] [--first_seed 42] [NAME=VALUE …]
    python benchmarks/documents_alone.py reranker … [--top_k 20] [--pair_tokens 192]

Every seed runs the recipe up to its tuned model, a fresh process each, on the folder's corpus.jsonl; no query and no
judgement is read. NAME=VALUE go to the recipe (queries=2000 generated.min_length=50). The first seed fills the cache of
the base model's vectors, so that its minutes are those of a single run.
Then finerank evaluate judges all models on the split's queries, over the whole corpus: a reranker over the base
model's best passages, alone and fused with it by a weight of 1 that no query has chosen. A stopped benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from memory import measured

from finerank.evaluation.significance import bootstrap_interval, paired_interval, paired_randomisation

RECIPES = Path(__file__).parent.parent / "recipes"
METRIC = "nDCG@10"


class Recipe(NamedTuple):
    file: str
    tuned: str
    """The step that trains."""
    length: str
    """The recipe's value for a passage's tokens at mining."""


KINDS = {
    "embedder": Recipe("documents_only.yaml", "tuned_embedder", "passage_tokens"),
    "reranker": Recipe("documents_only_reranker.yaml", "tuned_reranker", "mined.embedder_passage_max_length"),
}


def train(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the recipe once per seed; return what each run took."""
    recipe, done = KINDS[options.kind], options.work / "runs.json"
    first_stage = [f"first_stage={options.model}"] if options.kind == "reranker" else []
    runs: list[dict[str, Any]] = json.loads(done.read_text()) if done.exists() else []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        if any(run["seed"] == seed and run["exit"] == 0 for run in runs):
            continue
        folder = options.work / str(seed)
        command = [
            sys.executable, "-m", "finerank", "run", str(RECIPES / recipe.file),
            f"documents={options.data / 'corpus.jsonl'}", f"model={options.model}", *first_stage, f"folder={folder}",
            f"mined.embedding_cache={options.work / 'vectors'}", *options.values,
            *(f"{step}.seed={seed}" for step in ("generated", "mined", recipe.tuned)), "--until", recipe.tuned,
        ]  # fmt: skip
        result = measured(command, options.work / f"log-{seed}.txt", environment={"HF_HUB_OFFLINE": "1"})
        runs.append({"seed": seed, "folder": str(folder / recipe.tuned), **result})
        print(json.dumps(runs[-1]), flush=True)
        done.write_text(json.dumps(runs, indent=1))
    return [run for run in runs if run["exit"] == 0]


def judge(options: argparse.Namespace, runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return each arm's value per query, under its name in the results."""
    out = options.work / "results.json"
    values = dict(value.split("=", 1) for value in options.values)
    length = values.get(KINDS[options.kind].length)
    reranking = [
        "--first_stage", options.model, "--top_k", str(options.top_k), "--max_len", str(options.pair_tokens),
        "--fusion", "zscore", "--fusion_weight", "1",
    ] if options.kind == "reranker" else []  # fmt: skip
    subprocess.run(
        [
            sys.executable, "-m", "finerank", "evaluate", "--model_name_or_path", "bm25", options.model,
            *(run["folder"] for run in runs), "--baseline", options.model, "--data", str(options.data), "--split",
            options.split, "--metrics", METRIC, *(["--passage_max_len", length] if length else []), *reranking,
            "--embedding_cache", str(options.work / "vectors"), "--output_file", str(out), "--overwrite",
        ],
        check=True,
    )  # fmt: skip
    results = json.loads(out.read_text())
    queries = sorted(next(iter(results["per_query"].values()))[METRIC])
    return {name: [values[METRIC][query] for query in queries] for name, values in results["per_query"].items()}


def summary(runs: list[dict[str, Any]], values: dict[str, list[float]]) -> dict[str, Any]:
    """Return means with intervals; of each way to use the models, every seed's difference to the base and their mean's.

    A reranker has two ways, alone and fused, which the results name in turn for each seed's model.
    """
    bm25, base, *tuned = values.values()
    ways = ("alone", "fused") if len(tuned) == 2 * len(runs) else ("alone",)

    def against(scores: list[float]) -> dict[str, Any]:
        return {
            "mean": list(bootstrap_interval(scores)),
            "minus base": list(paired_interval(scores, base)),
            "p": paired_randomisation(scores, base),
        }

    return {
        "queries": len(base),
        "bm25": list(bootstrap_interval(bm25)),
        "base": list(bootstrap_interval(base)),
        **{
            way: {
                "mean of seeds": against([statistics.fmean(column) for column in zip(*tuned[at :: len(ways)])]),
                "seeds": {str(run["seed"]): against(scores) for run, scores in zip(runs, tuned[at :: len(ways)])},
            }
            for at, way in enumerate(ways)
        },
        "cpu_minutes": round(runs[0]["cpu_seconds"] / 60, 1),
        "minutes": round(runs[0]["seconds"] / 60, 1),
        "peak": max(run["peak"] for run in runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder; only its documents are trained on")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first_seed", type=int, default=42)
    parser.add_argument("--top_k", type=int, default=20, help="passages that a reranker is judged on")
    parser.add_argument("--pair_tokens", type=int, default=192, help="a pair's length when a reranker is judged")
    parser.add_argument("values", nargs="*", metavar="NAME=VALUE")
    options = parser.parse_intermixed_args()
    options.work.mkdir(parents=True, exist_ok=True)
    runs = train(options)
    result = {
        "data": options.data.name, "split": options.split, "values": options.values,
        "runs": [{key: value for key, value in run.items() if key != "folder"} for run in runs],
        "summary": summary(runs, judge(options, runs)),
    }  # fmt: skip
    print(json.dumps(result["summary"], indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
