"""Does a candidate answer a query? Yes, no, or it cannot be told; what cannot be told is never a label.

``RuleOracle`` needs no model: names, words around them, counts. ``GoldOracle`` knows from judgements. A language
model's verdicts are in ``llm_oracle``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from finerank.data.documents import Document, Documents
from finerank.generation.bridges import near
from finerank.generation.entities import EntityIndex, bare_title, cosine, segment
from finerank.generation.facets import cue_counts
from finerank.generation.language import content_words, word_count
from finerank.generation.mentions import key_of, shows
from finerank.generation.queries import GeneratedQuery

Verdict = Literal["positive", "negative", "unknown"]
POSITIVE: Verdict = "positive"
NEGATIVE: Verdict = "negative"
UNKNOWN: Verdict = "unknown"
BRIDGES = frozenset({"bridge", "llm_bridge"})


@dataclass(frozen=True)
class Judgement:
    """A verdict and the rule behind it."""

    verdict: Verdict
    why: str


class Oracle(Protocol):
    """Judges candidates."""

    def judge(self, query: GeneratedQuery, candidate: int) -> Verdict:
        """Say whether document ``candidate`` answers ``query``."""
        ...

    def judge_all(self, pairs: Sequence[tuple[GeneratedQuery, int]]) -> list[Judgement]:
        """Judge many pairs, in order."""
        ...


@dataclass(frozen=True)
class Thresholds:
    """Where the rules draw their lines; the defaults were set on the train queries of ``benchmarks/oracle.py``.

    Attributes:
        context: least cosine of the words around an entity in two documents: below it they may be namesakes.
        likeness: cosine of two documents from which one is a near copy of the other.
        new_words: words around the entity that the source does not have, at least.
        evidence: words of a window around the entity, at least.
        tokens: share of an entity's words in a candidate from which its absence is not sure.
        coverage: share of a query's words, by idf, from which a candidate may answer it.
    """

    context: float = 0.1
    likeness: float = 0.7
    new_words: int = 8
    evidence: int = 20
    tokens: float = 0.5
    coverage: float = 0.75


class RuleOracle:
    """Judges by names and words (the rules of HopWeaver's prompt, without its language model)."""

    def __init__(self, index: EntityIndex, documents: Documents, thresholds: Thresholds | None = None) -> None:
        self.index = index
        self.documents = documents
        self.thresholds = thresholds or Thresholds()

    def judge(self, query: GeneratedQuery, candidate: int) -> Verdict:
        """Say whether ``candidate`` answers ``query``."""
        return self.explain(query, candidate).verdict

    def judge_all(self, pairs: Sequence[tuple[GeneratedQuery, int]]) -> list[Judgement]:
        """Judge many pairs, in order."""
        return [self.explain(query, candidate) for query, candidate in pairs]

    def explain(self, query: GeneratedQuery, candidate: int) -> Judgement:
        """Judge a pair, and name the rule."""
        if query.mode in BRIDGES and query.entity is not None:
            return self.connects(query.source, query.entity.name, candidate)
        return self._answers(query, candidate)

    def connects(self, source: int, name: str, candidate: int) -> Judgement:
        """Say whether ``candidate`` tells more about ``name`` than ``source`` does."""
        limits, document = self.thresholds, self.documents[candidate]
        if candidate == source:
            return Judgement(UNKNOWN, "source itself")
        titled = bool(document.title) and key_of(bare_title(document.title)) == key_of(name)
        if not titled and not shows(document.passage, name):
            return self._absent(name, document)
        if cosine(self.index.vector_of(source), self.index.vector_of(candidate)) >= limits.likeness:
            return Judgement(UNKNOWN, "near copy of the source")
        own = set(content_words(name))
        here = near(self.documents[source].passage, name)
        there = near(document.passage, name)
        if not titled and cosine(self._context(here, own), self._context(there, own)) < limits.context:
            return Judgement(UNKNOWN, "maybe a namesake")
        fresh = set(content_words(there)) - set(content_words(self.documents[source].passage)) - own
        if len(fresh) < limits.new_words:
            return Judgement(UNKNOWN, "nothing new")
        if word_count(segment(document, name)) < limits.evidence:
            return Judgement(UNKNOWN, "too little evidence")
        return Judgement(POSITIVE, "entity told further")

    def _absent(self, name: str, document: Document) -> Judgement:
        parts = set(content_words(name))
        held = parts & set(content_words(document.passage))
        if parts and len(held) / len(parts) >= self.thresholds.tokens and len(parts) > 1:
            return Judgement(UNKNOWN, "entity in part")
        return Judgement(NEGATIVE, "entity absent")

    def _context(self, text: str, own: set[str]) -> dict[str, float]:
        vector = self.index.vector(text)
        return {word: weight for word, weight in vector.items() if word not in own}

    def _answers(self, query: GeneratedQuery, candidate: int) -> Judgement:
        """Judge by the document that the query was made from: what says the same may answer it as well."""
        if candidate == query.source:
            return Judgement(POSITIVE, "source itself")
        limits, document = self.thresholds, self.documents[candidate]
        if cosine(self.index.vector_of(query.source), self.index.vector_of(candidate)) >= limits.likeness:
            return Judgement(UNKNOWN, "near copy of the source")
        topic = query.entity.name if query.entity is not None else ""
        if query.mode == "template" and topic and shows(document.passage, topic):
            return self._same_facet(query, document, topic)
        if self._coverage(query.text, document.passage) >= limits.coverage:
            return Judgement(UNKNOWN, "has the query's words")
        return Judgement(NEGATIVE, "says something else")

    def _same_facet(self, query: GeneratedQuery, document: Document, topic: str) -> Judgement:
        """Judge a document with the same topic: it answers a question about another facet, or maybe this one."""
        if not query.facet or query.facet == "definition":
            return Judgement(UNKNOWN, "same topic")
        counts = cue_counts(document.text, self.index.language)
        if counts.get(query.facet, 0.0) >= 1 or shows(document.text, query.facet):
            return Judgement(UNKNOWN, "same topic and facet")
        return Judgement(NEGATIVE, "same topic, another facet")

    def _coverage(self, query: str, passage: str) -> float:
        words = set(content_words(query))
        total = sum(map(self.index.idf, words))
        held = words & set(content_words(passage))
        return sum(map(self.index.idf, held)) / total if total else 1.0


class GoldOracle:
    """Judges by known sets of documents that answer a question together (supporting facts, qrels).

    Args:
        answers: for each question, the documents that answer it.
    """

    def __init__(self, answers: Iterable[Sequence[int]]) -> None:
        self.partners: dict[int, set[int]] = {}
        for documents in answers:
            for number in documents:
                self.partners.setdefault(number, set()).update(other for other in documents if other != number)

    def judge(self, query: GeneratedQuery, candidate: int) -> Verdict:
        """Say whether ``candidate`` is known to answer ``query``."""
        return self.judge_all([(query, candidate)])[0].verdict

    def judge_all(self, pairs: Sequence[tuple[GeneratedQuery, int]]) -> list[Judgement]:
        """Judge many pairs, in order."""
        return [self._explain(*pair) for pair in pairs]

    def _explain(self, query: GeneratedQuery, candidate: int) -> Judgement:
        if query.relevant:
            found = candidate in query.relevant
            return Judgement(POSITIVE if found else NEGATIVE, "judged" if found else "not among the judged")
        if query.mode not in BRIDGES:
            if candidate == query.source:
                return Judgement(POSITIVE, "source itself")
            return Judgement(UNKNOWN, "not judged")
        partners: Mapping[int, set[int]] = self.partners
        if query.source not in partners or candidate == query.source:
            return Judgement(UNKNOWN, "source not judged")
        if candidate in partners[query.source]:
            return Judgement(POSITIVE, "judged")
        return Judgement(NEGATIVE, "not among the judged")
