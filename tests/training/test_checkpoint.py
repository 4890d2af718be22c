"""Checkpoints: sealed, landed, rotated, found."""

from __future__ import annotations

from pathlib import Path

import pytest

from finerank.training import checkpoint


def make(folder: Path, step: int, content: bytes = b"weights") -> Path:
    final = folder / f"checkpoint-{step}"
    staging = checkpoint.staging_folder(final)
    (staging / "model.safetensors").write_bytes(content)
    (staging / "deep").mkdir()
    (staging / "deep" / "optimizer.pt").write_bytes(b"state")
    checkpoint.land(staging, final)
    return final


def test_a_landed_checkpoint_is_whole_and_leaves_no_staging(tmp_path: Path) -> None:
    final = make(tmp_path, 5)
    assert checkpoint.fault(final) is None
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]
    make(tmp_path, 5, b"new")
    assert (final / "model.safetensors").read_bytes() == b"new"
    assert checkpoint.fault(final) is None


@pytest.mark.parametrize("name", ["model.safetensors", "deep/optimizer.pt"])
def test_every_file_is_under_the_seal(tmp_path: Path, name: str) -> None:
    final = make(tmp_path, 1)
    content = bytearray((final / name).read_bytes())
    content[0] ^= 1
    (final / name).write_bytes(content)
    assert checkpoint.fault(final) == f"{name} is not what was written"
    (final / name).unlink()
    assert checkpoint.fault(final) == f"{name} is missing"


@pytest.mark.parametrize("seal", [b"", b"{", b"[]", b"{}", b'{"sha256": 3}', b'{"sha256": {}}'])
def test_a_seal_that_says_nothing_is_no_seal(tmp_path: Path, seal: bytes) -> None:
    final = make(tmp_path, 1)
    (final / checkpoint.SEAL).write_bytes(seal)
    assert checkpoint.fault(final) is not None


def test_the_newest_whole_one_wins_and_newer_torn_ones_are_named(tmp_path: Path) -> None:
    make(tmp_path, 9)
    whole = make(tmp_path, 10)
    torn = make(tmp_path, 100)
    (torn / "model.safetensors").write_bytes(b"w")
    (tmp_path / ".checkpoint-101.partial").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    found = checkpoint.find(tmp_path)
    assert found.newest == whole
    assert list(found.torn) == [torn]


def test_nothing_to_find(tmp_path: Path) -> None:
    assert checkpoint.find(tmp_path / "missing") == checkpoint.Found(None)


@pytest.mark.parametrize(
    ("keep", "protected", "left"),
    [
        (None, None, [1, 2, 3, 10]),
        (2, None, [3, 10]),
        (1, None, [10]),
        (1, 2, [2, 10]),
        (2, 1, [1, 10]),
        (3, 1, [1, 3, 10]),
        (2, 10, [3, 10]),
        (2, 7, [3, 10]),
    ],
)
def test_rotation_keeps_the_newest_and_the_best(
    tmp_path: Path, keep: int | None, protected: int | None, left: list[int]
) -> None:
    for step in (1, 2, 3, 10):
        make(tmp_path, step)
    checkpoint.rotate(tmp_path, keep, str(tmp_path / f"checkpoint-{protected}") if protected else None)
    assert [checkpoint.step_of(folder) for folder in checkpoint.all_checkpoints(tmp_path)] == left
