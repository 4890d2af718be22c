"""What a command costs before it does anything: help must import no numerical library."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from finerank.cli import VERBS

HEAVY = ("torch", "transformers", "numpy", "scipy", "sentence_transformers", "datasets", "pyarrow", "sklearn", "pandas")
SCRIPT = """
import sys
from finerank.cli import main
code = main(sys.argv[1:])
heavy = [name for name in {heavy!r} if name in sys.modules]
print("exit", code, "heavy", heavy, file=sys.stderr)
"""
READY = [name for name, verb in VERBS.items() if importlib.util.find_spec(verb.module)]


def heavy_after(*words: str) -> str:
    command = [sys.executable, "-c", SCRIPT.format(heavy=HEAVY), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("words", [["--help"], ["--version"], [], *([*name.split(), "--help"] for name in READY)])
def test_help_imports_no_numerical_library(words: list[str]) -> None:
    assert heavy_after(*words) == "exit 0 heavy []"


def test_import_finerank_loads_next_to_nothing() -> None:
    script = "import sys; old = set(sys.modules); import finerank; print(*sorted(set(sys.modules) - old))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert [name for name in loaded if name.startswith("finerank")] == ["finerank"]
    assert not set(loaded) & set(HEAVY)


def test_public_names_resolve() -> None:
    import finerank

    assert finerank.UserError.__name__ == "UserError"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = finerank.nonsense
    for name, module in finerank._PUBLIC.items():
        if importlib.util.find_spec(module):
            assert getattr(finerank, name).__name__ == name
