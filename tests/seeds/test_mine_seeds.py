"""The mining command lines of seeds 000, 001 and 004, flag for flag; a tiny model stands in for the hub's."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from finerank.cli import main

SEED_000 = """
--model_name_or_path BAAI/bge-base-en-v1.5
--input_file toy_finetune_data.jsonl
--output_file toy_finetune_data_minedHN.jsonl
--range_for_sampling 2-200
--negative_number 15
--use_gpu_for_searching
"""
SEED_001 = """
--model_name_or_path BAAI/bge-large-zh-v1.5
--input_file your.jsonl
--output_file your_finetune_data_minedHN.jsonl
--range_for_sampling 2-200
--negative_number 15
--use_gpu_for_searching
"""
SEED_004 = """
--model_name_or_path BAAI/bge-base-en-v1.5
--input_file toy_finetune_data.jsonl
--output_file toy_finetune_data_minedHN.jsonl
--range_for_sampling 2-200
--similarity_range 0.3-0.8
--negative_number 15
--use_gpu_for_searching
"""
SOME = "cat dog file find fish list name number open path read remove search sort string text tree two write red"
WORDS = SOME.split()


def toy_data(path: Path) -> None:
    """Ten rows with one positive and seven negatives, the shape of FlagEmbedding's toy file."""
    rng = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(10):
            texts = [" ".join(rng.choices(WORDS, k=rng.randint(4, 9))) for _ in range(9)]
            file.write(json.dumps({"query": texts[0], "pos": [texts[1]], "neg": texts[2:]}) + "\n")


@pytest.mark.parametrize(("line", "bounded"), [(SEED_000, False), (SEED_001, False), (SEED_004, True)])
def test_the_seeds_mining_line_runs(
    line: str, bounded: bool, tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = [tiny_encoder if word.startswith("BAAI/") else word for word in line.split()]
    source, output = (Path(words[words.index(flag) + 1]) for flag in ("--input_file", "--output_file"))
    toy_data(source)
    assert main(["mine", *words]) == 0
    shown = capsys.readouterr()
    before = [json.loads(row) for row in source.read_text().splitlines()]
    after = [json.loads(row) for row in output.read_text().splitlines()]
    assert [row["query"] for row in after] == [row["query"] for row in before]
    for row in after:
        assert not set(row["neg"]) & {*row["pos"], row["query"]}
        if bounded:
            assert all(0.3 <= similarity <= 0.8 for similarity in row["neg_similarities"])
        else:
            assert len(row["neg"]) == 15
    assert Path(f"{output}.manifest.json").exists()
    assert "candidates" in shown.out


def test_the_gpu_wish_is_answered_aloud_without_one(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    toy_data(Path("toy_finetune_data.jsonl"))
    assert main(["mine", *SEED_000.replace("BAAI/bge-base-en-v1.5", tiny_encoder).split()]) == 0
    assert "--use_gpu_for_searching: there is no CUDA device here" in capsys.readouterr().err
