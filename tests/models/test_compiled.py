"""What numba keeps on disk is that of the sources as they are, and no two functions have the same name there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from finerank.models import torch_block

if torch_block.tiled() is None:
    pytest.skip("no AMX, or no numba", allow_module_level=True)

from numba.core.dispatcher import Dispatcher

from finerank.models import (
    attention_back_kernels,
    attention_kernels,
    compiled,
    gradient_kernels,
    inference_kernels,
    int8_kernels,
    layer_kernels,
    norm_kernels,
    training_kernels,
)

KERNELS = (
    attention_back_kernels, attention_kernels, gradient_kernels, inference_kernels, int8_kernels, layer_kernels,
    norm_kernels, training_kernels,
)  # fmt: skip


def test_no_two_functions_have_one_name() -> None:
    """Linked together, one would run in the place of the other: numba's numbers behind names are a process's own."""
    functions = {
        id(value): value.py_func
        for module in KERNELS
        for value in vars(module).values()
        if isinstance(value, Dispatcher)
    }
    names = Counter((function.__module__, function.__qualname__) for function in functions.values())
    assert len(names) > 50
    assert [name for name, count in names.items() if count > 1] == []


def test_each_is_kept_beside_the_digest_of_all_sources() -> None:
    digest = compiled.digest(compiled.HERE)
    kept = [value for module in KERNELS for value in vars(module).values() if getattr(value, "stats", None)]
    folders = {kernel.stats.cache_path for kernel in kept if kernel.stats.cache_path}
    assert len(folders) == 1
    assert f"kernels-{digest}" in folders.pop()


def test_the_digest_is_that_of_all_code_for_numba(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("from numba import njit\n")
    (tmp_path / "other.py").write_text("import torch\n")

    def now() -> str:
        compiled.digest.cache_clear()
        return compiled.digest(tmp_path)

    before = now()
    (tmp_path / "other.py").write_text("import torch, math\n")
    assert now() == before
    (tmp_path / "one.py").write_text("from numba import njit, prange\n")
    changed = now()
    assert changed != before
    (tmp_path / "two.py").write_text("from numba import njit\n")
    assert now() not in (before, changed)
    compiled.digest.cache_clear()


@pytest.mark.parametrize("writable", [True, False])
def test_where_it_is_kept(tmp_path: Path, writable: bool) -> None:
    asked = tmp_path / "asked"
    if not writable:
        asked.write_text("a file")
    code = "from finerank.models import torch_block; print(torch_block.tiled() is not None)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"NUMBA_CACHE_DIR": str(asked)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(writable)]
    assert not writable or [folder.name for folder in asked.iterdir()] == [f"kernels-{compiled.digest(compiled.HERE)}"]
