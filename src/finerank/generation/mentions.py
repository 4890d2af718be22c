"""What a text mentions: names, acronyms, quoted titles, noun phrases; without a model, in English and Chinese."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from finerank.generation.language import CHINESE, CHINESE_FUNCTION, FUNCTION, WEAK_START, is_cjk
from finerank.retrieval.segment import STRETCH

NAME, ACRONYM, QUOTED, TERM, EVENT = "name", "acronym", "quoted", "term", "event"
CAPITAL = r"[A-Z][\w'’&-]*(?:\.(?=\w)[\w'’&-]*)?"
LINK = r"(?:of the|of|de la|de|van der|van|von|der|for the|la|le|du|del|di|da|bin|al|and the)"
RUN = re.compile(rf"{CAPITAL}(?: (?:{LINK} )?{CAPITAL})*(?: \d{{1,4}}\b)?")
EVENTS = re.compile(rf"\b(1[5-9]\d\d|20\d\d) ({CAPITAL}(?: (?:{LINK} )?{CAPITAL})*)")
QUOTES = re.compile(r"[\"“]([^\"“”\n]{2,60})[\"”]")
CHINESE_QUOTES = re.compile(r"《([^《》\n]{2,30})》|「([^「」\n]{2,20})」|“([^“”\n]{2,16})”")
TOKEN = re.compile(r"[^\W_](?:[\w'’+#-]*[\w+#])?|[^\w\s]|\n")
LATIN = re.compile(r"[A-Za-z][\w.+#-]*[\w+#]")
LONGEST = 6
"""Words of the longest noun phrase."""
CARRIES, NUMBER, ENDS = range(3)
HAN_LENGTHS = range(2, 9)
READ = 8_000
"""Characters of a document in which its mentions are looked for."""
KEPT = 48
"""Mentions of one document that count."""


@dataclass
class Mention:
    """A name or phrase in one text.

    Attributes:
        count: how often it stands there.
        first: where it stands first, in characters.
        weak: only seen where a sentence begins, so that its capital says nothing.
    """

    name: str
    kind: str
    count: int
    first: int
    weak: bool = False


def mentions(text: str, language: str) -> list[Mention]:
    """Return what a text mentions, most often first; equal ones in the order of the text."""
    found: dict[str, Mention] = {}
    seen: set[tuple[str, int]] = set()
    text = text[:READ]
    for name, kind, place, weak in _chinese(text) if language == CHINESE else _english(text):
        key = key_of(name)
        if language != CHINESE and (key, place) in seen:  # a name is a phrase as well
            continue
        seen.add((key, place))
        known = found.get(key)
        if known is None:
            found[key] = Mention(name, kind, 1, place, weak)
        else:
            known.count += 1
            if known.weak and not weak:
                known.weak, known.kind, known.name = False, kind, name
            elif known.kind == TERM and kind != TERM and not weak:
                known.kind, known.name = kind, name
    ranked = sorted(found.values(), key=lambda mention: (-mention.count, mention.first))
    return ranked[:KEPT]


@lru_cache(2**16)
def key_of(name: str) -> str:
    """Return the form in which names are compared: folded, without a leading article.

    >>> key_of("The Rolling  Stones")
    'rolling stones'
    """
    folded = " ".join(name.casefold().replace("’", "'").split())
    return folded.removeprefix("the ").removesuffix("'s")


def _english(text: str) -> Iterator[tuple[str, str, int, bool]]:
    for match in QUOTES.finditer(text):
        if len(match[1].split()) <= LONGEST and any(part[0].isupper() for part in match[1].split()):
            yield match[1].strip(" ,."), QUOTED, match.start(1), False
    for match in EVENTS.finditer(text):
        yield match[0], EVENT, match.start(), False
    for match in RUN.finditer(text):
        yield from _name(match[0], match.start(), text)
    yield from _phrases(text)


def _name(run: str, place: int, text: str) -> Iterator[tuple[str, str, int, bool]]:
    """Trim a run of capitals; a single word at the head of a sentence is weak."""
    first = _begins_sentence(text, place)
    parts = run.split(" ")
    while parts and (parts[0].lower() in FUNCTION or parts[0].lower() in WEAK_START):
        place += len(parts.pop(0)) + 1
        first = False if parts else first
    while parts and (parts[-1].lower() in FUNCTION or parts[-1].lower() in ("and", "of")):
        parts.pop()
    name = " ".join(parts).removesuffix("'s").removesuffix("’s")
    if len(name) < 2 or name.isdecimal():
        return
    if len(parts) == 1 and name.isupper() and len(name) <= 8:
        yield name, ACRONYM, place, False
    elif len(parts) > 1 or len(name) > 2:
        yield name, NAME, place, first and len(parts) == 1


def _begins_sentence(text: str, place: int) -> bool:
    before = text[max(0, place - 3) : place].rstrip(" \"'“‘([*-")
    return not before or before[-1] in ".!?:\n•"


def _phrases(text: str) -> Iterator[tuple[str, str, int, bool]]:
    """Yield runs of words between words that carry nothing and marks (RAKE, Rose et al. 2010)."""
    run: list[str] = []
    start = 0
    for match in TOKEN.finditer(text):
        word = match[0]
        sort = _sort(word)
        if sort == CARRIES:
            if not run:
                start = match.start()
            run.append(word)
        elif sort == NUMBER and run and len(word) <= 2:
            run.append(word)
        elif run:
            yield from _phrase(run, start)
            run = []
    yield from _phrase(run, start)


@lru_cache(2**17)
def _sort(word: str) -> int:
    if not word[0].isalnum() or word.lower() in FUNCTION:
        return ENDS
    return NUMBER if word.isdecimal() else CARRIES


def _phrase(run: list[str], start: int) -> Iterator[tuple[str, str, int, bool]]:
    if len(run) == 1 and (len(run[0]) < 5 or not run[0].isalpha()):
        return
    if 1 <= len(run) <= LONGEST:
        yield " ".join(run), TERM, start, False


def _chinese(text: str) -> Iterator[tuple[str, str, int, bool]]:
    for match in CHINESE_QUOTES.finditer(text):
        name = next(part for part in match.groups() if part)
        yield name, QUOTED, match.start() + 1, False
    for match in LATIN.finditer(text):
        yield match[0], NAME, match.start(), False
    chunks = [(chunk, match.start() + place) for match in STRETCH.finditer(text) for place, chunk in _chunks(match[0])]
    for chunk, place in chunks:
        if len(chunk) in HAN_LENGTHS:
            yield chunk, TERM, place, False
    yield from _repeated(chunks)


def _chunks(stretch: str) -> Iterator[tuple[int, str]]:
    place = 0
    for match in CHINESE_FUNCTION.finditer(stretch):
        if match.start() - place > 1:
            yield place, stretch[place : match.start()]
        place = match.end()
    if len(stretch) - place > 1:
        yield place, stretch[place:]


def _repeated(chunks: list[tuple[str, int]]) -> Iterator[tuple[str, str, int, bool]]:
    """Yield substrings that stand in several chunks and are not always part of the same longer one."""
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    for chunk, place in chunks:
        for length in range(2, min(7, len(chunk))):
            for start in range(len(chunk) - length + 1):
                part = chunk[start : start + length]
                counts[part] += 1
                first.setdefault(part, place + start)
    often = {part: count for part, count in counts.items() if count > 1}
    around: dict[str, int] = {}
    for part, count in often.items():
        for inner in (part[1:], part[:-1]):
            around[inner] = max(around.get(inner, 0), count)
    for part, count in often.items():
        if around.get(part, 0) < count:
            for _ in range(count):
                yield part, TERM, first[part], False


def shows(text: str, name: str) -> bool:
    """Say whether a text has a name in it, letter case aside and as whole words."""
    return find(text, name) is not None


def find(text: str, name: str) -> int | None:
    """Return where a name stands first in a text as whole words, in characters, or None."""
    if is_cjk(name):
        place = text.find(name)
        return place if place >= 0 else None
    if name.lower() not in text.lower():  # settles most cases at a fraction of the price
        return None
    match = re.search(rf"(?<!\w){re.escape(name)}(?:['’]s)?(?!\w)", text, re.IGNORECASE)
    return match.start() if match else None
