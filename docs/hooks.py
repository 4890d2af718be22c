"""Pages made from the code when the site is built: one per command, the table of aliases, the list of decisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from finerank.cli import VERBS, Verb
from finerank.core.aliases import ALIASES, aliases_for
from finerank.core.options import Option, declared, is_ignored

ALIASES_HERE = "<!-- aliases -->"


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    pages = {f"commands/{name.replace(' ', '_')}.md": command_page(name, verb) for name, verb in VERBS.items()}
    pages["commands/index.md"] = overview()
    pages["decisions.md"] = decisions(Path(config.docs_dir) / "adr")
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Put the table of aliases where a page asks for it."""
    return markdown.replace(ALIASES_HERE, alias_table())


def overview() -> str:
    """Return the page that lists the commands."""
    rows = [f"| [`{name}`]({name.replace(' ', '_')}.md) | {verb.summary} |" for name, verb in VERBS.items()]
    return "\n".join(["# Commands", "", "| command | |", "| --- | --- |", *rows, "", *SHARED])


SHARED = [
    "Every command takes `--config FILE.yaml` (the same names as keys; the command line wins), `--dump_config` (print",
    "the effective options and stop), `--json` (the result as JSON) and `--help`. Flags are typed `--a_b` or `--a-b`;",
    "a bool bare, with a value or negated (`--fp16`, `--fp16 False`, `--no-fp16`); a list with spaces between its",
    "parts.",
]


def command_page(name: str, verb: Verb) -> str:
    """Return one command's page: what it is for, its options, what it accepts without effect."""
    known = declared(getattr(import_module(verb.module), verb.options))
    lines = [f"# finerank {name}", "", verb.summary, "", f"    finerank {name} {_usage(known)}", ""]
    if verb.passthrough:
        lines += [
            "Every name of `transformers.TrainingArguments` works too, those that version 5 dropped included.",
            "",
        ]
    lines += ["| option | default | |", "| --- | --- | --- |"]
    lines += [_row(item, name) for item in known.values() if not is_ignored(item)]
    silent = [item for item in known.values() if is_ignored(item)]
    if silent:
        lines += ["", "Accepted, since other tools' command lines carry them here, and without effect:", ""]
        lines += [f"* `{item.flag}`: {escape(item.metadata['ignored'])}" for item in silent]
    return "\n".join(lines) + "\n"


def alias_table() -> str:
    """Return what people type elsewhere beside what it is called here."""
    rows = [
        f"| `--{foreign}` | `--{own}` | {'every command' if verb == '*' else f'`{verb}`'} |"
        for verb, names in ALIASES.items()
        for foreign, own in names.items()
    ]
    return "\n".join(["| you type | it means | for |", "| --- | --- | --- |", *rows])


def decisions(folder: Path) -> str:
    """Return the list of architecture decisions."""
    lines = ["# Decisions", "", "Choices that shaped the code, half a page each.", ""]
    for path in sorted(folder.glob("*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        lines.append(f"* [{title}](adr/{path.name})")
    return "\n".join(lines) + "\n"


def _usage(known: dict[str, Option]) -> str:
    needed = [f"{item.flag} {_value(item)}" for item in known.values() if item.required and not _positional(item)]
    words = [f"{_value(item)}{' …' if item.is_list else ''}" for item in known.values() if _positional(item)]
    return " ".join([*words, *needed, "[options]"])


def _row(item: Option, verb: str) -> str:
    names = ", ".join(f"`{name}`" for name in (item.flag, *_aliases(item, verb)))
    default = "required" if item.default is MISSING else _default(item.default)
    text = escape(str(item.metadata.get("help", ""))).replace("|", "\\|").replace("{}", "`{}`")
    return f"| {names}<br>`{_value(item)}` | {default} | {text} |".replace("``", "`")


def _aliases(item: Option, verb: str) -> Iterator[str]:
    yield from (f"--{foreign}" for foreign, own in aliases_for(verb).items() if own == item.name and len(foreign) > 1)


def _value(item: Option) -> str:
    if item.kind is bool:
        return "True\\|False"
    name = item.metadata.get("metavar") or ("|".join(item.choices) if item.choices else item.kind.__name__.upper())
    return str(name).replace("|", "\\|")


def _default(value: Any) -> str:
    shown = " ".join(map(str, value)) if isinstance(value, list) else value
    return "" if shown is None or shown == "" else f"`{shown}`"


def _positional(item: Option) -> bool:
    return bool(item.metadata.get("positional"))
