"""The rows of a vocabulary head that are asked for, in the head's place.

A language model that answers Yes or No needs one or two numbers of a vocabulary of hundreds of thousands. With this
head a model's own forward computes just these (its scaling and soft-capping included), so that logits take no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional


class AnswerHead(torch.nn.Module):
    """Some rows of a linear head, over the same weights under the same names.

    Args:
        head: the whole head; weights [V, D].
        rows: ids of the tokens wanted; ``forward`` gives float32 logits [..., len(rows)].
    """

    def __init__(self, head: Any, rows: Sequence[int]) -> None:
        super().__init__()
        self.weight: torch.nn.Parameter = head.weight
        self.bias: torch.nn.Parameter | None = getattr(head, "bias", None)
        self.rows = list(rows)
        self.in_features, self.out_features = head.weight.shape[1], len(self.rows)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias[self.rows].float()
        with torch.autocast(hidden.device.type, enabled=False):
            return functional.linear(hidden.float(), self.weight[self.rows].float(), bias)


@contextmanager
def whole_head(model: Any, head: Any) -> Iterator[None]:
    """Put ``head`` back for a while, as it is saved and read by others; it shares its weights with the answers'."""
    answers = model.get_output_embeddings()
    head.weight, head.bias = answers.weight, answers.bias
    model.set_output_embeddings(head)
    try:
        yield
    finally:
        model.set_output_embeddings(answers)
