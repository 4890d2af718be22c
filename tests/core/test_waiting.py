"""The command has OpenMP's threads sleep while they wait, unless its user has said how they are to."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SAID = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
CODE = """
import os, sys
from finerank.cli import main
main(["--version"])
assert "torch" not in sys.modules  # it reads the variable when it is loaded
print([os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")])
"""


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "['PASSIVE', None]"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "['ACTIVE', None]"),
        ({"GOMP_SPINCOUNT": "100"}, "[None, '100']"),
    ],
)
def test_threads_wait_as_the_user_says(given: dict[str, str], found: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in SAID}
    done = subprocess.run([sys.executable, "-c", CODE], env=clean | given, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == found
