"""Recipes of the engines that score pairs and encode texts, for ``fleet``: small values that a worker can be sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finerank.core.errors import UserError
from finerank.core.protocols import AnyPair, Progress, Side

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from finerank.models.bi_encoder import BiEncoder
    from finerank.models.cross_encoder import CrossEncoder

SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class ScorerRecipe:
    """A reranker; ``options`` are those of ``load.load_scorer``."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, device: str) -> ScoringEngine:
        from finerank.models.load import load_scorer

        return ScoringEngine(load_scorer(self.name, device=device, **self.options))


@dataclass(frozen=True)
class EncoderRecipe:
    """An embedder for one side; ``options`` are those of ``load.load_encoder``."""

    name: str
    side: Side
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, device: str) -> EncodingEngine:
        from finerank.models.load import load_encoder

        return EncodingEngine(load_encoder(self.name, device=device, **self.options), self.side)


class ScoringEngine:
    """Pairs to logits [N]."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def facts(self) -> Mapping[str, Any]:
        model = self.model
        known = {"fingerprint": model.fingerprint(), "describe": model.describe(), **_formats(model)}
        return {**known, **model.settings()}

    def compute(self, items: Sequence[AnyPair], progress: Progress) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self.model.score(items, progress)
        bad = _first_not_finite(scores)
        if bad is not None:
            query, passage, *_ = items[bad]
            raise UserError(
                f'the teacher scores "{_shown(query)}" with "{_shown(passage)}" as {scores[bad]}, which is no number',
                hint="--dtype float32",
            )
        return scores


class EncodingEngine:
    """Texts of one side to vectors [N, D]."""

    def __init__(self, model: BiEncoder, side: Side) -> None:
        self.model = model
        self.side = side

    @property
    def facts(self) -> Mapping[str, Any]:
        model, side = self.model, self.side
        of_side = {"prompt": model.prompts[side], "max_len": model.max_lens[side], "dimension": model.dimension}
        return {"fingerprint": model.fingerprint(side), "describe": model.describe(), **_formats(model), **of_side}

    def compute(self, items: Sequence[str], progress: Progress) -> NDArray[np.float32]:
        vectors = self.model.encode(items, self.side, progress)
        bad = _first_not_finite(vectors)
        if bad is not None:
            raise UserError(
                f'the model gives the text "{_shown(items[bad])}" a vector that holds no numbers',
                hint="--dtype float32",
            )
        return vectors


def _formats(model: CrossEncoder | BiEncoder) -> dict[str, str]:
    return {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")}


def _first_not_finite(rows: NDArray[np.float32]) -> int | None:
    """Return the first row that holds NaN or infinity."""
    import numpy as np

    finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
    return None if finite.all() else int(np.argmin(finite))


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"
