"""Commands run one after the other, each in its own process: titles, times, and a record of which are done.

A step is done if what it reads, its words and what it wrote are as they were when it ended; the record says so, so that
nothing is started to find out.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finerank import __version__
from finerank.core.recipes import Step
from finerank.data.console import clock, say
from finerank.data.manifest import read_manifest, write_json
from finerank.data.outputs import digest_output
from finerank.data.subprocesses import run_command

RECORD = "run.json"


def run_stage(title: str, words: Sequence[str], number: int, total: int, why: str = "") -> float:
    """Run ``finerank`` with ``words`` under a title, and why; return the seconds it took.

    Raises:
        UserError: if it ends with an error; it has said which.
    """
    reason = f" ({why})" if why else ""
    say(f"\n── stage {number} of {total}: {title}{reason}\n$ finerank {shlex.join(words)}")
    begun = time.monotonic()
    run_command([sys.executable, "-m", "finerank", *words], title)
    seconds = time.monotonic() - begun
    say(f"── stage {number} took {clock(seconds)}")
    return seconds


class Record:
    """What the steps of a recipe were made of, in ``run.json`` beside their outputs."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / RECORD
        self.steps: dict[str, dict[str, Any]] = dict((read_manifest(self.path) or {}).get("steps") or {})
        self._digests: dict[str, str] = {}

    def state(self, step: Step) -> tuple[str, str]:
        """Return a step's key, and why it has to run: empty if it has not."""
        key, inputs = self._key(step)
        before = self.steps.get(step.name)
        if before is None:
            return key, "never run"
        if before.get("output") is None:
            return key, "not finished"
        if before.get("key") != key:
            changed = [name for name, digest in inputs.items() if before["inputs"].get(name) != digest]
            return key, f"{', '.join(changed)} changed" if changed else "its options changed"
        if not Path(step.output).exists():
            return key, f"{step.output} is gone"
        return key, "" if digest_output(step.output) == before["output"] else f"{step.output} was changed by hand"

    def replaces_own(self, step: Step) -> bool:
        """Say whether the output that stands there is this record's, of other options or inputs."""
        before = self.steps.get(step.name) or {}
        path = Path(step.output)
        return path.exists() and before.get("output") is not None and digest_output(path) == before["output"]

    def begin(self, step: Step, key: str) -> None:
        """Record that a step is under way."""
        self.steps[step.name] = {"key": key, "inputs": self._key(step)[1], "output": None}
        self._write()

    def finish(self, step: Step, seconds: float) -> None:
        """Record that it is done."""
        self._digests.pop(step.output, None)
        self.steps[step.name] |= {"output": digest_output(step.output), "seconds": round(seconds, 1)}
        self._write()

    def _key(self, step: Step) -> tuple[str, dict[str, str]]:
        inputs = {text: self._digest(text) for text in dict.fromkeys(step.reads) if Path(text).exists()}
        parts = [step.words, inputs, __version__]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(), inputs

    def _digest(self, path: str) -> str:
        if path not in self._digests:
            self._digests[path] = digest_output(path)
        return self._digests[path]

    def _write(self) -> None:
        write_json(self.path, {"steps": self.steps})
