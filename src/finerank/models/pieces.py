"""Distinct items of a long stream to shards of numbers, on a fleet: what has landed before is not computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from finerank.data.console import progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from finerank.data.distinct import Distinct
    from finerank.data.shards import Shards
    from finerank.models.fleet import Fleet

Pack = Callable[["NDArray[np.float32]"], bytes]


def land_missing(
    fleet: Fleet, shards: Shards, distinct: Distinct, items: Iterable[Any], *, size: int, pack: Pack, label: str,
    unit: str,
) -> None:  # fmt: skip
    """Compute the distinct items and land shard i with the results of the items [i · size, (i + 1) · size).

    Args:
        items: the stream that ``distinct`` numbered, once more; only what is missing is held.
        pack: results -> a shard's body.
        label, unit: of the progress that is shown.
    """
    sizes = distinct.sizes(size)
    missing = {index for index, count in enumerate(sizes) if (shards.counts(index) or {}).get("items") != count}
    with progress(distinct.count, label, unit) as update:
        update(sum(count for index, count in enumerate(sizes) if index not in missing))
        for index, results in fleet.map(distinct.pieces(items, size, missing), update):
            shards.land(index, pack(results), {"items": len(results)})


def pack_float32(results: NDArray[np.float32]) -> bytes:
    """Return little-endian float32, whatever the machine."""
    return results.astype("<f4").tobytes()
