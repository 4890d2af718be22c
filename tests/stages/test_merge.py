"""``finerank merge``: means of weights, the grid on held-out data, adapters into their bases, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finerank.cli import main
from finerank.core.errors import UsageError, UserError
from finerank.data.sources import read_rows
from finerank.evaluation.held_out import rows_measure
from finerank.evaluation.significance import paired_interval
from finerank.models.load import load_encoder, load_scorer
from finerank.models.merging import mean_of, shares_of
from finerank.stages.merge import MergeOptions, run
from tests.conftest import build_bert
from tests.models.test_families import PAIRS, TEXTS
from tests.stages.test_train import RerankerOptions, write_judged, write_rows

Weights = dict[str, torch.Tensor]


@pytest.fixture
def rows_file(tmp_path: Path) -> str:
    return write_rows(tmp_path / "rows.jsonl", 10)


@pytest.fixture(scope="module")
def other_reranker(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_file: Path) -> str:
    return str(build_bert(tmp_path_factory.mktemp("other_reranker"), tiny_tokenizer_file, labels=1, seed=7))


@pytest.fixture(scope="module")
def other_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: str) -> str:
    encoder = load_encoder(tiny_encoder, device="cpu", dtype="float32")
    with torch.no_grad():
        for parameter in encoder.module.parameters():
            parameter.mul_(0.5).add_(0.1)
    folder = tmp_path_factory.mktemp("other_encoder")
    encoder.save(folder)
    return str(folder)


def merged(tuned: str, others: list[str], folder: Path, **values: Any) -> Any:
    given = {"model_name_or_path": tuned, "merge_with": others, "output_dir": str(folder), "device": "cpu"}
    return run(MergeOptions(**given | values))


def weights(folder: Path | str) -> Weights:
    return load_file(Path(folder) / "model.safetensors")


def test_one_is_the_tuned_model_and_nothing_is_the_base(
    tiny_reranker: str, other_reranker: str, tmp_path: Path
) -> None:
    merged(tiny_reranker, [other_reranker], tmp_path / "one", weight=1)
    merged(tiny_reranker, [other_reranker], tmp_path / "zero", weight=0)
    for name, source in (("one", tiny_reranker), ("zero", other_reranker)):
        found, expected = weights(tmp_path / name), weights(source)
        assert found.keys() == expected.keys()
        assert all(found[key].numpy().tobytes() == expected[key].numpy().tobytes() for key in expected)
    assert (load_scorer(str(tmp_path / "one")).score(PAIRS) == load_scorer(tiny_reranker).score(PAIRS)).all()


def test_a_half_is_the_mean(tiny_encoder: str, other_encoder: str, tmp_path: Path) -> None:
    outcome = merged(tiny_encoder, [other_encoder], tmp_path / "half")
    assert outcome.data["weight"] == 0.5
    found, one, two = weights(tmp_path / "half"), weights(tiny_encoder), weights(other_encoder)
    for key in one:
        assert torch.allclose(found[key], (one[key] + two[key]) / 2, atol=1e-7)
    encoder = load_encoder(str(tmp_path / "half"))
    assert encoder.max_lens == load_encoder(tiny_encoder).max_lens
    assert np.isfinite(encoder.encode(TEXTS, "query")).all()


def test_means_by_hand() -> None:
    states = [{"w": torch.tensor([4.0, -0.0]), "n": torch.tensor([3])},
              {"w": torch.tensor([8.0, 1.0]), "n": torch.tensor([9])},
              {"w": torch.tensor([0.0, float("inf")]), "n": torch.tensor([5])}]  # fmt: skip
    assert shares_of(0.5, 2) == [0.5, 0.25, 0.25]
    mean = mean_of(states[:2], [0.75, 0.25])
    assert mean["w"].tolist() == [5.0, 0.25]
    assert mean["n"].tolist() == [3]
    alone = mean_of(states, [1.0, 0.0, 0.0])
    assert alone["w"].tolist() == [4.0, 0.0]
    assert torch.signbit(alone["w"][1])
    assert mean_of([{"w": torch.tensor([1.0], dtype=torch.bfloat16)}] * 2, [0.5, 0.5])["w"].dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["reranker", "embedder"])
def test_the_grid_takes_the_best_on_held_out_rows(
    kind: str, tmp_path: Path, rows_file: str, request: pytest.FixtureRequest
) -> None:
    reranker = kind == "reranker"
    first = request.getfixturevalue("tiny_reranker" if reranker else "tiny_encoder")
    second = request.getfixturevalue("other_reranker" if reranker else "other_encoder")
    grid = [0.0, 0.25, 0.5, 0.75, 1.0]
    outcome = merged(first, [second], tmp_path / "out", weights=grid, eval_data=[rows_file])
    points = {point["weight"]: point for point in outcome.data["points"]}
    assert sorted(points) == grid
    values = {}
    for weight in grid:
        merged(first, [second], tmp_path / f"{weight}", weight=weight)
        load = load_scorer if reranker else load_encoder
        model = load(str(tmp_path / f"{weight}"), device="cpu", dtype="float32")
        values[weight] = rows_measure(read_rows([rows_file]), **{"scorer" if reranker else "encoder": model})()
        assert points[weight]["nDCG@10"] == pytest.approx(np.mean(values[weight]["nDCG@10"]))
    best = max(grid, key=lambda weight: (points[weight]["nDCG@10"], weight))
    assert outcome.data["weight"] == best
    chosen, alone = weights(tmp_path / "out"), weights(tmp_path / f"{best}")
    assert all(torch.equal(chosen[key], alone[key]) for key in alone)
    change = paired_interval(values[0.25]["nDCG@10"], values[1.0]["nDCG@10"], 42)
    assert points[0.25]["change"] == pytest.approx(change._asdict())
    assert points[1.0]["change"]["mean"] == 0.0
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| 0.25 | {points[0.25]['nDCG@10']:.4f} | {change.mean:+.4f} |" in card
    assert f"{best:g} *" in outcome.text
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert manifest["counts"]["points"] == outcome.data["points"]


def test_rows_bring_their_own_prompts(tmp_path: Path, rows_file: str, tiny_encoder: str, other_encoder: str) -> None:
    prompted = tmp_path / "prompted.jsonl"
    rows = [json.loads(line) | {"prompt": "sort two"} for line in Path(rows_file).read_text().splitlines()]
    prompted.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given: dict[str, Any] = {"weights": [0.0, 1.0], "query_instruction_format": "{}: {}"}
    outcome = merged(tiny_encoder, [other_encoder], tmp_path / "out", eval_data=[str(prompted)], **given)
    for point, folder in zip(outcome.data["points"], (tiny_encoder, other_encoder)):
        encoder = load_encoder(folder, device="cpu", dtype="float32", query_prompt="sort two: ")
        values = rows_measure(read_rows([rows_file]), encoder=encoder)()
        assert point["MRR"] == pytest.approx(np.mean(values["MRR"]))


def test_judged_folders(tmp_path: Path, rows_file: str, tiny_reranker: str, other_reranker: str) -> None:
    folder = write_judged(tmp_path / "judged", rows_file)
    outcome = merged(tiny_reranker, [other_reranker], tmp_path / "out", weights=[0.5, 1], eval_data=[folder])
    assert outcome.data["points"][0]["queries"] == 10
    with pytest.raises(UsageError, match="or one judged folder"):
        merged(tiny_reranker, [other_reranker], tmp_path / "two", eval_data=[folder, rows_file])


def test_again_it_says_so_and_an_interrupted_grid_goes_on(
    tmp_path: Path, rows_file: str, tiny_reranker: str, other_reranker: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from finerank.evaluation import held_out

    given: dict[str, Any] = {"weights": [0, 0.5, 1], "eval_data": [rows_file]}
    whole = merged(tiny_reranker, [other_reranker], tmp_path / "whole", **given)
    assert merged(tiny_reranker, [other_reranker], tmp_path / "whole", **given).data == whole.data
    assert "already merged" in capsys.readouterr().err
    measured = 0
    real = held_out.measure_on

    def dying(*arguments: Any) -> Any:
        measure = real(*arguments)

        def one() -> Any:
            nonlocal measured
            if measured == 2:
                raise KeyboardInterrupt
            measured += 1
            return measure()

        return one

    monkeypatch.setattr(held_out, "measure_on", dying)
    with pytest.raises(KeyboardInterrupt):
        merged(tiny_reranker, [other_reranker], tmp_path / "out", **given)
    measured = 1
    again = merged(tiny_reranker, [other_reranker], tmp_path / "out", **given)
    assert measured == 2
    assert again.data["points"] == whole.data["points"]
    with pytest.raises(UserError, match="--weights"):
        merged(tiny_reranker, [other_reranker], tmp_path / "out", **given | {"weights": [0, 1]})


def test_an_adapter_is_merged_into_its_base(tiny_reranker: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from tests.models.test_adapters import tuned

    model = tuned(RerankerOptions, tiny_reranker)
    model.save(tmp_path / "adapter")
    outcome = merged(str(tmp_path / "adapter"), [], tmp_path / "out")
    assert "merged into its base" in outcome.text
    assert np.abs(load_scorer(str(tmp_path / "out"), dtype="float32").score(PAIRS) - model.score(PAIRS)).max() <= 1e-4
    assert weights(tmp_path / "out").keys() == weights(tiny_reranker).keys()
    half = merged(str(tmp_path / "adapter"), [tiny_reranker], tmp_path / "half", weight=0.5)
    assert half.data["weight"] == 0.5
    mean = (weights(tmp_path / "out")["classifier.weight"] + weights(tiny_reranker)["classifier.weight"]) / 2
    assert torch.allclose(weights(tmp_path / "half")["classifier.weight"], mean, atol=1e-7)


def test_what_cannot_be_merged(
    tiny_reranker: str, other_reranker: str, tiny_encoder: str, tiny_decoder: str, tmp_path: Path, rows_file: str,
    tiny_tokenizer_file: Path,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="is no adapter, so a model to merge it with"):
        merged(tiny_reranker, [], out)
    with pytest.raises(UserError, match="another family: reranker and embedder"):
        merged(tiny_reranker, [tiny_encoder], out)
    with pytest.raises(UserError, match="another architecture: BertModel and Qwen2Model"):
        merged(tiny_encoder, [tiny_decoder], out)
    with pytest.raises(UsageError, match="--weights needs --eval_data"):
        merged(tiny_reranker, [other_reranker], out, weights=[0, 1])
    with pytest.raises(UsageError, match="two ways"):
        merged(tiny_reranker, [other_reranker], out, weights=[0, 1], weight=0.5, eval_data=[rows_file])
    with pytest.raises(UsageError, match="at most 1"):
        merged(tiny_reranker, [other_reranker], out, weight=1.5)
    with pytest.raises(UsageError, match="needs a model to merge with"):
        merged(tiny_reranker, [], out, weight=0.5)
    longer = Path(build_bert(tmp_path / "longer", tiny_tokenizer_file, labels=1))
    vocabulary = longer / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text().replace('"zero"', '"null"'))
    with pytest.raises(UserError, match="another tokenizer"):
        merged(tiny_reranker, [str(longer)], out)
    assert not out.exists()


def test_shapes_are_compared_name_by_name(tiny_reranker: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig

    for name, change in (("narrow", {"intermediate_size": 32}), ("deep", {"num_hidden_layers": 3})):
        config = BertConfig.from_pretrained(tiny_reranker, **change)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(tiny_reranker).save_pretrained(tmp_path / name)
    with pytest.raises(UserError, match=r"intermediate.dense.weight has the shapes \[64, 32\] and \[32, 32\]"):
        merged(tiny_reranker, [str(tmp_path / "narrow")], tmp_path / "out")
    with pytest.raises(UserError, match=r"only .*deep has the weight .*layer.2"):
        merged(tiny_reranker, [str(tmp_path / "deep")], tmp_path / "out")


def test_the_command_line(
    tiny_reranker: str, other_reranker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    words = ["merge", "--model_name_or_path", tiny_reranker, "--with", other_reranker, "--weight", "0.5"]
    assert main([*words, "--output_dir", out, "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weight"] == 0.5
