"""``--run_dir``: the qrels and one TREC run per arm, and ``runs.json``, which says whose file is which.

The record lands first and names every file, so a run that dies may go on; what it does not name is somebody else's
and is never overwritten unasked. Runs of arms that are no longer there go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finerank.core.errors import UserError
from finerank.core.runs import Qrels, Run
from finerank.data.atomic import writing
from finerank.data.console import warn
from finerank.data.manifest import digest_file, read_manifest, write_json
from finerank.data.trec import write_qrels, write_run

RECORD = "runs.json"
QRELS = "qrels.txt"
HINT = "add --overwrite to replace it, or name another --run_dir"


class RunFolder:
    """A folder of runs that one evaluation owns.

    Args:
        key: stands for all that decides the runs (``data.manifest.Parts.key``).
        overwrite: replace what another evaluation, or somebody else, put there under the same names.

    Attributes:
        done: the runs of this very evaluation stand there, whole.
    """

    def __init__(self, path: str | Path, key: str, *, overwrite: bool) -> None:
        self.path = Path(path).expanduser()
        self.key = key
        if self.path.exists() and not self.path.is_dir():
            raise UserError("expected a folder to write runs to, found a file", where=str(path))
        record = read_manifest(self.path / RECORD) or {}
        files = record.get("files")
        self.before: dict[str, str | None] = dict(files) if isinstance(files, Mapping) else {}
        same = record.get("key") == key
        self.done = same and not overwrite and self._whole()
        if not self.done and not overwrite:
            self._refuse(same, known=bool(record))

    def write(self, qrels: Qrels, runs: Mapping[str, Run]) -> None:
        """Write the qrels and a run per arm; remove runs of an earlier record that are not among them."""
        names = file_names(list(runs))
        files: dict[str, Any] = dict.fromkeys([QRELS, *names.values()])
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._record(names, files)
            write_qrels(self.path / QRELS, qrels)
            for arm, name in names.items():
                write_run(self.path / name, runs[arm], name.removesuffix(".run"))
            for stale in self.before.keys() - files.keys():
                (self.path / stale).unlink(missing_ok=True)
            self._record(names, {name: digest_file(self.path / name) for name in files})
        strangers = self._there() - files.keys()
        if strangers:
            warn(f"{self.path} holds runs that this evaluation did not write: {_few(strangers)}")

    def _record(self, names: Mapping[str, str], files: Mapping[str, Any]) -> None:
        write_json(self.path / RECORD, {"key": self.key, "arms": dict(names), "files": dict(files)})

    def _whole(self) -> bool:
        for name, digest in self.before.items():
            if digest is None or not (self.path / name).is_file():
                return False
            if digest_file(self.path / name) != digest:
                raise UserError("was changed after it was written", where=str(self.path / name), hint=HINT)
        return bool(self.before)

    def _refuse(self, same: bool, *, known: bool) -> None:
        if known and not same:
            raise UserError("holds the runs of another evaluation", where=str(self.path), hint=HINT)
        strangers = self._there() - self.before.keys()
        if strangers:
            raise UserError(
                f"holds runs that no evaluation's record names: {_few(strangers)}", where=str(self.path), hint=HINT
            )

    def _there(self) -> set[str]:
        found = {file.name for file in self.path.glob("*.run")} if self.path.is_dir() else set()
        return found | ({QRELS} if (self.path / QRELS).exists() else set())


def file_names(arms: list[str]) -> dict[str, str]:
    """Return arm -> file name: what a file name cannot hold becomes ``_``, equal ones get one more.

    >>> file_names(["bm25", "r over bm25", "r/over bm25"])
    {'bm25': 'bm25.run', 'r over bm25': 'r_over_bm25.run', 'r/over bm25': 'r_over_bm25_.run'}
    """
    names: dict[str, str] = {}
    for arm in arms:
        stem = re.sub(r"[^\w.=-]+", "_", arm).strip("_.") or "arm"
        while f"{stem}.run" in names.values():
            stem += "_"
        names[arm] = f"{stem}.run"
    return names


def _few(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
