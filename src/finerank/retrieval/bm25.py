"""BM25 over a pool of passages, on bm25s; reads prose, code identifiers and Chinese.

Scores are Lucene's form of BM25 (Robertson et al. 1994; Kamphuis et al. 2020): ``idf · tf / (tf + k1 · (1 − b + b ·
length / mean length))``. The same pool, queries and options give the same order on every machine: equal scores go to
the earlier passage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finerank.core.errors import UserError

WORD = re.compile(r"\w+")
HAN = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]+")
IDENTIFIER = re.compile(r"_|[a-z0-9][A-Z]|[A-Z][A-Z][a-z]")
PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z0-9]+|[^\W_a-zA-Z0-9]+")
STOP_WORDS = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was
will with
"""
ENGLISH = frozenset(STOP_WORDS.split())
"""Lucene's English stop words."""


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


def word_terms(word: str, stop_words: frozenset[str] = ENGLISH) -> tuple[str, ...]:
    """Return the terms of one run of letters, digits and underscores."""
    found: list[str] = []
    if word.isascii() or not HAN.search(word):
        _add_word(word, stop_words, found)
    else:
        _add_mixed(word, stop_words, found)
    return tuple(found)


class Bm25Retriever:
    """Finds the passages that share rare words with a query.

    Args:
        passages: the pool; positions in it are what ``search`` returns.
        k1: how soon a repeated word stops counting. ``b``: how much long passages are held back, 0 to 1.
        stop_words: terms to leave out.
        stemmer: maps a lower-cased word to its stem, e.g. ``Stemmer.Stemmer("english").stemWord``.
    """

    def __init__(
        self,
        passages: Sequence[str],
        k1: float = 0.9,
        b: float = 0.4,
        *,
        stop_words: Iterable[str] = ENGLISH,
        stemmer: Callable[[str], str] | None = None,
    ) -> None:
        if not passages:
            raise UserError("BM25 needs at least one passage, got an empty pool")
        self._stop_words = frozenset(stop_words)
        self._stemmer = stemmer
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
        known = (self._vocabulary.get(term) for term in self._terms(query))
        ids = [term for term in known if term is not None]
        if not ids or self._index is None:
            return np.zeros(self._size, dtype=np.float32)
        return np.asarray(self._index.get_scores_from_ids(ids), dtype=np.float32)

    def _build(self, passages: Sequence[str], k1: float, b: float) -> Any:
        """Index the pool; only term numbers are held, one passage's words at a time."""
        import bm25s

        numbered: list[list[int]] = []
        for passage in passages:
            terms = self._terms(passage)
            numbered.append([self._vocabulary.setdefault(term, len(self._vocabulary)) for term in terms])
        if not self._vocabulary:
            return None
        index = bm25s.BM25(k1=k1, b=b, method="lucene", csc_backend="scipy")
        index.index((numbered, self._vocabulary), create_empty_token=False, show_progress=False)
        return index

    def _terms(self, text: str) -> Iterator[str]:
        """Yield a text's terms; each distinct word is taken apart once."""
        for word in WORD.findall(text):
            terms = self._seen.get(word)
            if terms is None:
                terms = self._seen[word] = self._word(word)
            yield from terms

    def _word(self, word: str) -> tuple[str, ...]:
        terms = word_terms(word, self._stop_words)
        return terms if self._stemmer is None else tuple(map(self._stemmer, terms))


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


def _add_mixed(word: str, stop_words: frozenset[str], found: list[str]) -> None:
    place = 0
    for match in HAN.finditer(word):
        if match.start() > place:
            _add_word(word[place : match.start()], stop_words, found)
        stretch = match[0]
        found.extend([stretch] if len(stretch) == 1 else [stretch[i : i + 2] for i in range(len(stretch) - 1)])
        place = match.end()
    if place < len(word):
        _add_word(word[place:], stop_words, found)


def _keep(term: str, stop_words: frozenset[str], found: list[str]) -> None:
    if len(term) > 1 and term not in stop_words:
        found.append(term)
