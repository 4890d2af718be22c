"""``--help`` text, made from the declared options."""

from __future__ import annotations

import textwrap
from dataclasses import MISSING
from inspect import get_annotations

from finerank.core.options import Option, declared, help_names

WIDTH = 118
INDENT = 8


def verb_help(cls: type, verb: str, summary: str) -> str:
    """Return the help page of one verb."""
    items = _in_reading_order(cls)
    positional = next((item for item in items if item.metadata.get("positional")), None)
    words = f" {positional.name.upper()}{' …' if positional.is_list else ''}" if positional else ""
    lines = [f"usage: finerank {verb}{words} [options]", "", summary, ""]
    for item in items:
        lines += _entry(item, verb)
    lines += ["  --config FILE.yaml", _wrap("the same names as keys; the command line wins over it.")]
    lines += ["  --dump_config", _wrap("print the effective options as YAML and stop.")]
    return "\n".join(lines) + "\n"


def _in_reading_order(cls: type) -> list[Option]:
    """Return the options with the verb's own first and those of every verb last; a class's own order stays."""
    known = declared(cls)
    names = dict.fromkeys(name for layer in cls.__mro__ for name in get_annotations(layer) if name in known)
    return [known[name] for name in names]


def _entry(item: Option, verb: str) -> list[str]:
    names = ", ".join(help_names(item, verb))
    return [f"  {names}{_value(item)}", _wrap(f"{item.metadata.get('help', '')}{_default(item)}")]


def _value(item: Option) -> str:
    if "ignored" in item.metadata:
        return ""
    if item.kind is bool:
        return " [True|False]"
    name = item.metadata.get("metavar") or ("|".join(item.choices) if item.choices else item.kind.__name__.upper())
    return f" {name}{' …' if item.is_list else ''}"


def _default(item: Option) -> str:
    if "ignored" in item.metadata:
        return ""
    if item.default is MISSING:
        return " (required)"
    if item.default is None or item.default == [] or item.default == "":
        return ""
    shown = " ".join(map(str, item.default)) if isinstance(item.default, list) else item.default
    return f" (default: {shown})"


def _wrap(text: str) -> str:
    pad = " " * INDENT
    return textwrap.fill(text, WIDTH, initial_indent=pad, subsequent_indent=pad)
