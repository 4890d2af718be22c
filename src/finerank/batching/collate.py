"""Tokens to tensors: padded micro-batches of like length, and the batch of one optimizer step.

A step's inputs are sorted by token count and cut into micro-batches; ``order`` puts the results back, so that the loss
is computed once, over the whole step, and equals that of one padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from finerank.batching.packing import sorted_batches
from finerank.batching.prompts import Tokens

ID_SPACE = 2**62


def pad(tokens: Sequence[Tokens], pad_id: int, *, left: bool = False, multiple: int = 1) -> dict[str, torch.Tensor]:
    """Pad inputs to the longest of them; one without tokens (an empty text, no special tokens) becomes a padding token.

    Returns:
        ``input_ids``, ``attention_mask``; where the inputs have segment ids, ``token_type_ids``; where a prompt is left
        out of the pooling, ``pooling_mask``; each [N, L]. Where tokens are kept from compression, ``kept`` [N, 2].
    """
    tokens = [item if item.ids else _blank(item, pad_id) for item in tokens]
    longest = max(len(item.ids) for item in tokens)
    width = -(-longest // multiple) * multiple
    rows = [_padded(item.ids, width, pad_id, left) for item in tokens]
    mask = [_padded([1] * len(item.ids), width, 0, left) for item in tokens]
    batch = {"input_ids": _stacked(rows), "attention_mask": _stacked(mask)}
    if tokens[0].types is not None:
        types = [_padded(item.types or [], width, 0, left) for item in tokens]
        batch["token_type_ids"] = _stacked(types)
    if any(item.unpooled for item in tokens):
        pooled = [[0] * item.unpooled + [1] * (len(item.ids) - item.unpooled) for item in tokens]
        batch["pooling_mask"] = _stacked([_padded(row, width, 0, left) for row in pooled])
    if tokens[0].kept is not None:
        batch["kept"] = torch.tensor([item.kept for item in tokens])
    return batch


def _blank(item: Tokens, pad_id: int) -> Tokens:
    return item._replace(ids=[pad_id], types=None if item.types is None else [0])


def micro_batches(
    tokens: Sequence[Tokens], budget: int, pad_id: int, *, left: bool = False, most: int | None = None, apart: int = 0
) -> dict[str, Any]:
    """Sort a step's distinct inputs by length and cut them into padded micro-batches.

    Equal inputs are computed once and share their result, so that its gradient is the sum of theirs (dropout, where
    there is any, drops alike for all of them).

    Args:
        budget: most tokens in a micro-batch.
        most: most inputs in one; None for any number.
        apart: so many first inputs (the queries) are computed apart from equal ones among the rest: training a text to
            find itself lives on the difference that dropout makes.

    Returns:
        ``micro``: list of padded batches; ``order`` [N]: where input i's result stands in their concatenation.
    """
    keys = [(place < apart, _key(item)) for place, item in enumerate(tokens)]
    distinct = dict(zip(keys, tokens))
    numbers = {key: number for number, key in enumerate(distinct)}
    inputs = list(distinct.values())
    batches = sorted_batches([len(item.ids) for item in inputs], budget, most)
    placed = torch.tensor([number for batch in batches for number in batch])
    return {
        "micro": [pad([inputs[number] for number in batch], pad_id, left=left) for batch in batches],
        "order": torch.argsort(placed)[[numbers[key] for key in keys]],
    }


def text_ids(texts: Sequence[str], digests: Sequence[str]) -> torch.Tensor:
    """Return one number per text [N]; equal numbers mean equal texts (by digest), whatever the process."""
    if len(texts) != len(digests):
        raise ValueError(f"{len(texts)} texts but {len(digests)} digests")
    return torch.tensor([int(digest[:16], 16) % ID_SPACE for digest in digests])


def _key(item: Tokens) -> object:
    """Return what two inputs have in common if and only if the model gives the same for both."""
    return tuple(item.ids), tuple(item.types or ()), item.unpooled, item.kept


def _stacked(rows: list[list[int]]) -> torch.Tensor:
    """Return rows of equal length [N, L]; numpy reads lists several times faster than torch."""
    return torch.from_numpy(np.array(rows, dtype=np.int64))


def _padded(values: list[int], width: int, filler: int, left: bool) -> list[int]:
    gap = [filler] * (width - len(values))
    return gap + values if left else values + gap
