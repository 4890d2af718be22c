"""What a document is about: its title, or the name or phrase that its beginning and its counts point to."""

from __future__ import annotations

import math

from finerank.data.markdown import JOINT
from finerank.generation.entities import EntityIndex, bare_title
from finerank.generation.frames import longest, questions_in
from finerank.generation.language import sentences, word_count
from finerank.generation.mentions import ACRONYM, TERM, Mention, find

LEAST_SCORE = 4.0
"""Below it a document is about nothing that can be named."""
NEAR_START = 24
NAME_WORDS = 8
"""A title of more words says something about a thing, as those of papers do; it is no name for it."""


def topic_of(index: EntityIndex, number: int) -> str:
    """Return the topic of a document, or an empty string."""
    document = index.documents[number]
    title = bare_title(document.title.split(JOINT)[0]) if document.title else ""
    if title and not is_statement(title):
        return title
    parts = [title] if title else sentences(document.text)
    if not parts:
        return ""
    head = parts[0]
    found = [mention for mention in index.mentions(number) if index.often(mention.name) <= index.most]
    asked = longest(questions_in(head)[0], found) if questions_in(head) else ""
    scored = [(_score(index, mention, head, asked), mention) for mention in found]
    score, best = max(scored, key=lambda item: (item[0], -item[1].first), default=(0.0, None))
    return best.name if best is not None and score >= LEAST_SCORE else ""


def is_statement(title: str) -> bool:
    """Say whether a title says something, rather than names what its document is about.

    >>> is_statement("Kniest dysplasia"), is_statement("Granules are delivered to the synapse.")
    (False, True)
    """
    return word_count(title) > NAME_WORDS or (title.endswith(".") and word_count(title) > NAME_WORDS // 2)


def heading_of(index: EntityIndex, number: int) -> str:
    """Return a section's own heading where it stands under another one, else an empty string."""
    headings = index.documents[number].title.split(JOINT)
    return bare_title(headings[-1]) if len(headings) > 1 else ""


def _score(index: EntityIndex, mention: Mention, head: str, asked: str) -> float:
    often = index.often(mention.name)
    rare = math.log(1 + len(index.documents) / max(1, often)) / math.log(2 + len(index.documents))
    place = find(head, mention.name)
    length = min(word_count(mention.name), 5)
    score = math.log(1 + mention.count) + 1.5 * rare + 0.35 * length
    score += 1.0 * (often >= 2) + 2.0 * (place is not None) + 0.7 * (place is not None and place <= NEAR_START)
    score += 2.0 * (bool(asked) and asked == mention.name)
    score -= 0.8 * (mention.kind == TERM and length == 1) + 0.3 * (mention.kind == ACRONYM) + 2.0 * mention.weak
    return score
