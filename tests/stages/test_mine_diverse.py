"""``finerank mine --diverse``: the same range and rules, another choice among what is left."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from finerank.cli import main
from finerank.retrieval.diverse import diversify, weights
from tests.stages.test_mine import make_rows, read, words, write

RANGE = ("--range_for_sampling", "0-40", "--negative_number", "5", "--when_short", "keep")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", make_rows())


def mean_likeness(vectors: dict[str, np.ndarray], lines: list[dict]) -> float:
    pairs = [pair for line in lines for pair in itertools.combinations(line["neg"], 2)]
    return float(np.mean([vectors[first] @ vectors[second] for first, second in pairs]))


def test_negatives_are_those_of_the_diverse_retriever(tiny_encoder: str, rows: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    output, everything = tmp_path / "mined.jsonl", tmp_path / "all.jsonl"
    lambdas = ("--lambda1", "0.4", "--lambda2", "0.2", "--lambda3", "0.4")
    assert main(words(tiny_encoder, rows, output, *RANGE, "--diverse", *lambdas)) == 0
    eligible = ("--range_for_sampling", "0-40", "--negative_number", "40", "--when_short", "keep")
    assert main(words(tiny_encoder, rows, everything, *eligible)) == 0
    model = SentenceTransformer(tiny_encoder, device="cpu")
    for row, left in zip(read(output), read(everything)):
        relevance = np.array(left["neg_similarities"], dtype=np.float32)
        places, _ = diversify(relevance, model.encode(left["neg"]), model.encode(row["pos"]), 5, weights(0.4, 0.2, 0.4))
        assert row["neg"] == [left["neg"][place] for place in sorted(places)]
        assert row["neg_similarities"] == sorted(row["neg_similarities"], reverse=True)


def test_only_relevance_is_the_top_and_diversity_spreads(tiny_encoder: str, rows: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    found = {}
    for name, more in {
        "top": ("--sampling", "top"),
        "relevance": ("--diverse", "--lambda1", "1", "--lambda2", "0", "--lambda3", "0"),
        "spread": ("--diverse", "--lambda1", "0.2", "--lambda2", "0", "--lambda3", "0.8"),
    }.items():
        output = tmp_path / f"{name}.jsonl"
        assert main(words(tiny_encoder, rows, output, *RANGE, *more)) == 0
        found[name] = read(output)
    assert [row["neg"] for row in found["top"]] == [row["neg"] for row in found["relevance"]]
    texts = list({text for row in found["top"] + found["spread"] for text in row["neg"]})
    vectors = dict(zip(texts, SentenceTransformer(tiny_encoder, device="cpu").encode(texts, normalize_embeddings=True)))
    assert mean_likeness(vectors, found["spread"]) < mean_likeness(vectors, found["top"]) - 0.03


@pytest.mark.parametrize("retriever", ["bm25", "hybrid"])
def test_other_retrievers_can_be_diverse_too(tiny_encoder: str, rows: Path, tmp_path: Path, retriever: str) -> None:
    output = tmp_path / "mined.jsonl"
    assert main(words(tiny_encoder, rows, output, *RANGE, "--retriever", retriever, "--diverse")) == 0
    for row in read(output):
        assert row["neg"]
        assert not set(row["neg"]) & set(row["pos"])


def test_a_reranker_that_objects_to_nothing_changes_nothing(
    tiny_encoder: str, tiny_reranker: str, rows: Path, tmp_path: Path
) -> None:
    plain, judged = tmp_path / "plain.jsonl", tmp_path / "judged.jsonl"
    assert main(words(tiny_encoder, rows, plain, *RANGE, "--diverse")) == 0
    asked = ("--reranker_name_or_path", tiny_reranker, "--max_negative_score", "1000")
    assert main(words(tiny_encoder, rows, judged, *RANGE, "--diverse", *asked)) == 0
    assert [row["neg"] for row in read(judged)] == [row["neg"] for row in read(plain)]


def test_the_choice_is_in_the_manifest_and_is_another_run(tiny_encoder: str, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "mined.jsonl"
    assert main(words(tiny_encoder, rows, output, *RANGE, "--diverse")) == 0
    options = json.loads((tmp_path / "mined.jsonl.manifest.json").read_text())["options"]
    assert (options["diverse"], options["lambda1"], options["lambda2"], options["lambda3"]) == (True, 0.7, 0.1, 0.2)
    assert main(words(tiny_encoder, rows, output, *RANGE, "--diverse", "--lambda3", "0.5")) == 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--sampling", "top"), "two ways to choose"),
        (("--lambda1", "0", "--lambda2", "0", "--lambda3", "0"), "all 0"),
        (("--lambda2", "-1"), "at least 0"),
    ],
)
def test_what_cannot_be_is_refused(
    more: tuple[str, ...], says: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words("no-model", rows, tmp_path / "out.jsonl", "--diverse", *more)) == 2
    assert says in capsys.readouterr().err


def test_words_alone_have_no_vectors(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out.jsonl")
    assert main(["mine", "--input_file", str(rows), "--output_file", out, "--retriever", "bm25", "--diverse"]) == 2
    assert "--model_name_or_path" in capsys.readouterr().err
