"""Long work survives SIGKILL at any moment: the bytes of a run that never died, and nothing that landed made again."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import verb_process
from fork_server import SERVER

KILLS = 25
MOST_SECONDS_TO_START = 1.0
SIZE = 8
"""Items of one shard, whatever the verb."""
SIZES = {
    "finerank.stages.mine:SHARD_ROWS": SIZE,
    "finerank.stages.score:SHARD_PAIRS": SIZE,
    "finerank.stages.embed:SHARD_TEXTS": SIZE,
    "finerank.stages.split:SHARD_ROWS": SIZE,
}
NOUNS = "cat dog file fish list name number path string text tree word red blue green".split()  # noqa: SIM905


def rows(path: Path, count: int) -> Path:
    rng = random.Random(3)
    texts = [" ".join(rng.choices(NOUNS, k=rng.randint(3, 9))) for _ in range(count * 4)]
    lines = [
        {"query": f"{texts[at]} {at}", "pos": [texts[count + at]], "neg": texts[2 * count + at :: count][:2]}
        for at in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def mine(folder: Path, source: Path, encoder: str, reranker: str) -> list[str]:
    return [
        "mine", "--model_name_or_path", encoder, "--input_file", str(source), "--output_file",
        str(folder / "out.jsonl"), "--range_for_sampling", "2-50", "--embedding_cache", str(folder / "cache"),
    ]  # fmt: skip


def score(folder: Path, source: Path, encoder: str, reranker: str) -> list[str]:
    return [
        "score", "--reranker_name_or_path", reranker, "--input_file", str(source), "--output_file",
        str(folder / "out.jsonl"),
    ]  # fmt: skip


def embed(folder: Path, source: Path, encoder: str, reranker: str) -> list[str]:
    texts = source.with_name("pool.jsonl")
    texts.write_text("".join(json.dumps({"text": row["pos"][0]}) + "\n" for row in map(json.loads, source.open())))
    return [
        "embed", "--model_name_or_path", encoder, "--input_file", str(texts), "--output_file", str(folder / "out.npy"),
    ]  # fmt: skip


def split(folder: Path, source: Path, encoder: str, reranker: str) -> list[str]:
    return [
        "split", "--model_name_or_path", encoder, "--input_path", str(source), "--output_dir", str(folder / "out"),
        "--length_list", "0", "6", "8", "10",
    ]  # fmt: skip


VERBS: dict[str, Callable[[Path, Path, str, str], list[str]]] = {
    "mine": mine, "score": score, "embed": embed, "split": split,
}  # fmt: skip


def start(words: list[str], journal: Path) -> multiprocessing.process.BaseProcess:
    process = SERVER.Process(target=verb_process.run, args=(words, SIZES, str(journal)))
    process.start()
    return process


def content(folder: Path) -> dict[str, bytes]:
    """Return what a finished run leaves, without what tells the time of day."""
    kept = (file for file in sorted(folder.rglob("out*")) if file.is_file())
    inside = (file for file in sorted((folder / "out").rglob("*")) if file.is_file() and file.name != ".split_log")
    return {file.name: file.read_bytes() for file in (*kept, *inside) if not file.name.endswith(".manifest.json")}


def notes(journal: Path, word: str) -> list[str]:
    return [line.split(" ", 1)[1] for line in journal.read_text().splitlines() if line.startswith(f"{word} ")]


def kill_somewhere(process: multiprocessing.process.BaseProcess, journal: Path, rng: random.Random) -> bool:
    """Let a run land 0 to 4 pieces more, and go on for up to a piece's time; then kill it. Say whether it still ran.

    Counted in pieces rather than seconds, so that a busy machine and a quiet one kill at like places.
    """
    before, more, started = landed(journal), rng.choice((0, 0, 1, 1, 2, 4)), time.monotonic()
    while process.exitcode is None and landed(journal) < before + more:
        process.join(0.002)
    each = (time.monotonic() - started) / max(more, 1)
    process.join(rng.uniform(0, each if more else MOST_SECONDS_TO_START))
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode == -signal.SIGKILL


def landed(journal: Path) -> int:
    return len(notes(journal, "landed")) if journal.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_killed_again_and_again(verb: str, tiny_encoder: str, tiny_reranker: str, tmp_path: Path) -> None:
    source = rows(tmp_path / "rows.jsonl", 400)
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    for each in (whole, folder):
        each.mkdir()
    process = start(VERBS[verb](whole, source, tiny_encoder, tiny_reranker), whole / "notes")
    process.join()
    assert process.exitcode == 0, (whole / "notes.said").read_text()

    rng, kills, rounds = random.Random(5), 0, 0
    words, journal = VERBS[verb](folder, source, tiny_encoder, tiny_reranker), folder / "notes"
    while kills < KILLS:
        rounds += 1
        process = start(words, journal)
        if kill_somewhere(process, journal, rng):
            kills += 1
            continue
        assert process.exitcode == 0, (folder / "notes.said").read_text()
        assert content(folder) == content(whole)  # finished between two kills: begin anew
        folder = tmp_path / f"killed{rounds}"
        folder.mkdir()
        words, journal = VERBS[verb](folder, source, tiny_encoder, tiny_reranker), folder / "notes"
    process = start(words, journal)
    process.join()
    assert process.exitcode == 0, (folder / "notes.said").read_text()
    assert content(folder) == content(whole)
    for each in tmp_path.glob("killed*"):
        made = Counter(notes(each / "notes", "landed"))
        assert made
        assert set(made.values()) == {1}, f"made again: {made.most_common(3)}"
