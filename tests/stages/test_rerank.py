"""``finerank rerank`` end to end: seed 002's file, order, sigmoid, fusion, the shell."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from finerank.cli import main
from finerank.evaluation.fusion_store import Fusion, save_fusion
from tests.stages.dot_model import without_normalisation

QUERY = "find a file"
PASSAGES = ["find the file by name", "a red fish", "sort numbers", "find the file by name"]


def logits(model: str) -> np.ndarray:
    """Reference scores from transformers itself."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    network = AutoModelForSequenceClassification.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    with torch.no_grad():
        found = [network(**tokenizer(QUERY, text, return_tensors="pt")).logits[0, 0].item() for text in PASSAGES]
    return np.array(found)


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    path = tmp_path / "1.json"
    path.write_text(json.dumps({"query": QUERY, "kowndges": PASSAGES}, indent=1))
    return path


def rerank(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict]:
    assert main(["rerank", "--device", "cpu", "--dtype", "float32", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)["results"]


def test_seed_002_scores_in_input_order(
    tiny_reranker: str, candidates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model_dir", tiny_reranker, "--data_path", str(candidates), "--max_length", "512"]
    (result,) = rerank(words, capsys)
    assert result["query"] == QUERY
    assert result["scores"] == pytest.approx(1 / (1 + np.exp(-logits(tiny_reranker))), abs=1e-5)
    assert [item["passage"] for item in result["results"]] == PASSAGES
    (raw,) = rerank([*words, "--no-normalize"], capsys)
    assert raw["scores"] == pytest.approx(logits(tiny_reranker), abs=1e-4)


def test_sort_and_top_k(tiny_reranker: str, candidates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model_name_or_path", tiny_reranker, "--input_file", str(candidates)]
    order = sorted(range(4), key=lambda index: (-logits(tiny_reranker)[index].round(5), index))
    (ranked,) = rerank([*words, "--sort"], capsys)
    assert [item["index"] for item in ranked["results"]] == order
    (best,) = rerank([*words, "--top_k", "2"], capsys)
    assert [item["index"] for item in best["results"]] == sorted(order[:2])


def test_output_file_and_table(
    tiny_reranker: str, candidates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.jsonl"
    words = ["rerank", "--model_dir", tiny_reranker, "--data_path", str(candidates), "--output_file", str(out)]
    assert main(words) == 0
    table = capsys.readouterr().out
    assert QUERY in table
    assert PASSAGES[1] in table
    assert Path(f"{out}.manifest.json").exists()
    (line,) = out.read_text().splitlines()
    assert len(json.loads(line)["scores"]) == 4
    assert main(words) == 0
    assert "done already" in capsys.readouterr().err
    assert main([*words, "--sort"]) == 1


def test_from_the_shell(tiny_reranker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "passages.txt"
    file.write_text("\n".join(PASSAGES[1:]) + "\n\n")
    (result,) = rerank(["--model_dir", tiny_reranker, "--query", QUERY, "--passages", PASSAGES[0], str(file)], capsys)
    assert [item["passage"] for item in result["results"]] == PASSAGES
    assert result["scores"] == pytest.approx(1 / (1 + np.exp(-logits(tiny_reranker))), abs=1e-5)


def test_an_embedder_scores_by_cosine(tiny_encoder: str, candidates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sentence_transformers import SentenceTransformer

    (result,) = rerank(["--model_dir", tiny_encoder, "--data_path", str(candidates)], capsys)
    model = SentenceTransformer(tiny_encoder, device="cpu")
    expected = model.encode(PASSAGES) @ model.encode([QUERY])[0]
    assert result["scores"] == pytest.approx(expected, abs=1e-4)


def test_an_inner_product_model_scores_by_inner_product(
    tiny_encoder: str, candidates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = str(without_normalisation(tiny_encoder, tmp_path / "dot"))
    (result,) = rerank(["--model_dir", folder, "--data_path", str(candidates)], capsys)
    model = SentenceTransformer(folder, device="cpu")
    expected = model.encode(PASSAGES) @ model.encode([QUERY])[0]
    assert max(expected) > 2.0
    assert result["scores"] == pytest.approx(expected, rel=1e-4)


def test_a_file_of_passages_decides_the_output(
    tiny_reranker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "passages.txt", tmp_path / "out.jsonl"
    file.write_text("one\n")
    words = ["rerank", "--model_dir", tiny_reranker, "--query", QUERY, "--passages", str(file), "plain text",
             "--output_file", str(out)]  # fmt: skip
    assert main(words) == 0
    file.write_text("another\n")
    assert main(words) == 1
    assert f"the content of {file}" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert "another" in out.read_text()


def test_a_stored_weight_is_said_and_belongs_to_a_first_stage(
    tiny_reranker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(tiny_reranker, tmp_path / "reranker")
    save_fusion(folder, Fusion("zscore", 0.5, "nDCG@10", 9, "bm25", ()))
    path = tmp_path / "scored.jsonl"
    path.write_text(json.dumps({"query": QUERY, "passages": PASSAGES, "scores": [4.0, 3.0, 2.0, 1.0]}) + "\n")
    words = ["rerank", "--model_dir", str(folder), "--data_path", str(path), "--fusion", "zscore"]
    assert main(words) == 0
    assert "zscore, weight 0.5, chosen by nDCG@10 on 9 queries over bm25" in capsys.readouterr().err
    save_fusion(folder, Fusion("zscore", 2.0, "nDCG@10", 9, "tuned", ()))
    assert main(words) == 2
    assert "several first stages" in capsys.readouterr().err
    assert main([*words, "--first_stage", "tuned"]) == 0
    assert "weight 2" in capsys.readouterr().err


def test_fusion_with_the_first_stage(tiny_reranker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scored.jsonl"
    first = [4.0, 3.0, 2.0, 1.0]
    path.write_text(json.dumps({"query": QUERY, "passages": PASSAGES, "scores": first}) + "\n")
    words = ["--model_dir", tiny_reranker, "--data_path", str(path), "--fusion", "zscore", "--fusion_weight", "2"]
    (result,) = rerank(words, capsys)

    def standard(values: np.ndarray) -> np.ndarray:
        return (values - values.mean()) / values.std()

    expected = standard(np.array(first)) + 2 * standard(logits(tiny_reranker))
    assert result["scores"] == pytest.approx(expected, abs=1e-3)
    path.write_text(json.dumps({"query": QUERY, "passages": PASSAGES, "scores": [1.0, math.nan]}) + "\n")
    assert main(["rerank", *words]) == 1


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--model_dir", "./none", "--query", "q", "--passages", "p"], 1, "not found"),
        (["--model_dir", "m"], 2, "--input_file or --query"),
        (["--model_dir", "m", "--query", "q"], 2, "needs --passages"),
        (["--model_dir", "m", "--input_file", "missing.json"], 1, "missing.json"),
        (["--query", "q", "--passages", "p"], 2, "--model_name_or_path"),
    ],
)
def test_mistakes_are_one_sentence(
    more: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rerank", *more]) == code
    assert message in capsys.readouterr().err


def test_a_text_file_of_passages_is_cut_at_line_feeds_only(
    tiny_reranker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "passages.txt"
    file.write_bytes("one text\u2028in two parts\r\n\nthe other\n".encode())
    (result,) = rerank(["--model_dir", tiny_reranker, "--query", QUERY, "--passages", str(file)], capsys)
    assert len(result["scores"]) == 2
