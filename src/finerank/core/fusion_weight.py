"""``--fusion_weight``: a number or ``auto``, the same for every verb that fuses."""

from __future__ import annotations

from finerank.core.errors import UsageError

AUTO = "auto"


def parse_weight(text: str) -> float | None:
    """Return the weight, or None for ``auto``.

    >>> parse_weight("1.5"), parse_weight("auto")
    (1.5, None)

    Raises:
        UsageError: for anything that is not a finite number of at least 0.
    """
    if text == AUTO:
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0.0 <= weight < float("inf"):
        raise UsageError(f'--fusion_weight must be a number of at least 0 or auto, got "{text}"')
    return weight
