"""Which made rows are kept: no copies, no near-duplicates, no entity too often; decided in the order of the tries."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import xxhash

from finerank.data.text import normal_form
from finerank.generation.language import content_words, is_cjk, word_count
from finerank.generation.mentions import key_of

COPY_WORDS = 6
"""Words from which a query that stands in its positive word by word is a copy of it."""
BANDS, ROWS = 6, 3
"""Min-hashes are compared by bands of rows: two queries meet if one whole band is equal."""
ALIKE = 0.8
"""Share of equal min-hashes (an estimate of the Jaccard index of the words) from which queries are near-duplicates."""
FEWEST_WORDS = 6
"""Content words from which near-duplicates are looked for; shorter queries must be equal in all of them."""
COPY, REPEATED, NEAR, ENTITY = "copy_of_its_positive", "query_repeated", "near_duplicate_query", "entity_too_often"


def is_copy(query: str, positive: str) -> bool:
    """Say whether a query of six words or more stands in its positive as it is."""
    return word_count(query) >= COPY_WORDS and normal_form(query) in normal_form(positive)


class Keeper:
    """Decides on rows one after the other.

    Args:
        per_entity: rows about one entity, at most.
    """

    def __init__(self, per_entity: int) -> None:
        self.per_entity = per_entity
        self._entities: Counter[str] = Counter()
        self._seen: set[int] = set()
        self._bands: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self._signatures: list[tuple[int, ...]] = []

    def refuses(self, query: str, entity: str) -> str:
        """Return why a row is not kept, or an empty string; a kept one counts from now on.

        Args:
            entity: its name, or an empty string.
        """
        key = key_of(entity)
        if key and self._entities[key] >= self.per_entity:
            return ENTITY
        words = sorted(set(content_words(query)))
        bag = xxhash.xxh3_64_intdigest("\x1f".join(words).encode() if words else normal_form(query).encode())
        exact = xxhash.xxh3_64_intdigest(normal_form(query).encode())
        if exact in self._seen:
            return REPEATED
        if len(words) >= (2 * FEWEST_WORDS if is_cjk(query) else FEWEST_WORDS):
            if bag in self._seen or self._near(words):
                return NEAR
            self._seen.add(bag)
        self._seen.add(exact)
        self._entities[key] += 1
        return ""

    def _near(self, words: Sequence[str]) -> bool:
        """Say whether an earlier query has nearly the same words; take note of this one if not."""
        data = [word.encode() for word in words]
        signature = tuple(min(xxhash.xxh3_64_intdigest(word, seed) for word in data) for seed in range(BANDS * ROWS))
        bands = [(band, hash(signature[band * ROWS : (band + 1) * ROWS])) for band in range(BANDS)]
        known = {place for band in bands for place in self._bands.get(band, ())}
        for place in known:
            equal = sum(one == other for one, other in zip(signature, self._signatures[place]))
            if equal / len(signature) >= ALIKE:
                return True
        for band in bands:
            self._bands[band].append(len(self._signatures))
        self._signatures.append(signature)
        return False
