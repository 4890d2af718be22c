"""The inference engine: token-sorted windows, token-budgeted batches, tokenising ahead in a thread.

A window of inputs is tokenised while the one before is computed, sorted by token count, cut into batches by token
budget, and its results are put back in the order of the input. Batches depend on the inputs alone. On a CPU several of
them are computed at once (:mod:`finerank.models.lanes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from finerank.batching.collate import pad
from finerank.batching.packing import sorted_batches
from finerank.batching.prompts import Tokenizer, Tokens
from finerank.core.protocols import Progress
from finerank.models import fused, lanes

Item = TypeVar("Item")
Tokenise = Callable[[Sequence[Item]], list[Tokens]]
Forward = Callable[[dict[str, torch.Tensor]], torch.Tensor]

WINDOW = 4096
CPU_TOKENS = 1024
CUDA_TOKENS = 65536
MANY = 16


def run(
    module: torch.nn.Module,
    items: Sequence[Item],
    tokenise: Tokenise[Item],
    forward: Forward,
    *,
    tokenizer: Tokenizer,
    device: torch.device,
    width: int | None = None,
    abreast: bool = False,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Compute ``forward`` over all items, each distinct one once; returns float32 [N] or, with ``width``, [N, width].

    Args:
        module: what ``forward`` runs; put in evaluation mode meanwhile.
        tokenise: items -> tokens; called in a thread, one window ahead.
        forward: a padded batch on ``device`` -> [n] or [n, width].
        tokenizer: says how to pad.
        abreast: whether ``forward`` may be called by several threads at once.
    """
    unique, index = distinct(items)
    results = np.empty((len(unique),) if width is None else (len(unique), width), dtype=np.float32)
    was_training = module.training
    module.eval()

    def computed(tokens: list[Tokens]) -> NDArray[np.float32]:
        output: NDArray[np.float32] = _with_back_off(tokens, forward, device, tokenizer).float().cpu().numpy()
        return output

    try:
        count = lanes.count_on(device) if abreast else 1
        with torch.inference_mode(), fused.steady(module), lanes.opened(count) as opened:
            for start, tokens in _tokenised_ahead(unique, tokenise):
                lengths = [len(item.ids) for item in tokens]
                batches = sorted_batches(lengths, token_budget(device, sum(lengths)))
                outputs = opened.map(computed, [[tokens[position] for position in batch] for batch in batches])
                for batch, output in zip(batches, outputs):
                    results[[start + position for position in batch]] = output
                    if progress is not None:
                        progress(len(batch))
    finally:
        module.train(was_training)
    if len(unique) == len(items):
        return results
    if progress is not None:
        progress(len(items) - len(unique))
    repeated: NDArray[np.float32] = results[index]
    return repeated


def token_budget(device: torch.device, tokens: int) -> int:
    """Return the most tokens of a batch: what fills a GPU; on a CPU what stays near its caches.

    Where there are many of them larger batches cost less beside their products; few are cut finer, for all threads.
    """
    if device.type == "cuda":
        return CUDA_TOKENS
    return CPU_TOKENS if tokens < MANY * CPU_TOKENS else 2 * CPU_TOKENS


def _tokenised_ahead(items: Sequence[Item], tokenise: Tokenise[Item]) -> Iterator[tuple[int, list[Tokens]]]:
    starts = range(0, len(items), WINDOW)
    with ThreadPoolExecutor(max_workers=1) as ahead:
        pending = None
        for start in starts:
            current = pending or ahead.submit(tokenise, items[start : start + WINDOW])
            following = start + WINDOW
            pending = ahead.submit(tokenise, items[following : following + WINDOW]) if following < len(items) else None
            yield start, current.result()


def _with_back_off(tokens: list[Tokens], forward: Forward, device: torch.device, tokenizer: Tokenizer) -> torch.Tensor:
    """Run one batch; on a real out-of-memory only, run its halves."""
    try:
        return forward(batch_on(tokens, device, tokenizer))
    except torch.OutOfMemoryError:
        if len(tokens) == 1:
            raise
    torch.cuda.empty_cache()
    middle = len(tokens) // 2
    halves = (tokens[:middle], tokens[middle:])
    return torch.cat([_with_back_off(half, forward, device, tokenizer) for half in halves])


def batch_on(tokens: list[Tokens], device: torch.device, tokenizer: Tokenizer) -> dict[str, Any]:
    """Pad a batch and move it to ``device`` (widths in multiples of 8 where tensor cores like them)."""
    batch = pad(tokens, tokenizer.pad_id, left=tokenizer.pad_left, multiple=8 if device.type == "cuda" else 1)
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def distinct(items: Sequence[Item]) -> tuple[list[Item], NDArray[np.int64]]:
    """Return the distinct items in first-seen order and, for each item, its place among them [N]."""
    places: dict[Item, int] = {}
    index = np.fromiter((places.setdefault(item, len(places)) for item in items), dtype=np.int64, count=len(items))
    return list(places), index
