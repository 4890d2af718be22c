"""Token-sorted, token-budgeted batches: the order of work that wastes no padding. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def sorted_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut items into batches of like length, the longest first.

    The longest come first so that running out of memory shows itself at once.

    Args:
        lengths: tokens of each item.
        budget: most tokens a batch may hold, padding included; an item longer than it stands alone.

    Returns:
        Item positions per batch. Equal lengths keep their order, so the result is a pure function of ``lengths``.

    >>> sorted_batches([3, 9, 4, 8], budget=18)
    [[1, 3], [2, 0]]
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        longest = lengths[batches[-1][0]] if batches else 0
        full = not batches or (len(batches[-1]) + 1) * longest > budget
        if full:
            batches.append([position])
        else:
            batches[-1].append(position)
    return batches
