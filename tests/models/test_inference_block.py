"""A block for inference in bfloat16, by tiles: the model's own values, whatever stands behind a batch in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from finerank.models import fused, torch_block
from tests.models.test_int8 import bert
from tests.models.test_packed import CPU, batch_of, results

needs_tiles = pytest.mark.skipif(torch_block.tiled() is None, reason="no AMX, or no numba")


def exact(layer: Any, tokens: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Return a block's values in float32, each input by itself."""
    return torch.cat([layer(part[None])[0] for part in tokens.float().split(lengths)])


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@needs_tiles
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("lengths", [(1,), (33, 31), (300, 7), (20,) * 40])
@pytest.mark.parametrize("sizes", [{}, {"hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 160}])
def test_values_are_the_models(sizes: dict[str, int], lengths: tuple[int, ...], threads: int) -> None:
    from finerank.models.inference_block import Block

    layer, before = bert(**sizes).encoder.layer[0], torch.get_num_threads()
    width = layer.attention.self.query.in_features
    runs, start = [], 0
    for length in lengths:
        runs.append((start, 1, length))
        start += length
    with torch.inference_mode():
        tokens = torch.randn(sum(lengths), width).to(torch.bfloat16)
        torch.set_num_threads(threads)
        try:
            found = Block(layer)(tokens, tuple(runs))
        finally:
            torch.set_num_threads(before)
        assert error(found, exact(layer, tokens, lengths)) < 0.004


@needs_tiles
def test_what_stands_behind_a_batch_is_not_used() -> None:
    from finerank.models.inference_block import Block

    block = Block(bert().encoder.layer[0])
    memory = torch.full((100, 128), float("nan"), dtype=torch.bfloat16)
    memory[:50] = torch.randn(50, 128)
    found = block(memory[:50], ((0, 1, 50),))
    assert torch.equal(found, block(memory[:50].clone(), ((0, 1, 50),)))
    assert found.isfinite().all()
    memory[20] = float("nan")  # of the first input
    assert block(memory[:50], ((0, 2, 25),))[25:].isfinite().all()


@needs_tiles
def test_a_models_blocks_are_of_this_kind_where_they_fit() -> None:
    def kinds(model: Any, lengths: tuple[int, ...]) -> set[str]:
        fused.install(model, CPU)
        with torch.inference_mode():
            results(model, batch_of(lengths))
        _, forms = fused._LAID_OUT[model.encoder]
        return {type(block).__module__.rsplit(".")[-1] for blocks in forms.values() for block in blocks}

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert kinds(bert().to(torch.bfloat16), (5, 4)) == {"inference_block"}
        assert kinds(bert(hidden_act="relu").to(torch.bfloat16), (5, 4)) == {"torch_block"}
        assert kinds(bert().to(torch.bfloat16), (5,)) == {"torch_block"}  # alone: all threads for each product
        torch.set_num_threads(1)
        assert kinds(bert().to(torch.bfloat16), (5,)) == {"inference_block"}
    finally:
        torch.set_num_threads(before)
