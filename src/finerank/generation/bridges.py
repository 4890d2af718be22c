"""Two-hop queries: an entity of one document, and a side of it that only other documents show.

Their form is that of HopWeaver's generator (arXiv 2505.15087): ``<entity> <other aspect> instead of <aspect here>``,
by counts in place of a language model.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import NamedTuple

from finerank.generation.entities import Entity, EntityIndex
from finerank.generation.language import CHINESE, WORD, content_words
from finerank.generation.mentions import find

PIVOTS = ("instead of", "beyond", "rather than", "outside of")
PIVOT_WEIGHTS = (0.77, 0.15, 0.05, 0.03)
"""How often HopWeaver's own data turn with which words."""
LOOKED_AT = 5
"""Other documents whose words around the entity are counted."""
NEAR = 220
"""Characters on either side of a mention."""


class Bridge(NamedTuple):
    """A query's text, the side asked for, and the side that its source shows."""

    text: str
    facet: str
    avoid: str


def bridge(index: EntityIndex, number: int, entity: Entity, rng: random.Random) -> Bridge | None:
    """Return a query for what other documents say of ``entity`` and document ``number`` does not."""
    others = [place for place in index.documents_with(entity.name) if place != number]
    described = index.titled(entity.name)
    if described is not None and described != number:
        others = [described, *(place for place in others if place != described)]
    if not others:
        return None
    own = set(content_words(entity.name))
    here = Counter(
        word for word in content_words(near(index.documents[number].passage, entity.name)) if word not in own
    )
    known = set(content_words(index.documents[number].passage)) | own
    there: Counter[str] = Counter()
    chosen = others[:1] + rng.sample(others[1:], min(LOOKED_AT - 1, len(others) - 1))
    for place in chosen:
        there.update(set(content_words(near(index.documents[place].passage, entity.name))) - known)
    facet, avoid = best(index, there, 3), best(index, here, 2)
    if len(facet) < 2 or not avoid:
        return None
    if index.language == CHINESE:
        return Bridge(f"{entity.name} {' '.join(facet)}，而不是{' '.join(avoid)}", " ".join(facet), " ".join(avoid))
    pivot = rng.choices(PIVOTS, PIVOT_WEIGHTS)[0]
    return Bridge(f"{entity.name} {' '.join(facet)} {pivot} {' '.join(avoid)}", " ".join(facet), " ".join(avoid))


def near(text: str, name: str) -> str:
    """Return what stands around a name's first mention; the beginning where it has none."""
    place = find(text, name)
    if place is None:
        return text[: 2 * NEAR]
    return text[max(0, place - NEAR) : place + len(name) + NEAR]


def best(index: EntityIndex, counts: Counter[str], most: int) -> list[str]:
    """Return the words with the highest count times idf; words that no other document has say little to anybody."""
    scored = {
        word: count * index.idf(word) * (1.0 if index.vocabulary.get(word, 0) > 1 else 0.3)
        for word, count in counts.items()
        if not word.isdecimal() and WORD.fullmatch(word)
    }
    return sorted(scored, key=lambda word: (-scored[word], word))[:most]
