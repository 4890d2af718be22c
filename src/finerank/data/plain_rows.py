"""Rows with nothing special about them, known at a glance: most lines of most files, at a fifth of the price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SPECIAL = frozenset(
    {"pos_scores", "neg_scores", "question", "anchor", "positive", "positives", "negative", "negatives"}
)
"""Keys whose values have to be looked at, too; ``parse_record`` does."""


def plain_row(record: Mapping[str, Any]) -> tuple[list[str], int, str] | None:
    """Return ``[query, *positives, *negatives]``, the number of positives, and the texts joined by NUL.

    Only of a row that is surely sound.

    None says nothing: ``parse_record`` finds out what the record is.
    """
    query, positives, negatives = record.get("query"), record.get("pos"), record.get("neg")
    if type(query) is not str or type(positives) is not list or not positives or not SPECIAL.isdisjoint(record):
        return None
    if negatives is not None and type(negatives) is not list:
        return None
    texts = [query, *positives, *(negatives or ())]
    try:
        joined = "\x00".join(texts)
    except TypeError:  # something else than a string
        return None
    if joined.count("\x00") >= len(texts) or not all(map(str.strip, texts)):
        return None
    return texts, len(positives), joined
