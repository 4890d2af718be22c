"""How deep a lightweight reranker reads its pairs: layers, heads, compression.

The same weights can be read in two ways:

* ``flagembedding``: the n-th layer asked for is scored by the n-th head, so that a layer asked for alone is scored by
  the first head; attention scores are not capped. What FlagEmbedding computes, hence what published figures are of,
  and how a model is read that says nothing else.
* ``architecture``: each layer is scored by its own head, and attention scores are capped as the configuration says.
  How a model is read in training, and then wherever what was trained so is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finerank.core.errors import UserError
from finerank.models.costwise_gemma import Compression, CostWiseGemmaConfig

Reading = Literal["flagembedding", "architecture"]
FLAGEMBEDDING: Reading = "flagembedding"
ARCHITECTURE: Reading = "architecture"
COMPRESS_LAYERS = [8]
"""Blocks before which the published model compresses passages."""


@dataclass(frozen=True)
class Depth:
    """How deep pairs are read, and by which heads.

    Attributes:
        layers: layers that are scored from, ascending; the highest gives a pair's score.
        compression: how passages get shorter.
        reading: ``flagembedding`` or ``architecture``.
    """

    layers: tuple[int, ...]
    compression: Compression
    reading: Reading

    @property
    def as_configured(self) -> bool:
        """Whether the weights are read as the architecture says."""
        return self.reading == ARCHITECTURE

    def heads(self, head_layers: Sequence[int]) -> list[int]:
        """Return, for each layer, the position of its head among the heads, which stand on ``head_layers``."""
        return [head_layers.index(layer) if self.as_configured else place for place, layer in enumerate(self.layers)]


def depth_of(
    config: CostWiseGemmaConfig, own: Mapping[str, Any], name: str, *, layers: Sequence[int] | None, ratio: int | None,
    before: Sequence[int] | None, reading: str | None, first: int | None, training: bool,
) -> Depth:  # fmt: skip
    """Settle what is asked for; None means what the model's own settings say, else the usual.

    Args:
        own: settings that were saved with the model; in training its layers are all, whatever they say.
        layers: layers to score from; usually the last, or in training all that have a head.
        ratio, before: tokens that become one (usually 1), blocks before which they do (usually 8).
        first: first of the layers that are trained.

    Raises:
        UserError: if the model has no such layers, or the ratio is none.
    """
    stored = None if training else own.get("cutoff_layers")
    chosen = _layers(config, layers or stored, first if training else None, name)
    compression = _compression(config, own, name, ratio, before)
    return Depth(chosen if layers or stored or training else chosen[-1:], compression, _reading(reading, own, training))


def shown(numbers: Sequence[int]) -> str:
    """Write ascending numbers short.

    >>> shown([8]), shown([3, 5]), shown([8, 9, 10, 11, 12])
    ('8', '3, 5', '8, 9, … 12')
    """
    words = [str(number) for number in numbers]
    return ", ".join(words) if len(words) < 5 else f"{words[0]}, {words[1]}, … {words[-1]}"


def _layers(config: CostWiseGemmaConfig, asked: Sequence[int] | None, first: int | None, name: str) -> tuple[int, ...]:
    """Return the layers asked for, ascending, or all that have a head from ``first`` on."""
    having = [layer for layer in config.head_layers if layer > 0]
    wrong = sorted({*(asked or []), *([] if first is None else [first])} - set(having))
    if wrong:
        raise UserError(f"{name} gives no scores at layer {shown(wrong)}: its heads stand on layers {shown(having)}")
    return tuple(sorted(set(asked))) if asked else tuple(layer for layer in having if layer >= (first or 0))


def _compression(
    config: CostWiseGemmaConfig, own: Mapping[str, Any], name: str, ratio: int | None, before: Sequence[int] | None
) -> Compression:
    times = own.get("compress_ratio", 1) if ratio is None else ratio
    if times < 1:
        raise UserError(f"compress ratio {times}: expected how many tokens become one, as 1, 2, 4 or 8")
    blocks = frozenset(before or own.get("compress_layers") or COMPRESS_LAYERS)
    last = config.num_hidden_layers - 1
    wrong = sorted(block for block in blocks if not 0 < block <= last)
    if wrong and (before or times > 1):
        raise UserError(
            f"{name} cannot compress before block {shown(wrong)}: blocks with another before them are 1 to {last}",
            hint="--compress_layers BLOCK",
        )
    return Compression(times, blocks)


def _reading(asked: str | None, own: Mapping[str, Any], training: bool) -> Reading:
    chosen = asked or own.get("lightweight_reading") or (ARCHITECTURE if training else FLAGEMBEDDING)
    if chosen not in (FLAGEMBEDDING, ARCHITECTURE):
        raise UserError(f'unknown reading "{chosen}"', hint=f"{FLAGEMBEDDING} or {ARCHITECTURE}")
    return ARCHITECTURE if chosen == ARCHITECTURE else FLAGEMBEDDING
