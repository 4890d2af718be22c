"""The vector cache: nothing twice, nothing shared between models, nothing lost but a window."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from finerank.core.errors import UserError
from finerank.core.protocols import Progress, Side
from finerank.retrieval import vectors
from finerank.retrieval.vectors import cache_folder, cached_encode, default_cache, release
from tests.retrieval.hash_encoder import HashEncoder

TEXTS = [f"text {number}" for number in range(25)]


def shards(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.vec"))


def test_without_a_cache_each_distinct_text_is_encoded_once_in_order() -> None:
    encoder, seen = HashEncoder(), []
    found = cached_encode(encoder, ["b", "a", "b", "c", "a"], "query", None, seen.append, window=2)
    assert encoder.calls == [["b", "a"], ["c"]]
    assert np.array_equal(found, np.stack([encoder.vector(text) for text in "babca"]))
    assert found.dtype == np.float32
    assert sum(seen) == 5


def test_the_second_run_encodes_nothing_and_gives_the_same(tmp_path: Path) -> None:
    first, second = HashEncoder(), HashEncoder()
    one = cached_encode(first, TEXTS, "passage", tmp_path, window=10)
    other = cached_encode(second, TEXTS[::-1], "passage", tmp_path, window=7)
    assert second.calls == []
    assert np.array_equal(one, other[::-1])
    assert len(shards(tmp_path)) == 3


def test_only_missing_texts_are_encoded(tmp_path: Path) -> None:
    cached_encode(HashEncoder(), TEXTS[5:8], "passage", tmp_path)
    encoder = HashEncoder()
    found = cached_encode(encoder, TEXTS[:10], "passage", tmp_path, window=6)
    assert encoder.calls == [TEXTS[:5], TEXTS[8:10]]
    assert np.array_equal(found, np.stack([encoder.vector(text) for text in TEXTS[:10]]))


@pytest.mark.parametrize(("name", "side"), [("other", "passage"), ("hash", "query")])
def test_another_model_or_side_never_shares(tmp_path: Path, name: str, side: Side) -> None:
    cached_encode(HashEncoder(), TEXTS, "passage", tmp_path)
    encoder = HashEncoder(name)
    cached_encode(encoder, TEXTS, side, tmp_path)
    assert encoder.encoded == len(TEXTS)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "header"])
def test_a_damaged_shard_is_redone(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = cached_encode(HashEncoder(), TEXTS, "passage", tmp_path, window=10)
    victim = shards(tmp_path)[1]
    content = victim.read_bytes()
    flipped = bytearray(content)
    flipped[-40] ^= 1
    victim.write_bytes(
        {"cut": content[:-7], "flip": bytes(flipped), "empty": b"", "header": b"x" + content[1:]}[damage]
    )
    encoder = HashEncoder()
    again = cached_encode(encoder, TEXTS, "passage", tmp_path, window=10)
    assert np.array_equal(whole, again)
    assert len(encoder.calls) == 1
    assert victim.read_bytes() == content
    assert "damaged vector shard" in capsys.readouterr().err


class Dying(HashEncoder):
    """Stops after some windows, as a killed process does."""

    def __init__(self, windows: int) -> None:
        super().__init__()
        self.left = windows

    def encode(self, texts, side: Side, progress: Progress | None = None) -> np.ndarray:  # type: ignore[no-untyped-def]
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().encode(texts, side, progress)


@pytest.mark.parametrize("windows", [0, 1, 2])
def test_a_killed_run_loses_at_most_a_window_and_asks_for_the_same_batches(tmp_path: Path, windows: int) -> None:
    whole = HashEncoder()
    cached_encode(whole, TEXTS, "passage", None, window=10)
    with pytest.raises(KeyboardInterrupt):
        cached_encode(Dying(windows), TEXTS, "passage", tmp_path, window=10)
    resumed = HashEncoder()
    cached_encode(resumed, TEXTS, "passage", tmp_path, window=10)
    assert resumed.calls == whole.calls[windows:]


def test_racing_writers_leave_whole_shards(tmp_path: Path) -> None:
    def work() -> None:
        cached_encode(HashEncoder(), TEXTS, "passage", tmp_path, window=5)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    encoder = HashEncoder()
    cached_encode(encoder, TEXTS, "passage", tmp_path, window=5)
    assert encoder.calls == []
    assert len(shards(tmp_path)) == 5
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_vector_that_is_not_finite_names_the_text(tmp_path: Path) -> None:
    class Broken(HashEncoder):
        def vector(self, text: str) -> np.ndarray:
            return super().vector(text) * (np.nan if text == "text 3" else 1)

    with pytest.raises(UserError, match='not finite for 1 passage.*"text 3"'):
        cached_encode(Broken(), TEXTS, "passage", tmp_path)
    assert shards(tmp_path) == []


def test_large_results_are_mapped_from_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "IN_MEMORY_BYTES", 100)
    encoder = HashEncoder()
    found = cached_encode(encoder, TEXTS + TEXTS[:3], "passage", tmp_path, window=10)
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, np.stack([encoder.vector(text) for text in TEXTS + TEXTS[:3]]))
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".vec"] * 3


@pytest.mark.parametrize("cached", [True, False])
def test_sections_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool) -> None:
    one, other = HashEncoder(), HashEncoder()
    cache = tmp_path if cached else None
    whole = cached_encode(one, TEXTS, "passage", None, window=4)
    monkeypatch.setattr(vectors, "SECTION", 9)
    seen: list[int] = []
    assert np.array_equal(cached_encode(other, TEXTS, "passage", cache, seen.append, window=4), whole)
    assert one.calls == other.calls
    assert sum(seen) == len(TEXTS)
    again = cached_encode(other, [*TEXTS, *TEXTS[::-1]], "passage", cache, window=4)
    assert np.array_equal(again, np.concatenate([whole, whole[::-1]]))
    assert other.encoded == len(TEXTS) if cached else 2 * len(TEXTS)


def resident_pages_of_files() -> int:
    """Return the process's resident bytes that files back."""
    lines = Path("/proc/self/status").read_text().split("\n")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_release_gives_pages_back_and_keeps_their_contents(tmp_path: Path) -> None:
    size = 32 * 2**20
    mapped = np.memmap(tmp_path / "file", dtype=np.float32, mode="w+", shape=(size // 64, 16))
    before = resident_pages_of_files()
    mapped[:] = np.arange(16)
    assert resident_pages_of_files() > before + size // 2
    release(mapped[5:9])
    assert resident_pages_of_files() < before + size // 8
    assert (mapped == np.arange(16)).all()
    release(np.zeros(3, dtype=np.float32))


def test_release_keeps_changes_that_no_file_has(tmp_path: Path) -> None:
    np.zeros(4096, dtype=np.float32).tofile(tmp_path / "file")
    private = np.memmap(tmp_path / "file", dtype=np.float32, mode="c")
    private[:] = 1
    release(private[1:])
    assert (private == 1).all()


def test_a_cache_that_cannot_be_written_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(UserError, match="--embedding_cache none"):
        cached_encode(HashEncoder(), TEXTS, "passage", blocked)


def test_cache_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FINERANK_CACHE", str(tmp_path))
    assert cache_folder("none") is None
    assert cache_folder("auto") == default_cache() == tmp_path / "vectors"
    assert cache_folder("somewhere") == Path("somewhere")
    monkeypatch.delenv("FINERANK_CACHE")
    assert default_cache() == Path.home() / ".cache" / "finerank" / "vectors"


def test_no_texts() -> None:
    assert cached_encode(HashEncoder(), [], "query", None).shape == (0, 8)
