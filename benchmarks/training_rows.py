"""Rows of a training larger than memory: first reading, memory of the groups, groups made per second.

    python benchmarks/training_rows.py --rows 1000000 --folder DIR --output results/cpu-training-rows.json

Writes rows of about 1 KB (1 positive, 3 negatives, some shared) once, then measures in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORDS = [f"word{number}" for number in range(5000)]
PASSAGE_WORDS, NEGATIVES, DRAWN = 24, 3, 20_000


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Yield rows whose queries are distinct, and whose negatives are now and then another row's."""
    draw = random.Random(0)
    shared = [" ".join(draw.choices(WORDS, k=PASSAGE_WORDS)) for _ in range(1000)]
    for number in range(count):
        texts = [" ".join(draw.choices(WORDS, k=PASSAGE_WORDS)) + f" {number}" for _ in range(NEGATIVES)]
        yield {
            "query": f"{' '.join(draw.choices(WORDS, k=8))} {number}",
            "pos": [texts[0]],
            "neg": [*texts[1:], draw.choice(shared)],
        }


def resident() -> dict[str, float]:
    """Return this process's memory in MiB: highest so far, now, and of that what is its own (not a mapped file)."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    now = {name: int(fields[key].split()[0]) / 1024 for name, key in (("now", "VmRSS"), ("own", "RssAnon"))}
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, **now}


def measure(path: str) -> dict[str, Any]:
    """Read the rows, make groups; the second call finds the rows on disk."""
    from finerank.batching.groups import GroupMaker
    from finerank.core.train_options import EmbedderOptions
    from finerank.data.training_rows import training_rows

    start = time.process_time(), time.monotonic()
    found = training_rows(EmbedderOptions(model_name_or_path="none", train_data=[path]))
    read = time.process_time() - start[0], time.monotonic() - start[1]
    after_reading = resident()
    begun = time.process_time()
    maker = GroupMaker(found, 8, 0)
    made = time.process_time() - begun
    begun = time.process_time()
    for index in random.Random(1).sample(range(len(found)), min(DRAWN, len(found))):
        maker.group(0, index)
    grouped = time.process_time() - begun
    return {
        "rows": len(found),
        "read_cpu_seconds": read[0],
        "read_seconds": read[1],
        "rows_per_cpu_second": len(found) / read[0],
        "memory_after_reading_mib": after_reading,
        "group_maker_cpu_seconds": made,
        "groups_per_cpu_second": min(DRAWN, len(found)) / grouped,
        "memory_mib": resident(),
        "pickled_rows_bytes": len(pickle.dumps(found)),
        "pickled_group_maker_bytes": len(pickle.dumps(maker)),
        "counts": maker.counts().to_mapping(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    path = given.folder / f"rows-{given.rows}.jsonl"
    if given.measure:
        print(json.dumps(measure(str(path))))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with path.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows(given.rows))
    environment = {**os.environ, "FINERANK_CACHE": str(given.folder / "cache")}
    command = [sys.executable, __file__, "--measure", "--rows", str(given.rows), "--folder", str(given.folder)]
    result = {"bytes": path.stat().st_size}
    for name in ("first", "again"):
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        result[name] = json.loads(done.stdout)
    text = json.dumps(result, indent=2)
    print(text)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
