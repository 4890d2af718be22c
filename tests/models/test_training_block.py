"""A block for training gives the gradients of the model's own one, whatever the sizes, the dropout and the threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from finerank.models import dropout, fused, packed, torch_block
from finerank.models.dropout import PooledDropout
from tests.models.test_packed import CPU, batch_of

if torch_block.tiled() is None or not torch_block.lays_out():
    pytest.skip("no AMX, or no numba", allow_module_level=True)

from finerank.models import training_block

SIZES = {
    "vocab_size": 50,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 300,
    "hidden_dropout_prob": 0.3,
    "attention_probs_dropout_prob": 0.0,
}


@pytest.fixture
def threads() -> Iterator[None]:
    known = torch.get_num_threads()
    yield
    torch.set_num_threads(known)


def model_of(**changed: Any) -> Any:
    """Return a model whose norms and biases are not those of a fresh one, with dropout as finerank trains with it."""
    torch.manual_seed(0)
    model = BertModel(BertConfig(**{**SIZES, **changed}))
    for name, weight in model.named_parameters():
        if "LayerNorm" in name or name.endswith("bias"):
            weight.data.add_(0.3 * torch.randn_like(weight))
    for layer in model.encoder.layer:
        for part in (layer.attention.output, layer.output):
            part.dropout = PooledDropout(part.dropout.p)
    assert fused.install(model, CPU)
    return model


def gradients(model: Any, batch: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        states = model(**batch).last_hidden_state.float()
    weights = torch.linspace(-1, 1, states.shape[-1])
    (states * batch["attention_mask"][..., None] * weights).square().sum().backward()
    return {name: weight.grad.double() for name, weight in model.named_parameters() if weight.grad is not None}


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest relative error of a weight's gradient; one that is next to nothing is rounding itself."""
    assert found.keys() == expected.keys()
    least = 0.05 * max(gradient.norm() for gradient in expected.values())
    return max(((found[name] - of).norm() / max(of.norm(), least)).item() for name, of in expected.items())


@pytest.mark.parametrize("used", [1, 2, 3])
@pytest.mark.parametrize("lengths", [(12, 9, 9, 4, 1), (7, 7), (2,), (150, 33, 1)])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_float32(
    training: bool, lengths: tuple[int, ...], used: int, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(used)
    model, batch = model_of().train(training), batch_of(lengths)
    expected, found = gradients(model, batch, torch.float32), gradients(model, batch, torch.bfloat16)
    monkeypatch.setattr(torch_block, "tiled", lambda: None)
    usual = gradients(model, batch, torch.bfloat16)
    assert worst(usual, expected) > 0  # they were not computed alike
    assert worst(found, expected) < max(1.5 * worst(usual, expected), 0.03)


@pytest.mark.parametrize(
    "changed",
    [
        {"intermediate_size": 80},
        {"hidden_size": 64, "num_attention_heads": 4},
        {"hidden_act": "gelu_new"},
        {"hidden_act": "relu"},
    ],
)
def test_other_shapes_go_the_usual_way(changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(map(training_block.fits, model_of().encoder.layer))
    model, batch = model_of(**changed), batch_of((9, 5))
    assert not any(map(training_block.fits, model.encoder.layer))
    assert worst(gradients(model, batch, torch.bfloat16), gradients(model, batch, torch.float32)) < 0.05


def test_weights_that_are_frozen_get_no_gradient() -> None:
    model, batch = model_of(), batch_of((9, 5))
    expected = gradients(model, batch, torch.bfloat16)
    frozen = model.encoder.layer[0].requires_grad_(False)
    found = gradients(model, batch, torch.bfloat16)
    assert all(weight.grad is None for weight in frozen.parameters())
    assert found.keys() < expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_step_is_the_same_again_and_without_gradients() -> None:
    model, batch = model_of().train(), batch_of((9, 5, 40))
    first, second = (gradients(model, batch, torch.bfloat16) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        learned = model(**batch).last_hidden_state
        torch.manual_seed(1)
        with torch.no_grad():  # gradient caching's first round: dropout, and no way back
            assert torch.equal(model(**batch).last_hidden_state, learned)


def test_a_batch_that_was_seen_in_inference_is_learned_from() -> None:
    packed.starts_of.cache_clear()
    dropout._pool.cache_clear()
    model, batch = model_of().train(), batch_of((9, 5, 3))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        model(**batch)
    assert gradients(model, batch, torch.bfloat16)


@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (96, 96)])
@pytest.mark.parametrize("count", [1, 31, 33, 9000])
def test_gradients_of_weights_are_the_product_over_tokens(count: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    above, tokens = (torch.randn(count, width).to(torch.bfloat16) for width in shape)
    of_weight, of_bias, pieces = training_block._over_tokens(above, tokens, False)
    for piece in reversed(pieces):
        piece()
    expected = above.double().t() @ tokens.double()
    assert ((of_weight - expected).norm() / expected.norm()).item() < 1e-5
    torch.testing.assert_close(of_bias.double(), above.double().sum(0), atol=1e-3, rtol=1e-5)


def test_what_is_not_a_number_stays_none() -> None:
    model, batch = model_of(), batch_of((9, 5, 40))
    model.encoder.layer[0].intermediate.dense.bias.data[3] = float("nan")
    found = gradients(model, batch, torch.bfloat16)
    assert found["encoder.layer.0.attention.self.query.weight"].isnan().all()


@pytest.mark.parametrize("lengths", [(300,), (299, 200, 31, 1), (290, 280, 270, 260, 250, 3)])
@pytest.mark.parametrize("used", [1, 3])
def test_a_batch_of_several_chunks(lengths: tuple[int, ...], used: int, threads: None) -> None:
    """Where chunks end within 32 tokens, what is laid out behind them must not be counted."""
    torch.set_num_threads(used)
    model, batch = model_of(hidden_dropout_prob=0.0).train(), batch_of(lengths)
    known = [torch.full((2**16,), float("nan")) for _ in range(64)]  # memory that a kernel may be given next
    del known
    expected, found = gradients(model, batch, torch.float32), gradients(model, batch, torch.bfloat16)
    assert worst(found, expected) < 0.05
