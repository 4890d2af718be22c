"""BM25 over a pool of passages, on bm25s; reads prose, code identifiers and Chinese.

Scores are Lucene's form of BM25 (Robertson et al. 1994; Kamphuis et al. 2020): ``idf · tf / (tf + k1 · (1 − b + b ·
length / mean length))``. The same pool, queries and options give the same order on every machine: equal scores go to
the earlier passage.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finerank.core.errors import UserError
from finerank.retrieval.segment import STRETCH, Segment, bigrams

WORD = re.compile(r"\w+")
IDENTIFIER = re.compile(r"_|[a-z0-9][A-Z]|[A-Z][A-Z][a-z]")
PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z0-9]+|[^\W_a-zA-Z0-9]+")
STOP_WORDS = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was
will with
"""
ENGLISH = frozenset(STOP_WORDS.split())
"""Lucene's English stop words."""
PASSAGES_AT_ONCE = 16_384


def tokens(text: str, stop_words: frozenset[str] = ENGLISH) -> list[str]:
    """Split a text into terms: words of at least two characters, lower-cased, without stop words.

    An identifier is kept whole and split as well; a stretch of Chinese, Japanese or Korean characters becomes its
    overlapping pairs.

    >>> tokens("The getUserName of HTTP_SERVER")
    ['getusername', 'get', 'user', 'name', 'http_server', 'http', 'server']
    >>> tokens("检索模型 v2")
    ['检索', '索模', '模型', 'v2']
    """
    return [term for word in WORD.findall(text) for term in word_terms(word, stop_words)]


def word_terms(word: str, stop_words: frozenset[str] = ENGLISH, segment: Segment = bigrams) -> tuple[str, ...]:
    """Return the terms of one run of letters, digits and underscores."""
    found: list[str] = []
    if word.isascii() or not STRETCH.search(word):
        _add_word(word, stop_words, found)
    else:
        _add_mixed(word, stop_words, segment, found)
    return tuple(found)


class Bm25Retriever:
    """Finds the passages that share rare words with a query.

    Args:
        passages: the pool; positions in it are what ``search`` returns.
        k1: how soon a repeated word stops counting. ``b``: how much long passages are held back, 0 to 1.
        stop_words: terms to leave out.
        stemmer: maps a lower-cased word to its stem, e.g. ``Stemmer.Stemmer("english").stemWord``.
        segment: cuts a stretch of Chinese, Japanese or Korean into terms (``retrieval.segment``).
    """

    def __init__(
        self,
        passages: Sequence[str],
        k1: float = 0.9,
        b: float = 0.4,
        *,
        stop_words: Iterable[str] = ENGLISH,
        stemmer: Callable[[str], str] | None = None,
        segment: Segment = bigrams,
    ) -> None:
        if not passages:
            raise UserError("BM25 needs at least one passage, got an empty pool")
        self._stop_words = frozenset(stop_words)
        self._stemmer = stemmer
        self._segment = segment
        self._seen: dict[str, tuple[str, ...]] = {}
        self._vocabulary: dict[str, int] = {}
        self._size = len(passages)
        self._index = self._build(passages, k1, b)

    def search(self, queries: Sequence[str], k: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield, per query, pool positions [k'] and scores [k'], best first; k' = min(k, pool size).

        A passage without a common term scores 0; such passages come last, in the order of the pool.
        """
        for query in queries:
            yield _best(self.scores(query), min(k, self._size))

    def scores(self, query: str) -> NDArray[np.float32]:
        """Return the score of every passage of the pool [N]."""
        ids = self.term_numbers(query)
        if not ids or self._index is None:
            return np.zeros(self._size, dtype=np.float32)
        return np.asarray(self._index.get_scores_from_ids(ids), dtype=np.float32)

    def postings(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        """Return, by term, where its passages begin [V + 1], the passages and the scores that it gives them [P]."""
        if self._index is None:
            return np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
        found = self._index.scores
        return found["indptr"], found["indices"], found["data"]

    def term_numbers(self, text: str) -> list[int]:
        """Return the numbers of those terms of a text that the pool knows, repeats included."""
        known = (self._vocabulary.get(term) for term in self._terms(text))
        return [term for term in known if term is not None]

    def _build(self, passages: Sequence[str], k1: float, b: float) -> Any:
        """Index the pool; one block of passages' term numbers is held at a time, and eight bytes a posting."""
        import bm25s

        source, blocks = iter(passages), []
        while block := self._count(islice(source, PASSAGES_AT_ONCE)):
            blocks.append(block)
        if not self._vocabulary:
            return None
        index = bm25s.BM25(k1=k1, b=b, method="lucene")
        index.scores = _matrix(blocks, len(self._vocabulary), self._size, k1, b)
        index.nonoccurrence_array = None
        return index

    def _count(self, passages: Iterable[str]) -> _Block | None:
        """Count the terms of some passages; None if there are none."""
        numbers, lengths = array("i"), array("i")
        number, vocabulary = self._vocabulary.setdefault, self._vocabulary
        for passage in passages:
            before = len(numbers)
            numbers.extend(number(term, len(vocabulary)) for term in self._terms(passage))
            lengths.append(len(numbers) - before)
        found = np.array(numbers, dtype=np.int64), np.array(lengths, dtype=np.int64)
        return _block(*found, len(vocabulary)) if lengths else None

    def _terms(self, text: str) -> Iterator[str]:
        """Yield a text's terms; each distinct word is taken apart once, but not clauses without spaces in them."""
        for word in WORD.findall(text):
            terms = self._seen.get(word)
            if terms is None:
                terms = self._word(word)
                if word.isascii() or not STRETCH.search(word):
                    self._seen[word] = terms
            yield from terms

    def _word(self, word: str) -> tuple[str, ...]:
        terms = word_terms(word, self._stop_words, self._segment)
        return terms if self._stemmer is None else tuple(map(self._stemmer, terms))


@dataclass(frozen=True)
class _Block:
    """Term counts of some passages, in their order: ``terms``, ``counts`` [postings], the rest [passages]."""

    terms: NDArray[np.int32]
    counts: NDArray[np.unsignedinteger[Any]]
    distinct: NDArray[np.int32]
    lengths: NDArray[np.int32]


def _block(numbers: NDArray[np.int64], lengths: NDArray[np.int64], vocabulary: int) -> _Block:
    """Count equal term numbers [tokens] within each passage; ``lengths`` says where one ends."""
    owners = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    keys, counts = np.unique(owners * vocabulary + numbers, return_counts=True)
    width = np.min_scalar_type(int(counts.max(initial=0)))
    return _Block(
        terms=(keys % max(vocabulary, 1)).astype(np.int32),
        counts=counts.astype(width),
        distinct=np.bincount(keys // max(vocabulary, 1), minlength=len(lengths)).astype(np.int32),
        lengths=lengths.astype(np.int32),
    )


def _matrix(blocks: list[_Block], vocabulary: int, size: int, k1: float, b: float) -> dict[str, Any]:
    """Return what bm25s searches: the score of each term in each passage, sorted by term, then passage.

    bm25s' own builder holds Python lists of all terms; this one takes ``blocks`` apart while it goes, with bit-equal
    scores.
    """
    frequencies = np.zeros(vocabulary, dtype=np.int64)
    for block in blocks:
        frequencies += np.bincount(block.terms, minlength=vocabulary)
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(frequencies)])
    inverse = np.log(1 + (size - frequencies + 0.5) / (frequencies + 0.5)).astype(np.float32)
    mean = sum(int(block.lengths.sum(dtype=np.int64)) for block in blocks) / size
    data = np.empty(starts[-1], dtype=np.float32)
    indices = np.empty(starts[-1], dtype=np.int32)
    heads, first = starts[:-1].copy(), 0
    while blocks:
        block = blocks.pop(0)
        rows = np.repeat(np.arange(len(block.lengths), dtype=np.int32), block.distinct)
        order = np.argsort(block.terms, kind="stable")
        terms, rows = block.terms[order], rows[order]
        fresh = np.bincount(terms, minlength=vocabulary)
        begins = np.cumsum(fresh) - fresh
        places = heads[terms] + np.arange(len(terms)) - begins[terms]
        counts = block.counts[order].astype(np.float64)
        saturation = counts / (k1 * (1 - b + b * block.lengths[rows] / mean) + counts)
        data[places] = (inverse[terms] * saturation).astype(np.float32)
        indices[places] = rows + first
        heads += fresh
        first += len(block.lengths)
    return {"data": data, "indices": indices, "indptr": starts, "num_docs": size}


def _best(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the k best positions and scores; equal scores by position, at the cut as well."""
    if k <= 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    bound = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > bound)
    level = np.flatnonzero(scores == bound)[: k - len(above)]
    chosen = np.concatenate([above, level])
    order = chosen[np.lexsort((chosen, -scores[chosen]))]
    return order.astype(np.int64), scores[order]


def _add_word(word: str, stop_words: frozenset[str], found: list[str]) -> None:
    whole = word.strip("_").lower()
    _keep(whole, stop_words, found)
    if IDENTIFIER.search(word):
        parts = [part.lower() for part in PART.findall(word)]
        if parts != [whole]:
            for part in parts:
                _keep(part, stop_words, found)


def _add_mixed(word: str, stop_words: frozenset[str], segment: Segment, found: list[str]) -> None:
    place = 0
    for match in STRETCH.finditer(word):
        if match.start() > place:
            _add_word(word[place : match.start()], stop_words, found)
        found.extend(segment(match[0]))
        place = match.end()
    if place < len(word):
        _add_word(word[place:], stop_words, found)


def _keep(term: str, stop_words: frozenset[str], found: list[str]) -> None:
    if len(term) > 1 and term not in stop_words:
        found.append(term)
