"""``finerank score`` and the other verbs on rerankers that are language models: options, layouts, layers, errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finerank.cli import main
from finerank.models.load import load_scorer
from tests.stages.decoders import BASE, CLASSES, LAYERWISE, LIGHTWEIGHT, decoders
from tests.stages.test_score import make_rows, manifest, pairs_of, read, scores_in, words, write

__all__ = ["decoders"]
SAME = 1e-5
ROWS = make_rows(6)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", ROWS)


def scored(model: str, source: Path, *more: str, name: str = "scored.jsonl") -> list[float]:
    output = source.parent / name
    assert main([*words(model, source, output), "--overwrite", *more]) == 0
    return scores_in(read(output))


def by_hand(model: str, pairs: Any = None, **options: Any) -> Any:
    return load_scorer(model, device="cpu", dtype="float32", **options).score(pairs or pairs_of(ROWS))


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_known_by_its_files_and_scores_as_it_does_in_python(
    name: str, decoders: dict[str, str], rows: Path
) -> None:
    found = scored(decoders[name], rows)
    np.testing.assert_allclose(found, by_hand(decoders[name]), rtol=0, atol=SAME)
    assert len(set(found)) > 20
    teacher = manifest(rows.parent / "scored.jsonl")["teacher"]
    assert (teacher["query_prefix"], teacher["passage_prefix"]) == ("A: ", "B: ")
    assert teacher["prompt"]
    assert scored(decoders[name], rows, "--reranker_model_class", name) == found


def test_an_instruction_takes_the_place_of_a_prefix_and_the_prompt_of_the_prompt(
    decoders: dict[str, str], rows: Path
) -> None:
    model = decoders[BASE]
    plain = scored(model, rows)
    sides = ("--query_instruction_for_rerank", "A: ", "--passage_instruction_for_rerank", "B: ")
    assert scored(model, rows, *sides) == plain
    told = scored(
        model, rows, "--query_instruction_for_rerank", "find", "--query_instruction_format_for_rerank", "{} {}"
    )
    np.testing.assert_allclose(told, by_hand(model, query_prefix="find "), rtol=0, atol=SAME)
    assert np.abs(np.array(told) - plain).max() > SAME
    asked = scored(model, rows, "--prompt", "is it so")
    np.testing.assert_allclose(asked, by_hand(model, prompt="is it so"), rtol=0, atol=SAME)
    assert manifest(rows.parent / "scored.jsonl")["teacher"]["prompt"] == "is it so"


@pytest.mark.parametrize("name", [BASE, LIGHTWEIGHT])
def test_a_rows_own_prompt_stands_behind_its_pairs(name: str, decoders: dict[str, str], tmp_path: Path) -> None:
    lines = [
        {"query": "cat", "pos": ["the cat"], "neg": ["a dog"]},
        {"query": "cat", "pos": ["the cat"], "neg": ["a dog"], "prompt": "is it so"},
        {"query": "cat", "pos": ["the cat"], "prompt": "is it so", "query_prompt": "find "},
    ]
    source = write(tmp_path / "rows.jsonl", lines)
    found = scored(decoders[name], source)
    pairs = [("cat", "the cat"), ("cat", "a dog")]
    own = by_hand(decoders[name], pairs, prompt="is it so")
    np.testing.assert_allclose(found[:4], [*by_hand(decoders[name], pairs), *own], rtol=0, atol=SAME)
    assert manifest(tmp_path / "scored.jsonl")["counts"]["pairs_distinct"] == 4
    found = scored(decoders[name], source, "--query_instruction_for_rerank", "A: ")
    expected = by_hand(decoders[name], pairs[:1], prompt="is it so", query_prefix="find ")
    np.testing.assert_allclose(found[4], expected[0], rtol=0, atol=SAME)


@pytest.mark.parametrize("name", [LAYERWISE, LIGHTWEIGHT])
def test_the_highest_of_several_layers_is_written(
    name: str, decoders: dict[str, str], rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = decoders[name]
    last, lower = scored(model, rows), scored(model, rows, "--cutoff_layers", "3")
    assert np.abs(np.array(last) - lower).max() > SAME
    capsys.readouterr()
    several = scored(model, rows, "--cutoff_layers", "4", "2", "3")
    assert "of several --cutoff_layers the highest, 4, gives the scores" in capsys.readouterr().err
    assert manifest(rows.parent / "scored.jsonl")["teacher"]["cutoff_layers"] == [2, 3, 4]
    np.testing.assert_allclose(several, by_hand(model, cutoff_layers=[2, 3, 4]), rtol=0, atol=SAME)


def test_compression_and_reading_reach_the_model_and_make_another_run(
    decoders: dict[str, str], rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = decoders[LIGHTWEIGHT], rows.parent / "scored.jsonl"
    seen, keys = [scored(model, rows)], [manifest(output)["teacher"]["fingerprint"]]
    given: list[tuple[list[str], dict[str, Any]]] = [
        (["--compress_ratio", "2", "--compress_layers", "1"], {"compress_ratio": 2, "compress_layers": [1]}),
        (["--lightweight_reading", "architecture"], {"lightweight_reading": "architecture"}),
        (["--cutoff_layers", "4"], {"cutoff_layers": [4]}),
    ]
    for flags, options in given:
        found = scored(model, rows, *flags)
        np.testing.assert_allclose(found, by_hand(model, **options), rtol=0, atol=SAME)
        assert all(np.abs(np.array(found) - other).max() > SAME for other in seen)
        seen.append(found)
        keys.append(manifest(output)["teacher"]["fingerprint"])
    assert len(set(keys)) == 4
    assert main([*words(model, rows, output), "--compress_ratio", "2", "--compress_layers", "2"]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_what_a_class_does_not_take_is_said(
    decoders: dict[str, str], rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = scored(decoders[BASE], rows)
    assert scored(decoders[BASE], rows, "--cutoff_layers", "1", "--compress_ratio", "2", "--prompt", "so") != plain
    said = capsys.readouterr().err
    assert "--cutoff_layers has no effect" in said
    assert "--compress_ratio has no effect" in said
    assert "a decoder-only-base reranker" in said
    assert "--prompt has no effect" not in said


@pytest.mark.slow
def test_two_devices_write_the_bytes_of_one(decoders: dict[str, str], rows: Path) -> None:
    more = ("--cutoff_layers", "3")
    one = scored(decoders[LAYERWISE], rows, *more)
    first = (rows.parent / "scored.jsonl").read_bytes()
    assert scored(decoders[LAYERWISE], rows, *more, "--devices", "cpu", "cpu") == one
    assert (rows.parent / "scored.jsonl").read_bytes() == first


def test_other_verbs_open_them_with_the_same_options(
    decoders: dict[str, str], rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = decoders[LAYERWISE], tmp_path / "out"
    out.mkdir()
    candidates = tmp_path / "candidates.json"
    candidates.write_text(json.dumps({"query": ROWS[0]["query"], "passages": ROWS[0]["neg"]}))
    cpu = ["--device", "cpu", "--dtype", "float32", "--cutoff_layers", "3", "--prompt", "is it so",
           "--query_instruction_for_rerank", "find "]  # fmt: skip
    lines = [
        ["rerank", "--model_dir", model, "--data_path", str(candidates), "--no-normalize", "--output_file",
         f"{out}/r.jsonl", *cpu],
        ["evaluate", "-m", model, "-d", str(rows), "--output_file", f"{out}/e.json", *cpu],
        ["mine", "--retriever", "bm25", "--reranker_name_or_path", model, "--max_negative_score", "1000",
         "--input_file", str(rows), "--output_file", f"{out}/m.jsonl", "--range_for_sampling", "0-20",
         "--negative_number", "2", *cpu],
    ]  # fmt: skip
    for line in lines:
        assert main(line) == 0, (line, capsys.readouterr().err)
    options: dict[str, Any] = {"cutoff_layers": [3], "prompt": "is it so", "query_prefix": "find "}
    pairs = [(ROWS[0]["query"], text) for text in ROWS[0]["neg"]]
    expected = by_hand(model, pairs, **options)
    assert read(out / "r.jsonl")[0]["scores"] == pytest.approx(list(expected), abs=SAME)
    mined = read(out / "m.jsonl")
    np.testing.assert_allclose(scores_in(mined), by_hand(model, pairs_of(mined), **options), rtol=0, atol=1e-4)


def test_what_embedders_do_not_take_is_said(tiny_encoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["rerank", "--model_dir", tiny_encoder, "--query", "cat", "--passages", "the cat", "--device", "cpu"]
    assert main([*line, "--prompt", "so"]) == 0
    assert "--prompt has no effect" in capsys.readouterr().err
    assert main(["mine", "--retriever", "bm25", "--input_file", "r", "--output_file", "o", "--prompt", "so"]) == 2
    assert "--prompt needs --reranker_name_or_path" in capsys.readouterr().err


def edited(model: str, folder: Path, **config: Any) -> str:
    shutil.copytree(model, folder)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | config))
    return str(folder)


def test_errors_are_one_sentence(
    decoders: dict[str, str], tiny_reranker: str, tiny_encoder: str, rows: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    unknown = edited(decoders[BASE], tmp_path / "unknown", model_type="foo", architectures=["FooForCausalLM"])
    other = edited(decoders[BASE], tmp_path / "other", model_type="foo", architectures=["FooModel"])
    asked = "--reranker_model_class"
    cases: list[tuple[str, list[str], str]] = [
        (unknown, [], 'unknown architecture FooForCausalLM (model type "foo")'),
        (other, [], 'unknown architecture FooModel (model type "foo")'),
        (tiny_reranker, [asked, LAYERWISE], f"cannot be read as {LAYERWISE}: it is a BertForSequenceClassification"),
        (tiny_encoder, [asked, BASE], f"cannot be read as {BASE}: it is a BertModel"),
        (decoders[BASE], [asked, "encoder-only-base"], "cannot be read as encoder-only-base: it is a Qwen2ForCausalLM"),
        (decoders[LAYERWISE], [asked, LIGHTWEIGHT], f"cannot be read as {LIGHTWEIGHT}: it is a LayerWise"),
        (decoders[LAYERWISE], ["--cutoff_layers", "1"], "layer 1 has no head"),
        (decoders[LAYERWISE], ["--cutoff_layers", "3", "9"], "layer 9 has no head"),
        (decoders[LIGHTWEIGHT], ["--cutoff_layers", "7"], "layer 7"),
        (decoders[BASE], ["--reranker_peft_path", tiny_encoder], "expected an adapter, found no adapter_config.json"),
    ]
    for model, flags, sentence in cases:
        assert main([*words(model, rows, tmp_path / "out.jsonl"), *flags]) == 1, flags
        said = capsys.readouterr().err
        assert sentence in said, said
        assert said.count("error: ") == 1
        assert "Traceback" not in said


def test_a_model_that_cannot_say_yes_is_refused(
    decoders: dict[str, str], rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = edited(decoders[BASE], tmp_path / "mute")
    tokenizer = json.loads((tmp_path / "mute" / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["0yes"] = vocabulary.pop("y")
    tokenizer["model"]["max_input_chars_per_word"] = 100
    (tmp_path / "mute" / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert main(words(model, rows, tmp_path / "out.jsonl")) == 1
    assert 'cannot answer "Yes": its tokenizer has no token for it' in capsys.readouterr().err
