"""Memory of one training step with gradient caching and without it, over batch sizes; and that the gradients agree.

    python benchmarks/gradient_cache.py --model M [--batch_sizes 8 32 128] [--sub_batch_size 16] [--output FILE.json]

Each step runs in a process of its own; its peak is the highest resident set less what the process held before the step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

TEXT = "the code of a list reads each file and returns the name of one new string that it finds in this tree"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--model", required=True, help="embedder: a folder or a hub name")
    words.add_argument("--batch_sizes", type=int, nargs="+", default=[8, 32, 128], help="queries of a step")
    words.add_argument("--group_size", type=int, default=4, help="passages per query")
    words.add_argument("--length", type=int, default=96, help="words of a passage")
    words.add_argument("--sub_batch_size", type=int, default=16, help="texts in a part of a cached step")
    words.add_argument("--output", type=Path, help="where the figures go as JSON")
    words.add_argument("--step", help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.step:
        print(json.dumps(step(given, **json.loads(given.step))))
        return
    found = [compare(given, size) for size in given.batch_sizes]
    print(f"{'queries':>8} {'whole MiB':>10} {'cached MiB':>11} {'whole s':>8} {'cached s':>9} {'largest gap':>12}")
    for row in found:
        whole, cached = row["whole"], row["cached"]
        print(
            f"{row['batch_size']:>8} {whole['peak_mib']:>10.0f} {cached['peak_mib']:>11.0f} {whole['seconds']:>8.2f} "
            f"{cached['seconds']:>9.2f} {row['gradient_gap']:>12.2e}"
        )
    if given.output:
        settings = {name: value for name, value in vars(given).items() if name not in ("step", "output")}
        given.output.write_text(json.dumps({"settings": settings, "steps": found}, indent=1) + "\n")


def compare(given: argparse.Namespace, batch_size: int) -> dict[str, Any]:
    """Take the same step both ways, each in a fresh process."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        row: dict[str, Any] = {"batch_size": batch_size}
        gradients = {}
        for way in ("whole", "cached"):
            path = f"{folder}/{way}.pt"
            asked = json.dumps({"batch_size": batch_size, "cached": way == "cached", "path": path})
            words = [sys.executable, *sys.argv, "--step", asked]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
            row[way] = json.loads(done.stdout.splitlines()[-1])
            gradients[way] = torch.load(path, weights_only=True)
    largest = max(value.abs().max() for value in gradients["whole"].values())
    gaps = (abs(value - gradients["cached"][name]).max() for name, value in gradients["whole"].items())
    return row | {"gradient_gap": float(max(gaps) / largest)}


def step(given: argparse.Namespace, batch_size: int, cached: bool, path: str) -> dict[str, float]:
    """Take one step of the embedder's loss, dropout on; write its gradients; return its peak and seconds."""
    import torch

    from finerank.core.records import Group
    from finerank.models.load import trainable_encoder
    from finerank.training.dataset import Collator
    from finerank.training.gradient_cache import cached_step
    from finerank.training.objectives import embedder_objective

    model = trainable_encoder(given.model, device="cpu", dropout=0.1)
    model.texts_per_forward = given.sub_batch_size
    model.module.train()
    words = [*TEXT.split() * given.length][: given.length]
    groups = [
        Group(
            f"find {row}", (passages := passages_of(words, row, given.group_size)), row, None, frozenset(passages[:1])
        )
        for row in range(batch_size)
    ]
    batch = Collator(model.collate)([(group, True) for group in groups])
    objective = embedder_objective(temperature=0.05)

    def loss(results: torch.Tensor) -> torch.Tensor:
        return objective(model.outputs(results, batch), batch).mean()

    torch.manual_seed(0)
    before, start = peak(), time.perf_counter()
    if cached:
        cached_step(
            model.module, batch["micro"], loss, torch.Tensor.backward, autocast=nullcontext, unsynchronised=nullcontext
        )  # fmt: skip
    else:
        loss(model.module(batch["micro"])).backward()
    seconds = time.perf_counter() - start
    gradients = {name: value.grad for name, value in model.module.named_parameters() if value.grad is not None}
    torch.save(gradients, path)
    return {"peak_mib": round(peak() - before, 1), "seconds": round(seconds, 2)}


def passages_of(words: list[str], row: int, count: int) -> tuple[str, ...]:
    """Return so many passages, no two of them alike."""
    return tuple(" ".join([*words, str(row), str(place)]) for place in range(count))


def peak() -> float:
    """Return the highest resident set of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
