"""Seed 003's generator lines, as its document has them, in both spellings; a small corpus stands in for Wikipedia."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from finerank.cli import main

from ..generation.corpus import world, write
from .lines import GENERATE_003, GENERATE_003_BARE

PLACES = ("../config_lib/extract_config_wikifulldoc.yaml", "./config_lib/example_config.yaml")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the original's scripts, in a copy of its tree with a corpus."""
    folder = tmp_path / "train_reranker"
    folder.mkdir()
    write(tmp_path / "wiki.jsonl", world())
    monkeypatch.chdir(folder)
    return folder


def config(path: str, **more: Any) -> None:
    """Write a config with the original's keys."""
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "corpus_path": "../wiki.jsonl", "gpu_id": "0", "retrieval_method": "bm25", "model2path": {"gte": "iic/gte"},
        "method2index": {"gte": "gte.index"}, "retrieval_topk": 5, "retrieval_batch_size": 256, "faiss_gpu": False,
        "generator_model": "gpt-4", "generation_params": {"temperature": 0, "max_tokens": 4096}, "seed": 2024,
        "openai_setting": {"api_key": "sk-not-read", "base_url": "http://127.0.0.1:9/v1"}, "reranker_path": "./x",
    }  # fmt: skip
    place.write_text(yaml.safe_dump(content | more))


def rows() -> list[dict[str, Any]]:
    found = []
    for name in ("train_data.jsonl", "test_data.jsonl"):
        found += [json.loads(line) for line in Path("data", name).read_text(encoding="utf-8").splitlines()]
    return found


def test_the_line_of_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    config(PLACES[0])
    words = GENERATE_003.words()
    assert main(words) == 0  # 1,000 examples from 22 documents: what there is, said aloud
    shown = capsys.readouterr()
    assert rows()
    assert {row["mode"] for row in rows()} == {"bridge"}
    assert "of 1,000 rows" in shown.err
    assert "gpu_id" in shown.err  # named, since it means nothing here
    assert "API keys in the config are not read" in shown.err
    manifest = json.loads(Path("data/train_data.jsonl.manifest.json").read_text())
    options = manifest["options"]
    assert (options["lambda1"], options["lambda2"], options["lambda3"]) == (0.85, 0.05, 0.1)
    assert (options["max_doc_candidates"], options["seed"]) == (5, 2024)
    assert "sk-not-read" not in json.dumps(manifest)
    summary = json.loads(Path("data/contrastive_data_summary.json").read_text())
    assert summary["config"]["config_path"] == PLACES[0]


@pytest.mark.parametrize("place", PLACES)
def test_the_bare_line_finds_the_config_where_the_document_keeps_it(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config(place)
    assert main([*GENERATE_003_BARE.words(), "--num_examples", "4"]) == 0
    assert rows()
    assert place in capsys.readouterr().err


def test_the_bare_line_without_a_config_says_what_it_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(GENERATE_003_BARE.words()) == 2
    assert PLACES[0] in capsys.readouterr().err


def test_both_spellings() -> None:
    config("conf.yaml")
    Path("ids.txt").write_text("w4\nw5\n")
    made = []
    for words in (
        ["--config", "conf.yaml", "--doc_ids_file", "ids.txt", "--output", "one.json"],
        ["--config_path", "conf.yaml", "--doc_ids", "ids.txt", "--output", "two.json"],
    ):
        assert main(["generate", *words, "--num_examples", "3", "--overwrite"]) == 0
        made.append(rows())
    assert made[0] == made[1]
    assert Path("one.json").exists()
    assert Path("two.json").exists()


def test_a_model_that_cannot_be_had_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    config(PLACES[0], retrieval_method="gte", model2path={"gte": "./models/gte_absent"})
    assert main(GENERATE_003.words()) == 1
    assert "gte_absent" in capsys.readouterr().err
