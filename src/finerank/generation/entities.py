"""Entities of documents, found by counting: which names and phrases connect a document with few others.

The score follows what HopWeaver asks of its language model (arXiv 2505.15087): well connected, unambiguous, described
elsewhere too, not the document's own title. One pass over the documents counts; what a document mentions is found
again when it is asked for, so that memory holds numbers only: 12 bytes a mention, and a sample's word counts.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from finerank.data.documents import Document, Documents
from finerank.generation.frames import Frames
from finerank.generation.language import content_words, sentences, word_count, words
from finerank.generation.mentions import ACRONYM, NAME, QUOTED, TERM, Mention, find, key_of, mentions

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUMBERED = re.compile(r"^(?:\d+(?:\.\d+)*[.)]|\d+(?:\.\d+)+)\s+")
SAMPLED = 5_000
"""Documents whose words are counted, spread evenly: enough to know common words from rare ones."""
SEGMENT_WORDS = (50, 200)
OFTEN = 0.01
"""Share of the documents above which a phrase names no one thing."""
LEAST_OFTEN = 25
TITLE_BONUS, NAME_BONUS, TERM_PRICE, REPEATED_WEIGHT = 1.5, 1.0, 0.5, 1.0


@dataclass(frozen=True)
class Entity:
    """What a document speaks of.

    Attributes:
        kind: ``name``, ``acronym``, ``quoted``, ``event`` or ``term``.
        segment: the best window of 50 to 200 words around its mentions.
    """

    name: str
    kind: str
    segment: str = ""

    @property
    def key(self) -> str:
        """The form in which names are compared."""
        return key_of(self.name)


@dataclass
class EntityIndex:
    """Which documents mention what; made by ``build_index``.

    Attributes:
        keys: hashes of names that several documents mention [U], ascending.
        starts: where a name's documents begin in ``places`` [U + 1].
        titles: hashes of the documents' titles, ascending.
        vocabulary: word -> documents of the sample that have it.
        frames: forms of questions that the documents themselves use, by facet.
    """

    documents: Documents
    language: str
    keys: NDArray[np.uint64]
    starts: NDArray[np.int64]
    places: NDArray[np.int32]
    titles: NDArray[np.uint64]
    title_places: NDArray[np.int64]
    vocabulary: Counter[str]
    sampled: int
    frames: Frames = field(default_factory=Frames)

    @property
    def most(self) -> int:
        """Documents that may mention an entity, at most."""
        return max(LEAST_OFTEN, int(OFTEN * len(self.documents)))

    def of(self, number: int) -> list[Entity]:
        """Return the entities of a document that lead elsewhere, best first: others mention them, it is not they."""
        document = self.documents[number]
        return [
            Entity(mention.name, mention.kind, segment(document, mention.name)) for mention in self.ranked(number)[:8]
        ]

    def ranked(self, number: int) -> list[Mention]:
        """Return a document's mentions that lead elsewhere, best first; the last few are kept."""
        return self._ranked(number)

    def _rank(self, number: int) -> list[Mention]:
        document = self.documents[number]
        title = set(content_words(document.title))
        found = [
            (self._score(mention, title), mention)
            for mention in self.mentions(number)
            if 2 <= self.often(mention.name) <= self.most and not self._is_title(mention, document, title)
        ]
        return [mention for _, mention in sorted(found, key=lambda item: (-item[0], item[1].first))]

    def mentions(self, number: int) -> list[Mention]:
        """Return what a document mentions."""
        return self._mentions(number)

    def documents_with(self, name: str) -> list[int]:
        """Return the numbers of the documents that mention a name, ascending; none if only one does."""
        slot = self._slot(self.keys, name)
        return [] if slot is None else self.places[self.starts[slot] : self.starts[slot + 1]].tolist()

    def often(self, name: str) -> int:
        """Return how many documents mention a name; 0 stands for one or none."""
        slot = self._slot(self.keys, name)
        return 0 if slot is None else int(self.starts[slot + 1] - self.starts[slot])

    def titled(self, name: str) -> int | None:
        """Return the number of a document with this title, or None."""
        slot = self._slot(self.titles, name)
        return None if slot is None else int(self.title_places[slot])

    def idf(self, word: str) -> float:
        """Return how rare a lower-cased word is: ``log(1 + (n − df + .5) / (df + .5))`` over the sample."""
        often = self.vocabulary.get(word, 0)
        return math.log(1 + (self.sampled - often + 0.5) / (often + 0.5))

    def vector(self, text: str) -> dict[str, float]:
        """Return a text's words with tf·idf weights, of length 1."""
        return unit(
            {word: (1 + math.log(count)) * self.idf(word) for word, count in Counter(content_words(text)).items()}
        )

    def vector_of(self, number: int) -> dict[str, float]:
        """Return a document's ``vector``; the last few are kept."""
        return self._vector(number)

    def __post_init__(self) -> None:
        self._mentions = lru_cache(512)(lambda number: mentions(_whole(self.documents[number]), self.language))
        self._ranked = lru_cache(512)(self._rank)
        self._vector = lru_cache(512)(lambda number: self.vector(self.documents[number].passage))

    def _score(self, mention: Mention, title: set[str]) -> float:
        often = self.often(mention.name)
        rare = math.log(1 + len(self.documents) / often) / math.log(2 + len(self.documents))
        parts = mention.name.split()
        score = REPEATED_WEIGHT * math.log(1 + mention.count) + 2 * rare
        score += TITLE_BONUS * (self.titled(mention.name) is not None)
        score += NAME_BONUS * (mention.kind in (NAME, QUOTED)) * (0.5 if len(parts) == 1 else 1)
        score -= TERM_PRICE * (mention.kind == TERM and len(parts) == 1)
        score -= 0.5 * (mention.kind == ACRONYM)
        inside = sum(word in title for word in content_words(mention.name))
        return score - (inside / max(1, len(parts)) if title else 0.0)

    def _is_title(self, mention: Mention, document: Document, title: set[str]) -> bool:
        """Say whether an entity is what the whole document is about: its title, or most of it."""
        own = set(content_words(mention.name))
        if not document.title or not own:
            return mention.weak or not own
        return (
            mention.weak or len(own & title) / len(own | title) > 0.6 or key_of(document.title) == key_of(mention.name)
        )

    def _slot(self, keys: NDArray[np.uint64], name: str) -> int | None:
        wanted = np.uint64(_hash(key_of(name)))
        slot = int(np.searchsorted(keys, wanted))
        return slot if slot < len(keys) and keys[slot] == wanted else None


def build_index(documents: Documents, language: str, report: Callable[[int], None] | None = None) -> EntityIndex:
    """Count names, titles and words in one pass.

    Args:
        language: ``en`` or ``zh`` (``language.language_of``).
        report: told of every document.
    """
    hashes, owners, strong = array("Q"), array("i"), array("b")
    titles, title_owners = array("Q"), array("q")
    vocabulary: Counter[str] = Counter()
    frames = Frames(len(documents))
    step = max(1, len(documents) // SAMPLED)
    for number, document in enumerate(documents):
        found = mentions(_whole(document), language)
        for mention in found:
            hashes.append(_hash(key_of(mention.name)))
            owners.append(number)
            strong.append(not mention.weak)
        if document.title:
            titles.append(_hash(key_of(bare_title(document.title))))
            title_owners.append(number)
        frames.read(document.text, found, language)
        if report is not None:
            report(1)
        if number % step == 0:
            vocabulary.update(set(content_words(document.passage)))
    keys, starts, places = _postings(hashes, owners, strong)
    title_keys, first = np.unique(np.frombuffer(titles, dtype=np.uint64), return_index=True)
    title_places = np.frombuffer(title_owners, dtype=np.int64)[first] if len(titles) else np.zeros(0, dtype=np.int64)
    sampled = len(range(0, len(documents), step))
    frames.settle()
    return EntityIndex(
        documents, language, keys, starts, places, title_keys, title_places, vocabulary, sampled, frames
    )  # fmt: skip


def segment(document: Document, name: str) -> str:
    """Return the window of 50 to 200 words around mentions of a name with the most distinct words.

    Begins with the title where it does not show the title itself, so that pronouns have something to stand for.
    """
    parts = sentences(document.text)
    lengths = [word_count(part) for part in parts]
    places = [place for place, part in enumerate(parts) if find(part, name) is not None][:5]
    best, most = "", -1
    for place in places or [0] if parts else []:
        first, last, total = place, place + 1, lengths[place]
        while total < SEGMENT_WORDS[0] and (first > 0 or last < len(parts)):
            if last < len(parts):
                total, last = total + lengths[last], last + 1
            else:
                first, total = first - 1, total + lengths[first - 1]
        window = " ".join(parts[first:last])
        distinct = len(set(content_words(window)))
        if distinct > most:
            best, most = window, distinct
    best = shortened(best, SEGMENT_WORDS[1])
    if document.title and find(best, bare_title(document.title)) is None:
        return f"{document.title}: {best}"
    return best


def shortened(text: str, most: int) -> str:
    """Cut a text behind its first ``most`` words; a Chinese one behind as many characters as count for these."""
    if word_count(text) <= most:
        return text
    parts = text.split(" ")
    return " ".join(parts[:most]) if len(parts) > most else text[: int(most / 0.6)]


def bare_title(title: str) -> str:
    """Return a title without its number, and without what stands behind it in parentheses.

    >>> bare_title("Mercury (planet)"), bare_title("2.1. Install")
    ('Mercury', 'Install')
    """
    head = NUMBERED.sub("", title).split(" (")[0].strip()
    return head or title


def unit(weights: dict[str, float]) -> dict[str, float]:
    """Return weights of length 1."""
    norm = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
    return {word: weight / norm for word, weight in weights.items()}


def cosine(one: dict[str, float], other: dict[str, float]) -> float:
    """Return the inner product of two sparse vectors; of unit length, their cosine."""
    small, large = (one, other) if len(one) <= len(other) else (other, one)
    return sum(weight * large[word] for word, weight in small.items() if word in large)


def _whole(document: Document) -> str:
    return f"{document.title}\n{document.text}" if document.title else document.text


def _postings(
    hashes: array[int], owners: array[int], strong: array[int]
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int32]]:
    """Group the documents of each name; names of one document, or only seen at heads of sentences, are dropped."""
    names = np.frombuffer(hashes, dtype=np.uint64)
    order = np.argsort(names, kind="stable")
    places = np.frombuffer(owners, dtype=np.int32)[order]
    sure = np.frombuffer(strong, dtype=np.int8)[order]
    keys, first, counts = np.unique(names[order], return_index=True, return_counts=True)
    seen = np.add.reduceat(sure, first, dtype=np.int64) if len(first) else np.zeros(0, dtype=np.int64)
    kept = (counts > 1) & (seen > 0)
    chosen = np.repeat(kept, counts)
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts[kept])])
    return keys[kept], starts, places[chosen].astype(np.int32)


def _hash(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))


__all__: Sequence[str] = [
    "Entity", "EntityIndex", "bare_title", "build_index", "cosine", "segment", "shortened", "unit", "words",
]  # fmt: skip
