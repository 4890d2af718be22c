"""Which documents queries are made from, and in which order."""

from __future__ import annotations

from pathlib import Path

from finerank.core.errors import UserError
from finerank.core.seeding import stream
from finerank.data import console
from finerank.data.documents import Documents

WIDEST = 4
"""Bytes of a character in UTF-8, at most."""


def sources_of(documents: Documents, ids_file: str | None, shortest: int, seed: int) -> list[int]:
    """Return the numbers of the sources: those that a file lists, in its order, then others in random order.

    Args:
        shortest: characters of a source that is not listed, at least.

    Raises:
        UserError: if there is none.
    """
    listed = _listed(ids_file, documents) if ids_file is not None else []
    known = set(listed)
    others = [
        number
        for number in range(len(documents))
        if number not in known and _is_long(documents, number, shortest)
    ]  # fmt: skip
    stream(seed, "sources").shuffle(others)
    if not listed and not others:
        message = f"none of the {len(documents):,} documents has {shortest:,} characters"
        raise UserError(message, where=documents.name, hint=f"--min_length {max(1, shortest // 4)}")
    return listed + others


def _is_long(documents: Documents, number: int, shortest: int) -> bool:
    """Say whether a document has so many characters; its bytes settle most cases without reading it."""
    size = documents.length(number)
    return size >= shortest and (size >= WIDEST * shortest or len(documents[number].passage) >= shortest)


def _listed(path: str, documents: Documents) -> list[int]:
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=path) from None
    found = {line.strip(): documents.number_of(line.strip()) for line in lines if line.strip()}
    missing = [name for name, number in found.items() if number is None]
    if len(missing) == len(found):
        raise UserError(f'holds no id of the corpus; its first is "{next(iter(found), "")}"', where=path)
    if missing:
        console.warn(f'{path}: {len(missing):,} ids are not in the corpus, the first is "{missing[0]}"')
    return [number for number in found.values() if number is not None]
