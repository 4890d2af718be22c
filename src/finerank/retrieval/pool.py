"""Texts on disk, read back by position: a pool of any size at sixteen bytes of memory a text."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from typing import Literal, overload

import numpy as np

from finerank.core.errors import UserError

DIGEST_BYTES = 16
IN_MEMORY_BYTES = 64 * 2**20
ENCODING: tuple[Literal["utf-8"], Literal["surrogatepass"]] = ("utf-8", "surrogatepass")


class StoredTexts(Sequence[str]):
    """Distinct texts, in first-seen order, in a temporary file without a name (under ``TMPDIR``) once they are large.

    Written once, whatever the format they came from, so that any of them is one seek away.
    """

    def __init__(self, texts: Iterable[str], in_memory: int = IN_MEMORY_BYTES) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=in_memory)  # noqa: SIM115 - closed with this object
        sizes, digests = array("q"), bytearray()
        for text in texts:
            data = text.encode(*ENCODING)
            self._write(data)
            sizes.append(len(data))
            digests += hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
        stops = np.cumsum(np.array(sizes, dtype=np.int64))
        keys = np.array(memoryview(digests), dtype=np.uint8).view(f"S{DIGEST_BYTES}")
        first = np.sort(np.unique(keys, return_index=True)[1])
        self._stops = stops[first]
        self._starts = self._stops - np.array(sizes, dtype=np.int64)[first]

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise UserError(
                f"the pool's texts cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}",
                hint="set TMPDIR to a folder on a disk with room for the pool file",
            ) from error

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        start, stop = int(self._starts[index]), int(self._stops[index])
        self._file.seek(start)
        return self._file.read(stop - start).decode(*ENCODING)
