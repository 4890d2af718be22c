"""Throughput beside the peers, interleaved in one run: encode, score, a reranker's and an embedder's training, mining.

    make demo && make bench            # on the demo's functions, with the reranker that it made
    python benchmarks/throughput.py --data BEIR_DIR --model M --reranker R [--rounds 5] [--scale 1] [--out FILE.json]

Each engine sits in a process of its own and waits while another works; every round runs all engines on the same job,
so that a noisy machine is noisy for all. Reported are medians and the median of the per-round ratios. A run of any
engine during which the host took back more than ``--stolen`` of the processors' time (Linux's "steal") is run again, up
to twice, and the least disturbed one counts; what was stolen is in the results. FlagEmbedding needs an environment of
its own, and so does sentence-transformers with OpenVINO: see README.md; their pythons are named by
FLAGEMBEDDING_PYTHON and OPENVINO_PYTHON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PYTHONS = {"fe": "FLAGEMBEDDING_PYTHON", "fe-bf16": "FLAGEMBEDDING_PYTHON", "st-openvino": "OPENVINO_PYTHON"}
"""Engines that need an environment of their own -> the variable that names its python."""
DEMO = Path("finerank_demo")
TRIES = 3
WORKS = ("encode", "score", "train_reranker", "train_embedder", "mine")


class Engine:
    """A worker process."""

    def __init__(self, name: str, model: str, log: Path) -> None:
        self.name = name
        python = os.environ.get(PYTHONS.get(name, ""), sys.executable)
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        if name.startswith(("finerank", "exported")):
            environment["OMP_WAIT_POLICY"] = "PASSIVE"  # as the command sets it
        self.process = subprocess.Popen(
            [python, str(HERE / "worker.py"), name, model], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log.open("w"), text=True, env=environment,
        )  # fmt: skip
        self._answer()

    def run(self, work: str, **arguments: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"work": work, **arguments}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} died; its log says why")
        return dict(json.loads(line))


def texts_of(folder: Path, count: int) -> tuple[list[str], list[dict[str, Any]]]:
    """Return passages, and rows with random negatives, of a BEIR folder."""
    passages = {}
    for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").split("\n"):
        if line:
            entry = json.loads(line)
            passages[entry["_id"]] = f"{entry.get('title', '')} {entry['text']}".strip()
    queries = {
        entry["_id"]: entry["text"]
        for entry in map(json.loads, filter(None, (folder / "queries.jsonl").read_text(encoding="utf-8").split("\n")))
    }
    rng = random.Random(7)
    qrels = [line.split("\t") for line in (folder / "qrels" / "train.tsv").read_text().split("\n")[1:] if line]
    keys = sorted(passages)
    rows = [
        {"query": queries[query], "pos": [passages[passage]], "neg": [passages[key] for key in rng.sample(keys, 7)]}
        for query, passage, _ in rng.sample(qrels, min(count, len(qrels)))
    ]
    return [passages[key] for key in rng.sample(keys, min(count, len(keys)))], rows


def jobs(folder: Path, scale: float, reranker: str, scratch: Path) -> dict[str, tuple[dict[str, Any], int]]:
    """Return work -> (arguments, number of items it counts)."""
    documents, pair_count, mine_count = int(1000 * scale), int(600 * scale), int(150 * scale)
    passages, rows = texts_of(folder, max(documents, pair_count, 200))
    row_file, mine_file = scratch / "rows.jsonl", scratch / "mine.jsonl"
    row_file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    mine_file.write_text("".join(json.dumps(row) + "\n" for row in rows[:mine_count]), encoding="utf-8")
    pairs = [(rows[i % len(rows)]["query"], passages[i % len(passages)]) for i in range(pair_count)]
    steps = max(2, int(6 * scale))
    return {
        "encode": ({"texts": passages[:documents]}, documents),
        "score": ({"pairs": pairs, "reranker": reranker}, pair_count),
        "train_reranker": ({"rows": str(row_file), "steps": steps, "batch": 4, "group": 8}, steps * 32),
        "train_embedder": ({"rows": str(row_file), "steps": steps, "batch": 64, "group": 2}, steps * 64),
        "mine": ({"rows": str(mine_file)}, mine_count),
    }


def stolen_seconds() -> float:
    """Return the processor seconds that the host has taken back so far; 0 where nobody counts them."""
    try:
        return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def undisturbed(engine: Engine, work: str, arguments: dict[str, Any], limit: float) -> dict[str, Any]:
    """Return the answer of the first run with at most ``limit`` of the processors' time stolen, or of the best one."""
    answers = []
    for _ in range(TRIES):
        begun, taken = time.perf_counter(), stolen_seconds()
        answer = engine.run(work, **arguments)
        passed = (time.perf_counter() - begun) * (os.cpu_count() or 1)
        answers.append(answer | {"stolen": round((stolen_seconds() - taken) / passed, 3)})
        if "error" in answer or answers[-1]["stolen"] <= limit:
            return answers[-1]
    return min(answers, key=lambda answer: answer["stolen"])


def measure(
    engines: list[Engine], plan: dict[str, tuple[dict[str, Any], int]], works: list[str], rounds: int, limit: float
) -> Any:
    """Run every work in every engine, ``rounds`` times and once before that to warm up; return its answers."""
    answers: dict[str, dict[str, list[dict[str, Any]]]] = {work: {} for work in works}
    for work in works:
        able = list(engines)
        for turn in range(rounds + 1):
            for engine in list(able):
                answer = undisturbed(engine, work, plan[work][0], limit if turn > 0 else 1.0)
                if "error" in answer:
                    print(f"{work:<15} {engine.name:<17} not run: {answer['error']}", file=sys.stderr, flush=True)
                    able.remove(engine)
                elif turn > 0:
                    answers[work].setdefault(engine.name, []).append(answer)
                    line = f"{plan[work][1] / answer['seconds']:8.1f}/s, stolen {answer['stolen']:.1%}"
                    print(f"{work:<15} {engine.name:<17} round {turn}: {line}", file=sys.stderr, flush=True)
    return answers


def summarise(answers: Any, plan: dict[str, tuple[dict[str, Any], int]]) -> list[dict[str, Any]]:
    """Return one entry per work and engine: median rate, and finerank's median ratio to it over the rounds."""
    lines = []
    for work, engines in answers.items():
        seconds = {name: [answer["seconds"] for answer in given] for name, given in engines.items()}
        ours = seconds.get("finerank", [])
        for name, times in seconds.items():
            ratios = [other / own for own, other in zip(ours, times)]
            lines.append({
                "work": work, "engine": name, "median_per_second": round(plan[work][1] / statistics.median(times), 2),
                "finerank_is_faster_by": round(statistics.median(ratios), 2) if ratios else None,
                "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)] if ratios else None,
                "seconds": [round(value, 3) for value in times],
                "stolen": [answer["stolen"] for answer in engines[name]],
            })  # fmt: skip
    return lines


def packaged_model() -> str | None:
    """Return the folder of the MiniLM that the [demo] extra brings."""
    from finerank.stages.demo import packaged_model as found

    return found()


def machine() -> dict[str, Any]:
    """Describe what this ran on."""
    import importlib.metadata as metadata

    import torch

    capabilities = torch.cpu.get_capabilities()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE)
    names = ("finerank", "torch", "transformers", "sentence-transformers", "numba")
    return {
        "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "amx_bf16": capabilities.get("amx_bf16"), "avx512_bf16": capabilities.get("avx512_bf16"),
        "commit": commit.stdout.strip(), "versions": {name: metadata.version(name) for name in names},
        "date": time.strftime("%Y-%m-%d"), "dropout": os.environ.get("BENCH_DROPOUT", "hidden as the model's config"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEMO / "data", help="BEIR folder (default: the demo's functions)")
    parser.add_argument("--model", default=packaged_model(), help="embedder; also the start of both trainings")
    parser.add_argument("--reranker", default=str(DEMO / "tuned_reranker"), help="cross-encoder for scoring")
    parser.add_argument("--engines", nargs="+", default=["finerank", "st", "st-bf16", "fe"])
    parser.add_argument("--works", nargs="+", default=list(WORKS), choices=WORKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="size of the jobs; 1 = 1,000 passages")
    parser.add_argument("--stolen", type=float, default=0.05, help="share of processor time; more, and it is run again")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plan = jobs(options.data, options.scale, options.reranker, Path(folder))
        engines = [Engine(name, options.model, Path(folder) / f"{place}.log")
                   for place, name in enumerate(options.engines)]  # fmt: skip
        answers = measure(engines, plan, options.works, options.rounds, options.stolen)
    results = {"machine": machine(), "data": options.data.name, "scale": options.scale,
               "results": summarise(answers, plan)}  # fmt: skip
    print("| work | engine | median/s | finerank faster by | range |\n| --- | --- | --- | --- | --- |")
    for line in results["results"]:
        print(f"| {line['work']} | {line['engine']} | {line['median_per_second']} | {line['finerank_is_faster_by']} | "
              f"{line['ratio_range']} |")  # fmt: skip
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
