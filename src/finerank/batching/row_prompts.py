"""What stands before the texts of a group in training, by its row: the instruction that the row brings along."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from finerank.batching.prompts import format_prompt
from finerank.batching.row_pairs import PairLayout
from finerank.core.data_sets import BOTH_SIDES_ALIKE, Kind
from finerank.core.records import Row

Prompts: TypeAlias = Callable[[Row, Kind], Mapping[str, Any]]
"""A row and its kind -> fields of its Group: ``query_prompt``, ``passage_prompt``, ``prompt``, ``alike``."""


def no_prompts(row: Row, kind: Kind) -> Mapping[str, Any]:
    """Leave all texts as they are, whatever the row says."""
    return {}


def embedder_prompts(row: Row, kind: Kind, template: str = "{}{}") -> Mapping[str, Any]:
    """Put the row's ``prompt`` in the place of the query instruction; a row without one keeps the model's own.

    Passages get the query's where both sides are texts of one sort (``type`` symmetric_sts, symmetric_clustering).

    Args:
        template: how an instruction and a query are joined.
    """
    own = row.extra.get("prompt") if row.extra else None
    alike = kind.type in BOTH_SIDES_ALIKE
    if not isinstance(own, str):
        return {"alike": True} if alike else {}
    return {"query_prompt": _before(own, template), "alike": alike}


def pair_prompts(row: Row, kind: Kind, layout: PairLayout) -> Mapping[str, Any]:
    """Put around both texts what ``finerank score`` puts there, by the same layout; else the model's own."""
    query, passage = layout.prompts(row)
    return {
        "query_prompt": query if layout.query_instruction else None,
        "passage_prompt": passage if layout.passage_instruction else None,
        "prompt": layout.prompt(row),
    }


@lru_cache(maxsize=1024)
def _before(instruction: str, template: str) -> str:
    return format_prompt(instruction, template)
