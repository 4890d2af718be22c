"""How near encoding, scoring and a training step come to what the machine's matrix products allow; where the rest goes.

    python benchmarks/roofline.py --model M [--device cpu] [--dtype auto] [--texts DIR|FILE] [--rounds 5] [--out F.json]

In every round the rate of the model's own largest matrix product is measured, then the work is timed, so that what
else the machine does falls on both. Work counted: the products of all linear layers and of attention, over the tokens
that were asked for (padding is no work). A profile of one further round says which operations took the time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from finerank.models.machine import finish, multiplies_bfloat16_fast

GROUPS = {
    "whole blocks": ("block in",),
    "attention": ("attention", "bmm", "softmax"),
    "matrix products": ("addmm", "mm", "linear", "mkl", "gemm", "matmul", "gradient of weights"),
    "norms": ("norm",),
    "dropout": ("bernoulli", "dropout", "randint"),
    "activation": ("gelu", "tanh", "silu", "relu"),
    "copies and layout": ("copy", "cat", "clone", "contiguous", "index", "gather", "embedding"),
    "sums and products": ("add", "mul", "div", "sum", "sub"),
    "optimizer": ("adam", "foreach", "lerp", "sqrt"),
}
"""Group -> parts of the names of the operations in it; the first that fits."""
PRODUCT_ROWS = {"cpu": 1024, "cuda": 65536, "mps": 8192}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an encoder; a folder or a hub name")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--texts", type=Path, help="BEIR folder or JSONL of texts (default: this repository's words)")
    parser.add_argument("--count", type=int, default=200, help="passages that are encoded")
    parser.add_argument("--max_len", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--works", nargs="+", default=["encode", "train"], choices=list(WORKS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    texts = list(itertools.islice(texts_of(options.texts), options.count))
    result = {work: WORKS[work](options, texts) for work in options.works}
    for work, found in result.items():
        show(work, found)
    if options.out:
        settings = {key: str(value) for key, value in vars(options).items() if key != "out"}
        options.out.write_text(json.dumps({"settings": settings, **result}, indent=1) + "\n", encoding="utf-8")


def encode(options: argparse.Namespace, texts: list[str]) -> dict[str, Any]:
    """Encode the texts."""
    from finerank.models.load import load_encoder

    model = load_encoder(
        options.model, device=options.device, dtype=options.dtype, passage_max_len=options.max_len
    )  # fmt: skip
    tokens = model.tokens(texts, "passage")
    lengths = [len(item.ids) for item in tokens]
    return measure(lambda: model.encode(texts, "passage"), model, lengths, passes=1, rounds=options.rounds)


def train(options: argparse.Namespace, texts: list[str]) -> dict[str, Any]:
    """Take one step of an embedder's training: forward, backward, no optimizer."""
    from finerank.core.records import Group
    from finerank.models.load import trainable_encoder
    from finerank.training.dataset import Collator
    from finerank.training.held_out_loss import moved
    from finerank.training.objectives import embedder_objective

    model = trainable_encoder(options.model, device=options.device, passage_max_len=options.max_len)
    model.module.train()
    half = min(len(texts) // 2, 32)
    groups = [
        Group(" ".join(texts[row].split()[:12]), (texts[row], texts[half + row]), row, None, frozenset({texts[row]}))
        for row in range(half)
    ]
    batch = moved(Collator(model.collate)([(group, True) for group in groups]), model.device)
    lengths = [int(length) for part in batch["micro"] for length in part["attention_mask"].sum(1)]
    objective = embedder_objective(temperature=0.05)

    fast = multiplies_bfloat16_fast(model.device)  # as training does

    def step() -> None:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=fast):
            results = model.module(batch["micro"])
            loss = objective(model.outputs(results, batch), batch).mean()
        loss.backward()
        model.module.zero_grad()

    dtype = torch.bfloat16 if fast else torch.float32
    return measure(step, model, lengths, passes=3, rounds=options.rounds, dtype=dtype)


def measure(
    work: Callable[[], Any], model: Any, lengths: list[int], passes: int, rounds: int, dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """Time ``work`` and the model's largest product in turn.

    Args:
        lengths: tokens of each input.
        passes: times that each product is done: once forward, twice more backward.
        dtype: in which products are done, if not in that of the weights.
    """
    flops = passes * _flops(model.transformer, lengths)
    work()
    seconds, limits = [], []
    for _ in range(rounds):
        limits.append(_product_rate(model, dtype))
        start = time.perf_counter()
        work()
        finish(model.device)
        seconds.append(time.perf_counter() - start)
    return {
        "tokens": sum(lengths),
        "tokens_per_second": sum(lengths) / statistics.median(seconds),
        "flops": flops,
        "achieved": statistics.median(flops / each for each in seconds),
        "limit": statistics.median(limits),
        "share_of_limit": statistics.median(flops / each / limit for each, limit in zip(seconds, limits)),
        "where_time_goes": _profile(work, model.device),
    }


def show(work: str, found: dict[str, Any]) -> None:
    """Print one work's figures."""
    print(
        f"{work}: {found['tokens_per_second']:,.0f} tokens/s, {found['achieved'] / 1e12:.3f} of "
        f"{found['limit'] / 1e12:.3f} TFLOP/s, {found['share_of_limit']:.0%}"
    )
    print("  " + ", ".join(f"{name} {share:.0%}" for name, share in found["where_time_goes"].items()))


def _flops(transformer: Any, lengths: list[int]) -> float:
    """Count the products of linear layers and of attention in one pass over inputs of these lengths."""
    blocks = next(part for part in transformer.modules() if isinstance(part, torch.nn.ModuleList))
    weights = sum(part.weight.numel() for part in blocks.modules() if isinstance(part, torch.nn.Linear))
    width = transformer.config.hidden_size
    attention = 4 * width * len(blocks) * sum(length * length for length in lengths)
    return 2.0 * weights * sum(lengths) + attention


def _product_rate(model: Any, dtype: torch.dtype | None, repeats: int = 20) -> float:
    """Return the rate in FLOP/s of the largest linear layer of the model's blocks over a batch of tokens."""
    blocks = next(part for part in model.transformer.modules() if isinstance(part, torch.nn.ModuleList))
    layers = [part for part in blocks.modules() if isinstance(part, torch.nn.Linear)]
    weight = max(layers, key=lambda layer: layer.weight.numel()).weight.detach()
    weight = weight if dtype is None else weight.to(dtype)
    rows = torch.randn(PRODUCT_ROWS[model.device.type], weight.shape[1], device=weight.device, dtype=weight.dtype)
    with torch.inference_mode():
        torch.nn.functional.linear(rows, weight)
        finish(model.device)
        start = time.perf_counter()
        for _ in range(repeats):
            torch.nn.functional.linear(rows, weight)
        finish(model.device)
    return 2.0 * len(rows) * weight.numel() * repeats / (time.perf_counter() - start)


def _profile(work: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Return the share of each group of operations in the time of one round; on a CPU by one thread.

    What lanes compute in threads of their own the profiler would not see.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    cuda = device.type == "cuda"
    if cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.profiler.profile(activities=activities) as profile:
            work()
    finally:
        torch.set_num_threads(threads)
    spent: Counter[str] = Counter()
    for event in profile.key_averages():
        taken = event.self_device_time_total if cuda else event.self_cpu_time_total
        group = next(
            (name for name, parts in GROUPS.items() if any(part in event.key.lower() for part in parts)), "other"
        )
        spent[group] += taken
    total = sum(spent.values()) or 1
    return {name: round(taken / total, 4) for name, taken in spent.most_common()}


def texts_of(source: Path | None) -> Iterator[str]:
    """Yield the texts of a BEIR folder or a JSONL file, or stretches of this folder's README."""
    if source is None:
        words = Path(__file__).with_name("README.md").read_text(encoding="utf-8").split()
        for place in itertools.count():
            length = 40 + 29 * place % 180
            start = 131 * place % (len(words) - length)
            yield " ".join(words[start : start + length])
    path = source / "corpus.jsonl" if source.is_dir() else source
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            record = json.loads(line)
            yield f"{record.get('title', '')} {record.get('text', '')}".strip()


WORKS = {"encode": encode, "train": train}


if __name__ == "__main__":
    main()
