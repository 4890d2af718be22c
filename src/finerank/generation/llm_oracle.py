"""What a language model is asked, and how its answers are read: queries, bridges, verdicts. Unread is unknown."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from finerank.data.documents import Documents
from finerank.generation.entities import Entity, EntityIndex, segment, shortened
from finerank.generation.language import CHINESE, word_count
from finerank.generation.llm import Failure, LlmClient
from finerank.generation.oracle import BRIDGES, NEGATIVE, POSITIVE, UNKNOWN, Judgement, Oracle, Verdict
from finerank.generation.queries import GeneratedQuery

READ_WORDS = 700
"""Words of a document that the model reads."""
EVIDENCE_WORDS = 20
REJECTED = "INVALID_BRIDGE_CONNECTION"
UNPARSED = "llm_answer_unreadable"
OBJECT = re.compile(r"\{.*\}", re.DOTALL)

QUERY_PROMPT = """Write one search query that the document below answers and that its readers might type. Do not copy \
a sentence of it, do not say "the document".{language}
Answer with JSON only: {{"query": "..."}}

Document: {title}
{text}
"""
BRIDGE_PROMPT = """Choose one bridge entity in the document below for a two-hop question: well connected, unambiguous, \
likely to be described in other documents too, and not what the document as a whole is about. Then write a search \
query of 10 to 20 words that names the entity and asks for other aspects of it than those told here, in the form \
"<entity> <other aspect> instead of <aspect told here>".{language}
Answer with JSON only: {{"name": "...", "type": "...", "segment": "a self-contained passage of 50 to 200 words about \
the entity, from the document", "query": "...", "avoid": "<aspect told here>"}}

Document: {title}
{text}
"""
LINK_PROMPT = """Document A speaks of the entity "{name}". Can document B answer a second question that follows from A \
by way of this entity? Write two sub-questions: the first is answered by A and leads to the entity, the second is \
answered by B alone and is about the same entity. If there is no such link, or B means another thing of the same name, \
the verdict is "no". If you cannot tell, it is "unsure".
Answer with JSON only: {{"verdict": "yes" | "no" | "unsure", "sub_questions": ["...", "..."], "excerpt": "at least 20 \
words of B that answer the second"}}

Document A: {source}

Document B: {title}
{text}
"""
ANSWER_PROMPT = """Does the document answer the query? "yes" if somebody who typed the query would be content with it, \
"no" if not, "unsure" if you cannot tell.
Answer with JSON only: {{"verdict": "yes" | "no" | "unsure"}}

Query: {query}

Document: {title}
{text}
"""
IN_CHINESE = " Write in Chinese."


class LlmOracle:
    """A language model's verdicts.

    Attributes:
        counts: answers that could not be read, calls that failed.
    """

    def __init__(self, client: LlmClient, documents: Documents) -> None:
        self.client = client
        self.documents = documents
        self.counts: Counter[str] = Counter()

    def judge(self, query: GeneratedQuery, candidate: int) -> Verdict:
        """Say whether ``candidate`` answers ``query``."""
        return self.judge_all([(query, candidate)])[0].verdict

    def judge_all(self, pairs: Sequence[tuple[GeneratedQuery, int]]) -> list[Judgement]:
        """Judge many pairs at once, in order."""
        answers = self.client.ask_all([self._prompt(query, candidate) for query, candidate in pairs])
        return [self._read(answer, query.mode in BRIDGES) for answer, (query, _) in zip(answers, pairs)]

    def _prompt(self, query: GeneratedQuery, candidate: int) -> str:
        document = self.documents[candidate]
        text = shortened(document.text, READ_WORDS)
        if query.mode in BRIDGES and query.entity is not None:
            source = query.entity.segment or segment(self.documents[query.source], query.entity.name)
            return LINK_PROMPT.format(name=query.entity.name, source=source, title=document.title, text=text)
        return ANSWER_PROMPT.format(query=query.text, title=document.title, text=text)

    def _read(self, answer: str | Failure, bridge: bool) -> Judgement:
        if isinstance(answer, Failure):
            self.counts[answer.why] += 1
            return Judgement(UNKNOWN, answer.why)
        verdict = read_verdict(answer, bridge)
        if verdict is None:
            self.counts[UNPARSED] += 1
            return Judgement(UNKNOWN, UNPARSED)
        return Judgement(verdict, f"llm_{verdict}")


@contextmanager
def asked_of(oracle: Oracle) -> Iterator[dict[str, Any]]:
    """Give a mapping that holds, at the end, the ``calls`` made inside and the ``failures`` among them by kind.

    Both are 0 and empty for an oracle that is no language model.
    """
    found: dict[str, Any] = {"calls": 0, "failures": {}}
    if not isinstance(oracle, LlmOracle):
        yield found
        return
    used, counts = oracle.client.used, oracle.counts.copy()
    yield found
    found["calls"] = oracle.client.used - used
    found["failures"] = dict(oracle.counts - counts)


def spent(oracle: Oracle, calls: int) -> None:
    """Charge calls of an earlier run to a language model's budget."""
    if isinstance(oracle, LlmOracle):
        oracle.client.used += calls


def read_verdict(answer: str, bridge: bool) -> Verdict | None:
    """Return what an answer says, or None if that cannot be read.

    A bridge is positive with exactly two sub-questions and an excerpt of 20 words; a yes that lacks them is unknown.

    >>> read_verdict('Sure! {"verdict": "no"}', bridge=False)
    'negative'
    """
    if REJECTED in answer:
        return NEGATIVE
    found = read_object(answer)
    word = str(found.get("verdict", "")).strip().lower() if found is not None else ""
    if word == "unsure":
        return UNKNOWN
    if word == "no":
        return NEGATIVE
    if word != "yes" or found is None:
        return None
    if not bridge:
        return POSITIVE
    questions = found.get("sub_questions")
    asked = isinstance(questions, list) and len(questions) == 2 and all(isinstance(q, str) and q for q in questions)
    excerpt = found.get("excerpt")
    shown = isinstance(excerpt, str) and word_count(excerpt) >= EVIDENCE_WORDS
    return POSITIVE if asked and shown else UNKNOWN


def read_object(answer: str) -> Mapping[str, Any] | None:
    """Return the JSON object in an answer, whatever stands around it, or None."""
    match = OBJECT.search(answer)
    if match is None:
        return None
    try:
        found = json.loads(match[0])
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def llm_queries(
    client: LlmClient, index: EntityIndex, wishes: Sequence[tuple[int, str]]
) -> list[GeneratedQuery | str]:  # fmt: skip
    """Write a query for each (document, mode ``llm`` or ``llm_bridge``); or say why there is none."""
    language = IN_CHINESE if index.language == CHINESE else ""
    prompts = []
    for number, mode in wishes:
        document = index.documents[number]
        form = BRIDGE_PROMPT if mode in BRIDGES else QUERY_PROMPT
        text = shortened(document.text, READ_WORDS)
        prompts.append(form.format(language=language, title=document.title, text=text))
    answers = client.ask_all(prompts)
    return [read_query(answer, number, mode, index) for answer, (number, mode) in zip(answers, wishes)]


def read_query(answer: str | Failure, number: int, mode: str, index: EntityIndex) -> GeneratedQuery | str:
    """Return the query that an answer holds, or why it holds none."""
    if isinstance(answer, Failure):
        return answer.why
    found = read_object(answer)
    text = found.get("query") if found is not None else None
    if found is None or not isinstance(text, str) or not text.strip():
        return UNPARSED
    query = " ".join(text.split())
    if mode not in BRIDGES:
        return GeneratedQuery(query, mode, None, number)
    name, kind, part = (str(found.get(key) or "").strip() for key in ("name", "type", "segment"))
    if not name:
        return UNPARSED
    if word_count(part) < EVIDENCE_WORDS:
        part = segment(index.documents[number], name)
    avoid = str(found.get("avoid") or "")
    return GeneratedQuery(query, mode, Entity(name, kind or "Concept", part), number, "", avoid)
