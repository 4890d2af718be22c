"""The architecture on a page: what the layers may know of one another.

``training`` and ``retrieval`` see these protocols, never a family. A family is one file in ``models``; it gives an
Encoder (texts -> vectors) or a Scorer (query-passage pairs -> scores), and a trainable module for ``training``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from finerank.core.records import Group

Side = Literal["query", "passage"]
Pair = tuple[str, str]
"""Query, passage."""
PromptedPair = tuple[str, str, str]
"""Query, passage and the prompt that a language model reads behind them, in the place of its own."""
AnyPair = Pair | PromptedPair
Progress = Callable[[int], None]
"""Called with the number of items just done."""


class Encoder(Protocol):
    """Turns texts into vectors, in float32, whatever dtype the model runs in."""

    @property
    def dimension(self) -> int: ...

    @property
    def cosine(self) -> bool:
        """Whether vectors are compared by cosine (they are brought to unit length), rather than by inner product."""
        ...

    def fingerprint(self, side: Side) -> str:
        """Digest of all that decides a vector: weights, tokenizer, prompt of the side, length, pooling, dtype."""
        ...

    def encode(
        self, texts: Sequence[str], side: Side, progress: Progress | None = None, prompts: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Return vectors [N, D] in the order of ``texts``; ``prompts`` [N] take the place of the side's."""
        ...

    def prompts_of(self, group: Group) -> tuple[str, str]:
        """Return what stands before a group's query, and before its passages, in training as elsewhere."""
        ...


class Scorer(Protocol):
    """Scores query-passage pairs; higher is more relevant; raw model output (logits).

    Only a prompted language model takes pairs with a prompt of their own.
    """

    def fingerprint(self) -> str: ...

    def score(
        self, pairs: Sequence[Any], progress: Progress | None = None, *, placed: bool = False
    ) -> NDArray[np.float32]:
        """Return scores [N] in the order of ``pairs``; ``placed``: what stands before texts is there already."""
        ...

    def pairs_of(self, group: Group) -> list[Any]:
        """Return a group's pairs, with what stands before their texts, in training as elsewhere."""
        ...


class Retriever(Protocol):
    """Finds passages of a fixed pool."""

    def search(self, queries: Sequence[str], k: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield, per query, pool positions [k'] and scores [k'], best first; k' = min(k, pool size)."""
        ...


class Trainable(Protocol):
    """What the trainer needs of a family: a module from a batch to what a loss reads, a way to save it."""

    module: torch.nn.Module
    """``module(micro)`` takes a list of padded micro-batches and returns the results of all inputs in them, in their
    order: logits [N] of a cross-encoder, vectors [N, D] of a bi-encoder."""
    device: torch.device
    tokens_per_forward: int
    """Most tokens of a micro-batch, padding included."""
    texts_per_forward: int | None
    """Most inputs of a micro-batch; None for any number."""

    def collate(self, groups: Sequence[Any]) -> dict[str, Any]:
        """Groups -> one optimizer step's batch: ``micro``, ``order`` (where input i's result stands), ``size`` B and
        ``group_size`` G."""
        ...

    def outputs(self, results: torch.Tensor, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Put a step's results back in order, by name: ``scores`` [B, G] of a cross-encoder, ``queries`` [B, D] and
        ``passages`` [B * G, D] of a bi-encoder."""
        ...

    def save(self, folder: Path) -> None:
        """Write a folder that sentence-transformers loads unchanged."""
        ...

    def describe(self) -> dict[str, object]:
        """Return the facts of a start banner: model, parameters, device, dtype, lengths."""
        ...

    def truncated(self, pairs: Sequence[Pair]) -> tuple[int, int]:
        """Return how many of the pairs are cut, and the length in tokens that cuts them."""
        ...
