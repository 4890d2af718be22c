"""``finerank train reranker`` on language models: every class learns, adapted or whole, in parts and processes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import several
import torch
import train_process
from safetensors.torch import load_file

from finerank.cli import main
from finerank.core.errors import UserError
from finerank.models.load import load_scorer
from finerank.stages import train
from finerank.stages.train import RerankerOptions, run
from tests.stages.decoders import BASE, LAYERWISE, LIGHTWEIGHT, decoders
from tests.stages.test_train import journal, losses, options, write_rows
from tests.stages.test_train_several import PLAIN, given

__all__ = ["decoders"]
pytest.importorskip("peft")
ADAPTER = "adapter_model.safetensors"
LORA: dict[str, Any] = {"use_lora": True, "lora_rank": 4, "lora_alpha": 8, "learning_rate": 3e-3, "lora_dropout": 0.0}
PAIRS = [("cat 1", "the cat of code"), ("dog", "search the tree"), ("cat 1", "read and write " * 9)]
SAME = 1e-5


def slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.fixture
def rows_file(tmp_path: Path) -> str:
    return write_rows(tmp_path / "rows.jsonl", 8)


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The scores of each tuned model as it was before it was saved, by its folder's name."""
    found: dict[str, Any] = {}
    real = train._write_model

    def noted(given: Any, model: Any, folder: Any, *rest: Any) -> None:
        found[folder.path.name] = model.score(PAIRS)
        real(given, model, folder, *rest)

    monkeypatch.setattr(train, "_write_model", noted)
    return found


def scores(folder: Path | str, **more: Any) -> Any:
    return load_scorer(str(folder), device="cpu", dtype="float32", **more).score(PAIRS)


def alike(one: Any, other: Any) -> bool:
    """Say whether scores are the same but for the rounding of an adapter's sums, in numbers of their size."""
    return bool(np.abs(np.array(one) - other).max() <= SAME * (1 + np.abs(one).max()))


def trained(model: str, rows: str, folder: Path, extras: Any = None, **values: Any) -> Path:
    run(options(RerankerOptions, model, rows, folder, **values), extras)
    return folder


@pytest.mark.parametrize("name", [BASE, slow(LAYERWISE), LIGHTWEIGHT, "plain minicpm", slow("plain gemma")])
def test_adapters_learn_and_reload_to_the_same_scores(
    name: str, decoders: dict[str, str], tuned: dict[str, Any], rows_file: str, tmp_path: Path
) -> None:
    base = decoders[name]
    heads: dict[str, Any] = {"model_type": "from_raw_model", "start_layer": 4} if "plain" in name else {}
    given: dict[str, Any] = LORA | heads | {"num_train_epochs": 3}
    out = trained(base, rows_file, tmp_path / "out", **given)
    curve = losses(out)
    assert sum(curve[-2:]) < 0.9 * sum(curve[:2])
    assert (out / ADAPTER).exists()
    assert not (out / "model.safetensors").exists()
    assert alike(tuned["out"], scores(out))
    family = {"family": "layerwise_reranker" if "minicpm" in name else "lightweight_reranker"} if heads else {}
    assert alike(scores(out), scores(base, peft_path=str(out), **family))
    if not heads:
        assert not alike(tuned["out"], scores(base))


@pytest.mark.parametrize("name", [slow(BASE), LAYERWISE, slow(LIGHTWEIGHT)])
def test_merged_scores_are_those_of_the_base_with_its_adapter(
    name: str, decoders: dict[str, str], rows_file: str, tmp_path: Path
) -> None:
    base = decoders[name]
    alone = trained(base, rows_file, tmp_path / "alone", **LORA, max_steps=2)
    whole = trained(base, rows_file, tmp_path / "whole", **LORA, max_steps=2, save_merged_lora_model=True)
    assert not (whole / ADAPTER).exists()
    found = []
    for number, teacher in enumerate([[base, "--reranker_peft_path", str(alone)], [str(whole)], [str(alone)]]):
        output = tmp_path / f"{number}.jsonl"
        words = ["score", "--input_file", rows_file, "--output_file", str(output), "--device", "cpu"]
        assert main([*words, "--dtype", "float32", "--reranker_name_or_path", *teacher]) == 0
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        found.append(np.array([score for line in lines for score in (*line["pos_scores"], *line["neg_scores"])]))
    assert alike(found[0], found[1])
    assert (found[0] == found[2]).all()


@pytest.mark.parametrize("name", [BASE, LAYERWISE, slow(LIGHTWEIGHT)])
def test_all_weights_learn_and_every_layers_head(
    name: str, decoders: dict[str, str], tuned: dict[str, Any], rows_file: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given: dict[str, Any] = {"max_steps": 2, "learning_rate": 1e-3, "start_layer": None if name == BASE else 3}
    out = trained(decoders[name], rows_file, tmp_path / "out", **given)
    assert "all weights of a language model are tuned" in capsys.readouterr().err
    before, after = (
        {key: value for file in Path(folder).glob("*.safetensors") for key, value in load_file(file).items()}
        for folder in (decoders[name], out)
    )
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    if name == BASE:
        assert moved == set(before)
    else:
        heads = sorted(key for key in before if key.startswith("lm_head."))
        assert [key in moved for key in heads] == [False, *[True] * (len(heads) - 1)]
    assert alike(tuned["out"], scores(out))


@pytest.mark.parametrize("name", [slow(BASE), slow(LAYERWISE), LIGHTWEIGHT])
def test_checkpointing_and_parts_change_nothing(
    name: str, decoders: dict[str, str], rows_file: str, tmp_path: Path
) -> None:
    values: dict[str, Any] = LORA | {"max_steps": 2}
    plain = trained(decoders[name], rows_file, tmp_path / "plain", PLAIN, **values)
    saved = trained(
        decoders[name], rows_file, tmp_path / "saved", {**PLAIN, "gradient_checkpointing": ["True"]}, **values
    )
    parts = trained(decoders[name], rows_file, tmp_path / "parts", PLAIN, **values, sub_batch_size=3)
    for other in (saved, parts):
        assert losses(other) == pytest.approx(losses(plain), abs=SAME)
        assert_alike(plain, other, 1e-5)


def assert_alike(one: Path, other: Path, tolerance: float) -> None:
    left, right = (load_file(folder / ADAPTER) for folder in (one, other))
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.allclose(tensor, right[name], atol=tolerance), name


@pytest.mark.slow
@pytest.mark.slow
def test_two_processes_tune_the_adapters_that_one_does(
    tmp_path: Path, rows_file: str, tiny_reranker: str, decoders: dict[str, str]
) -> None:
    """An encoder too; one decoder with gradient checkpointing, one in parts."""
    lora: dict[str, Any] = LORA | {"learning_rate": 0.05, "max_steps": 3}
    cases: dict[str, Any] = {
        "encoder": (tiny_reranker, {}),
        BASE: (decoders[BASE], {"extras": PLAIN | {"gradient_checkpointing": ["True"]}}),
        LAYERWISE: (decoders[LAYERWISE], {"sub_batch_size": 4}),
        LIGHTWEIGHT: (decoders[LIGHTWEIGHT], {"eval_data": [rows_file], "eval_steps": 2}),
    }
    kind = "RerankerOptions"
    runs = [
        given(kind, model, rows_file, tmp_path / f"two-{name}", **lora, **values)
        for name, (model, values) in cases.items()
    ]
    processes = several.start(tmp_path / "log", runs)
    for name, (model, values) in cases.items():
        twice = lora | values | {"per_device_train_batch_size": 6}
        train_process.train(*given(kind, model, rows_file, tmp_path / f"one-{name}", **twice), quiet=True)
    several.finish(processes, tmp_path / "log")
    for name in cases:
        assert_alike(tmp_path / f"one-{name}", tmp_path / f"two-{name}", 1e-4)


def test_an_instruction_is_kept_with_the_model(
    decoders: dict[str, str], tiny_reranker: str, tuned: dict[str, Any], rows_file: str, tmp_path: Path
) -> None:
    base, steps = decoders[BASE], {"max_steps": 2, "learning_rate": 1e-3}
    plain = trained(base, rows_file, tmp_path / "plain", **steps)
    same: dict[str, Any] = {"query_instruction_for_rerank": "A: ", "passage_instruction_for_rerank": "B: "}
    assert losses(trained(base, rows_file, tmp_path / "same", **steps, **same)) == losses(plain)
    for name, model in (("decoder", base), ("encoder", tiny_reranker)):
        told = trained(
            model, rows_file, tmp_path / name, **steps, query_instruction_for_rerank="find",
            query_instruction_format_for_rerank="{} {}", eval_data=[rows_file],
        )  # fmt: skip
        assert json.loads((told / "finerank.json").read_text())["query_prefix"] == "find "
        assert alike(tuned[name], scores(told))


def test_a_rows_own_prompt_is_trained_on_as_it_is_scored(
    decoders: dict[str, str], rows_file: str, tmp_path: Path
) -> None:
    steps = {"max_steps": 2, "learning_rate": 1e-3}
    prompted = write_rows(tmp_path / "prompted.jsonl", 8, prompt="is it so")
    by_row = trained(decoders[BASE], prompted, tmp_path / "row", **steps)
    by_flag = trained(decoders[BASE], rows_file, tmp_path / "flag", **steps, prompt="is it so")
    assert losses(by_row) == pytest.approx(losses(by_flag), abs=SAME)
    assert losses(by_row) != pytest.approx(
        losses(trained(decoders[BASE], rows_file, tmp_path / "no", **steps)), abs=SAME
    )


def test_measured_and_fused_with_its_first_stage_its_card_runs(
    decoders: dict[str, str], rows_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = tmp_path / "judged"
    assert main(["convert", rows_file, "--to", "beir", "--output_dir", str(judged)]) == 0, capsys.readouterr().err
    split = next((judged / "qrels").glob("*.tsv")).stem
    out = trained(
        decoders[LAYERWISE], rows_file, tmp_path / "out", **LORA, max_steps=2, eval_data=[str(judged)],
        eval_split=split, eval_steps=1, rerank_depth=5,
    )  # fmt: skip
    assert any("eval_nDCG@10" in entry for entry in journal(out))
    assert list(out.glob("*fusion*"))
    card = (out / "README.md").read_text()
    assert "library_name: transformers" in card
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert snippet is not None
    exec(snippet[1], {})
    assert "Paris" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        (BASE, {"model_type": "encoder"}, "--model_type encoder: .* is a decoder-only-base reranker"),
        ("encoder", {"model_type": "decoder"}, "--model_type decoder: .* is a reranker with an encoder"),
        (BASE, {"model_type": "from_finetuned_model"}, "has no heads on its layers"),
        (BASE, {"model_type": "from_raw_model"}, "is no decoder-only-layerwise reranker: it is a Qwen2ForCausalLM"),
        ("encoder", {"reranker_model_class": LAYERWISE}, f"cannot be read as {LAYERWISE}: it is a Bert"),
        (LAYERWISE, {"start_layer": 9}, "layer 9 has no head"),
        (LAYERWISE, {"model_type": "from_raw_model"}, "already"),
    ],
)
def test_errors_are_one_sentence(
    name: str, values: dict[str, Any], sentence: str, decoders: dict[str, str], tiny_reranker: str, rows_file: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(UserError, match=sentence):
        trained({**decoders, "encoder": tiny_reranker}[name], rows_file, tmp_path / "out", **values)


def test_an_adapter_of_another_model_does_not_fit(decoders: dict[str, str], rows_file: str, tmp_path: Path) -> None:
    adapter = trained(decoders[BASE], rows_file, tmp_path / "adapter", **LORA, max_steps=1)
    for other in (LAYERWISE, LIGHTWEIGHT):
        with pytest.raises(UserError, match="the adapter does not fit"):
            scores(decoders[other], peft_path=str(adapter))
        with pytest.raises(UserError, match="the adapter does not fit"):
            trained(decoders[other], rows_file, tmp_path / other, from_peft=str(adapter), max_steps=1)


def test_flags_of_flagembeddings_trainer_are_taken(
    decoders: dict[str, str], rows_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"""train reranker --model_name_or_path {decoders["plain minicpm"]} --model_type from_raw_model
    --start_layer 4 --head_multi True --head_type simple --use_lora True --lora_rank 4 --lora_alpha 16
    --use_flash_attn False
    --target_modules q_proj k_proj v_proj o_proj --save_merged_lora_model True --train_data {rows_file}
    --output_dir {tmp_path / "out"} --overwrite_output_dir --cache_path ./cache/data --train_group_size 3
    --query_max_len 32 --passage_max_len 64 --pad_to_multiple_of 8 --knowledge_distillation False
    --query_instruction_for_rerank Query: --query_instruction_format {{}}{{}} --passage_instruction_format {{}}{{}}
    --learning_rate 2e-4 --max_steps 1 --per_device_train_batch_size 2 --dataloader_drop_last True --warmup_ratio 0.1
    --gradient_checkpointing --weight_decay 0.01 --device cpu"""
    assert main(line.split()) == 0, capsys.readouterr().err
    said = capsys.readouterr().err
    assert "--use_flash_attn has no effect" in said
    assert "layers      4 to 5" in said or "4, 5 of 5" in said
    assert load_scorer(str(tmp_path / "out"), device="cpu").layers == [5]
