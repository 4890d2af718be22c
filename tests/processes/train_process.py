"""``finerank train`` in a process of its own, for tests that kill it. Its imports are loaded once, by a fork server."""

from __future__ import annotations

import os
import sys
from typing import Any

import sentence_transformers  # noqa: F401
import torch

from finerank.models import bi_encoder, cross_encoder  # noqa: F401
from finerank.stages import train as stage
from finerank.training import job  # noqa: F401


def train(family: str, values: dict[str, Any], quiet: bool = False) -> None:
    """Run one training; ``quiet`` drops what it says. ``extras`` among the values are TrainingArguments."""
    if quiet:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        extras = values.pop("extras", None)
        stage.run(getattr(stage, family)(**values), extras)
    finally:
        torch.set_num_threads(threads)
