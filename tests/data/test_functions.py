from __future__ import annotations

import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from finerank.core.errors import UserError
from finerank.data.functions import Function, first_sentence, functions_of, gather, query_key, read_functions


def read(source: str) -> list[Function]:
    return list(functions_of(textwrap.dedent(source).lstrip("\n"), "mod", "mod.py"))


def one(source: str) -> Function:
    (function,) = read(source)
    return function


def test_the_passage_is_signature_and_body_without_the_docstring() -> None:
    function = one(
        '''
        class Tree:
            @cached
            def grow(self, size=1):  # by rings
                """Add a ring to the tree.  Takes a year.

                More text.
                """
                # the outermost first
                self.rings.append(size)
                return self
        '''
    )
    assert function.query == "Add a ring to the tree."
    assert function.passage == (
        "@cached\ndef grow(self, size=1):  # by rings\n    # the outermost first\n"
        "    self.rings.append(size)\n    return self"
    )
    assert (function.id, function.module, function.where) == ("mod:Tree.grow", "mod", "mod.py:3")


def test_a_docstring_that_shares_its_line_with_code_is_cut_out_too() -> None:
    function = one('def f(a): "Add one and then one more."; b = a + 1; return b + 1\n')
    assert "Add one" not in function.passage
    assert function.passage.startswith("def f(a):")
    assert "return b + 1" in function.passage


def test_lines_are_counted_as_the_parser_counts_them() -> None:
    function = one('x = 1\n\x0c\ny = "\u2028"\ndef f(a):\n    """Add one and then some."""\n    a += 1\n    return a\n')
    assert function.passage == "def f(a):\n    a += 1\n    return a"


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return the size\nof a file.", "Return the size of a file."),
        ("Split at dots, e.g. a.b, i.e. once. Then stop.", "Split at dots, e.g. a.b, i.e. once."),
        ("Use version 3.11 of it. `x` is left.", "Use version 3.11 of it."),
        ("find(sub[, start]) -> int\n\nReturn the lowest index.", "Return the lowest index."),
        ("find(sub) -> Return the lowest index.", "Return the lowest index."),
        ("See :class:`~os.Path` and :func:`join`.", "See os.Path and join."),
        ("Say hello to all >>> hello()\n'hi'", "Say hello to all"),
        ("\n\nName\n\nReturn the name of it.", "Return the name of it."),
        ("   ", ""),
    ],
)
def test_first_sentence(docstring: str, sentence: str) -> None:
    assert first_sentence(docstring) == sentence


@pytest.mark.parametrize(
    "source",
    [
        "def f(a):\n    a += 1\n    return a",  # no docstring
        'def f(a):\n    """Too few words."""\n    a += 1\n    return a',
        'def get_all_the_rows(a):\n    """Get all the rows."""\n    a += 1\n    return a',  # only its name again
        'def f(a):\n    """Say something of some length."""',
        'def f(a):\n    """Say something of some length."""\n    pass',
        'def f(a):\n    """Say something of some length."""\n    raise NotImplementedError("elsewhere, soon")',
        'def f(a):\n    """Say something of some length."""\n    return self.a',
        '@abc.abstractmethod\ndef f(a):\n    """Say something of some length."""\n    a += 1\n    return a',
        '@typing.overload\ndef f(a):\n    """Say something of some length."""\n    a += 1\n    return a',
    ],
)
def test_what_says_or_does_nothing_is_left_out(source: str) -> None:
    assert read(source) == []


def test_one_long_statement_is_enough() -> None:
    body = "return [item for item in things if item.is_good and item.is_new]"
    assert one(f'def f(things):\n    """Pick what is good and new."""\n    {body}').passage.endswith(body)


def test_methods_async_conditional_and_repeated_names_are_found_nested_ones_are_not() -> None:
    source = ""
    for head in ("async def f", "def f", "def f"):
        source += f'if 1:\n    {head}(a):\n        """Do it in way {len(source)}."""\n        b = a\n        return b\n'
    source += 'def g(a):\n    """Do all of it twice."""\n'
    source += '    def h(b):\n        """Do one of them once."""\n        return b\n    return h(a) * 2'
    found = read(source)
    assert [function.id for function in found] == ["mod:f", "mod:f#2", "mod:f#3", "mod:g"]
    assert "Do one of them once" in found[-1].passage


def test_every_definition_is_counted_once() -> None:
    counts: Counter[str] = Counter()
    source = 'def f(): pass\ndef g():\n    "One two three four"\ndef h():\n    "x"\n    return 1'
    assert list(functions_of(source, "m", "m.py", counts)) == []
    assert counts == {"definitions": 3, "no_docstring": 1, "trivial_body": 1, "short_docstring": 1}


def test_equal_passages_stay_once_and_equal_queries_are_not_asked() -> None:
    def function(name: str, query: str, passage: str) -> Function:
        return Function(f"m:{name}", query, passage, "m", "m.py:1")

    harvest = gather(
        [
            function("a", "Return the size.", "def a(): 1"),
            function("b", "return the  `size`", "def b(): 2"),
            function("c", "Return the age.", "def c(): 3"),
            function("d", "Return the weight.", "def  c(): 3"),
        ]
    )
    assert [item.id for item in harvest.functions] == ["m:a", "m:b", "m:c"]
    assert harvest.askable == {"m:c"}
    assert harvest.counts == {"ambiguous_query": 2, "functions": 3, "repeated_passage": 1}


def test_query_key_ignores_case_and_punctuation() -> None:
    assert query_key("Return `a.b`, Once!") == query_key("return a b once")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that fails when imported, with files that must be left alone."""
    root = tmp_path / "toolbox"
    code = (
        'def {0}(a):\n    """Do the thing called {0}."""\n    b = a\n    return "{0}"\nraise SystemExit("imported")\n'
    )
    for name in ("__init__", "b", "a", "sub/__init__", "sub/c", "tests/d", "_vendor/e", "sub/test_f", "__pycache__/g"):
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code.format(name.replace("/", "_")), encoding="utf-8")
    (root / "broken.py").write_text("def f(:", encoding="utf-8")
    (root / "latin.py").write_bytes(
        "# -*- coding: latin-1 -*-\ndef l(a):\n    'Return the umlaut ä of it'\n    a = 'ä'\n    return a\n".encode(
            "latin-1"
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return root


def test_a_package_is_read_in_path_order_and_never_imported(package: Path) -> None:
    harvest = read_functions(["toolbox"])
    assert [function.id for function in harvest.functions] == [
        "toolbox:__init__", "toolbox.a:a", "toolbox.b:b", "toolbox.latin:l", "toolbox.sub:sub___init__",
        "toolbox.sub.c:sub_c",
    ]  # fmt: skip
    assert harvest.counts["files"] == 7
    assert harvest.counts["files_unreadable"] == 1
    assert "toolbox" not in sys.modules
    assert harvest.functions[3].query == "Return the umlaut ä of it"
    assert harvest.functions[5].where == "sub/c.py:1"


def test_a_part_of_a_package_can_be_named(package: Path) -> None:
    assert [item.id for item in read_functions(["toolbox.sub"]).functions] == [
        "toolbox.sub:sub___init__",
        "toolbox.sub.c:sub_c",
    ]
    assert [item.module for item in read_functions(["toolbox.b"]).functions] == ["toolbox.b"]


def test_a_single_file_module_and_a_distribution_name() -> None:
    assert {item.module for item in read_functions(["textwrap"]).functions} == {"textwrap"}
    assert {item.module.split(".")[0] for item in read_functions(["import-linter"]).functions} == {"importlinter"}


@pytest.mark.parametrize("name", ["no_such_package_here", "sys", "toolbox.none", ""])
def test_a_package_without_source_is_an_error(package: Path, name: str) -> None:
    with pytest.raises(UserError, match="--package"):
        read_functions([name])


@pytest.mark.slow
def test_the_standard_library_gives_thousands() -> None:
    harvest = read_functions()
    assert 4_000 < len(harvest.functions) < 7_000
    assert len(harvest.askable) > 3_000
    modules = {function.module for function in harvest.functions}
    assert {"argparse", "json.decoder"} <= modules
    assert not any(module.startswith(("test.", "encodings.", "site-packages")) for module in modules)
    assert len({function.id for function in harvest.functions}) == len(harvest.functions)
    again = read_functions(["email", "json"])
    assert again == read_functions(["email", "json"])
    assert {function.id for function in again.functions} <= {function.id for function in harvest.functions}
