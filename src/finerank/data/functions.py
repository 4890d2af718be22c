"""Functions as search data: what a docstring says it does, and the code that does it.

Source files are read with ``ast`` and never imported, so that any installed package can be read safely. The query is
the first sentence of a function's docstring; the passage is its signature and body without the docstring.
"""

from __future__ import annotations

import ast
import copy
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import sysconfig
import textwrap
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finerank.core.errors import UserError, did_you_mean
from finerank.data.text import normal_form

STDLIB = "the Python standard library"
MIN_QUERY_WORDS = 4
MIN_BODY_CHARS = 40
"""A body of one statement must have at least as many characters (white space apart) to say anything."""

SKIPPED_FOLDERS = frozenset(
    {
        "site-packages", "dist-packages", "lib-dynload", "__pycache__",  # not the library's own source
        "test", "tests", "testing", "idle_test", "bad_coding",  # tests describe cases, not purposes
        "encodings", "pydoc_data", "__phello__", "turtledemo",  # tables, help texts, toys
        "_bundled", "_vendor", "vendor", "vendored", "_vendored_packages", "externals",  # other projects' code
    }
)  # fmt: skip
SKIPPED_FILES = re.compile(r"(test_.*|.*_test|conftest|_sysconfigdata.*|this|antigravity|__hello__)\.py")

_Def = ast.FunctionDef | ast.AsyncFunctionDef
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\betc\.)(?<!\bvs\.)\s+(?=[^a-z])")
_ROLE = re.compile(r":(?:py:)?[a-z]+:`~?([^`]*)`")
_SIGNATURE = re.compile(r"^[\w.]+\([^)]*\)\s*(?:->|--|:|=>)?\s*")


@dataclass(frozen=True)
class Function:
    """One documented function or method.

    Attributes:
        id: ``module:qualified.name``, ``#2`` behind the second of a name (a property and its setter).
        query: first sentence of the docstring.
        passage: decorators, signature and body, dedented, without the docstring.
        module: dotted name of the file it stands in.
        where: ``file:line`` below the package's folder.
    """

    id: str
    query: str
    passage: str
    module: str
    where: str


@dataclass(frozen=True)
class Harvest:
    """What a reading of source files gave.

    Attributes:
        functions: with distinct passages, in the order of files and lines.
        askable: ids of those whose query belongs to no other function; only these can be judged.
        counts: files read and unreadable, functions left out and why.
    """

    functions: list[Function]
    askable: frozenset[str]
    counts: dict[str, int]


def read_functions(packages: Sequence[str] = ()) -> Harvest:
    """Read the documented functions of the installed packages, or of the Python standard library when none is named.

    Raises:
        UserError: if a package is not installed or has no Python source.
    """
    counts: Counter[str] = Counter()
    found: list[Function] = []
    for root, prefix in source_roots(packages):
        for path in source_files(root):
            counts["files"] += 1
            try:
                found += functions_of(read_source(path), module_name(path, root, prefix), place(path, root), counts)
            except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError, OSError):
                counts["files_unreadable"] += 1
    return gather(found, counts)


def gather(found: Iterable[Function], counts: Counter[str] | None = None) -> Harvest:
    """Drop repeated passages and mark the queries that name exactly one function.

    Two functions with one description cannot be told apart by it: neither is asked for, both stay to be found.
    """
    counts = Counter() if counts is None else counts
    distinct: dict[str, Function] = {}
    for function in found:
        if distinct.setdefault(normal_form(function.passage), function) is not function:
            counts["repeated_passage"] += 1
    functions = list(distinct.values())
    asked = Counter(query_key(function.query) for function in functions)
    askable = frozenset(function.id for function in functions if asked[query_key(function.query)] == 1)
    counts["ambiguous_query"] = len(functions) - len(askable)
    counts["functions"] = len(functions)
    return Harvest(functions, askable, dict(sorted(counts.items())))


def query_key(query: str) -> str:
    """Return what two equal queries share: words alone, folded.

    >>> query_key("Return the `size`.") == query_key("return the size")
    True
    """
    return " ".join(re.findall(r"\w+", normal_form(query)))


def source_roots(packages: Sequence[str]) -> list[tuple[Path, str]]:
    """Return (folder or file, dotted prefix) of what is to be read."""
    if not packages:
        return [(Path(sysconfig.get_paths()["stdlib"]), "")]
    return [root for name in packages for root in _package_roots(name)]


def source_files(root: Path) -> list[Path]:
    """Return the Python files below ``root`` that hold the package's own working code, sorted by path."""
    if root.is_file():
        return [root]
    files: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not _is_skipped_folder(name)]
        files += [Path(folder, name) for name in names if name.endswith(".py") and not SKIPPED_FILES.fullmatch(name)]
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def read_source(path: Path) -> str:
    """Read a source file in the encoding that it declares."""
    with tokenize.open(path) as file:
        return file.read()


def module_name(path: Path, root: Path, prefix: str) -> str:
    """Return the dotted name of a file; a package's ``__init__.py`` is the package.

    >>> module_name(Path("/lib/json/decoder.py"), Path("/lib/json"), "json")
    'json.decoder'
    """
    if path == root:
        return prefix
    parts = [*filter(None, [prefix]), *path.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def place(path: Path, root: Path) -> str:
    """Return the file's path as errors and results show it: from the package's folder on."""
    return path.name if path == root else path.relative_to(root).as_posix()


def functions_of(source: str, module: str, file: str, counts: Counter[str] | None = None) -> Iterator[Function]:
    """Yield the documented, non-trivial functions and methods of one module, in the order of lines.

    Functions inside functions are part of the outer one's body.

    Raises:
        SyntaxError: if the source is no Python that this interpreter reads.
    """
    counts = Counter() if counts is None else counts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        tree = ast.parse(source)
    lines = source.replace("\r\n", "\n").split("\n")  # as ast counts: a form feed ends no line
    seen: Counter[str] = Counter()
    for node, name in _definitions(tree, ""):
        seen[name] += 1
        counts["definitions"] += 1
        docstring = ast.get_docstring(node)
        if docstring is None:
            counts["no_docstring"] += 1
        elif not (query := first_sentence(docstring)) or not _says_something(query, node.name):
            counts["short_docstring"] += 1
        elif _is_trivial(node):
            counts["trivial_body"] += 1
        else:
            number = f"#{seen[name]}" if seen[name] > 1 else ""
            yield Function(f"{module}:{name}{number}", query, code_of(node, lines), module, f"{file}:{node.lineno}")


def first_sentence(docstring: str) -> str:
    """Return the first sentence of a docstring on one line; a signature in front and markup roles are taken off.

    >>> first_sentence("join(a, b) -> str\\n\\nJoin two paths, e.g. a/b.  The second\\nmay be absolute.")
    'Join two paths, e.g. a/b.'
    """
    for paragraph in re.split(r"\n\s*\n", docstring.strip()):
        text = _SIGNATURE.sub("", " ".join(paragraph.split(">>>")[0].split()))
        text = _ROLE.sub(r"\1", text)
        if len(text.split()) >= 2:
            return _SENTENCE_END.split(text, maxsplit=1)[0].strip()
    return ""


def code_of(node: _Def, lines: Sequence[str]) -> str:
    """Return the source of a function without its docstring: decorators, signature, comments, body; dedented."""
    docstring = node.body[0]
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    end = node.end_lineno or node.lineno
    first, last = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
    owns_its_lines = not lines[first][: docstring.col_offset].strip() and (
        len(node.body) == 1 or node.body[1].lineno > last
    )
    if not owns_its_lines:
        return ast.unparse(_without_docstring(node))
    kept = [line.rstrip() for line in (*lines[start:first], *lines[last:end])]
    return textwrap.dedent("\n".join(kept)).strip("\n")


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[_Def, str]]:
    """Yield functions with their qualified names; looks into classes and into ``if`` and ``try`` blocks."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child, f"{prefix}{child.name}"
        elif isinstance(child, ast.ClassDef):
            yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, (ast.stmt, ast.ExceptHandler)):
            yield from _definitions(child, prefix)


def _says_something(query: str, name: str) -> bool:
    words = query_key(query).split()
    own = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold())
    return len(words) >= MIN_QUERY_WORDS and words != own and any(word.isalpha() for word in words)


def _is_trivial(node: _Def) -> bool:
    """Say whether the body does nothing to search for: a stub, an abstract method, a short getter."""
    if any(_last_name(decorator) in ("overload", "abstractmethod") for decorator in node.decorator_list):
        return True
    body = [statement for statement in node.body[1:] if not _is_stub(statement)]
    if not body:
        return True
    return len(body) == 1 and len(re.sub(r"\s", "", ast.unparse(body[0]))) < MIN_BODY_CHARS


def _is_stub(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise) and statement.exc is not None:
        exception = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return _last_name(exception) == "NotImplementedError"
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _last_name(node: ast.expr) -> str:
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _without_docstring(node: _Def) -> _Def:
    bare = copy.copy(node)
    bare.body = node.body[1:] or [ast.Pass()]
    return bare


def _is_skipped_folder(name: str) -> bool:
    return name in SKIPPED_FOLDERS or name.startswith("config-")


def _package_roots(name: str) -> list[tuple[Path, str]]:
    """Find an installed package by import name (``email.mime``) or distribution name; imports nothing."""
    top, _, inner = name.partition(".")
    spec = _find(top)
    if spec is None:
        brought = importlib.metadata.packages_distributions()
        imports = _imports_of(name, brought)
        if not imports:
            raise UserError(
                f'package "{name}" is not installed{did_you_mean(name, {*brought})}',
                where="--package",
                hint=f"pip install {name}, or leave --package out to read {STDLIB}",
            )
        return [root for package in imports for root in _package_roots(package)]
    folders = [Path(folder).joinpath(*inner.split(".")) if inner else Path(folder) for folder in _folders(spec)]
    roots = [(folder, name) for folder in folders if folder.is_dir()]
    file = Path(spec.origin) if spec.origin else None
    if inner:
        roots = roots or [(path, name) for folder in folders if (path := folder.with_suffix(".py")).is_file()]
    elif not roots and file is not None and file.suffix == ".py" and file.is_file():
        roots = [(file, name)]
    if not roots:
        raise UserError(f'package "{name}" has no Python source to read', where="--package")
    return roots


def _find(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)  # of a name without a dot: looks, and imports nothing
    except (ImportError, ValueError):
        return None


def _folders(spec: importlib.machinery.ModuleSpec) -> list[str]:
    return sorted(spec.submodule_search_locations or [])


def _imports_of(distribution: str, brought: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the packages that an installed distribution brings (scikit-learn -> sklearn)."""
    wanted = re.sub(r"[-_.]+", "-", distribution).lower()
    return sorted(
        name
        for name, owners in brought.items()
        if any(re.sub(r"[-_.]+", "-", owner).lower() == wanted for owner in owners) and _find(name) is not None
    )
