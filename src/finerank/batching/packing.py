"""Token-sorted, token-budgeted batches: the order of work that wastes no padding. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def sorted_batches(lengths: Sequence[int], budget: int, most: int | None = None) -> list[list[int]]:
    """Cut items into batches of like length, the longest first.

    The longest come first so that running out of memory shows itself at once.

    Args:
        lengths: tokens of each item.
        budget: most tokens a batch may hold, padding included; an item longer than it stands alone.
        most: most items a batch may hold; None for any number.

    Returns:
        Item positions per batch. Equal lengths keep their order, so the result is a pure function of ``lengths``.

    >>> sorted_batches([3, 9, 4, 8], budget=18)
    [[1, 3], [2, 0]]
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        longest = lengths[batches[-1][0]] if batches else 0
        held = len(batches[-1]) if batches else 0
        if not batches or (held + 1) * longest > budget or held == most:
            batches.append([position])
        else:
            batches[-1].append(position)
    return batches
