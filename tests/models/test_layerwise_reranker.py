"""Layer-wise rerankers: a score per layer, cut off early, saved as published, trained from a plain MiniCPM too."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from finerank.core.errors import UserError
from finerank.models.families import family_of
from finerank.models.layerwise_reranker import LayerwiseReranker
from finerank.models.load import load_scorer, trainable_scorer
from tests.models.test_families import PAIRS, groups, outputs_of
from tests.parity.tiny_minicpm import BLOCKS, KINDS, START_LAYER, minicpm, plain_minicpm

TOLERANCE = 1e-4
EVERY = list(range(START_LAYER, BLOCKS + 1))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(minicpm(tmp_path_factory.mktemp("published")))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(plain_minicpm(tmp_path_factory.mktemp("plain")))


def scorer(folder: str | Path, **options: Any) -> LayerwiseReranker:
    found = load_scorer(str(folder), device="cpu", dtype="float32", **options)
    assert isinstance(found, LayerwiseReranker)
    return found


def trainable(folder: str | Path, **options: Any) -> LayerwiseReranker:
    found = trainable_scorer(str(folder), device="cpu", dropout=0.0, family="layerwise_reranker", **options)
    assert isinstance(found, LayerwiseReranker)
    return found


def test_files_say_the_family(published: str) -> None:
    assert family_of(published) == "layerwise_reranker"


def test_scores_are_those_of_the_highest_layer_asked_for(published: str) -> None:
    every = scorer(published, cutoff_layers=EVERY).layer_scores(PAIRS)
    assert every.shape == (len(EVERY), len(PAIRS))
    assert every.dtype == np.float32
    assert np.abs(every[1:] - every[:-1]).min(axis=1).max() > 0
    assert np.abs(scorer(published).score(PAIRS) - every[-1]).max() <= 1e-6
    some = scorer(published, cutoff_layers=[4, 2, 4])
    assert some.layers == [2, 4]
    assert np.abs(some.layer_scores(PAIRS) - every[[0, 2]]).max() <= 1e-6
    assert np.abs(some.score(PAIRS) - every[2]).max() <= 1e-6
    best = scorer(published, cutoff_layers=[3]).rank(*_query(), top_k=3)
    expected = scorer(published, cutoff_layers=[3]).score([(_query()[0], passage) for passage in _query()[1]])
    assert [place for place, _ in best] == np.argsort(-expected, kind="stable")[:3].tolist()


def _query() -> tuple[str, list[str]]:
    return PAIRS[0][0], [passage for _, passage in PAIRS[:8]]


@pytest.mark.parametrize("budget", [64, 700, 100_000])
def test_batches_order_and_padding_change_nothing(published: str, monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    model = scorer(published, cutoff_layers=EVERY)
    scores = model.layer_scores(PAIRS)
    monkeypatch.setattr("finerank.models.engine.CPU_TOKENS", budget)
    monkeypatch.setattr("finerank.models.engine.WINDOW", 7)
    shuffled = random.Random(4).sample(range(len(PAIRS)), len(PAIRS))
    assert np.abs(model.layer_scores([PAIRS[i] for i in shuffled]) - scores[:, shuffled]).max() <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_scores_the_same(kind: str, tmp_path: Path) -> None:
    model = scorer(minicpm(tmp_path / "published", **KINDS[kind]), cutoff_layers=[2, 4], max_len=100, prompt="is it so")
    model.save(tmp_path / "saved")
    again = scorer(tmp_path / "saved")
    assert (again.layer_scores(PAIRS) == model.layer_scores(PAIRS)).all()
    assert (again.layers, again.max_len, again.layout.prompt) == ([2, 4], 100, "is it so")
    assert again.fingerprint() == model.fingerprint()
    assert scorer(tmp_path / "saved", cutoff_layers=[3]).layers == [3]


def test_a_vocabulary_head_says_yes(tmp_path: Path) -> None:
    model = scorer(minicpm(tmp_path / "raw", head_type="raw"))
    yes = model.hf_tokenizer.encode("Yes", add_special_tokens=False)[0]
    assert model.module.row == yes
    (tokens,) = model.tokens(model.layout.prefixed(PAIRS[:1]))
    ids = torch.tensor([tokens.ids])
    with torch.no_grad():
        expected = model.transformer(ids, torch.ones_like(ids), [BLOCKS], yes)
    assert model.score(PAIRS[:1])[0] == pytest.approx(expected.item(), abs=1e-5)


def test_a_pair_may_bring_its_own_prompt(published: str) -> None:
    model, own = scorer(published), scorer(published, prompt="is it so")
    asked = [(*pair, "is it so") for pair in PAIRS]
    assert np.abs(model.score([*asked, *PAIRS]) - [*own.score(PAIRS), *model.score(PAIRS)]).max() <= TOLERANCE


def test_half_precision_keeps_the_heads(published: str, tmp_path: Path) -> None:
    scorer(published).save(tmp_path / "saved")
    half = load_scorer(str(tmp_path / "saved"), device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in half.transformer.lm_head.parameters()} == {torch.float32}
    assert np.corrcoef(half.score(PAIRS), scorer(published).score(PAIRS))[0, 1] > 0.98


def test_errors_are_one_sentence(published: str, plain: str, tiny_language_model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"layer 1, 9 has no head: .* can be cut off at layers 2 to 5"):
        scorer(published, cutoff_layers=[9, 3, 1])
    with pytest.raises(UserError, match="it is a Qwen2ForCausalLM, and these are MiniCPMs"):
        load_scorer(tiny_language_model, device="cpu", family="layerwise_reranker")
    with pytest.raises(UserError, match="it is a plain MiniCPMForCausalLM, with no heads on its layers"):
        load_scorer(plain, device="cpu", family="layerwise_reranker")
    with pytest.raises(UserError, match="is a decoder-only-layerwise reranker already"):
        trainable(published, from_raw=True)
    with pytest.raises(UserError, match=r"no head can stand on layer 6: .* has layers 1 to 5"):
        trainable(plain, from_raw=True, start_layer=6)
    with pytest.raises(UserError, match="layer 1 has no head"):
        trainable(published, start_layer=1)
    torn = minicpm(tmp_path / "torn")
    weights = load_file(torn / "model.safetensors")
    del weights["lm_head.1.linear_head.weight"]
    save_file(weights, torn / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are missing, lm_head\.1\.linear_head\.weight"):
        scorer(torn)
    wrong = minicpm(tmp_path / "wrong", rope_scaling={"type": "yarn", "factor": 2.0})
    with pytest.raises(UserError, match="cannot be loaded: rope_scaling of type yarn is not known"):
        scorer(wrong)


@pytest.mark.parametrize("budget", [300, 100_000])
def test_a_training_step_scores_what_inference_scores(published: str, budget: int) -> None:
    model = trainable(published)
    model.tokens_per_forward = budget
    batch = groups(3)
    pairs = [(group.query, passage) for group in batch for passage in group.passages]
    found = outputs_of(model, batch)
    assert found["layer_scores"].shape == (3, 4, len(EVERY))
    assert torch.equal(found["scores"], found["layer_scores"][..., -1])
    expected = scorer(published, cutoff_layers=EVERY).layer_scores(pairs)
    assert np.abs(found["layer_scores"].detach().numpy().reshape(-1, len(EVERY)).T - expected).max() <= TOLERANCE


def test_every_trained_head_learns_and_no_other(published: str) -> None:
    model = trainable(published, start_layer=3)
    assert model.layers == [3, 4, 5]
    outputs_of(model, groups(2))["layer_scores"].sin().sum().backward()
    learns = [head.linear_head.weight.grad is not None for head in model.transformer.lm_head]
    assert learns == [False, True, True, True]
    model.transformer.zero_grad()
    assert trainable(published, cutoff_layers=[2, 3]).layers == [2, 3]


def test_gradient_checkpointing_changes_no_gradient(published: str) -> None:
    found = []
    for checkpointing in (False, True):
        model = trainable(published)
        model.module.train()
        if checkpointing:
            model.transformer.gradient_checkpointing_enable({"use_reentrant": False})
            assert model.transformer.model.layers[0].gradient_checkpointing
        outputs_of(model, groups(2))["layer_scores"].sin().sum().backward()
        found.append([tensor.grad for tensor in model.transformer.parameters()])
    assert all((left - right).abs().max() <= 1e-4 for left, right in zip(*found))


@pytest.mark.parametrize(("multi", "kind"), [(True, "simple"), (False, "simple"), (True, "complex"), (False, "raw")])
def test_a_plain_model_gets_heads(plain: str, multi: bool, kind: Any, tmp_path: Path) -> None:
    model = trainable(plain, from_raw=True, start_layer=3, head_multi=multi, head_type=kind)
    assert model.layers == [3, 4, 5]
    with torch.no_grad():
        for tensor in model.transformer.parameters():
            tensor.mul_(1.01)
    model.save(tmp_path / "saved")
    said = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert said["architectures"] == ["LayerWiseMiniCPMForCausalLM"]
    assert (said["start_layer"], said["head_multi"], said["head_type"]) == (3, multi, kind)
    assert family_of(str(tmp_path / "saved")) == "layerwise_reranker"
    assert np.abs(scorer(tmp_path / "saved").score(PAIRS) - model.score(PAIRS)).max() <= 1e-5
    assert trainable(plain).transformer.config.start_layer == BLOCKS


@pytest.mark.parametrize("base", ["published", "plain"])
def test_an_adapter_brings_its_heads(base: str, published: str, plain: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from finerank.core.adapter_options import AdapterOptions
    from finerank.models import adapters, freezing

    source = {"published": published, "plain": plain}[base]
    options = AdapterOptions(use_lora=True, lora_rank=4)
    given = {} if base == "published" else {"start_layer": 3, "head_multi": True}
    model = trainable(source, **given)
    before = model.score(PAIRS)
    model.module.requires_grad_(False)
    heads = freezing.heads_of(model.transformer)
    adapters.add_lora(model.transformer, options, source, heads, 1, task=model.TASK)
    assert np.abs(model.score(PAIRS) - before).max() <= 1e-6
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.module.named_parameters():
            if tensor.requires_grad:
                assert "lora_" in name or "modules_to_save" in name
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    tuned = model.score(PAIRS)
    assert np.abs(tuned - before).max() > 0.01
    outputs_of(model, groups(2))["layer_scores"].sum().backward()
    model.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "config.json").exists()
    assert family_of(str(tmp_path / "adapter")) == "layerwise_reranker"
    assert np.abs(scorer(tmp_path / "adapter").score(PAIRS) - tuned).max() <= TOLERANCE
    aside = scorer(source, peft_path=str(tmp_path / "adapter"), family="layerwise_reranker")
    assert np.abs(aside.score(PAIRS) - tuned).max() <= TOLERANCE
    model.merge_adapter = True
    model.save(tmp_path / "merged")
    assert np.abs(scorer(tmp_path / "merged").score(PAIRS) - tuned).max() <= TOLERANCE


def test_every_layer_learns_a_tiny_task(plain: str) -> None:
    model = trainable(plain, start_layer=3, head_multi=True)
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=1e-3)
    step = model.collate(groups(4))
    losses = []
    for _ in range(16):
        layered = model.outputs(model.module(step["micro"]), step)["layer_scores"]
        by_layer = -torch.log_softmax(layered, dim=1)[:, 0].mean(0)
        optimizer.zero_grad()
        by_layer.sum().backward()
        optimizer.step()
        losses.append(by_layer.detach())
    assert (losses[-1] < 0.6 * losses[0]).all()
