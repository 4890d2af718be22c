"""The house rules that a linter does not know: sizes, names, options that are read."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from functools import cache
from pathlib import Path
from statistics import median

import pytest

import finerank
from finerank.cli import VERBS
from finerank.core.aliases import DTYPE_FLAGS
from finerank.core.options import declared

SOURCE = Path(finerank.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
READY = [name for name, verb in VERBS.items() if importlib.util.find_spec(verb.module)]
MAX_FILE, MAX_FUNCTION, MEDIAN_FUNCTION = 350, 60, 12
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "misc"}
READ_BY_THE_CLI = {"json", "debug"}


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All nodes of a file, the module first."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def functions(path: Path) -> list[tuple[str, int]]:
    found = [node for node in nodes(path) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in found]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE
    long = [f"{name}: {lines} lines" for name, lines in functions(path) if lines > MAX_FUNCTION]
    assert not long


def test_the_median_function_is_short() -> None:
    assert median(lines for path in FILES for _, lines in functions(path)) <= MEDIAN_FUNCTION


def test_no_module_has_a_vague_name() -> None:
    names = {part for path in FILES for part in path.relative_to(SOURCE).with_suffix("").parts}
    assert not names & VAGUE


def test_every_module_says_what_it_is_for() -> None:
    modules = [(path, node) for path in FILES for node in nodes(path)[:1] if isinstance(node, ast.Module)]
    assert len(modules) == len(FILES)
    silent = [path.name for path, module in modules if not ast.get_docstring(module)]
    assert not silent


@cache
def names_read() -> frozenset[str]:
    """All attributes that are read anywhere, and all names that stand as strings, for ``getattr(options, name)``.

    The alias table does not count: it names options, it reads none. Its precision switches are read in ModelOptions.
    """
    found: set[str] = set(DTYPE_FLAGS)
    for path in FILES:
        for node in nodes(path):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and path.name != "aliases.py":
                found.add(node.value)
    return frozenset(found)


@pytest.mark.parametrize("verb", READY)
def test_every_option_is_read(verb: str) -> None:
    options = declared(getattr(importlib.import_module(VERBS[verb].module), VERBS[verb].options))
    live = [name for name, item in options.items() if "ignored" not in item.metadata and name not in READ_BY_THE_CLI]
    assert [name for name in live if name not in names_read()] == []


@pytest.mark.parametrize("verb", READY)
def test_every_option_says_what_it_does(verb: str) -> None:
    options = declared(getattr(importlib.import_module(VERBS[verb].module), VERBS[verb].options))
    assert [name for name, item in options.items() if len(item.metadata.get("help", "")) < 8] == []
