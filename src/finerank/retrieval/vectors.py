"""Vectors cached on disk by content: encode a text once per model, prompt, length and dtype, whatever the run.

    <cache>/<digest of the encoder's fingerprint for a side>/<digest of the shard's texts>.vec

A text is known by its digest, a shard by the digests in it, a folder by the encoder's fingerprint, so nothing that
stands here can be stale and two models never share. Texts are encoded in windows; a window's missing vectors land as
one shard, whole or not at all, so a kill costs one window and the next run encodes exactly the same batches. A shard
carries its own digest; a damaged one is thrown away, said aloud and encoded again.

Memory does not grow with the number of texts: they come in sections, each looked up and encoded on its own, and the
pages of a mapped file that were touched are given back (``release``).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from finerank.core.caches import cache_of
from finerank.core.errors import UserError
from finerank.core.protocols import Progress, Side
from finerank.data.console import warn
from finerank.retrieval.pool import DIGEST_BYTES as KEY_BYTES
from finerank.retrieval.pool import as_digests, digests_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Keys = NDArray[np.bytes_]
    Positions = NDArray[np.intp]

WINDOW = 4096
SECTION = 2**17
MAGIC = b"frvec001"
HEADER_BYTES = len(MAGIC) + 16
IN_MEMORY_BYTES = 64 * 2**20
SHOWN_CHARACTERS = 80
ABANDONED_SECONDS = 86_400


class Embeds(Protocol):
    """What of an Encoder is needed to keep its vectors."""

    @property
    def dimension(self) -> int: ...

    def fingerprint(self, side: Side) -> str: ...

    def encode(self, texts: Sequence[str], side: Side, progress: Progress | None = None) -> Vectors: ...


def default_cache() -> Path:
    """Return ``$FINERANK_CACHE/vectors``, or ``~/.cache/finerank/vectors``."""
    return cache_of("vectors")


def cache_folder(word: str) -> Path | None:
    """Read ``--embedding_cache``: ``auto`` is the default folder, ``none`` no cache, anything else a folder."""
    if word.lower() in ("none", "off", "false"):
        return None
    return default_cache() if word.lower() in ("auto", "default") else Path(word).expanduser()


def cached_encode(
    encoder: Embeds, texts: Sequence[str], side: Side, cache: Path | None, progress: Progress | None = None,
    window: int = WINDOW,
) -> Vectors:  # fmt: skip
    """Return the vectors [N, D] of ``texts``, in order, encoding only what the cache lacks.

    Large results are memory-mapped from an unnamed temporary file, so memory stays flat in N. Each distinct text is
    encoded once (without a cache, one that comes again more than SECTION texts later is encoded again). Without a
    cache the windows are the same, and so are the vectors.

    Args:
        cache: folder of the cache, or None.
        progress: told of every text, cached or not.
        window: distinct texts per shard; at most this many are lost to a kill.

    Raises:
        UserError: if the encoder gives a vector that is not finite (the text is named), or the cache is not writable.
    """
    result = _allocate(len(texts), encoder.dimension, cache)
    work = _Work(encoder, side, cache, window, progress or _silent)
    section = max(1, SECTION // window) * window  # whole windows, so that sections leave no trace
    for start in range(0, len(texts), section):
        stop = min(start + section, len(texts))
        _encode_section(result[start:stop], digests_of(texts, start, stop), _Offset(texts, start), work)
    return result


@dataclass(frozen=True)
class _Work:
    """What stays the same while texts are encoded."""

    encoder: Embeds
    side: Side
    cache: Path | None
    window: int
    report: Progress


@dataclass(frozen=True)
class _Offset:
    """Texts counted from ``start``."""

    texts: Sequence[str]
    start: int

    def take(self, positions: Positions) -> list[str]:
        first, last = int(positions[0]), int(positions[-1])
        if last - first == len(positions) - 1:  # a run of texts is read in one go
            return list(self.texts[self.start + first : self.start + last + 1])
        return [self.texts[self.start + position] for position in positions.tolist()]


def _encode_section(result: Vectors, keys: Keys, texts: _Offset, work: _Work) -> None:
    """Write the vectors [n, D] of one section."""
    distinct, first, places = np.unique(keys, return_index=True, return_inverse=True)
    encoder, store = work.encoder, None
    if work.cache is not None:
        store = _Store(work.cache, encoder.fingerprint(work.side), encoder.dimension, distinct)
    order = np.sort(first)
    for start in range(0, len(order), work.window):
        _fill(result, order[start : start + work.window], keys, texts, work, store)
        release(result)
    if len(order) < len(keys):
        _repeat(result, first[places], work.window)
        work.report(len(keys) - len(order))


def _fill(
    result: Vectors, part: Positions, keys: Keys, texts: _Offset, work: _Work, store: _Store | None
) -> None:  # fmt: skip
    """Write one window's rows of ``result``: from the store, or encoded now and stored."""
    missing = np.ones(len(part), dtype=bool)
    for found, vectors in store.load(keys[part]) if store is not None else ():
        result[part[found]] = vectors
        missing[found] = False
    part = part[missing]
    work.report(int((~missing).sum()))
    if not len(part):
        return
    wanted = texts.take(part)
    vectors = np.ascontiguousarray(work.encoder.encode(wanted, work.side, work.report), dtype=np.float32)
    _check_finite(vectors, wanted, work.side)
    if store is not None:
        store.add(keys[part], vectors)
    result[part] = vectors


def _repeat(result: Vectors, origin: Positions, window: int) -> None:
    """Copy the rows of repeated texts from their first occurrence."""
    later = np.flatnonzero(origin != np.arange(len(origin)))
    for start in range(0, len(later), window):
        part = later[start : start + window]
        result[part] = result[origin[part]]
        release(result)


def release(vectors: NDArray[np.generic]) -> None:
    """Give back the memory of the pages touched so far, if ``vectors`` is mapped from a file; its contents stay.

    The kernel counts such pages as the process's own and keeps them while there is room, so that reading a large file
    once would look, to a limit on memory, like holding it.
    """
    part: object = vectors
    while isinstance(part, np.ndarray):
        if getattr(part, "mode", "r") == "c":  # changes that no file has would be lost
            return
        part = part.base
    if isinstance(part, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        part.madvise(mmap.MADV_DONTNEED)


def _check_finite(vectors: Vectors, texts: Sequence[str], side: Side) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        text = texts[int(bad[0])]
        shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
        raise UserError(
            f'the model gave a vector that is not finite for {len(bad):,} {side} text(s), the first is "{shown}"',
            hint="--dtype float32; if that does not help, the model's weights are damaged",
        )


def _allocate(rows: int, dimension: int, cache: Path | None) -> Vectors:
    """Return an array [rows, dimension]: in memory if small, else mapped from a file that vanishes with the process."""
    if rows * dimension * 4 <= IN_MEMORY_BYTES:
        return np.empty((rows, dimension), dtype=np.float32)
    folder = cache if cache is not None else Path(tempfile.gettempdir())
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix="vectors-") as file:
            return np.memmap(file, dtype=np.float32, mode="w+", shape=(rows, dimension))


def _silent(_: int) -> None:
    """Report progress to nobody."""


class _Store:
    """One encoder's shards; knows the places of the wanted keys only, so a large cache costs nothing.

    ``shards`` and ``rows`` [U] say where the vector of each wanted key is: a number in ``paths`` (-1: nowhere), a row.
    """

    def __init__(self, cache: Path, fingerprint: str, dimension: int, wanted: Keys) -> None:
        self.folder = cache / hashlib.blake2b(fingerprint.encode(), digest_size=KEY_BYTES).hexdigest()
        self.dimension = dimension
        self.verified: set[Path] = set()
        self.wanted = wanted  # sorted
        self.shards = np.full(len(wanted), -1, dtype=np.int32)
        self.rows = np.zeros(len(wanted), dtype=np.int32)
        with _writable(cache):
            self.folder.mkdir(parents=True, exist_ok=True)
        _sweep(self.folder)
        self.paths = sorted(self.folder.glob("*.vec"))
        for number, path in enumerate(self.paths if len(wanted) else []):
            self._find(number, _keys(path, dimension))

    def load(self, keys: Keys) -> Iterator[tuple[Positions, Vectors]]:
        """Yield positions in ``keys`` [n] and their stored vectors [n, D], shard by shard."""
        slots = np.searchsorted(self.wanted, keys)
        shards = self.shards[slots]
        for number in np.unique(shards[shards >= 0]):
            found = np.flatnonzero(shards == number)
            vectors = self._open(self.paths[number])
            if vectors is None:
                self.shards[self.shards == number] = -1
            else:
                yield found, vectors[self.rows[slots[found]]]

    def _find(self, number: int, keys: Keys) -> None:
        """Note which wanted keys shard ``number`` holds and no earlier one does."""
        slots = np.minimum(np.searchsorted(self.wanted, keys), len(self.wanted) - 1)
        rows = np.flatnonzero((self.wanted[slots] == keys) & (self.shards[slots] < 0))
        self.shards[slots[rows]] = number
        self.rows[slots[rows]] = rows

    def add(self, keys: Keys, vectors: Vectors) -> None:
        """Land one shard: temporary name, fsync, rename. Its name is its content, so racing writers write the same."""
        body = keys.tobytes()
        path = self.folder / f"{hashlib.blake2b(body, digest_size=KEY_BYTES).hexdigest()}.vec"
        temporary = self.folder / f".{path.stem}.{uuid.uuid4().hex}.tmp"
        header = MAGIC + len(keys).to_bytes(8, "little") + self.dimension.to_bytes(8, "little")
        data = header + body + vectors.tobytes()
        with _writable(self.folder):
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.write(_checksum(data))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def _open(self, path: Path) -> Vectors | None:
        """Map a shard's vectors [n, D]; None, and the shard is removed, if its digest does not fit."""
        try:
            if path not in self.verified:
                content = path.read_bytes()
                if _checksum(content[:-KEY_BYTES]) != content[-KEY_BYTES:]:
                    raise ValueError("digest")
                self.verified.add(path)
            count = (path.stat().st_size - HEADER_BYTES - KEY_BYTES) // (KEY_BYTES + 4 * self.dimension)
            offset = HEADER_BYTES + count * KEY_BYTES
            return np.asarray(np.memmap(path, np.float32, "r", offset, (count, self.dimension)))
        except (OSError, ValueError):
            _discard(path)
            return None


def _keys(path: Path, dimension: int) -> Keys:
    """Return the keys of a shard in row order; a shard whose size or header is wrong is removed and has none."""
    try:
        with open(path, "rb") as file:
            header = file.read(HEADER_BYTES)
            count = int.from_bytes(header[len(MAGIC) : len(MAGIC) + 8], "little")
            size = HEADER_BYTES + count * (KEY_BYTES + 4 * dimension) + KEY_BYTES
            whole = header[: len(MAGIC)] == MAGIC and int.from_bytes(header[len(MAGIC) + 8 :], "little") == dimension
            keys = file.read(count * KEY_BYTES) if whole and path.stat().st_size == size else None
    except OSError:
        keys = None
    if keys is None:
        _discard(path)
    return as_digests(keys or b"")


def _sweep(folder: Path) -> None:
    """Remove what killed writers left behind; a file younger than a day may still be in the making."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                path.unlink()


def _discard(path: Path) -> None:
    """Remove a damaged shard; another process may have done so already."""
    warn(f"{path}: damaged vector shard, removed; its texts are encoded again")
    path.unlink(missing_ok=True)


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=KEY_BYTES).digest()


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Turn a failure to write into an error that names the way out."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the vector cache {folder} cannot be written: {error.strerror or error}",
            hint="--embedding_cache FOLDER on a disk with room, or --embedding_cache none",
        ) from error
