"""Texts on disk, read back by position: a pool of any size, with nothing of it in memory."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, Literal, overload

import numpy as np

from finerank.core.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Digests = NDArray[np.bytes_]
    Records = NDArray[Any]

DIGEST_BYTES = 16
IN_MEMORY_BYTES = 8 * 2**20
AT_ONCE = 1024
SCANNED_AT_ONCE = 16_384
SORTED_AT_ONCE = 2**18
ENCODING: tuple[Literal["utf-8"], Literal["surrogatepass"]] = ("utf-8", "surrogatepass")
RECORD = np.dtype([("start", "<i8"), ("stop", "<i8"), ("digest", f"S{DIGEST_BYTES}")])
"""Where a text stands among the bytes of all, [start, stop), and its digest."""
PART_BYTES = 4
"""Bytes at a digest's head that say with which others it is compared."""


class StoredTexts(Sequence[str]):
    """Distinct texts, in first-seen order, in temporary files without a name (under ``TMPDIR``) once they are large.

    Written once, whatever the format they came from, so that any of them is two seeks away.

    Args:
        in_memory: bytes of texts, and of records, kept in memory before a file is made.
        sorted_at_once: digests compared at once to find repeated texts; memory only.
    """

    def __init__(
        self, texts: Iterable[str], in_memory: int = IN_MEMORY_BYTES, sorted_at_once: int = SORTED_AT_ONCE
    ) -> None:
        self._texts = _Scratch(in_memory)
        self._records = _Scratch(in_memory)
        self._count, start = 0, 0
        source = iter(texts)
        while part := list(islice(source, AT_ONCE)):
            start = self._store(part, start)
        self._drop_repeated(in_memory, sorted_at_once)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), AT_ONCE):
            yield from self[start : start + AT_ONCE]

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return [self[position] for position in range(start, stop, step)]
            records = self._read(start, stop)
            return [self._text(*place) for place in zip(records["start"].tolist(), records["stop"].tolist())]
        position = range(self._count)[index]
        record = self._read(position, position + 1)[0]
        return self._text(int(record["start"]), int(record["stop"]))

    def digests(self, start: int, stop: int) -> Digests:
        """Return the digests [n] of the texts [start, stop)."""
        return np.ascontiguousarray(self._read(start, stop)["digest"])

    def _text(self, start: int, stop: int) -> str:
        return self._texts.read(start, stop).decode(*ENCODING)

    def _read(self, start: int, stop: int) -> Records:
        return np.frombuffer(self._records.read(start * RECORD.itemsize, stop * RECORD.itemsize), dtype=RECORD)

    def _store(self, texts: Sequence[str], start: int) -> int:
        """Append texts whose first byte stands at ``start``; return where the last one ends."""
        parts = [text.encode(*ENCODING) for text in texts]
        records = np.empty(len(parts), dtype=RECORD)
        records["stop"] = start + np.cumsum([len(part) for part in parts])
        records["start"][0] = start
        records["start"][1:] = records["stop"][:-1]
        records["digest"] = digests_of_bytes(parts)
        self._texts.append(b"".join(parts))
        self._records.append(records.tobytes())
        self._count += len(parts)
        return int(records["stop"][-1])

    def _drop_repeated(self, in_memory: int, at_once: int) -> None:
        """Leave out the records of texts that came before; their bytes stay where they are."""
        repeated = self._repeated(at_once)
        if not repeated.any():
            return
        kept = _Scratch(in_memory)
        for start in range(0, len(self), SCANNED_AT_ONCE):
            kept.append(
                self._read(start, start + SCANNED_AT_ONCE)[~repeated[start : start + SCANNED_AT_ONCE]].tobytes()
            )
        self._records, self._count = kept, int((~repeated).sum())

    def _repeated(self, at_once: int) -> NDArray[np.bool_]:
        """Say of each text [N] whether it came before, comparing a share of all digests at a time."""
        repeated = np.zeros(len(self), dtype=bool)
        shares = -(-len(self) // at_once)
        for share in range(shares):
            places, digests = self._share(share, shares)
            order = np.argsort(digests, kind="stable")  # among equals, the first text comes first
            digests = digests[order]
            repeated[places[order[1:][digests[1:] == digests[:-1]]]] = True
        return repeated

    def _share(self, share: int, shares: int) -> tuple[NDArray[np.int64], Digests]:
        """Return the places and digests of one share of all texts; equal texts are in the same one."""
        places, digests = [], []
        for start in range(0, len(self), SCANNED_AT_ONCE):
            part = self.digests(start, min(start + SCANNED_AT_ONCE, len(self)))
            heads = part.view(np.uint8).reshape(-1, DIGEST_BYTES)[:, :PART_BYTES]
            found = np.flatnonzero(np.ascontiguousarray(heads).view("<u4")[:, 0] % shares == share)
            places.append(found + start)
            digests.append(part[found])
        return np.concatenate(places), np.concatenate(digests)


class _Scratch:
    """Bytes that grow at their end, in memory until they are large, then in a temporary file."""

    def __init__(self, in_memory: int) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=in_memory)  # noqa: SIM115 - closed with this object

    def append(self, data: bytes) -> None:
        """Write at the end.

        Raises:
            UserError: if the disk is full.
        """
        try:
            self._file.seek(0, io.SEEK_END)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"the pool's texts cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}",
                hint="set TMPDIR to a folder on a disk with room for the pool file",
            ) from error

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop), or fewer at the end."""
        self._file.seek(start)
        return self._file.read(max(0, stop - start))


def digests_of(texts: Sequence[str], start: int, stop: int) -> Digests:
    """Return the digests [n] of texts [start, stop); stored texts know theirs."""
    if isinstance(texts, StoredTexts):
        return texts.digests(start, stop)
    return digests_of_bytes([text.encode(*ENCODING) for text in texts[start:stop]])


def digests_of_bytes(parts: Iterable[bytes]) -> Digests:
    """Return the digests [n] of encoded texts."""
    return as_digests(b"".join(hashlib.blake2b(part, digest_size=DIGEST_BYTES).digest() for part in parts))


def as_digests(data: bytes) -> Digests:
    """Read digests [n] that follow one another."""
    # A plain numpy string ignores zero bytes at its end, which does no harm among strings of one length.
    return np.frombuffer(data, dtype=f"S{DIGEST_BYTES}")
