"""Seed 003's ablation and test lines, as its document has them; tiny models and a small corpus stand in for its own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from finerank.cli import main

from ..stages.test_ablate import documents
from .lines import ABLATE_003, ABLATE_003_ALL, ABLATE_003_LISTED, ABLATE_003_SINGLE, TEST_003, Line

CONFIGS = ("../config_lib/extract_config_wikifulldoc.yaml", "./config_lib/example_config.yaml")
TYPES = ["standard", "standard_zs", "standard_ft", "diverse", "diverse_zs", "diverse_ft"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, tiny_reranker: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the original's scripts, with its models, its config in both places, and a corpus."""
    folder = tmp_path / "train_reranker"
    folder.mkdir()
    (tmp_path / "wiki.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents()))
    monkeypatch.chdir(folder)
    for place in ("models/bge-reranker-v2-m3", "output_new"):
        shutil.copytree(tiny_reranker, place)
    for place in map(Path, CONFIGS):
        place.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "corpus_path": os.path.relpath(tmp_path / "wiki.jsonl"), "gpu_id": "3", "retrieval_method": "bm25",
            "model2path": {"gte": "iic/gte"}, "retrieval_topk": 5, "generator_model": "gpt-4", "lambda1": 0.8,
            "lambda2": 0.1, "lambda3": 0.1, "openai_setting": {"base_url": "http://127.0.0.1:9/v1"},
        }  # fmt: skip
        place.write_text(yaml.safe_dump(content))
    return folder


def result(line: Line, place: str) -> dict[str, Any]:
    assert main(line.words()) == 0
    found: dict[str, Any] = json.loads(Path(place).read_text())
    return found


def options(place: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"{place}.manifest.json").read_text())["options"]
    return found


@pytest.mark.parametrize("line", TEST_003, ids=["finetune", "new model"])
def test_the_test_of_a_reranker(line: Line) -> None:
    Path("data").mkdir()
    rows = [{"query": document["contents"][:20], "pos": [document["contents"]], "neg": [other["contents"]]}
            for document, other in zip(documents(), documents()[1:])]  # fmt: skip
    Path("data/test_data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = result(line, line.words()[-1].partition("=")[2])
    assert (found["model_path"], found["test_data"]) == ("./output_new", "./data/test_data.jsonl")
    assert found["num_queries"] == len(rows)
    assert {"hit@1", "mrr", "auc", "best_f1"} <= set(found["metrics"])
    assert set(found["baseline"]) == {"bm25", "random"}


def test_the_ablation_by_its_readmes_flags(capsys: pytest.CaptureFixture[str]) -> None:
    place = "./ablation_results/results.json"
    found = result(ABLATE_003, place)
    assert list(found["results"]) == TYPES
    assert found["config_path"] == "./config_lib/example_config.yaml"
    assert [options(place)[name] for name in ("lambda1", "lambda2", "lambda3", "num", "candidates")] == [
        0.8,
        0.1,
        0.1,
        50,
        10,
    ]
    assert "gpu_id" in capsys.readouterr().err
    assert Path("ablation_results/results.html").exists()


def test_the_ablation_by_its_scripts_flags() -> None:
    found = result(ABLATE_003_ALL, "./ablation_results/rerank_ablation_test.json")
    assert list(found["results"]) == TYPES
    assert (found["num_examples"], found["max_doc_candidates"]) == (50, 5)
    assert all("skipped" not in item for item in found["results"].values())
    swapped = [
        flag.replace("--config", "--config_path") if flag == "--config" else flag for flag in ABLATE_003_ALL.words()
    ]
    assert main([*swapped, "--output_file", "again.json"]) == 0
    assert json.loads(Path("again.json").read_text()) == found


def test_one_retriever_alone() -> None:
    found = result(ABLATE_003_SINGLE, "./ablation_results/rerank_ablation_diverse.json")
    assert found["retriever_type"] == "diverse"
    assert found["total_attempts"] == found["successful_examples"] + found["failed_attempts"]


@pytest.mark.parametrize("flag", ["--doc_ids", "--doc_ids_file"])
def test_listed_documents(flag: str) -> None:
    names = ["c3", "p2", "c1"]
    Path("sampled_doc_ids.txt").write_text("\n".join(names))
    words = [flag if word == "--doc_ids" else word for word in ABLATE_003_LISTED.words()]
    assert main([*words, "--single", "standard", "--output_file", "out.json"]) == 0
    found = json.loads(Path("out.json").read_text())
    sources = [trial["source"] for trial in found["trials"]]
    assert sources[:3] == names
