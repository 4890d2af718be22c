"""The three outputs of an evaluation: its result, its page, its runs; each refused, found done, or written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finerank.core.errors import UsageError
from finerank.data.manifest import Parts
from finerank.data.outputs import Output
from finerank.evaluation.run_files import RunFolder


@dataclass(frozen=True)
class Claims:
    """The outputs that were asked for."""

    result: Output | None = None
    page: Output | None = None
    runs: RunFolder | None = None

    @property
    def done(self) -> bool:
        return all(claim is None or claim.done for claim in (self.result, self.page, self.runs))


def claim(
    parts: Parts, *, result: str | None, page: str | None, run_dir: str | None, overwrite: bool, stack: ExitStack
) -> Claims:
    """Claim what was asked for; all of it is decided by the same ``parts``. ``stack`` lets go of it.

    Raises:
        UserError: if another evaluation, or somebody else, made what stands there.
    """

    def output(path: str | None) -> Output | None:
        if path is None:
            return None
        claimed = Output(path, parts, overwrite)
        claimed.enter()
        return stack.enter_context(claimed)

    runs = None if run_dir is None else RunFolder(run_dir, parts.key, overwrite=overwrite)
    return Claims(output(result), output(page), runs)


def check_places(places: Mapping[str, str | None], data: Sequence[str]) -> None:
    """Raise UsageError if two outputs share a place, or a page or runs lie inside the data.

    There they would be read as data, and make every run another one. (A result leaves itself out.)
    """
    named = {flag: _absolute(path) for flag, path in places.items() if path is not None}
    if len(set(named.values())) < len(named):
        raise UsageError(f"{' and '.join(f'--{flag}' for flag in named)} must name different places")
    for flag in named.keys() - {"output_file"}:
        for folder in map(_absolute, data):
            if named[flag] == folder or (folder.is_dir() and folder in named[flag].parents):
                raise UsageError(
                    f"--{flag} {places[flag]} lies inside --data {folder.name}, whose files decide the result",
                    hint=f"name a place outside of {folder.name}",
                )


def _absolute(path: Any) -> Path:
    return Path(path).expanduser().resolve()
