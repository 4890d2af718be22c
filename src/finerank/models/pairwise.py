"""What every family that scores pairs does alike: ranking, a step's batch, its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finerank.batching.collate import micro_batches
from finerank.batching.prompts import Tokenizer, Tokens
from finerank.core.records import Group


def rank(logits: NDArray[np.float32], top_k: int | None) -> list[tuple[int, float]]:
    """Return (position, sigmoid of the logit), best first; equal scores keep their order."""
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    order = np.argsort(-logits, kind="stable")[:top_k]
    return [(int(position), float(scores[position])) for position in order]


def pairs_of(group: Group, query_prefix: str = "", passage_prefix: str = "") -> list[Any]:
    """Return a group's pairs; the group's own prompts take the place of the prefixes, and of what stands at the end."""
    before_query = query_prefix if group.query_prompt is None else group.query_prompt
    before_passage = passage_prefix if group.passage_prompt is None else group.passage_prompt
    end = () if group.prompt is None else (group.prompt,)
    return [(before_query + group.query, before_passage + passage, *end) for passage in group.passages]


def tuples(pairs: Sequence[Any]) -> list[Any]:
    """Return pairs, with or without a prompt of their own, as what can be told apart by its hash."""
    return [tuple(pair) for pair in pairs]


def step(
    tokens: list[Tokens], groups: Sequence[Group], tokenizer: Tokenizer, budget: int, most: int | None
) -> dict[str, Any]:
    """Return one step's batch: all pairs of all groups, in token-sorted micro-batches."""
    batch = micro_batches(tokens, budget, tokenizer.pad_id, left=tokenizer.pad_left, most=most)
    return batch | {"size": len(groups), "group_size": len(groups[0].passages)}


def scores(results: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
    """Put a step's results [N] or [N, C] back in order: [B, G] or [B, G, C]."""
    return results[batch["order"]].view(batch["size"], batch["group_size"], *results.shape[1:])
