"""Fused blocks give what a model's own blocks give, for the weights as they are."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, ElectraConfig, ElectraForSequenceClassification

from finerank.models import fused, torch_block
from tests.models.test_packed import CPU, MODELS, SIZES, batch_of, gradients, results


def fused_results(model: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return results(model, batch)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Note each fused block that runs, by its number format."""
    noted: list[torch.dtype] = []
    own = torch_block.Block.__call__

    def noting(self: torch_block.Block, tokens: Tensor, runs: Any) -> Tensor:
        noted.append(tokens.dtype)
        return own(self, tokens, runs)

    monkeypatch.setattr(torch_block.Block, "__call__", noting)
    return noted


@pytest.mark.parametrize("lengths", [(12, 9, 9, 4, 1), (7, 7), (1,)])
@pytest.mark.parametrize(("config", "kind"), MODELS)
def test_values_are_those_of_the_model(
    config: Any, kind: Any, lengths: tuple[int, ...], calls: list[torch.dtype]
) -> None:
    torch.manual_seed(0)
    model = kind(config(**SIZES)).eval()
    batch = batch_of(lengths)
    expected = fused_results(model, batch)
    assert fused.install(model, CPU)
    torch.testing.assert_close(fused_results(model, batch), expected, atol=1e-5, rtol=0)
    assert calls == [torch.float32] * SIZES["num_hidden_layers"]


@pytest.mark.parametrize("lays_out", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_bfloat16_is_as_near_as_the_models_own(
    activation: str, lays_out: bool, calls: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not lays_out:
        monkeypatch.setattr(torch_block, "lays_out", lambda: False)
    elif not torch_block.lays_out():
        pytest.skip("oneDNN does not lay out bfloat16 here")
    torch.manual_seed(0)
    exact = BertModel(BertConfig(**SIZES, hidden_act=activation)).eval().requires_grad_(False)
    rounded = copy.deepcopy(exact).to(torch.bfloat16)
    batch = batch_of()
    expected = fused_results(exact, batch)
    own = (fused_results(rounded, batch).float() - expected).abs().mean()
    assert fused.install(rounded, CPU)
    off = (fused_results(rounded, batch).float() - expected).abs().mean()
    assert off < 1.2 * own
    assert calls == [torch.bfloat16] * 3


@pytest.fixture
def layouts(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Note each product that is laid out."""
    noted: list[torch.dtype] = []
    own = torch_block.LaidOut.__init__

    def noting(self: torch_block.LaidOut, layers: Any, dtype: torch.dtype) -> None:
        noted.append(dtype)
        own(self, layers, dtype)

    monkeypatch.setattr(torch_block.LaidOut, "__init__", noting)
    return noted


def test_a_model_for_inference_is_laid_out_once(layouts: list[torch.dtype]) -> None:
    model = BertModel(BertConfig(**SIZES)).eval().requires_grad_(False)
    batch = batch_of()
    expected = fused_results(model, batch)
    fused.install(model, CPU)
    for _ in range(2):
        torch.testing.assert_close(fused_results(model, batch), expected, atol=1e-5, rtol=0)
    assert layouts == [torch.float32] * 3 * 4
    model.load_state_dict({name: value * 2 for name, value in model.state_dict().items()})
    assert not torch.allclose(fused_results(model, batch), expected, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_learns_is_measured_as_it_is(dtype: torch.dtype, layouts: list[torch.dtype]) -> None:
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SIZES)).eval().to(dtype)
    fused.install(model, CPU)
    batch = batch_of()
    # torch's fused optimizers change weights without a trace: same address, same version.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    for _ in range(3):
        with fused.steady(model):
            found = fused_results(model, batch)
            assert torch.equal(fused_results(model, batch), found)
        fresh = BertModel(BertConfig(**SIZES)).eval().to(dtype)
        fresh.load_state_dict(model.state_dict())
        torch.testing.assert_close(found, fused_results(fresh, batch), atol=1e-5 if dtype == torch.float32 else 0.1,
                                   rtol=0)  # fmt: skip
        results(model, batch).sum().backward()
        optimizer.step()
    assert len(layouts) == 3 * 3 * 4
    fused_results(model, batch)  # nobody says how long its weights stay
    assert len(layouts) == 3 * 3 * 4


def test_a_copy_has_its_own_weights() -> None:
    model = BertModel(BertConfig(**SIZES)).eval()
    fused.install(model, CPU)
    batch = batch_of()
    before = fused_results(model, batch)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.encoder.parameters():
            weight.zero_()
    assert torch.equal(fused_results(model, batch), before)
    assert not torch.equal(fused_results(other, batch), before)


def test_a_pickled_model_is_fused_and_has_its_own_weights(calls: list[torch.dtype]) -> None:
    model = BertModel(BertConfig(**SIZES)).eval()
    batch = batch_of()
    fused.install(model, CPU)
    expected = fused_results(model, batch)
    copied = pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    calls.clear()
    assert torch.equal(fused_results(copied, batch), expected)
    assert len(calls) == SIZES["num_hidden_layers"]


def test_weights_that_are_spread_go_the_models_own_way(calls: list[torch.dtype]) -> None:
    class Spread(nn.Parameter):
        """As FSDP's: it has the shape of the whole, and is not the whole."""

    model = BertModel(BertConfig(**SIZES)).eval()
    fused.install(model, CPU)
    dense = model.encoder.layer[0].output.dense
    dense.weight = Spread(dense.weight.detach())
    fused_results(model, batch_of())
    assert calls == []


def test_weights_in_float32_are_not_held_twice() -> None:
    model = BertModel(BertConfig(**SIZES)).eval().requires_grad_(False)
    fused.install(model, CPU)
    fused_results(model, batch_of())
    _, forms = fused._LAID_OUT[model.encoder]
    ((first, *_),) = forms.values()
    assert first.parts[2].weight.data_ptr() == model.encoder.layer[0].intermediate.dense.weight.data_ptr()


@pytest.mark.parametrize(("config", "kind"), MODELS)
@pytest.mark.parametrize("lengths", [(12, 9, 9, 4, 1), (7, 7)])
def test_gradients_are_those_of_the_model(
    config: Any, kind: Any, lengths: tuple[int, ...], calls: list[torch.dtype]
) -> None:
    torch.manual_seed(0)
    model = kind(config(**SIZES))
    batch = batch_of(lengths)
    expected = gradients(model, batch)
    assert fused.install(model, CPU)
    torch.testing.assert_close(gradients(model, batch), expected, atol=1e-6, rtol=1e-4)
    assert len(calls) == SIZES["num_hidden_layers"]


def test_dropout_is_behind_both_halves_of_a_block() -> None:
    model = BertModel(BertConfig(**{**SIZES, "hidden_dropout_prob": 0.5}))
    fused.install(model, CPU)
    places: list[str] = []
    for name, part in model.encoder.named_modules():
        if isinstance(part, nn.Dropout) and name.endswith("output.dropout"):
            part.register_forward_pre_hook(lambda _, __, name=name: places.append(name))
    model.train()
    batch = batch_of()
    torch.manual_seed(1)
    first = results(model, batch)
    torch.manual_seed(1)
    assert torch.equal(results(model, batch), first)
    assert not torch.equal(results(model, batch), first)
    assert places[:2] == ["layer.0.attention.output.dropout", "layer.0.output.dropout"]
    assert len(places) == 3 * 2 * 3


def test_adapters_and_gradient_checkpointing_go_the_models_own_way(calls: list[torch.dtype]) -> None:
    class Adapted(nn.Linear):
        pass

    model = ElectraForSequenceClassification(ElectraConfig(**SIZES)).train()
    fused.install(model, CPU)
    model.gradient_checkpointing_enable()
    results(model, batch_of()).sum().backward()
    model.gradient_checkpointing_disable()
    dense = model.electra.encoder.layer[2].intermediate.dense
    model.electra.encoder.layer[2].intermediate.dense = Adapted(dense.in_features, dense.out_features)
    fused_results(model.eval(), batch_of())
    assert calls == []


def test_autocast_decides_the_number_format(calls: list[torch.dtype]) -> None:
    model = BertModel(BertConfig(**SIZES)).eval()
    batch = batch_of()
    expected = fused_results(model, batch)
    fused.install(model, CPU)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fused_results(model, batch)
    assert calls == [torch.bfloat16] * 3
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0)


def test_another_attention_is_left_alone(calls: list[torch.dtype]) -> None:
    model = BertModel(BertConfig(**SIZES)).eval()
    batch = batch_of()
    expected = fused_results(model, batch)
    assert fused.install(model, CPU)
    model.config._attn_implementation = "eager"
    torch.testing.assert_close(fused_results(model, batch), expected, atol=1e-5, rtol=0)
    assert calls == []
    assert not fused.install(model, CPU)
