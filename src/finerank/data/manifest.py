"""What decides an output's bytes, as a key; and the manifest that stands beside each output."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from finerank import __version__
from finerank.core.errors import UserError
from finerank.data.atomic import write_atomic

CHUNK = 2**20
SUFFIX = ".manifest.json"
WORK_SUFFIX = ".work"
PLACES = frozenset({"output_file", "output_dir", "output"})
"""Options that say where the output goes, not what it holds."""
PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "numpy", "orjson")


class Digested(Protocol):
    """An input that is no file or folder here, such as a data set of a hub; ``str()`` names it."""

    def digest(self) -> str:
        """Return the hex sha256 of its content."""
        ...


Input = str | Path | Digested


@dataclass(frozen=True)
class Parts:
    """All that decides an output: two runs with equal parts write the same bytes."""

    command: str
    options: dict[str, Any]
    inputs: dict[str, str]
    models: dict[str, str]
    version: str = __version__

    @property
    def key(self) -> str:
        """Hex sha256 of the parts; inputs count by content and order, not by name."""
        decisive = [self.command, self.options, list(self.inputs.values()), self.models, self.version]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def to_mapping(self) -> dict[str, Any]:
        """Return the parts as they stand in a manifest."""
        return {
            "command": self.command,
            "options": self.options,
            "inputs": self.inputs,
            "models": self.models,
            "finerank": self.version,
        }


def parts_of(
    command: str,
    options: Mapping[str, Any],
    inputs: Sequence[Input],
    models: Mapping[str, str],
    output: str | Path,
) -> Parts:
    """Digest the inputs; take names of inputs and of the output out of the options, since contents stand for them."""
    digests = {
        str(item): digest_path(item, without=Path(output)) if isinstance(item, (str, Path)) else item.digest()
        for item in inputs
    }
    plain = json.loads(json.dumps({name: value for name, value in options.items() if name not in PLACES}, default=str))
    return Parts(
        command, {name: _nameless(value, set(digests)) for name, value in plain.items()}, digests, dict(models)
    )


def digest_path(path: str | Path, *, without: Path | None = None) -> str:
    """Return the hex sha256 of a file, or of all files of a folder (names and contents).

    Args:
        without: an output that may lie inside the folder; it and what belongs to it do not count.
    """
    root = Path(path)
    try:
        if not root.is_dir():
            return digest_file(root)
        total = hashlib.sha256()
        for file in sorted(file for file in root.rglob("*") if file.is_file() and not _belongs(file, without)):
            total.update(f"{file.relative_to(root)}\0{digest_file(file)}\n".encode("utf-8", "surrogateescape"))
        return total.hexdigest()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot be read: {reason}", where=str(path)) from None


def digest_file(path: str | Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    total = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK):
            total.update(chunk)
    return total.hexdigest()


def manifest_path(output: Path) -> Path:
    """Return where the manifest of ``output`` stands."""
    return output.with_name(output.name + SUFFIX)


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return a manifest or a work folder's record, or None if there is none that can be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON for people and programs, atomically."""
    write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False, default=str).encode() + b"\n")


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the versions that may matter when a result is looked into later; nothing is imported for it."""
    found = {"finerank": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def differences(old: Mapping[str, Any], new: Parts) -> str:
    """Say in a few words how an earlier run's parts differ from this one's."""
    found: list[str] = []
    for name, value in (("command", new.command), ("finerank", new.version)):
        if old.get(name) != value:
            found.append(f"{name} {_short(old.get(name))} → {_short(value)}")
    found += _unequal(old.get("options"), new.options, "--")
    if list(_mapping(old.get("inputs")).values()) != list(new.inputs.values()):
        found += _unequal_inputs(_mapping(old.get("inputs")), new.inputs)
    found += [f"model {name}" for name in _names(old.get("models"), new.models)]
    hidden = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return ", ".join(found[:5]) + hidden if found else "something that its record does not name"


def _unequal(old: Any, new: Mapping[str, Any], prefix: str) -> list[str]:
    before = _mapping(old)
    return [f"{prefix}{name} {_short(before.get(name))} → {_short(new.get(name))}" for name in _names(old, new)]


def _unequal_inputs(old: Mapping[str, Any], new: Mapping[str, str]) -> list[str]:
    changed = [f"the content of {name}" for name in new if name in old and old[name] != new[name]]
    added = [f"the input {name}" for name, digest in new.items() if name not in old and digest not in old.values()]
    gone = [
        f"the input {name} (gone)" for name, digest in old.items() if name not in new and digest not in new.values()
    ]
    return changed + added + gone or ["the order of the inputs"]


def _names(old: Any, new: Mapping[str, Any]) -> list[str]:
    before = _mapping(old)
    return [name for name in dict.fromkeys([*new, *before]) if before.get(name) != new.get(name)]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _short(value: Any) -> str:
    if value is None or value == []:
        return "none"
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _nameless(value: Any, inputs: set[str]) -> Any:
    if isinstance(value, list):
        return [_nameless(item, inputs) for item in value]
    return "(an input)" if isinstance(value, str) and value in inputs else value


def _belongs(file: Path, output: Path | None) -> bool:
    """Say whether ``file`` is the output, its manifest or part of its work folder."""
    if output is None:
        return False
    owned = {output, manifest_path(output), output.with_name(output.name + WORK_SUFFIX)}
    places = {place.absolute() for place in owned}
    return any(place in places for place in (file.absolute(), *file.absolute().parents))
