"""Distinct items of a stream too long to hold: numbered by digest, then cut into pieces as the stream passes again.

An item costs 16 bytes while it is numbered, about 50 at the peak of the sort, and 5 afterwards; its text is never
held.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from finerank.core.errors import UserError
from finerank.data.origins import Paths, find_origins

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIGEST_BYTES = 16

Item = TypeVar("Item")
Other = TypeVar("Other")
CHANGED = UserError("the input changed while it was being read", hint="run it again when nothing writes there")


def key_of(*parts: str) -> bytes:
    """Return the digest of an item made of texts; where one text ends and the next begins counts."""
    sizes = ",".join([str(len(part)) for part in parts])
    data = f"{sizes}:{''.join(parts)}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


class Distinct:
    """The distinct ones among N items, numbered in first-seen order.

    Args:
        digests: of the items in order, ``DIGEST_BYTES`` each, end to end.

    Attributes:
        places: number of the distinct item that each item is, int32 [N].
        count: how many are distinct.
    """

    def __init__(self, digests: bytes | bytearray) -> None:
        import numpy as np

        halves = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
        order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal ones stay in the order of the stream
        starts = _starts_of_runs(halves, order)
        first = np.zeros(len(halves), dtype=bool)
        first[order[starts]] = True
        numbers = np.cumsum(first, dtype=np.int32) - np.int32(1)
        runs = np.cumsum(starts, dtype=np.int32) - np.int32(1)
        self.places: NDArray[np.int32] = np.empty(len(halves), dtype=np.int32)
        self.places[order] = numbers[order[starts]][runs]
        self.count = int(first.sum())
        self._first = first.tobytes()

    def __len__(self) -> int:
        return len(self.places)

    def sizes(self, size: int) -> list[int]:
        """Return how many items each piece of at most ``size`` holds."""
        return [min(size, self.count - start) for start in range(0, self.count, size)]

    def pieces(self, items: Iterable[Item], size: int, wanted: Collection[int]) -> Iterator[tuple[int, list[Item]]]:
        """Yield (number, distinct items) of the pieces that are wanted, from the same stream read again.

        Piece i holds the distinct items [i · size, (i + 1) · size).

        Raises:
            UserError: if the stream is shorter or longer than the first time.
        """
        if not wanted:
            return
        seen, piece = 0, list[Item]()
        for item, new in both(items, self._first):
            if not new:
                continue
            index = seen // size
            seen += 1
            if index not in wanted:
                continue
            piece.append(item)
            if seen % size == 0 or seen == self.count:
                yield index, piece
                piece = []


class Unchanged:
    """Notices files that are written to while a verb reads them more than once; arguments as ``find_origins``."""

    def __init__(self, paths: Paths, sub_data_name: str | None = None, split: str = "train") -> None:
        origins = find_origins(paths, sub_data_name=sub_data_name, split=split)
        self.files = [origin for origin in origins if isinstance(origin, Path)]
        self._before = [_stamp(file) for file in self.files]

    def guard(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass on what is made of the files; refuse to end if one of them is not what it was."""
        yield from chunks
        for file, before in zip(self.files, self._before):
            if _stamp(file) != before:
                raise UserError(CHANGED.message, where=str(file), hint=CHANGED.hint)


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        state = file.stat()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=str(file)) from None
    return state.st_ino, state.st_size, state.st_mtime_ns


def both(items: Iterable[Item], kept: Iterable[Other]) -> Iterator[tuple[Item, Other]]:
    """Zip what is read again with what was kept of the first reading.

    Raises:
        UserError: if there is more of one than of the other.
    """
    left, right = iter(items), iter(kept)
    for item in left:
        try:
            yield item, next(right)
        except StopIteration:
            raise CHANGED from None
    if next(right, None) is not None:
        raise CHANGED


def _starts_of_runs(halves: NDArray[np.uint64], order: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Mark, in sorted order, each item that differs from the one before it."""
    import numpy as np

    starts = np.ones(len(order), dtype=bool)
    for column in (0, 1):
        ordered = halves[order, column]
        differs = ordered[1:] != ordered[:-1]
        starts[1:] = differs if column == 0 else starts[1:] | differs
    return starts
