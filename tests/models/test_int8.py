"""Blocks in int8: near the model's own values, marked in its fingerprint, refused where they cannot be computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from finerank.core.errors import UserError
from finerank.models import fused, torch_block
from finerank.models.load import load_encoder
from tests.models.test_packed import CPU, batch_of, results

needs_tiles = pytest.mark.skipif(
    torch_block.tiled() is None or not torch.cpu.get_capabilities().get("amx_int8"), reason="no AMX, or no numba"
)
SIZES = {
    "vocab_size": 64,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
}


def bert(**given: Any) -> BertModel:
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SIZES | given)).eval().requires_grad_(False)
    for parameter in model.parameters():  # norms and biases of their own, too
        parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@needs_tiles
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("lengths", [(1,), (12, 9, 9, 4, 1), (40, 30, 2)])
def test_values_are_near_the_models(lengths: tuple[int, ...], threads: int) -> None:
    batch, before = batch_of(lengths), torch.get_num_threads()
    with torch.inference_mode():
        expected = results(bert(), batch)
        model = bert().to(torch.bfloat16)
        assert fused.install(model, CPU)
        fused.use_int8(model)
        torch.set_num_threads(threads)
        try:
            found = results(model, batch).float()
        finally:
            torch.set_num_threads(before)
    error = (found - expected).norm() / expected.norm()
    assert 0.001 < error < 0.03  # coarser than bfloat16, which gives 0.004, and no more than that


@needs_tiles
def test_what_is_no_number_stays_so() -> None:
    model = bert().to(torch.bfloat16)
    fused.install(model, CPU)
    fused.use_int8(model)
    model.encoder.layer[1].attention.self.query.bias[3] = float("nan")
    with torch.inference_mode():
        assert results(model, batch_of((5, 3))).isnan().any()


@needs_tiles
def test_an_outlying_token_does_not_coarsen_the_others() -> None:
    """Scales are of each token: with one for all, a number a thousand times as large would leave the rest zero."""
    from finerank.models.int8 import Block

    torch.manual_seed(0)
    block = bert().encoder.layer[0]
    in_int8 = Block(block)
    tokens = torch.randn(6, 128).to(torch.bfloat16)
    alone = in_int8(tokens, ((0, 2, 3),))
    tokens[:3] *= 1000
    assert torch.equal(in_int8(tokens, ((0, 2, 3),))[3:], alone[3:])


@needs_tiles
@pytest.mark.parametrize("given", [{"hidden_act": "relu"}, {"num_attention_heads": 8}, {"intermediate_size": 100}])
def test_what_does_not_fit_is_refused(given: dict[str, Any]) -> None:
    model = bert(**given).to(torch.bfloat16)
    fused.install(model, CPU)
    with pytest.raises(UserError, match="int8 is for encoders like BERT"):
        fused.use_int8(model)


def test_without_such_a_processor_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_block, "tiled", lambda: None)
    with pytest.raises(UserError, match="needs a CPU with AMX"):
        fused.use_int8(bert())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_file: Path) -> str:
    """A BERT whose sizes int8 takes."""
    path = tmp_path_factory.mktemp("bert")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tiny_tokenizer_file), pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(path)
    bert(vocab_size=len(tokenizer)).save_pretrained(path)
    return str(path)


@needs_tiles
def test_an_embedder_says_that_it_computes_in_int8(folder: str) -> None:
    texts = ["cat", "dog cat", "a fox"] * 3
    ours, other = (load_encoder(folder, dtype=dtype, normalize=True) for dtype in ("int8", "bfloat16"))
    assert ours.describe()["dtype"] == "int8"
    assert other.describe()["dtype"] == "bfloat16"
    assert ours.fingerprint("passage") != other.fingerprint("passage")
    cosines = (ours.encode(texts, "passage") * other.encode(texts, "passage")).sum(1)
    assert cosines.min() > 0.99
    assert cosines.min() < 0.99999  # other numbers, then


def test_an_embedder_that_does_not_fit_is_refused(tiny_encoder: str, tiny_decoder: str) -> None:
    for name in (tiny_encoder, tiny_decoder):
        with pytest.raises(UserError, match="--dtype int8"):
            load_encoder(name, dtype="int8")
