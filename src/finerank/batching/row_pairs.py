"""Rows to the pairs of texts that a reranker reads: one rule for its teacher scores and whatever else reads rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from finerank.batching.prompts import format_prompt
from finerank.core.protocols import AnyPair
from finerank.core.records import Row
from finerank.core.reranker_options import PairOptions

ROW_INSTRUCTIONS = {"query": ("query_prompt", "prompt"), "passage": ("passage_prompt",)}
"""Side -> keys of a row that hold its own instruction, the first that is there."""
ROW_PROMPT = "prompt"
"""Key of a row that holds what a prompted language model reads behind its pairs."""


@dataclass(frozen=True)
class PairLayout:
    """Instructions put before queries and passages.

    A row's own instruction (``query_prompt``, else ``prompt``; ``passage_prompt``) takes the place of the given one,
    and does nothing where none is given: so FlagEmbedding trains its rerankers, and a teacher reads what it was
    trained on. A prompted language model takes a row's ``prompt`` for the question behind the pair, instead.

    Attributes:
        query_instruction, passage_instruction: None puts nothing before the text.
        query_format, passage_format: ``{}{}``: instruction, text.
        prompt_last: whether a row's ``prompt`` stands behind its pairs.
    """

    query_instruction: str | None = None
    query_format: str = "{}{}"
    passage_instruction: str | None = None
    passage_format: str = "{}{}"
    prompt_last: bool = False

    @classmethod
    def of(cls, options: PairOptions, *, prompt_last: bool) -> PairLayout:
        """Return the layout that options ask for."""
        return cls(
            options.query_instruction_for_rerank, options.query_instruction_format_for_rerank,
            options.passage_instruction_for_rerank, options.passage_instruction_format_for_rerank, prompt_last,
        )  # fmt: skip

    def pairs(self, row: Row) -> Iterator[AnyPair]:
        """Yield the pairs of a row: its positives, then its negatives.

        Raises:
            UserError: if a format does not place the text last.
        """
        before_query, before_passage = self.prompts(row)
        query, prompt = before_query + row.query, self.prompt(row)
        for passage in (*row.positives, *row.negatives):
            pair = query, before_passage + passage
            yield pair if prompt is None else (*pair, prompt)

    def prompts(self, row: Row) -> tuple[str, str]:
        """Return what stands before the row's query, and before its passages.

        Raises:
            UserError: if a format does not place the text last.
        """
        return (
            self._before(row, "query", self.query_instruction, self.query_format),
            self._before(row, "passage", self.passage_instruction, self.passage_format),
        )

    def prompt(self, row: Row) -> str | None:
        """Return what stands behind the row's pairs in the place of the model's own prompt."""
        own = row.extra.get(ROW_PROMPT) if self.prompt_last else None
        return own if isinstance(own, str) else None

    def unused(self, row: Row) -> bool:
        """Say whether the row has an instruction of its own that does nothing."""
        given = {"query": self.query_instruction, "passage": self.passage_instruction}
        return any(not given[side] and self._own(row, side) is not None for side in given)

    def _before(self, row: Row, side: str, given: str | None, template: str) -> str:
        if not given:
            return ""
        own = self._own(row, side)
        return _prompt(given if own is None else own, template)

    def _own(self, row: Row, side: str) -> str | None:
        """Return the instruction that a row carries for a side, if it is a text."""
        keys = (key for key in ROW_INSTRUCTIONS[side] if not (self.prompt_last and key == ROW_PROMPT))
        return next((text for key in keys if isinstance(text := row.extra.get(key), str)), None)


@lru_cache(maxsize=1024)
def _prompt(instruction: str, template: str) -> str:
    return format_prompt(instruction, template, text_last=True)
