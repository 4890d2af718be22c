"""Words to options: flags, ``--config`` and defaults, in that order of precedence.

Flags are what transformers' users type: ``--a_b`` or ``--a-b``; a bool bare, with a value or negated (``--fp16``,
``--fp16 False``, ``--no-fp16``); lists space-separated or repeated. No abbreviations; an unknown name is an error that
names the nearest one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finerank.core.aliases import aliases_for
from finerank.core.errors import UsageError, did_you_mean
from finerank.core.options import FALSE_WORDS, TRUE_WORDS, Option, convert, declared, is_ignored, read_config

PARSER_FLAGS = ("config", "config_path", "dump_config", "help")

CONFIG_FLAGS = ("config", "config_path")


@dataclass
class Parsed:
    """A parsed command line: the options, flags left for somebody else, and what must be said aloud."""

    options: Any
    extras: dict[str, list[str]]
    notes: list[str]
    dump_config: bool = False


def parse(cls: type, argv: Sequence[str], verb: str, *, passthrough: bool = False) -> Parsed:
    """Turn a command line into an instance of ``cls``.

    Args:
        passthrough: keep unknown flags in ``Parsed.extras`` for a later judge (transformers.TrainingArguments).

    Raises:
        UsageError: for anything unknown, missing or out of bounds.
    """
    known = declared(cls)
    typed, extras = _scan(argv, known, verb, passthrough)
    config, said = _config(cls, typed, _names(known, verb))
    dump = bool(typed.pop("dump_config", False))
    from_config = _known_keys(config, known, verb, extras if passthrough else None)
    values = {name: convert(known[name], value) for name, value in {**from_config, **typed}.items()}
    missing = [item.flag for item in known.values() if item.required and item.name not in values]
    if missing:
        unknown = [f"--{name} is not known{did_you_mean(name, _names(known, verb))}" for name in extras]
        raise UsageError(f"{verb} needs {' and '.join(missing)}", hint="; ".join(unknown) or f"finerank {verb} --help")
    notes = [
        f"{known[name].flag} has no effect on {verb}: {known[name].metadata['ignored']}"
        for name in values
        if "ignored" in known[name].metadata
    ]
    return Parsed(cls(**values), extras, said + notes, dump)


def _config(cls: type, typed: dict[str, Any], names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Read ``--config``; a verb's class may find one where none is named (``find_config``) or read another tool's."""
    find, adapt = getattr(cls, "find_config", None), getattr(cls, "adapt_config", None)
    path = typed.pop("config")[0] if "config" in typed else find(typed) if find is not None else None
    if path is None:
        return {}, []
    config = read_config(path)
    return (config, []) if adapt is None else adapt(config, path, names)


def _names(known: Mapping[str, Option], verb: str) -> list[str]:
    """Return everything that can be typed for a verb."""
    return [*known, *(alias for alias, target in aliases_for(verb).items() if target in known), *PARSER_FLAGS]


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
        elif name in CONFIG_FLAGS and name not in known:
            typed["config"] = [words.pop(0)] if equals else _one(words, word)
        else:
            _flag(name, word, words, bool(equals), known, verb, typed, extras if passthrough else None)
    return typed, extras


def _flag(
    name: str, word: str, words: list[str], inline: bool, known: Mapping[str, Option], verb: str,
    typed: dict[str, Any], extras: dict[str, list[str]] | None,
) -> None:  # fmt: skip
    canonical = _canonical(name, known, verb)
    if canonical is None and name.startswith("no_"):
        negated = _canonical(name[3:], known, verb)
        if negated is not None and known[negated].kind is bool:
            typed[negated] = False
            return
    if canonical is None:
        if extras is None:
            near = did_you_mean(name, _names(known, verb))
            raise UsageError(f"unknown flag {word} for {verb}{near}", hint=f"finerank {verb} --help")
        extras[name] = _take(words, inline)
        return
    item = known[canonical]
    if is_ignored(item):
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
        typed[canonical] = words.pop(0) if inline else _one(words, word)[0]


def _store(typed: dict[str, Any], item: Option, values: list[str]) -> None:
    typed[item.name] = [*typed.get(item.name, []), *values] if item.is_list else values[0]


def _one(words: list[str], flag: str) -> list[str]:
    if not words or (words[0].startswith("--") and _is_flag(words[0])):
        raise UsageError(f"{flag} needs a value")
    return [words.pop(0)]


def _take(words: list[str], inline: bool) -> list[str]:
    values = [words.pop(0)] if inline else []
    while not inline and words and not _is_flag(words[0]):
        values.append(words.pop(0))
    return values


def _is_flag(word: str) -> bool:
    """Tell a flag from a value that begins with a dash: a number, or a text (white space in it, before any ``=``)."""
    name = word.partition("=")[0]
    return len(word) > 1 and word[0] == "-" and not (word[1].isdigit() or word[1] == ".") and len(name.split()) == 1
