"""Lengths in tokens, with the model's own Rust tokenizer and no truncation."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finerank.core.errors import UserError
from finerank.core.records import Row

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH_TEXTS = 512
PERCENTILES = (50, 90, 99)
SIDES = ("query", "positive", "negative", "pair")
POSITIVES_CUT = 0.05
"""Share of truncated positives above which check and train warn."""


def load_tokenizer(name: str, cache_dir: str | None = None) -> Tokenizer:
    """Load ``tokenizer.json`` of a local folder or a hub model; its truncation and padding are switched off.

    Raises:
        UserError: if there is none; it says where it was looked for.
    """
    from tokenizers import Tokenizer

    path = Path(name) / "tokenizer.json"
    if not path.is_file():
        path = _from_hub(name, cache_dir)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise UserError(f"is not a tokenizer that can be loaded: {error}", where=str(path)) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_hub(name: str, cache_dir: str | None) -> Path:
    if Path(name).is_dir():
        raise UserError("the folder holds no tokenizer.json", where=name)
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(name, "tokenizer.json", cache_dir=cache_dir))
    except Exception as error:  # the hub client raises a dozen kinds
        reason = " ".join(str(error).split())[:160]
        message = f'model "{name}" not found: no folder of that name, and the hub gave no tokenizer.json ({reason})'
        raise UserError(message, hint="name a folder with a saved model") from None


class Lengths:
    """Collects token counts per side as rows pass; each distinct text of a batch is tokenised once.

    Args:
        limits: side -> tokens kept, special tokens included.
    """

    def __init__(self, tokenizer: Tokenizer, limits: dict[str, int]) -> None:
        self.tokenizer = tokenizer
        self.limits = limits
        self.single = tokenizer.num_special_tokens_to_add(False)
        self.paired = tokenizer.num_special_tokens_to_add(True)
        self.counts: dict[str, array[int]] = {side: array("L") for side in SIDES}
        self._waiting: list[Row] = []
        self._texts = 0

    def add(self, row: Row) -> None:
        """Take one row; work is done a batch at a time."""
        self._waiting.append(row)
        self._texts += 1 + len(row.positives) + len(row.negatives)
        if self._texts >= BATCH_TEXTS:
            self._flush()

    def facts(self) -> dict[str, dict[str, Any]]:
        """Return side -> count, percentiles, greatest length, limit and the share of texts that are cut at it."""
        self._flush()
        return {side: _summary(sorted(self.counts[side]), self.limits[side]) for side in SIDES if self.counts[side]}

    def _flush(self) -> None:
        rows, self._waiting, self._texts = self._waiting, [], 0
        texts = dict.fromkeys(text for row in rows for text in (row.query, *row.positives, *row.negatives))
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        tokens = {text: len(encoding.ids) for text, encoding in zip(texts, encodings)}
        for row in rows:
            query = tokens[row.query]
            self.counts["query"].append(query + self.single)
            for side, passages in (("positive", row.positives), ("negative", row.negatives)):
                self.counts[side].extend(tokens[text] + self.single for text in passages)
                self.counts["pair"].extend(query + tokens[text] + self.paired for text in passages)


def percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the smallest value that at least ``percent`` % of the values do not exceed (nearest rank).

    >>> percentile([1, 2, 3, 4], 50)
    2
    """
    rank = -(-percent * len(ordered) // 100)
    return ordered[max(rank, 1) - 1]


def _summary(ordered: Sequence[int], limit: int) -> dict[str, Any]:
    cut = sum(1 for length in ordered if length > limit)
    points: Iterable[tuple[str, int]] = ((f"p{each}", percentile(ordered, each)) for each in PERCENTILES)
    return {"texts": len(ordered), **dict(points), "max": ordered[-1], "limit": limit, "truncated": cut / len(ordered)}
