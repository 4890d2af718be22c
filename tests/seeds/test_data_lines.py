"""Every command line about data of seeds 000, 001 and 004 runs, flag for flag; tiny models stand in for the hub's."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from finerank.cli import main

from .lines import DOCUMENTED, MINE_000, MINE_001, MINE_004, SCORE_004, SPLIT_004, Line

SOME = "cat dog file find fish list name number open path read remove search sort string text tree two write red"
WORDS = SOME.split()


def toy_data(path: Path, count: int = 10) -> None:
    """Write rows with one positive and seven negatives, the shape of FlagEmbedding's toy file."""
    rng = random.Random(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            texts = [" ".join(rng.choices(WORDS, k=rng.randint(4, 9))) for _ in range(9)]
            file.write(json.dumps({"query": texts[0], "pos": [texts[1]], "neg": texts[2:]}) + "\n")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def value(words: list[str], flag: str) -> Path:
    return Path(words[words.index(flag) + 1])


def offline(line: Line, model: str) -> list[str]:
    """Return the line's words with a local folder for the hub's model."""
    return [model if word.startswith("BAAI/") else word for word in line.words()]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("line", "bounded"), [(MINE_000, False), (MINE_001, False), (MINE_004, True)], ids=["000", "001", "004"]
)
def test_mine(line: Line, bounded: bool, tiny_encoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = offline(line, tiny_encoder)
    source, output = value(words, "--input_file"), value(words, "--output_file")
    toy_data(source)
    assert main(words) == 0
    shown = capsys.readouterr()
    after = rows_of(output)
    assert [row["query"] for row in after] == [row["query"] for row in rows_of(source)]
    for row in after:
        assert not set(row["neg"]) & {*row["pos"], row["query"]}
        if bounded:
            assert all(0.3 <= similarity <= 0.8 for similarity in row["neg_similarities"])
        else:
            assert len(row["neg"]) == 15
    assert Path(f"{output}.manifest.json").exists()
    assert "candidates" in shown.out


def test_mine_answers_the_gpu_wish_aloud_without_one(
    tiny_encoder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = offline(MINE_000, tiny_encoder)
    toy_data(value(words, "--input_file"))
    assert main(words) == 0
    assert "--use_gpu_for_searching: there is no CUDA device here" in capsys.readouterr().err


def test_mine_takes_the_newer_name_of_the_model(tiny_encoder: str) -> None:
    words = ["--embedder_name_or_path" if word == "--model_name_or_path" else word for word in MINE_004.words()]
    toy_data(value(words, "--input_file"))
    assert main([tiny_encoder if word.startswith("BAAI/") else word for word in words]) == 0


def test_score_with_its_stray_mining_flags(tiny_reranker: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = SCORE_004.words()
    source, output = value(words, "--input_file"), value(words, "--output_file")
    toy_data(source)
    assert main([*words, "--reranker_name_or_path", tiny_reranker]) == 0
    said = capsys.readouterr().err
    for flag in ("--range_for_sampling", "--negative_number", "--use_gpu_for_searching"):
        assert any(flag in line and "no effect" in line for line in said.splitlines()), flag
    for before, after in zip(rows_of(source), rows_of(output), strict=True):
        assert {key: after[key] for key in before} == before
        assert len(after["pos_scores"]) == len(after["pos"])
        assert len(after["neg_scores"]) == len(after["neg"])


def test_score_verbatim_names_the_default_teacher(capsys: pytest.CaptureFixture[str]) -> None:
    words = SCORE_004.words()
    toy_data(value(words, "--input_file"))
    assert main(words) == 1  # there is no hub here
    assert "BAAI/bge-reranker-v2-m3" in capsys.readouterr().err
    assert not value(words, "--output_file").exists()


def test_split(tiny_encoder: str) -> None:
    words = offline(SPLIT_004, tiny_encoder)
    toy_data(value(words, "--input_path") / "first.jsonl")
    toy_data(value(words, "--input_path") / "second.jsonl", 3)
    assert main(words) == 0
    made = value(words, "--output_dir")
    for stem in ("first", "second"):
        assert (made / f"{stem}_len-0-500.jsonl").read_bytes() == (Path("train_data") / f"{stem}.jsonl").read_bytes()
    assert not list(made.glob("*_len-500-*"))
    logged = rows_of(made / ".split_log")
    assert [(entry["file_name"], entry["size"]) for entry in logged] == [("first.jsonl", 10), ("second.jsonl", 3)]


@pytest.mark.parametrize("verb", DOCUMENTED)
def test_every_documented_option_is_taken(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in DOCUMENTED[verb] if f"--{name}" not in shown] == []
