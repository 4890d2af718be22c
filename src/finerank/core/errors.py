"""Errors a person can act on: one sentence that says where, what was expected and what was found, then a hint.

Exception
└── UserError            bad data, model or environment       exit code 1
    ├── DataError        one or many bad places in the data   exit code 1
    ├── ProcessError     one process of several has failed    exit code 1
    └── UsageError       the command line or config is wrong  exit code 2
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

SHOWN_PROBLEMS = 10


class UserError(Exception):
    """Something the user can mend; the command line prints it without a traceback.

    Args:
        message: one sentence: what was expected, what was found.
        where: place in a file (``train.jsonl:17``) or an option, printed in front.
        hint: something that can be pasted or done next.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\nhint: {self.hint}" if self.hint else text


class ProcessError(UserError):
    """What one process of several has met and the others may not have."""


class UsageError(UserError):
    """The command line or the config file asks for something that does not exist or cannot be."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One bad place in a data file: ``where`` (``file:line``), a short ``code`` and a sentence."""

    where: str
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.code}]"


class DataError(UserError):
    """Data that cannot be used; carries every problem found, prints the first ten."""

    def __init__(self, problems: Iterable[Problem], *, hint: str | None = None) -> None:
        self.problems = list(problems)
        first, *rest = self.problems
        shown = "".join(f"\n       {problem}" for problem in rest[: SHOWN_PROBLEMS - 1])
        hidden = len(rest) - (SHOWN_PROBLEMS - 1)
        more = f"\n       … and {hidden:,} more" if hidden > 0 else ""
        super().__init__(f"{first.message} [{first.code}]{shown}{more}", where=first.where, hint=hint)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``'; did you mean "x"?'`` for the nearest known word, or an empty string.

    A word that is near to no whole name may be near to a part of one.

    >>> did_you_mean("modle", ["model_name_or_path", "margin"])
    '; did you mean "model_name_or_path"?'
    """
    names = list(known)
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    if not near:
        parts = {part: name for name in reversed(names) for part in name.replace("_", " ").split() if len(part) > 2}
        near = [parts[part] for part in get_close_matches(word, parts, n=1, cutoff=0.7)]
    return f'; did you mean "{near[0]}"?' if near else ""
