"""Any verb in a process of its own, for tests that kill it; a fork server imports what it needs once.

Work is cut small so that a short run has many shards, and every piece of work is noted: ``begun N`` texts handed to a
model, ``landed NAME`` for a shard that became whole.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import sentence_transformers  # noqa: F401
import torch

from finerank import cli
from finerank.data import shards
from finerank.models import bi_encoder, cross_encoder, engine, load  # noqa: F401
from finerank.retrieval import vectors

WINDOW = 16
"""Texts that land in the vector cache together."""


def run(words: list[str], sizes: Mapping[str, int], journal: str) -> None:
    """Run one command line.

    Args:
        sizes: ``module:NAME`` -> the value that this constant gets here.
        journal: file that the notes are added to; what the verb says goes to ``<journal>.said``.
    """
    torch.set_num_threads(1)
    said = open(f"{journal}.said", "a", buffering=1)  # noqa: SIM115
    sys.stderr = sys.stdout = said
    for place, value in sizes.items():
        module, name = place.split(":")
        setattr(import_module(module), name, value)
    vectors.cached_encode.__defaults__ = (None, WINDOW)
    _take_notes(journal)
    code = cli.main(words)
    said.flush()
    os._exit(code)


def _take_notes(journal: str) -> None:
    handle = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    real_run, real_land, real_add = engine.run, shards.Shards.land, vectors._Store.add

    def note(text: str) -> None:
        os.write(handle, f"{text}\n".encode())

    def noted_run(module: Any, items: Any, *more: Any, **named: Any) -> Any:
        note(f"begun {len(items)}")
        return real_run(module, items, *more, **named)

    def noted_land(self: shards.Shards, index: int, body: bytes, counts: Mapping[str, Any]) -> dict[str, Any]:
        landed = real_land(self, index, body, counts)
        note(f"landed {self.folder}/{index}")
        return landed

    def noted_add(self: Any, keys: Any, found: Any) -> None:
        real_add(self, keys, found)
        note(f"landed {self.folder}/{Path(keys.tobytes().hex()[:32])}")

    engine.run = noted_run  # type: ignore[assignment]
    shards.Shards.land = noted_land  # type: ignore[method-assign]
    vectors._Store.add = noted_add  # type: ignore[method-assign]
