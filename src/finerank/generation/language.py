"""What both languages need to be read: sentences, words, words that carry nothing; English and Chinese."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from finerank.retrieval.segment import STRETCH, is_chinese

ENGLISH, CHINESE = "en", "zh"
WORD = re.compile(r"[^\W_](?:[\w'’.+#-]*\w|[+#]+)?")
"""A word of Latin or other letters, with what joins its parts."""
SENTENCE = re.compile(
    r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9])|(?<=[。！？])[”’」』）]*|\n\s*\n|\n(?=\s*(?:[-*•+]|\d+[.)])\s)"
)
ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|Inc|Ltd|Co|Corp|No|Fig|al|approx|dept|est|Jan|Feb|Mar|Apr|Jun|"
    r"Jul|Aug|Sep|Sept|Oct|Nov|Dec)|e\.g|i\.e|cf|[A-Z]\.[A-Z])\.[\"')\]]*\s*$"
)
SPACE_FREE = re.compile(r"\s+")
FUNCTION_WORDS = """
a about above across after again against all almost along already also although always am among an and another any
anyone anything are around as at away back be became because become becomes been before behind being below beside
besides between beyond both but by came can cannot could did do does doing done down due during each either else enough
etc even ever every everything few first following for former from further gave get gets getting give given gives go
goes going gone got had has have having he hence her here hers herself him himself his how however i if in including
indeed instead into is it its itself just know known last later least less let like likely made mainly make makes making
many may me might mine more moreover most mostly much must my myself near nearly neither never next no nobody none nor
not nothing now of off often on once one ones only onto or other others otherwise our ours out over own per perhaps
please put quite rather re really same say says second see seem seems seen several shall she should show shown shows
since so some someone something sometimes soon still such take taken takes taking than that the their theirs them
themselves then there therefore these they thing things this those though three through throughout thus to together too
toward towards two under until up upon us use used uses using usually various very via was way we well went were what
whatever when where whereas whether which while who whom whose why will with within without would yet you your yours
yourself
able affect affects affected allow allows appear appears approximately associated based began begin believe called
cause caused causes causing common commonly complete consider considered consist consists contain contains cover create
created currently decide depend depends described describes designed develop developed develops different difficult
easily especially estimated exist exists expect expected find finds follow follows found frequently generally happen
happens help helpful helps hold holds identify important improve improved include included includes increase increased
increases involve involved involves keep kept lead leads left live lives long main mean means need needed needs new
note number obtain occur occurs occurring old part particular particularly people person play plays possible present
prevent previously primarily probably produce produced produces provide provided provides published range rare rarely
reach receive received recent recently reduce reduced refer refers regarding related remain remains report reported
require required requires result resulting results run similar small specific start started study suggest suggests
support tend tends think thought took treat treated try turn typically unknown usual want whole work works
worked written year years
"""
FUNCTION = frozenset(FUNCTION_WORDS.split())
"""English words at which a noun phrase ends: function words, and verbs and adverbs of every subject."""
CHINESE_FUNCTION = re.compile(
    r"[的了和与及在是为被由于而但也都就这那其之以到从对把让将并或等所着很更最又再还没能会可要我你他她它们个有不]|"
    r"一种|一个|其中|因为|所以|如果|虽然|但是|以及|通过|进行|根据|关于|成为|认为|曾经|主要|由于|开始|使用|目前|包括"
)
WEAK_STARTS = "the a an this that these those its their his her our your in on at for with by to from as"
WEAK_START = frozenset(WEAK_STARTS.split())


def language_of(passages: Sequence[str]) -> str:
    """Return ``zh`` if most letters of a sample are Chinese, else ``en``."""
    return CHINESE if is_chinese(passages) else ENGLISH


def sentences(text: str) -> list[str]:
    """Cut a text into sentences, also at blank lines and list items.

    >>> sentences("Dr. Kay wrote it in 1972. It ran! 它很快。真的。")
    ['Dr. Kay wrote it in 1972.', 'It ran!', '它很快。', '真的。']
    """
    found: list[str] = []
    for part in SENTENCE.split(text):
        part = SPACE_FREE.sub(" ", part).strip()
        if part and found and ABBREVIATION.search(found[-1]):
            found[-1] += f" {part}"
        elif part:
            found.append(part)
    return [part for piece in found for part in _chinese_cut(piece)]


def words(text: str) -> list[str]:
    """Return a text's words; of Chinese, its single characters."""
    return [part for word in WORD.findall(text) for part in _parts(word)]


def content_words(text: str) -> Iterator[str]:
    """Yield the lower-cased words that carry something; of Chinese, pairs of characters."""
    for word in WORD.findall(text):
        yield from _content(word)


def word_count(text: str) -> int:
    """Return how many words a text has; a Chinese character counts 0.6 of one.

    >>> word_count("检索模型 is good")
    4
    """
    han = sum(len(part) for part in STRETCH.findall(text))
    return len(WORD.findall(STRETCH.sub(" ", text))) + int(0.6 * han)


def is_cjk(text: str) -> bool:
    """Say whether a text has a Chinese, Japanese or Korean character."""
    return not text.isascii() and STRETCH.search(text) is not None


@lru_cache(2**16)
def _content(word: str) -> tuple[str, ...]:
    if is_cjk(word):
        found = []
        for part in STRETCH.findall(word):
            for chunk in CHINESE_FUNCTION.split(part):
                found += [chunk[place : place + 2] for place in range(max(0, len(chunk or "") - 1))] if chunk else []
        return tuple(found)
    low = word.lower()
    return () if low in FUNCTION or len(low) < 2 else (low,)


def _parts(word: str) -> list[str]:
    return list(word) if is_cjk(word) else [word]


def _chinese_cut(piece: str) -> list[str]:
    return [piece] if "。" not in piece else [part.strip() for part in re.split(r"(?<=。)", piece) if part.strip()]
