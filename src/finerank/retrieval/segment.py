"""Chinese, Japanese and Korean stretches to terms: words by jieba, or overlapping pairs of characters.

Pairs need no dictionary and never miss a match; words are fewer and rank better where a dictionary knows them.
jieba knows Chinese only, so a stretch with kana or hangul in it becomes pairs either way.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from finerank.core.errors import UserError

Segment = Callable[[str], list[str]]
"""One stretch of characters that ``STRETCH`` matches -> its terms."""

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
STRETCH = re.compile(rf"[\u3040-\u30ff\uac00-\ud7af{HAN}]+")
ONLY_HAN = re.compile(rf"[{HAN}]+")
NOT_CHINESE = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
LETTER = re.compile(r"\w")
AUTO, JIEBA, BIGRAMS = "auto", "jieba", "bigrams"
SAMPLE = 1000
JAPANESE_SHARE = 0.05
"""Kana or hangul above this share of the letters: the text is not Chinese, however much Han it holds."""


def bigrams(stretch: str) -> list[str]:
    """Return the overlapping pairs of a stretch's characters; a single character is its own term.

    >>> bigrams("检索模型")
    ['检索', '索模', '模型']
    """
    return [stretch] if len(stretch) == 1 else [stretch[place : place + 2] for place in range(len(stretch) - 1)]


def jieba_words(stretch: str) -> list[str]:
    """Return a Chinese stretch's words, long ones also in their parts, as jieba cuts for search."""
    if not ONLY_HAN.fullmatch(stretch):
        return bigrams(stretch)
    return [str(word) for word in _jieba().cut_for_search(stretch)]


def segment_by(name: str) -> Segment:
    """Return the function of a resolved name (``resolve``)."""
    return jieba_words if name.startswith(JIEBA) else bigrams


def resolve(wish: str, pool: Sequence[str]) -> str:
    """Turn ``auto`` into jieba if the pool is mostly Chinese and jieba is installed, else into ``bigrams``.

    Returns:
        ``bigrams``, or ``jieba`` with its version, which decides the words: ``jieba 0.42.1``.

    Raises:
        UserError: if jieba is asked for by name and not installed.
    """
    version = jieba_version()
    if wish == JIEBA and version is None:
        raise UserError("--segmenter jieba needs jieba", hint='pip install "finerank[zh]", or --segmenter bigrams')
    chosen = wish == JIEBA or (wish == AUTO and version is not None and is_chinese(pool))
    return f"{JIEBA} {version}" if chosen else BIGRAMS


def described(name: str, wish: str) -> str:
    """Say what a resolved name means, and why it was chosen."""
    if name.startswith(JIEBA):
        return f"words by {name}" + (" (the pool is Chinese; --segmenter bigrams for pairs)" if wish == AUTO else "")
    return "pairs of characters" + (" (--segmenter jieba for words)" if wish == AUTO and jieba_version() else "")


def jieba_version() -> str | None:
    """Return the version of the installed jieba, or None."""
    from importlib import metadata

    try:
        return metadata.version("jieba")
    except metadata.PackageNotFoundError:
        return None


def is_chinese(pool: Sequence[str]) -> bool:
    """Say whether most letters are Chinese characters; looks at ``SAMPLE`` passages spread evenly over the pool."""
    sample = [pool[place] for place in range(0, len(pool), max(1, len(pool) // SAMPLE))]
    letters = sum(len(LETTER.findall(text)) for text in sample)
    han = sum(len(part) for text in sample for part in ONLY_HAN.findall(text))
    foreign = sum(len(NOT_CHINESE.findall(text)) for text in sample)
    return han * 2 > letters and foreign <= JAPANESE_SHARE * letters


@cache
def _jieba() -> Any:
    """Load the dictionary once, in silence."""
    import jieba

    jieba.setLogLevel(logging.WARNING)
    return jieba.Tokenizer()
