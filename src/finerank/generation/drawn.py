"""Source documents and one query from each, for comparing retrievers: listed documents first, then a draw."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from itertools import islice
from pathlib import Path

from finerank.core.errors import DataError, Problem, UserError
from finerank.core.seeding import stream
from finerank.data.console import say
from finerank.data.documents import Documents
from finerank.generation.entities import EntityIndex
from finerank.generation.queries import GeneratedQuery, queries_for

TRIES = 20
"""Source documents looked at for each query wanted."""


def drawn_queries(
    index: EntityIndex, number: int, seed: int, modes: Sequence[str], min_length: int, ids_file: str | None,
    allowed: Container[int] | None = None,
) -> list[GeneratedQuery]:  # fmt: skip
    """Return ``number`` queries, each of a document of its own; fewer if the documents give no more, which is said.

    A document's query depends on the seed and the document alone.

    Args:
        modes: ``mode`` or ``mode:weight``.
        min_length: characters of a document that is drawn; a listed one may be shorter.
        allowed: documents that may be drawn; None for any.

    Raises:
        UserError: if no document gives a query.
    """
    weights = {name: float(weight or 1) for name, _, weight in (word.partition(":") for word in modes)}
    found: list[GeneratedQuery] = []
    sources = drawn_sources(index.documents, seed, min_length, ids_file)
    fitting = (source for source in sources if allowed is None or source in allowed)
    for source in islice(fitting, TRIES * number):
        rng = stream(seed, "drawn", "query", index.documents[source].id)
        found += queries_for(index, index.documents, source, weights, rng)[:1]
        if len(found) == number:
            return found
    if not found:
        raise UserError(
            f"no document of at least {min_length:,} characters gives a query of mode {' '.join(modes)}",
            where=index.documents.name,
            hint="--query_mode template title, or a smaller --min_length",
        )
    say(f"{len(found):,} queries instead of {number:,}: the documents give no more")
    return found


def drawn_sources(documents: Documents, seed: int, min_length: int, ids_file: str | None) -> Iterator[int]:
    """Yield source documents: the listed ones in their order, then others that are long enough, in random order."""
    listed = [] if ids_file is None else listed_documents(ids_file, documents)
    yield from listed
    seen = set(listed)
    order = list(range(len(documents)))
    stream(seed, "drawn", "sources").shuffle(order)
    yield from (number for number in order if number not in seen and len(documents[number].passage) >= min_length)


def listed_documents(path: str, documents: Documents) -> list[int]:
    """Return the documents that a file of ids names, one a line, in its order, each once.

    Raises:
        DataError: for ids that no document has.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=path) from None
    found: dict[int, None] = {}
    problems = []
    for place, name in enumerate(map(str.strip, lines), start=1):
        number = documents.number_of(name) if name else None
        if number is not None:
            found[number] = None
        elif name:
            problems.append(Problem(f"{path}:{place}", "unknown-id", f'no document has the id "{name}"'))
    if problems:
        raise DataError(problems)
    return list(found)
