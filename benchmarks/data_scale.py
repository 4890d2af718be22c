"""What check and split cost: synthetic rows, each command as a child process, time, memory and tokens per core.

    python benchmarks/data_scale.py --work DIR [--rows 1000000] [--long_rows 100000] [--model M] [--processes 2]

``seconds`` is wall time; ``cpu_seconds`` is what all its processes used, which a busy machine changes less; ``peak`` is
the highest sum of their resident sets in MiB (shared pages counted in each), ``anonymous`` the part that no file
backs; ``load`` the machine's load average when the command began. Words are
made up and drawn by Zipf's law, so that some come again and again and new ones never end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

import orjson
from memory import measured

VOCABULARY = 60_000
SHORT, LONG = 12, 150
"""Words of a passage; nine texts of 150 words are about 7 KB."""
PHRASES = 300_000
"""Drawing three words at a time takes a third of the time."""


def vocabulary() -> tuple[list[str], list[float]]:
    """Return words and their cumulative weights."""
    rng = random.Random(0)
    heads, tails = [*"bcdfgklmnprstvz", "st", "tr", "ch"], [*"aeiou", "an", "er", "ing"]
    found: dict[str, None] = {}
    while len(found) < VOCABULARY:
        found["".join(rng.choice(heads) + rng.choice(tails) for _ in range(rng.randint(1, 4)))] = None
    return list(found), list(accumulate(1 / (rank + 2) for rank in range(VOCABULARY)))


def write_rows(path: Path, rows: int, words: int) -> None:
    """Write rows of one query, one positive and seven negatives."""
    if path.exists():
        return
    known, weights = vocabulary()
    rng = random.Random(1)
    phrases = [" ".join(rng.choices(known, cum_weights=weights, k=3)) for _ in range(PHRASES)]
    size = words // 3
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        for _ in range(rows):
            drawn = rng.choices(phrases, k=2 + 8 * size)
            texts = [" ".join(drawn[start : start + size]).capitalize() + "." for start in range(2, len(drawn), size)]
            row = {"query": " ".join(drawn[:2]) + "?", "pos": texts[:1], "neg": texts[1:]}
            file.write(orjson.dumps(row) + b"\n")
    temporary.rename(path)


def finerank(words: list[str], log: Path) -> dict[str, Any]:
    """Run one command; return its figures."""
    load = os.getloadavg()[0]
    return {"command": words[0], **measured([sys.executable, "-m", "finerank", *words], log), "load": round(load, 1)}


def tokens_of(model: str | None, path: Path, rows: int) -> int:
    """Return the tokens of all texts, from the mean of the first rows."""
    if model is None:
        return 0
    from finerank.data.lengths import Ruler, load_tokenizer

    with path.open("rb") as file:
        head = [orjson.loads(line) for line, _ in zip(file, range(2000))]
    texts = [text for row in head for text in (row["query"], *row["pos"], *row["neg"])]
    counts, _ = Ruler(load_tokenizer(model).to_str()).measure(texts)
    return round(sum(counts) / len(head) * rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--long_rows", type=int, default=100_000)
    parser.add_argument("--model", help="whose tokenizer measures; without it only check runs, without lengths")
    parser.add_argument("--processes", default="2")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    results = []
    for name, rows, words in (("short", options.rows, SHORT), ("long", options.long_rows, LONG)):
        path = options.work / f"{name}-{rows}.jsonl"
        write_rows(path, rows, words)
        tokens = tokens_of(options.model, path, rows)
        shared = ["--num_proc", options.processes]
        commands = [["check", str(path), *shared]]
        if options.model:
            commands.append(["check", str(path), "--model_name_or_path", options.model, *shared])
            output = [
                "--output_dir",
                str(options.work / f"split-{name}"),
                "--length_list",
                "0",
                "24",
                "32",
                "--overwrite",
            ]
            commands.append(
                ["split", "--input_path", str(path), "--model_name_or_path", options.model, *output, *shared]
            )
        for command in commands:
            result = finerank(command, options.work / "log.txt")
            if "--model_name_or_path" in command:
                rate = {"tokens": tokens, "tokens_per_cpu_second": round(tokens / result["cpu_seconds"])}
                result |= rate
            results.append({"file": name, "rows": rows, "MB": round(path.stat().st_size / 1e6)} | result)
            print(json.dumps(results[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
