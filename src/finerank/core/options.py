"""A dataclass is a command line: fields become flags, YAML keys, help and checks. Each option is declared once.

Flags follow what transformers' users type: ``--a_b`` or ``--a-b``; a bool bare, with a value or negated
(``--fp16``, ``--fp16 False``, ``--no-fp16``); lists space-separated or repeated. Command line over ``--config`` over
default. No abbreviations; an unknown name is an error that names the nearest one.
"""

from __future__ import annotations

import dataclasses
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from finerank.core.aliases import aliases_for
from finerank.core.errors import UsageError, did_you_mean

TRUE_WORDS = frozenset({"true", "yes", "y", "on", "1"})
FALSE_WORDS = frozenset({"false", "no", "n", "off", "0"})
NULL_WORDS = frozenset({"none", "null"})
BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": ("at least", operator.ge),
    "gt": ("more than", operator.gt),
    "le": ("at most", operator.le),
}
PARSER_FLAGS = ("config", "dump_config", "help")


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
        bare: the value of the flag typed without one.
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


@dataclass
class Parsed:
    """A parsed command line: the options, flags left for somebody else, and what must be said aloud."""

    options: Any
    extras: dict[str, list[str]]
    notes: list[str]
    dump_config: bool = False


def declared(cls: type) -> dict[str, Option]:
    """Return a dataclass's options by name, in the order of declaration."""
    hints = typing.get_type_hints(cls)
    return {item.name: _describe(item, hints[item.name]) for item in dataclasses.fields(cls)}


def parse(cls: type, argv: Sequence[str], verb: str, *, passthrough: bool = False) -> Parsed:
    """Turn a command line into an instance of ``cls``.

    Args:
        passthrough: keep unknown flags in ``Parsed.extras`` for a later judge (transformers.TrainingArguments).

    Raises:
        UsageError: for anything unknown, missing or out of bounds.
    """
    known = declared(cls)
    typed, extras = _scan(argv, known, verb, passthrough)
    config = read_config(typed.pop("config")[0]) if "config" in typed else {}
    dump = bool(typed.pop("dump_config", False))
    from_config = _known_keys(config, known, verb, extras if passthrough else None)
    values = {name: convert(known[name], value) for name, value in {**from_config, **typed}.items()}
    missing = [item.flag for item in known.values() if item.required and item.name not in values]
    if missing:
        raise UsageError(f"{verb} needs {' and '.join(missing)}", hint=f"finerank {verb} --help")
    notes = [
        f"{known[name].flag} has no effect on {verb}: {known[name].metadata['ignored']}"
        for name in values
        if "ignored" in known[name].metadata
    ]
    return Parsed(cls(**values), extras, notes, dump)


def effective(options: Any) -> dict[str, Any]:
    """Return the options as plain values, for ``--dump_config`` and manifests."""
    return {name: getattr(options, name) for name, item in declared(type(options)).items() if not _is_ignored(item)}


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
    if _is_ignored(item):
        return value
    if value is None or (isinstance(value, str) and item.optional and value.lower() in NULL_WORDS):
        if item.optional:
            return None
        raise UsageError(f"{item.flag} needs a value")
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
    """Split ``a-b`` into two numbers, a < b.

    >>> parse_range("10-210", "--range_for_sampling")
    (10, 210)
    """
    low, dash, high = text.strip().partition("-")
    try:
        start, stop = number(low), number(high)
    except ValueError:
        dash = ""
    if not dash:
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
    except (TypeError, ValueError):
        number = None
    if number is None or number != number or (item.kind is int and number != int(number if abs(number) < 1e18 else 0)):
        wanted = "a whole number" if item.kind is int else "a number"
        raise UsageError(f'{item.flag} must be {wanted}, got "{value}"')
    return item.kind(number)


def _boolean(item: Option, value: Any) -> bool:
    word = str(value).lower()
    if word in TRUE_WORDS | FALSE_WORDS:
        return word in TRUE_WORDS
    raise UsageError(f'{item.flag} must be True or False, got "{value}"')


def _is_ignored(item: Option) -> bool:
    return "ignored" in item.metadata


def _known_keys(
    config: Mapping[str, Any], known: Mapping[str, Option], verb: str, extras: dict[str, list[str]] | None
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in config.items():
        name = _canonical(key, known, verb)
        if name is not None:
            values[name] = value
        elif extras is not None:
            extras.setdefault(key, [str(part) for part in (value if isinstance(value, list) else [value])])
        else:
            raise UsageError(f'unknown key "{key}" in --config{did_you_mean(key, known)}')
    return values


def _canonical(word: str, known: Mapping[str, Option], verb: str) -> str | None:
    name = word.replace("-", "_")
    if name in known:
        return name
    alias = aliases_for(verb).get(name)
    return alias if alias in known else None


def _scan(
    argv: Sequence[str], known: Mapping[str, Option], verb: str, passthrough: bool
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Walk the words once: flag names -> raw values (a list of words, or a bool)."""
    typed: dict[str, Any] = {}
    extras: dict[str, list[str]] = {}
    positional = next((item for item in known.values() if item.metadata.get("positional")), None)
    words = list(argv)
    while words:
        word = words.pop(0)
        if not _is_flag(word):
            if positional is None or (not positional.is_list and positional.name in typed):
                raise UsageError(f'unexpected word "{word}"', hint=f"finerank {verb} --help")
            _store(typed, positional, [word])
            continue
        label, equals, inline = word.lstrip("-").partition("=")
        if equals:
            words.insert(0, inline)
        name = label.replace("-", "_")
        if name == "dump_config":
            typed[name] = True
        elif name == "config" and "config" not in known:
            typed[name] = _one(words, word)
        else:
            _flag(name, word, words, bool(equals), known, verb, typed, extras if passthrough else None)
    return typed, extras


def _flag(
    name: str, word: str, words: list[str], inline: bool, known: Mapping[str, Option], verb: str,
    typed: dict[str, Any], extras: dict[str, list[str]] | None,
) -> None:  # fmt: skip
    canonical = _canonical(name, known, verb)
    if canonical is None and name.startswith("no_"):
        canonical = _canonical(name[3:], known, verb)
        if canonical is not None and known[canonical].kind is bool:
            typed[canonical] = False
            return
    if canonical is None:
        if extras is None:
            names = [*known, *(alias for alias, target in aliases_for(verb).items() if target in known), *PARSER_FLAGS]
            raise UsageError(
                f"unknown flag {word} for {verb}{did_you_mean(name, names)}", hint=f"finerank {verb} --help"
            )
        extras[name] = _take(words, inline)
        return
    item = known[canonical]
    if _is_ignored(item):
        typed[canonical] = _take(words, inline)
    elif item.kind is bool and not item.is_list:
        takes = bool(words) and (inline or words[0].lower() in TRUE_WORDS | FALSE_WORDS)
        typed[canonical] = words.pop(0) if takes else True
    elif item.is_list:
        values = _take(words, inline)
        if not values:
            raise UsageError(f"{word} needs at least one value")
        _store(typed, item, values)
    elif item.metadata.get("bare") is not None and not inline and (not words or _is_flag(words[0])):
        typed[canonical] = item.metadata["bare"]
    else:
        typed[canonical] = _one(words, word)[0]


def _store(typed: dict[str, Any], item: Option, values: list[str]) -> None:
    typed[item.name] = [*typed.get(item.name, []), *values] if item.is_list else values[0]


def _one(words: list[str], flag: str) -> list[str]:
    if not words or words[0].startswith("--"):
        raise UsageError(f"{flag} needs a value")
    return [words.pop(0)]


def _take(words: list[str], inline: bool) -> list[str]:
    values = [words.pop(0)] if inline else []
    while not inline and words and not _is_flag(words[0]):
        values.append(words.pop(0))
    return values


def _is_flag(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and not (word[1].isdigit() or word[1] == ".")


def help_names(item: Option, verb: str) -> Iterable[str]:
    """Return the flag and its foreign spellings, for the help."""
    yield item.flag
    yield from (f"--{alias}" if len(alias) > 2 else f"-{alias}"
                for alias, name in aliases_for(verb).items() if name == item.name)  # fmt: skip
