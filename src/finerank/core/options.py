"""A dataclass is a command line: fields become flags, YAML keys, help and checks. Each option is declared once."""

from __future__ import annotations

import dataclasses
import functools
import operator
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from finerank.core.aliases import SHORT_FLAGS, aliases_for
from finerank.core.errors import UsageError, did_you_mean

TRUE_WORDS = frozenset({"true", "yes", "y", "on", "1"})
FALSE_WORDS = frozenset({"false", "no", "n", "off", "0"})
NULL_WORDS = frozenset({"none", "null"})
BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": ("at least", operator.ge),
    "gt": ("more than", operator.gt),
    "le": ("at most", operator.le),
}


def option(
    default: Any = MISSING,
    help: str = "",  # the flag's own word for it
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    positional: bool = False,
    semantic: bool = True,
    metavar: str | None = None,
    bare: str | None = None,
) -> Any:
    """Declare an option; without ``default`` it is required.

    Args:
        help: what it is, unit, consequence.
        ge, gt, le: bounds of a number.
        positional: also takes the words that follow no flag.
        semantic: whether it decides the bytes of the output (a device or a batch size does not); such options
            make two runs different runs.
        metavar: how the value is called in the help.
        bare: the value of the flag typed without one, or with True; False is None.
    """
    metadata = {
        "help": help, "ge": ge, "gt": gt, "le": le, "positional": positional, "semantic": semantic, "metavar": metavar,
        "bare": bare,
    }  # fmt: skip
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def ignored(reason: str) -> Any:
    """Declare a flag that other tools' command lines carry here and that has no effect: accepted, and said aloud."""
    return field(default=None, metadata={"ignored": reason, "semantic": False, "help": f"no effect: {reason}"})


@dataclass(kw_only=True)
class VerbOptions:
    """What every verb takes."""

    json: bool = option(False, "print the result as JSON on stdout instead of a table", semantic=False)
    debug: bool = option(False, "show Python tracebacks", semantic=False)

    def __post_init__(self) -> None:
        for item in declared(type(self)).values():
            setattr(self, item.name, check_bounds(item, convert(item, getattr(self, item.name))))


@dataclass(frozen=True)
class Option:
    """One declared option, its type taken apart."""

    name: str
    kind: type
    is_list: bool
    optional: bool
    choices: tuple[str, ...]
    default: Any
    metadata: Mapping[str, Any]

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    @property
    def required(self) -> bool:
        return self.default is MISSING


def declared(cls: type) -> Mapping[str, Option]:
    """Return a dataclass's options by name, in the order of declaration."""
    known: Any = cls  # a class can be hashed, also where its instances cannot
    return _declared(known)


@functools.cache
def _declared(cls: type) -> Mapping[str, Option]:
    hints = typing.get_type_hints(cls)
    return {item.name: _describe(item, hints[item.name]) for item in dataclasses.fields(cls)}


def effective(options: Any) -> dict[str, Any]:
    """Return the options as plain values, for ``--dump_config`` and manifests."""
    return {name: getattr(options, name) for name, item in declared(type(options)).items() if not is_ignored(item)}


def semantic(options: Any) -> dict[str, Any]:
    """Return the options that decide the output's bytes."""
    known = declared(type(options))
    return {name: value for name, value in effective(options).items() if known[name].metadata.get("semantic", True)}


def read_config(path: str) -> dict[str, Any]:
    """Read a YAML mapping of option names.

    Raises:
        UsageError: if the file is missing or is not a mapping.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content or {}, dict):
        raise UsageError(f"--config {path} must hold option names and values, got {type(content).__name__}")
    return {str(key).replace("-", "_"): value for key, value in (content or {}).items()}


def convert(item: Option, value: Any) -> Any:
    """Turn a word, a list of words or a YAML value into the option's type.

    Raises:
        UsageError: naming the flag, what was expected and what was found.
    """
    if is_ignored(item):
        return value
    if value is None or (isinstance(value, str) and item.optional and value.lower() in NULL_WORDS):
        if item.optional:
            return None
        raise UsageError(f"{item.flag} needs a value")
    bare = item.metadata.get("bare")
    if bare is not None and str(value).lower() in ("true", "false"):  # the flag as a switch
        return bare if str(value).lower() == "true" else None
    if item.is_list:
        parts = list(value) if isinstance(value, (list, tuple)) else [value]
        return [_scalar(item, part) for part in parts]
    if isinstance(value, (list, tuple)):
        raise UsageError(f"{item.flag} takes one value, got {len(value)}")
    return _scalar(item, value)


def check_bounds(item: Option, value: Any) -> Any:
    """Return ``value`` if it is within the declared bounds; raise UsageError if not."""
    for part in value if isinstance(value, list) else [value]:
        for key, (text, within) in BOUNDS.items():
            bound = item.metadata.get(key)
            if bound is not None and part is not None and not within(part, bound):
                raise UsageError(f"{item.flag} must be {text} {bound}, got {part}")
    return value


def parse_range(text: str, flag: str, number: type = int) -> tuple[Any, Any]:
    """Split ``a-b`` into two numbers, a < b, at the last dash behind a digit; the others are signs.

    >>> parse_range("10-210", "--range_for_sampling")
    (10, 210)
    >>> parse_range("-0.2--0.1", "--similarity_range", float)
    (-0.2, -0.1)
    """
    halves = re.fullmatch(r"(.*\d)-(.*)", text.strip())
    try:
        start, stop = (number(half) for half in halves.groups()) if halves else (nan, nan)
    except ValueError:
        start = stop = nan
    if isnan(start) or isnan(stop):
        raise UsageError(f'{flag} must be two numbers joined by "-", e.g. 10-210, got "{text}"')
    if start >= stop:
        raise UsageError(
            f"{flag} {text}: start must be smaller than end",
            hint=f"{stop}-{start}" if start > stop else f"{start}-{start + 100 if number is int else 1}",
        )
    return start, stop


def _describe(item: dataclasses.Field[Any], hint: Any) -> Option:
    optional = False
    if get_origin(hint) in (Union, types.UnionType):
        inner = [part for part in get_args(hint) if part is not type(None)]
        optional, hint = len(inner) < len(get_args(hint)), inner[0]
    is_list = get_origin(hint) is list
    if is_list:
        hint = get_args(hint)[0]
    choices = tuple(get_args(hint)) if get_origin(hint) is Literal else ()
    kind = str if choices or hint is Any else hint
    default = item.default_factory() if item.default_factory is not MISSING else item.default
    return Option(item.name, kind, is_list, optional, choices, default, item.metadata)


def _scalar(item: Option, value: Any) -> Any:
    if item.kind is bool:
        return _boolean(item, value)
    if item.kind is str:
        text = value if isinstance(value, str) else str(value)
        if item.choices and text not in item.choices:
            raise UsageError(
                f'unknown {item.flag} "{text}"{did_you_mean(text, item.choices)}',
                hint=f"one of: {', '.join(item.choices)}",
            )
        return text
    try:
        number = float(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != number or (item.kind is int and not number.is_integer()):
        wanted = "a whole number" if item.kind is int else "a number"
        raise UsageError(f'{item.flag} must be {wanted}, got "{value}"')
    # A float holds 53 bits; a seed may have 64.
    return int(value) if item.kind is int and str(value).strip().lstrip("+-").isdecimal() else item.kind(number)


def _boolean(item: Option, value: Any) -> bool:
    word = str(value).lower()
    if word in TRUE_WORDS | FALSE_WORDS:
        return word in TRUE_WORDS
    raise UsageError(f'{item.flag} must be True or False, got "{value}"')


def is_ignored(item: Option) -> bool:
    return "ignored" in item.metadata


def help_names(item: Option, verb: str) -> Iterable[str]:
    """Return the flag and its foreign spellings, for the help."""
    yield item.flag
    foreign = (alias for alias, name in aliases_for(verb).items() if name == item.name)
    yield from (f"-{alias}" if alias in SHORT_FLAGS else f"--{alias}" for alias in foreign)
