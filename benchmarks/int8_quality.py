"""What int8 costs a ranking: nDCG@10 of an embedder on a judged set, in int8 and as ``--dtype auto`` has it.

    python benchmarks/int8_quality.py --model MINILM --data MEDQUAD --split dev [--out FILE.json]

All documents are searched. The interval is of the mean difference over the queries (paired bootstrap).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import fmean

from finerank.evaluation.held_out import DECISIVE, measure_on
from finerank.evaluation.significance import paired_interval
from finerank.models.load import load_encoder

DTYPES = ("auto", "int8")


def figures(model: str, data: str, split: str, dtype: str, length: int) -> tuple[list[float], float]:
    """Return each query's nDCG@10, and the seconds it took."""
    encoder = load_encoder(model, dtype=dtype, passage_max_len=length)
    measure = measure_on(encoder, [data], split, lambda: None, 0, "--data")
    start = time.perf_counter()
    return measure()[DECISIVE], time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--length", type=int, default=256, help="tokens of a passage")
    parser.add_argument("--out")
    options = parser.parse_args()
    found = {dtype: figures(options.model, options.data, options.split, dtype, options.length) for dtype in DTYPES}
    change = paired_interval(found["int8"][0], found["auto"][0], 42)
    report = {
        "data": Path(options.data).name, "split": options.split, "queries": len(found["auto"][0]),
        **{dtype: {"nDCG@10": fmean(values), "seconds": seconds} for dtype, (values, seconds) in found.items()},
        "change": change._asdict(),
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    if options.out:
        Path(options.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
