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


class AnsweringModule(torch.nn.Module):
    """A causal language model with an AnswerHead; ``forward`` runs micro-batches of a step."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def logits(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return float32 scores [n] of a batch that is padded left: the first answer's logit, less the second's."""
        mask = features["attention_mask"]
        answers: torch.Tensor = self.model(
            input_ids=features["input_ids"], attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False, logits_to_keep=1,
        ).logits[:, -1].float()  # fmt: skip
        return answers[:, 0] - answers[:, 1] if answers.shape[1] > 1 else answers[:, 0]

    def forward(self, micro: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Return the scores [N] of padded micro-batches, one after the other."""
        return torch.cat([self.logits(features) for features in micro])


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
