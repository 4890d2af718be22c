"""Shards of any bytes: whole or missing, never half; outputs and folders made of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from finerank.core.errors import UserError
from finerank.data.outputs import Folder, Output
from finerank.data.shards import Shards


def output(path: Path) -> Output:
    return Output.open(path, command="test", options={}, inputs=[])


def test_any_bytes_come_back_with_their_counts(tmp_path: Path) -> None:
    shards = Shards(tmp_path, "out")
    body = b"\x00\n\xff{}\n" * 3
    assert not shards.any()
    assert shards.counts(4) is None
    assert shards.land(4, body, {"items": 3, "mean": 0.5}) == {"items": 3, "mean": 0.5}
    assert shards.counts(4) == {"items": 3, "mean": 0.5}
    assert shards.body(4) == body
    assert shards.any()
    assert [path.name for path in tmp_path.iterdir()] == ["000004.shard"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "removed"])
def test_a_damaged_shard_is_missing(tmp_path: Path, damage: str) -> None:
    shards = Shards(tmp_path, "out")
    shards.land(0, b"\x01\x02\x03", {"items": 3})
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        torn = {"cut": content[:-1], "flipped": content[:-1] + b"\x04", "emptied": b""}
        file.write_bytes(torn[damage])
    assert shards.counts(0) is None
    with pytest.raises(UserError, match="shard 0 was damaged"):
        shards.body(0)


def test_an_output_is_written_from_chunks_that_are_never_held(tmp_path: Path) -> None:
    given: list[int] = []

    def chunks(out: Output) -> Iterator[bytes]:
        for index in range(3):
            given.append(index)
            yield out.shards.body(index)[::-1]

    with output(tmp_path / "out.bin") as out:
        for index in range(3):
            out.shards.land(index, b"a%d" % index, {})
        out.finish({"items": 3}, chunks=chunks(out))
    assert (tmp_path / "out.bin").read_bytes() == b"0a1a2a"
    assert given == [0, 1, 2]
    assert not (tmp_path / "out.bin.work").exists()


def test_shards_outlive_a_run_that_fails_and_are_no_part_of_a_folder(tmp_path: Path) -> None:
    def folder() -> Folder:
        return Folder.open(tmp_path / "made", command="test", options={}, inputs=[])

    def failing() -> None:
        with folder() as out:
            out.shards.land(0, b"first", {"items": 1})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    with folder() as out:
        assert out.resumed
        (out.path / "result").write_bytes(out.shards.body(0))
        out.finish({})
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["result"]
    assert not (tmp_path / "made.work").exists()
