"""Tries at rows: each a pure function of its number, in batches; what depends on the others is decided later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finerank.core.seeding import stream
from finerank.data.documents import Documents
from finerank.generation.assembly import Wanted, assemble
from finerank.generation.candidates import Candidates, Found
from finerank.generation.entities import EntityIndex
from finerank.generation.llm import LlmClient
from finerank.generation.llm_oracle import LlmOracle, llm_queries
from finerank.generation.oracle import BRIDGES, NEGATIVE, POSITIVE, Judgement, Oracle, RuleOracle
from finerank.generation.queries import GeneratedQuery, queries_for
from finerank.retrieval.diverse import Weights

LLM_MODES = frozenset({"llm", "llm_bridge"})
NO_QUERY, NOT_CONFIRMED = "no_query_from_document", "source_not_confirmed"

Outcome = dict[str, Any] | str
"""A row by numbers, or why there is none."""


@dataclass(frozen=True)
class Plan:
    """What a run wants.

    Attributes:
        modes: mode -> weight.
        weights: the diverse retriever's.
        candidates: judged per query.
        early_stop: stop at the first positive and the first negative.
    """

    modes: Mapping[str, float]
    weights: Weights
    candidates: int
    pool_factor: int
    early_stop: bool
    wanted: Wanted
    seed: int


class Workshop:
    """Makes rows out of documents.

    Args:
        sources: numbers of the documents that queries are made from, in the order of the tries.
        judged: queries to use in place of made ones; there are no further rounds then.

    Attributes:
        verdicts: why -> judgements.
    """

    def __init__(
        self, index: EntityIndex, documents: Documents, candidates: Candidates, oracle: Oracle, plan: Plan,
        sources: Sequence[int], client: LlmClient | None = None, judged: Sequence[GeneratedQuery] = (),
    ) -> None:  # fmt: skip
        self.index = index
        self.documents = documents
        self.candidates = candidates
        self.oracle = oracle
        self.plan = plan
        self.sources = sources
        self.client = client
        self.judged = judged
        self.rules = RuleOracle(index, documents)
        self.verdicts: Counter[str] = Counter()

    @property
    def round(self) -> int:
        """Tries after which every source has had one."""
        return len(self.judged) or len(self.sources)

    def make(self, start: int, stop: int) -> list[Outcome]:
        """Make the tries [start, stop)."""
        queries = self._queries(range(start, stop))
        good = [(place, query) for place, query in enumerate(queries) if isinstance(query, GeneratedQuery)]
        plan = self.plan
        found = self.candidates.find([query for _, query in good], plan.candidates, plan.weights, plan.pool_factor)
        judged = self._judge([query for _, query in good], found)
        outcomes: list[Outcome] = [query if isinstance(query, str) else NO_QUERY for query in queries]
        for (place, query), each, judgements in zip(good, found, judged):
            outcomes[place] = self._row(start + place, query, each, judgements)
        return outcomes

    def _row(self, number: int, query: GeneratedQuery, found: Found, judgements: dict[int, Judgement]) -> Outcome:
        self.verdicts.update(f"{judgement.verdict}: {judgement.why}" for judgement in judgements.values())
        confirmed = judgements.pop(query.source, None)
        if confirmed is not None and confirmed.verdict != POSITIVE:
            return NOT_CONFIRMED
        made = assemble(
            query, found, judgements, self.documents, self.plan.wanted,
            lambda numbers: self._further(query, numbers), stream(self.plan.seed, "negatives", number),
        )  # fmt: skip
        return made if isinstance(made, str) else made | {"id": f"{query.mode}-{number}"}

    def _further(self, query: GeneratedQuery, numbers: Sequence[int]) -> list[Judgement]:
        """Judge documents for topping up: without a language model, of which each question costs."""
        oracle = self.oracle if query.relevant else self.rules
        return oracle.judge_all([(query, number) for number in numbers])

    def _queries(self, tries: Sequence[int]) -> list[GeneratedQuery | str]:
        if self.judged:
            return [self.judged[number] for number in tries]
        found: list[GeneratedQuery | str] = []
        asked: list[tuple[int, int, str]] = []
        for place, number in enumerate(tries):
            source, rng = self.sources[number % len(self.sources)], stream(self.plan.seed, "try", number)
            mode = rng.choices(list(self.plan.modes), list(self.plan.modes.values()))[0]
            if mode in LLM_MODES:
                asked.append((place, source, mode))
                found.append(NO_QUERY)
                continue
            plain = {name: weight for name, weight in self.plan.modes.items() if name not in LLM_MODES}
            made = queries_for(self.index, self.documents, source, plain, rng)
            found.append(made[0] if made else NO_QUERY)
        if asked and self.client is not None:
            answers = llm_queries(self.client, self.index, [(source, mode) for _, source, mode in asked])
            for (place, _, _), answer in zip(asked, answers):
                found[place] = answer
        return found

    def _judge(self, queries: Sequence[GeneratedQuery], found: Sequence[Found]) -> list[dict[int, Judgement]]:
        """Judge every query's candidates; a language model also says whether the source answers its own query."""
        if self.plan.early_stop:
            return [self._until_both(query, each.positions) for query, each in zip(queries, found)]
        pairs = [(query, number) for query, each in zip(queries, found) for number in self._asked(query, each)]
        verdicts = iter(self.oracle.judge_all(pairs))
        return [{number: next(verdicts) for number in self._asked(query, each)} for query, each in zip(queries, found)]

    def _asked(self, query: GeneratedQuery, found: Found) -> list[int]:
        return [*self._own(query), *found.positions]

    def _own(self, query: GeneratedQuery) -> list[int]:
        """Return the source where a language model has to confirm it."""
        confirms = isinstance(self.oracle, LlmOracle) and query.mode not in BRIDGES and not query.relevant
        return [query.source] if confirms else []

    def _until_both(self, query: GeneratedQuery, positions: Sequence[int]) -> dict[int, Judgement]:
        judged: dict[int, Judgement] = {}
        needs: set[str] = {NEGATIVE, POSITIVE} if query.mode in BRIDGES else {NEGATIVE}
        for number in [*self._own(query), *positions]:
            judged[number] = self.oracle.judge_all([(query, number)])[0]
            needs.discard(judged[number].verdict)
            if not needs:
                break
        return judged
