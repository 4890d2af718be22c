"""Queries out of documents, one maker per mode: questions, claims, titles, key phrases, sentences, gaps, bridges."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from finerank.data.documents import Document, Documents
from finerank.data.markdown import JOINT
from finerank.generation.bridges import bridge
from finerank.generation.claims import claims_in
from finerank.generation.entities import Entity, EntityIndex, bare_title
from finerank.generation.facets import FACETS, PLAIN, facet_of, outstanding
from finerank.generation.frames import longest, questions_in
from finerank.generation.language import CHINESE, ENGLISH, content_words, is_cjk, sentences, word_count
from finerank.generation.mentions import find, key_of
from finerank.generation.topics import heading_of, is_statement, topic_of

AUTO: Mapping[str, Mapping[str, float]] = {
    "en": {"template": 0.5, "title": 0.2, "ict": 0.15, "keyphrase": 0.15},
    "zh": {"template": 0.35, "title": 0.2, "ict": 0.25, "keyphrase": 0.2},
}
"""What ``auto`` draws from; a mode that a document has nothing for passes its turn on."""
SENTENCE_WORDS = (6, 60)
CROPPED_WORDS = (6, 16)
OWN_QUESTION, LEARNED_FORM, CROPPED = 0.5, 0.4, 0.5
"""Shares: of questions that a document asks itself, of forms that the corpus uses, of sentences that are cut short."""
GAP = "_____"
GERUND = re.compile(
    r"^(?:Getting|Using|Running|Writing|Adding|Making|Setting up|Building|Testing|Working with)\b", re.I
)


@dataclass(frozen=True)
class GeneratedQuery:
    """A query and what it was made from.

    Attributes:
        entity: what it is about; for ``bridge``, what the other document must be about.
        source: number of the document that it was made from.
        facet: what it asks of the entity.
        avoid: what it asks not to hear of (``bridge``).
        removed: text of the document that gives the query away: a positive is written without it.
        relevant: documents known to answer it (``judged``).
    """

    text: str
    mode: str
    entity: Entity | None
    source: int
    facet: str = ""
    avoid: str = ""
    removed: str = ""
    relevant: tuple[int, ...] = ()


Maker = Callable[[EntityIndex, int, Document, random.Random], "GeneratedQuery | None"]


def queries_for(
    index: EntityIndex, documents: Documents, number: int, modes: Mapping[str, float] | Sequence[str],
    rng: random.Random, most: int = 1,
) -> list[GeneratedQuery]:  # fmt: skip
    """Return up to ``most`` queries for a document, each of another mode, in an order drawn by the weights.

    Args:
        modes: mode -> weight, or modes of equal weight; ``auto`` stands for the mix that trains a retriever.
    """
    weights = resolved(modes, index.language)
    document, found = documents[number], list[GeneratedQuery]()
    while weights and len(found) < most:
        mode = rng.choices(list(weights), list(weights.values()))[0]
        del weights[mode]
        query = MAKERS[mode](index, number, document, rng)
        if query is not None:
            found.append(query)
    return found


def resolved(modes: Mapping[str, float] | Sequence[str], language: str) -> dict[str, float]:
    """Return mode -> weight with ``auto`` taken apart."""
    given = dict(modes) if isinstance(modes, Mapping) else dict.fromkeys(modes, 1.0)
    share = given.pop("auto", 0.0)
    for mode, weight in AUTO[language].items() if share else ():
        given[mode] = given.get(mode, 0.0) + share * weight
    return {mode: weight for mode, weight in given.items() if mode in MAKERS}


def of_template(index: EntityIndex, number: int, document: Document, rng: random.Random) -> GeneratedQuery | None:
    """Ask for what the document says of its topic: by its own question, a form of the corpus, or one of ours.

    Of a document whose title states something, a paper's say, nobody asks what its topic is: it is asked by a claim.
    """
    topic, language = topic_of(index, number), index.language
    own = [text for text in questions_in(document.text[:600]) if topic and find(text, topic) is not None]
    if own and rng.random() < OWN_QUESTION:
        facet = facet_of(own[0].replace(longest(own[0], index.mentions(number)), "{x}"), language)
        return GeneratedQuery(own[0], "template", Entity(topic, "topic"), number, facet, removed=own[0])
    heading = heading_of(index, number)
    if topic and heading and heading != topic:
        return GeneratedQuery(
            _of_heading(heading, topic, rng, language), "template", Entity(topic, "topic"), number, heading
        )
    if is_statement(document.title):
        return of_claim(index, number, document, rng)
    if not topic:
        return None
    facets = facets_of(index, document, topic)
    if not facets:
        form = rng.choice(PLAIN[language])
        return GeneratedQuery(form.replace("{x}", topic), "template", Entity(topic, "topic"), number)
    facet = facets[0] if len(facets) == 1 or rng.random() < 0.75 else facets[1]
    forms = next(each.questions for each in FACETS[language] if each.name == facet)
    learned = index.frames.forms.get(facet)
    if learned and rng.random() < LEARNED_FORM:
        forms = tuple(learned)
    return GeneratedQuery(rng.choice(forms).replace("{x}", topic), "template", Entity(topic, "topic"), number, facet)


def facets_of(index: EntityIndex, document: Document, topic: str) -> list[str]:
    """Return what a document says of its topic, most outstanding first; how it begins comes before what it counts."""
    parts = sentences(document.text[:600])
    head = parts[0] if parts else ""
    counted = outstanding(document.text, index.language, index.frames.rates)
    first = ""
    if head.endswith(("?", "？")):
        first = facet_of(head, index.language)
    elif defines(head, topic):
        first = "definition"
    return [first, *(name for name in counted if name != first)] if first else counted


def defines(sentence: str, topic: str) -> bool:
    """Say whether a sentence says what its subject is.

    >>> defines("Kniest dysplasia (KD) is a disorder of bone growth.", "Kniest dysplasia")
    True
    """
    place = find(sentence, topic)
    if place is None or place > 16:
        return False
    rest = sentence[place + len(topic) :]
    if is_cjk(topic):
        return re.match(r"[^。，]{0,12}(?:是|又称|为|，是)", rest) is not None
    return re.match(r"(?: ?\([^)]*\))?(?:,[^,]{1,60},)? (?:is|are|was|were|refers to|means)\b", rest) is not None


def of_claim(index: EntityIndex, number: int, document: Document, rng: random.Random) -> GeneratedQuery | None:
    """Ask by what the document says that it has found (English)."""
    found = list(claims_in(document.text[:8000])) if index.language == ENGLISH else []
    if not found:
        return None
    sentence, claim = rng.choice(found)
    topic = topic_of(index, number)
    return GeneratedQuery(claim, "claim", Entity(topic, "topic") if topic else None, number, removed=sentence)


def of_title(index: EntityIndex, number: int, document: Document, rng: random.Random) -> GeneratedQuery | None:
    """Ask by the title; the positive is the text under it."""
    if not document.title or len(document.text) < len(document.title):
        return None
    *above, own = (bare_title(part) for part in document.title.split(JOINT))
    text = own if not above else rng.choice([f"{above[0]} {own}", f"{own} {above[0]}", own])
    entity = Entity(topic_of(index, number), "topic")
    return GeneratedQuery(text, "title", entity, number, removed=document.head or document.title)


def of_keyphrase(index: EntityIndex, number: int, document: Document, rng: random.Random) -> GeneratedQuery | None:
    """Ask by the topic and a few rare words that stand together, as people type into a search box."""
    topic = topic_of(index, number)
    if index.language == CHINESE:
        known = [mention.name for mention in index.mentions(number) if 2 <= len(mention.name) <= 10][:12]
        chosen = rng.sample(known, min(2, len(known)))
        words = [word for word in chosen if word not in topic and topic not in word]
    else:
        parts = [part for part in sentences(document.text[:4000]) if 5 <= word_count(part) <= 60]
        if not parts:
            return None
        known = list(dict.fromkeys(word for word in content_words(rng.choice(parts)) if word not in topic.lower()))
        best = sorted(known, key=lambda word: -index.idf(word) - 0.5 * (index.vocabulary.get(word, 0) > 1))[
            : rng.choice((2, 3, 3, 4))
        ]
        words = [word for word in known if word in best]
    if len(words) < (1 if topic else 2):
        return None
    text = " ".join([topic, *words] if rng.random() < 0.7 else [*words, topic]).strip()
    return GeneratedQuery(text, "keyphrase", Entity(topic, "topic") if topic else None, number, " ".join(words))


def of_sentence(index: EntityIndex, number: int, document: Document, rng: random.Random) -> GeneratedQuery | None:
    """Ask by one of the document's sentences, often cut short (inverse cloze, Lee et al. 2019)."""
    parts = _sentences(document)
    if len(parts) < 2:
        return None
    chosen = rng.choice(parts)
    text = _cropped(chosen, rng) if rng.random() < CROPPED else chosen
    topic = topic_of(index, number)
    removed = chosen if rng.random() < 0.9 else ""
    return GeneratedQuery(text, "ict", Entity(topic, "topic") if topic else None, number, removed=removed)


def of_gap(index: EntityIndex, number: int, document: Document, rng: random.Random) -> GeneratedQuery | None:
    """Ask by a sentence with the name in it left out."""
    parts = _sentences(document)
    rng.shuffle(parts)
    for mention in index.ranked(number)[:5]:
        for part in parts:
            place = find(part, mention.name)
            if place is not None and word_count(part) >= SENTENCE_WORDS[0] + 2:
                text = part[:place] + GAP + part[place + len(mention.name) :]
                return GeneratedQuery(text, "cloze", Entity(mention.name, mention.kind), number, removed=part)
    return None


def of_bridge(index: EntityIndex, number: int, document: Document, rng: random.Random) -> GeneratedQuery | None:
    """Ask for another side of an entity than the one that the document shows."""
    for entity in index.of(number)[:4]:
        found = bridge(index, number, entity, rng)
        if found is not None:
            return GeneratedQuery(found.text, "bridge", entity, number, found.facet, found.avoid)
    return None


def _of_heading(heading: str, topic: str, rng: random.Random, language: str) -> str:
    """Ask what stands under a heading of a page."""
    if heading.endswith(("?", "？")):
        return heading if find(heading, topic) is not None else f"{heading} {topic}"
    if language == CHINESE:
        return rng.choice((f"{topic}的{heading}是什么？", f"{topic} {heading}", f"如何{heading}？"))
    plain = heading if heading.isupper() or heading[1:] != heading[1:].lower() else heading[0].lower() + heading[1:]
    if GERUND.match(heading):
        return rng.choice((f"How does {plain} work in {topic}?", f"{heading} {topic}", f"{topic}: {plain}"))
    forms = (
        f"What does {topic} say about {plain}?",
        f"{topic} {plain}",
        f"{plain} in {topic}",
        f"How about {plain} in {topic}?",
    )
    return rng.choice(forms[:3])


def _sentences(document: Document) -> list[str]:
    low, high = SENTENCE_WORDS
    return [
        part for part in sentences(document.text[:8000]) if low <= word_count(part) <= high and part[-1] not in "?？"
    ]


def _cropped(sentence: str, rng: random.Random) -> str:
    """Return a run of 6 to 16 words of a sentence; of a Chinese one, a clause."""
    if is_cjk(sentence):
        clauses = [part.strip() for part in re.split(r"[，；：,;]", sentence.rstrip("。")) if len(part) >= 6]
        return rng.choice(clauses) if clauses else sentence
    parts = sentence.split(" ")
    length = min(rng.randint(*CROPPED_WORDS), len(parts))
    start = rng.randint(0, len(parts) - length)
    return " ".join(parts[start : start + length]).strip(" ,;:.")


def entity_key(query: GeneratedQuery) -> str:
    """Return the form in which the entities of queries are compared; empty where there is none."""
    return key_of(query.entity.name) if query.entity is not None and query.entity.name else ""


MAKERS: Mapping[str, Maker] = {
    "template": of_template,
    "claim": of_claim,
    "title": of_title,
    "keyphrase": of_keyphrase,
    "ict": of_sentence,
    "cloze": of_gap,
    "bridge": of_bridge,
}
"""Mode -> what makes its query from a document alone; ``judged`` and the llm modes are made elsewhere."""
