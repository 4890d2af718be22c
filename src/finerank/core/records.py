"""Row and Group: the two shapes that training data takes.

A Row is one line of a row file: a query, at least one positive, maybe negatives and teacher scores. A Group is what
one training example becomes in one epoch: the query and G passages, the positive first. Foreign spellings of keys are
accepted here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finerank.core.errors import DataError, Problem

KEY_ALIASES: dict[str, tuple[str, ...]] = {
    "query": ("query", "question", "anchor"),
    "pos": ("pos", "positive", "positives"),
    "neg": ("neg", "negative", "negatives"),
    "pos_scores": ("pos_scores",),
    "neg_scores": ("neg_scores",),
}
CANDIDATE_KEYS = ("knowledges", "kowndges", "documents", "passages", "texts")
"""Spellings of the passage list in a candidates file; the misspelt one is seed 002's."""


@dataclass(frozen=True)
class Row:
    """One checked line of a row file.

    Attributes:
        query: the query text, never blank.
        positives: at least one relevant passage.
        negatives: passages labelled not relevant; may be empty.
        where: ``file:line``, for errors.
        pos_scores, neg_scores: teacher scores, as long as their lists, or None.
        extra: every other key of the line, untouched (``id``, ``prompt``, ``type``, …).
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    where: str = ""
    pos_scores: tuple[float, ...] | None = None
    neg_scores: tuple[float, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        """Return the line as it is written: standard keys first, then what travelled through."""
        line: dict[str, Any] = {"query": self.query, "pos": list(self.positives), "neg": list(self.negatives)}
        if self.pos_scores is not None:
            line["pos_scores"] = list(self.pos_scores)
        if self.neg_scores is not None:
            line["neg_scores"] = list(self.neg_scores)
        return line | dict(self.extra)


@dataclass(frozen=True)
class Group:
    """One query with its G passages in one epoch, the positive at 0.

    Attributes:
        passages: G texts.
        teacher_scores: G floats aligned with ``passages``, NaN for a passage from elsewhere; None without a teacher.
        row: index of the row in its data set.
        known_positives: every positive of the row; in-batch copies of them are not negatives.
        query_prompt, passage_prompt: what the row has put before its query and its passages; None leaves it to the
            model.
        prompt: what the row has a prompted language model read behind query and passage; None likewise.
        alike: whether the passages are texts like the query and get its prompt.
        in_batch: whether passages of other queries are negatives too.
        written_positive: the positive as its row has it, where ``passages`` has it shuffled.
    """

    query: str
    passages: tuple[str, ...]
    row: int
    teacher_scores: tuple[float, ...] | None = None
    known_positives: frozenset[str] = frozenset()
    query_prompt: str | None = None
    passage_prompt: str | None = None
    prompt: str | None = None
    alike: bool = False
    in_batch: bool = True
    written_positive: str | None = None

    @property
    def prompted(self) -> bool:
        """Whether the row decides what stands before or behind a text."""
        own = self.query_prompt, self.passage_prompt, self.prompt
        return self.alike or any(prompt is not None for prompt in own)

    def written(self) -> tuple[str, ...]:
        """Return the passages as their rows have them: what tells whether two are the same."""
        return (self.passages[0] if self.written_positive is None else self.written_positive, *self.passages[1:])


def parse_row(line: Mapping[str, Any], where: str) -> Row:
    """Check one parsed line and return it as a Row.

    Raises:
        DataError: with every problem of the line, each carrying ``where``.
    """
    problems = _Problems(where)
    keys = {name: next((key for key in spellings if key in line), None) for name, spellings in KEY_ALIASES.items()}
    query = problems.text(line, keys["query"], "query")
    positives = problems.texts(line, keys["pos"], "pos", at_least=1)
    negatives = problems.texts(line, keys["neg"], "neg", at_least=0)
    pos_scores = problems.scores(line, keys["pos_scores"], "pos_scores", len(positives))
    neg_scores = problems.scores(line, keys["neg_scores"], "neg_scores", len(negatives))
    if problems.found:
        raise DataError(problems.found)
    used = {key for key in keys.values() if key is not None}
    extra = {key: value for key, value in line.items() if key not in used}
    return Row(query, positives, negatives, where, pos_scores, neg_scores, extra)


class _Problems:
    """Collects what is wrong with one line, so that all of it is said at once."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.found: list[Problem] = []

    def add(self, code: str, message: str) -> None:
        self.found.append(Problem(self.where, code, message))

    def text(self, line: Mapping[str, Any], key: str | None, name: str) -> str:
        if key is None:
            self.add(f"missing-{name}", f'the row has no "{name}"{_present(line)}')
            return ""
        value = line[key]
        if not isinstance(value, str):
            self.add(f"bad-{name}", f'"{key}" must be a string, got {kind(value)}')
            return ""
        self._check_text(value, key, name)
        return value

    def texts(self, line: Mapping[str, Any], key: str | None, name: str, at_least: int) -> tuple[str, ...]:
        value = line[key] if key is not None else None
        if value is None and at_least == 0:
            return ()
        if key is None:
            self.add(f"missing-{name}", f'the row has no "{name}"{_present(line)}')
            return ()
        if not isinstance(value, Sequence) or isinstance(value, str):
            self.add(f"bad-{name}", f'"{key}" must be a list of strings, got {kind(value)}')
            return ()
        if len(value) < at_least:
            self.add(f"empty-{name}", f'"{key}" must hold at least {at_least} string, got an empty list')
        for index, item in enumerate(value):
            if isinstance(item, str):
                self._check_text(item, f"{key}[{index}]", name)
            else:
                self.add(f"bad-{name}", f'"{key}[{index}]" must be a string, got {kind(item)}')
        return tuple(item for item in value if isinstance(item, str))

    def scores(self, line: Mapping[str, Any], key: str | None, name: str, expected: int) -> tuple[float, ...] | None:
        value = line[key] if key is not None else None
        if value is None:
            return None
        if not isinstance(value, Sequence) or isinstance(value, str):
            self.add(f"bad-{name}", f'"{name}" must be a list of numbers, got {kind(value)}')
            return None
        wrong = [item for item in value if not is_number(item)]
        if wrong:
            self.add(f"bad-{name}", f'"{name}" must hold finite numbers, got {kind(wrong[0])} {wrong[0]!r}'[:200])
            return None
        if len(value) != expected:
            side = name.split("_")[0]
            self.add(f"length-{name}", f'{expected} texts in "{side}" but {len(value)} numbers in "{name}"')
        return tuple(float(item) for item in value)

    def _check_text(self, value: str, key: str, name: str) -> None:
        if not value.strip():
            self.add(f"blank-{name}", f'"{key}" is blank')
        elif "\x00" in value:
            self.add(f"nul-{name}", f'"{key}" contains a NUL character')


def is_number(value: Any) -> bool:
    """Say whether ``value`` is a finite number (a bool is not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def kind(value: Any) -> str:
    """Name a JSON value's type as its writer would."""
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _present(line: Mapping[str, Any]) -> str:
    keys = ", ".join(f'"{key}"' for key in list(line)[:8])
    return f" (its keys: {keys})" if keys else " (it is empty)"
