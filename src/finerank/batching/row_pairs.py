"""Rows to the pairs of texts that a reranker reads: one rule for its teacher scores and whatever else reads rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from finerank.batching.prompts import format_prompt
from finerank.core.protocols import Pair
from finerank.core.records import Row

ROW_INSTRUCTIONS = {"query": ("query_prompt", "prompt"), "passage": ("passage_prompt",)}
"""Side -> keys of a row that hold its own instruction, the first that is there."""


@dataclass(frozen=True)
class PairLayout:
    """Instructions put before queries and passages.

    A row's own instruction (``query_prompt``, else ``prompt``; ``passage_prompt``) takes the place of the given one,
    and does nothing where none is given: so FlagEmbedding trains its rerankers, and a teacher reads what it was
    trained on.

    Attributes:
        query_instruction, passage_instruction: None puts nothing before the text.
        query_format, passage_format: ``{}{}``: instruction, text.
    """

    query_instruction: str | None = None
    query_format: str = "{}{}"
    passage_instruction: str | None = None
    passage_format: str = "{}{}"

    def pairs(self, row: Row) -> Iterator[Pair]:
        """Yield the pairs of a row: its positives, then its negatives.

        Raises:
            UserError: if a format does not place the text last.
        """
        before_query, before_passage = self.prompts(row)
        query = before_query + row.query
        for passage in (*row.positives, *row.negatives):
            yield query, before_passage + passage

    def prompts(self, row: Row) -> tuple[str, str]:
        """Return what stands before the row's query, and before its passages.

        Raises:
            UserError: if a format does not place the text last.
        """
        return (
            self._before(row, "query", self.query_instruction, self.query_format),
            self._before(row, "passage", self.passage_instruction, self.passage_format),
        )

    def unused(self, row: Row) -> bool:
        """Say whether the row has an instruction of its own that does nothing."""
        given = {"query": self.query_instruction, "passage": self.passage_instruction}
        return any(not given[side] and own_instruction(row, side) is not None for side in given)

    def _before(self, row: Row, side: str, given: str | None, template: str) -> str:
        if not given:
            return ""
        own = own_instruction(row, side)
        return _prompt(given if own is None else own, template)


def own_instruction(row: Row, side: str) -> str | None:
    """Return the instruction that a row carries for a side, if it is a text."""
    found = (row.extra.get(key) for key in ROW_INSTRUCTIONS[side])
    return next((text for text in found if isinstance(text, str)), None)


@lru_cache(maxsize=1024)
def _prompt(instruction: str, template: str) -> str:
    return format_prompt(instruction, template)
