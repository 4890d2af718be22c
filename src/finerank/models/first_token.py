"""The last block of an encoder of which each input's first token alone is read: by a reranker's head, by pooling "cls".

All tokens of the last block but the first are keys and values of one query. For that no keys and values need to be
made: a query's product with a key, q · (W x + b), is that of Wᵀ q with the token x itself, and a weighted mean of
values is the value of the weighted mean of tokens. So nothing in the block is a product over all tokens but these two,
of a vector a head; what stands behind the attention is computed for one token an input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finerank.models import packed
from finerank.models.bert_block import head_size
from finerank.models.packed import Layout


def alone_is_read_by(transformer: Any) -> bool:
    """Say whether a sequence-classification model, of those that ``packed.install`` takes, reads first tokens alone."""
    return transformer.config.model_type in packed.ENCODERS and type(transformer).__module__.startswith("transformers.")


def of_last_block(layer: Any, batch: Tensor, layout: Layout | None) -> Tensor:
    """Return the states [N, W] of first tokens behind the last block.

    Args:
        layer: of transformers, ``bert_block.plain``.
        batch: padded tokens [N, L, W], before the block.
        layout: of the batch; None where it has no padding.
    """
    first = batch.flatten(0, 1)[layout.index[packed.starts_of(layout.runs)[:-1]]] if layout else batch[:, 0]
    queries = layer.attention.self.query(first)
    with torch.autocast("cpu", enabled=False):
        attended = _attended(layer, queries.float(), batch.float(), _barred(batch, layout))
    attended = layer.attention.output(attended.to(first.dtype), first)
    states: Tensor = layer.feed_forward_chunk(attended)
    return states


def _attended(layer: Any, queries: Tensor, batch: Tensor, barred: Tensor) -> Tensor:
    """Attend from one query an input [N, W] to its tokens [N, L, W], in float32 -> [N, W]."""
    own, size = layer.attention.self, head_size(layer)
    (keys, of_keys), (values, of_values) = (_by_head(part, size) for part in (own.key, own.value))
    queries = queries.view(len(queries), -1, size) * size**-0.5
    towards = torch.einsum("nhd,hdw->nhw", queries, keys)
    # The bias of keys adds the same to all weights of a head: it is there to have a gradient, as DDP wants of each.
    levels = barred + (queries * of_keys).sum(-1, keepdim=True)
    shares = torch.softmax(torch.baddbmm(levels, towards, batch.mT), dim=-1)
    return (torch.einsum("nhw,hdw->nhd", shares @ batch, values) + of_values).flatten(1)


def _by_head(part: Any, size: int) -> tuple[Tensor, Tensor]:
    """Return a layer's weight [H, D, W] and bias [H, D], in float32."""
    return part.weight.float().view(-1, size, part.in_features), part.bias.float().view(-1, size)


def _barred(batch: Tensor, layout: Layout | None) -> Tensor:
    """Return what bars padding from being attended to [N, 1, L]: 0 for tokens, -inf for padding."""
    count, length, _ = batch.shape
    if layout is None:
        return torch.zeros(count, 1, length)
    return torch.full((count * length,), -torch.inf).index_fill_(0, layout.index, 0.0).view(count, 1, length)
