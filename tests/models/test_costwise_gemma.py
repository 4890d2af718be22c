"""Gemma 2 with a head per layer: compression by hand, layers as transformers computes them, an early exit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finerank.models.costwise_gemma import Compression, CostWiseGemmaConfig, CostWiseGemmaForCausalLM, compress
from tests.parity.tiny_gemma import BLOCKS, MODELS

NAN, INFINITE = float("nan"), float("inf")
LAYERS = [2, 3, 4, 5, 6]
HEADS = [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose attention looks back 24 tokens in every other block."""
    return Path(MODELS["sliding"](tmp_path_factory.mktemp("costwise") / "model"))


@pytest.fixture
def model(folder: Path) -> CostWiseGemmaForCausalLM:
    loaded: CostWiseGemmaForCausalLM = CostWiseGemmaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    loaded.cap_attention(True)
    return loaded


def rows(*lengths: int) -> dict[str, torch.Tensor]:
    """Return seeded rows of such lengths, padded right."""
    generator = torch.Generator().manual_seed(3)
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, 300, mask.shape, generator=generator)
    return {"input_ids": ids * mask, "attention_mask": mask}


def test_neighbouring_states_of_a_passage_are_averaged() -> None:
    """By hand: a full row, a row whose last group is short, one that is all kept, one with a passage of one token."""
    hidden = torch.tensor(
        [
            [1.0, 2.0, 10.0, 20.0, 30.0, 50.0, 7.0],
            [1.0, 10.0, 20.0, 60.0, 7.0, 8.0, INFINITE],
            [1.0, 2.0, 7.0, NAN, NAN, NAN, NAN],
            [1.0, 2.0, 5.0, 7.0, NAN, INFINITE, NAN],
        ]
    )[..., None]
    kept = torch.tensor([[2, 1], [1, 2], [2, 1], [2, 1]])
    shorter, lengths = compress(hidden, torch.tensor([7, 6, 3, 4]), kept, 2)
    assert lengths.tolist() == [5, 5, 3, 4]
    assert shorter[..., 0].tolist() == [
        [1.0, 2.0, 15.0, 40.0, 7.0],
        [1.0, 15.0, 60.0, 7.0, 8.0],
        [1.0, 2.0, 7.0, 0.0, 0.0],
        [1.0, 2.0, 5.0, 7.0, 0.0],
    ]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20), st.integers(1, 4)), min_size=1, max_size=4),
    st.integers(1, 9),
)
def test_compression_is_that_of_each_row_alone(parts: list[tuple[int, int, int]], ratio: int) -> None:
    lengths = [sum(part) for part in parts]
    hidden = torch.randn(len(parts), max(lengths), 2, generator=torch.Generator().manual_seed(1))
    kept = torch.tensor([(first, last) for first, _, last in parts])
    shorter, counts = compress(hidden, torch.tensor(lengths), kept, ratio)
    for row, (first, passage, _), length, found, count in zip(hidden, parts, lengths, shorter, counts):
        groups = row[first : first + passage].split(ratio) if passage else []
        averaged = [group.mean(0, keepdim=True) for group in groups]
        expected = torch.cat([row[:first], *averaged, row[first + passage : length]])
        assert int(count) == len(expected)
        torch.testing.assert_close(found[:count], expected)
        assert (found[count:] == 0).all()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_is_that_many_blocks_of_a_gemma(model: CostWiseGemmaForCausalLM, folder: Path, layer: int) -> None:
    """transformers' own Gemma 2 with the same weights, cut to ``layer`` blocks; rows longer than its window."""
    from transformers import Gemma2Model

    batch = rows(40, 33, 7)
    plain, report = Gemma2Model.from_pretrained(
        folder, num_hidden_layers=layer, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"]
    with torch.no_grad():
        states = plain.eval()(**batch).last_hidden_state
        last = states[torch.arange(3), batch["attention_mask"].sum(1) - 1]
        logits = last @ model.lm_head[layer - 2].linear_head.weight[0]
        found = model(**batch, layers=LAYERS, heads=HEADS)
    torch.testing.assert_close(found[:, layer - 2], 30 * torch.tanh(logits / 30), atol=1e-5, rtol=0)


def test_uncapped_attention_is_another_score(model: CostWiseGemmaForCausalLM) -> None:
    batch = rows(30, 12)
    with torch.no_grad():
        capped = model(**batch, layers=[6], heads=[4])
        model.cap_attention(False)
        uncapped = model(**batch, layers=[6], heads=[4])
        model.cap_attention(True)
        assert torch.equal(model(**batch, layers=[6], heads=[4]), capped)
    assert (capped - uncapped).abs().max() > 0.01
    assert model.config.attn_logit_softcapping == 1.0


def test_blocks_above_the_highest_layer_do_not_run(model: CostWiseGemmaForCausalLM) -> None:
    ran: list[int] = []
    for number, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    with torch.no_grad():
        model(**rows(9), layers=[2, 4], heads=[0, 2])
    assert ran == [0, 1, 2, 3]


@pytest.mark.parametrize("compression", [Compression(2, frozenset({2})), Compression(4, frozenset({1, 3, 5}))])
def test_compression_leaves_the_layers_below_it_and_needs_no_padding(
    model: CostWiseGemmaForCausalLM, compression: Compression
) -> None:
    batch, kept = rows(50, 31, 9), torch.tensor([[6, 5], [3, 9], [4, 5]])
    first = min(compression.layers)
    with torch.no_grad():
        whole = model(**batch, layers=LAYERS, heads=HEADS)
        found = model(**batch, layers=LAYERS, heads=HEADS, kept=kept, compression=compression)
        for row, length in enumerate((50, 31, 9)):
            alone = {name: tensor[row : row + 1, :length] for name, tensor in batch.items()}
            again = model(**alone, layers=LAYERS, heads=HEADS, kept=kept[row : row + 1], compression=compression)
            torch.testing.assert_close(again[0], found[row], atol=1e-5, rtol=0)
    assert (whole - found)[:2, LAYERS.index(max(2, first + 1)) :].abs().min() > 0
    torch.testing.assert_close(whole[2], found[2], atol=1e-5, rtol=0)
    assert torch.equal(whole[:, : first - 1], found[:, : first - 1])


def test_before_the_first_block_nothing_is_compressed(model: CostWiseGemmaForCausalLM) -> None:
    batch, kept = rows(20), torch.tensor([[3, 3]])
    with torch.no_grad():
        found = model(**batch, layers=[6], heads=[4], kept=kept, compression=Compression(4, frozenset({0})))
        assert torch.equal(found, model(**batch, layers=[6], heads=[4]))


def test_gradients_reach_what_a_layer_is_made_of(model: CostWiseGemmaForCausalLM) -> None:
    compression = Compression(2, frozenset({1}))
    model.train()
    model(
        **rows(20, 11), layers=[3], heads=[1], kept=torch.tensor([[3, 3], [2, 4]]), compression=compression
    ).sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    wanted = {name for name, _ in model.named_parameters() if "layers." in name and int(name.split(".")[2]) < 3}
    assert reached == wanted | {"model.embed_tokens.weight", "model.norm.weight", "lm_head.1.linear_head.weight"}


def test_activation_checkpointing_changes_no_gradient(model: CostWiseGemmaForCausalLM) -> None:
    def gradient() -> torch.Tensor:
        model.zero_grad()
        model.train()
        model(**rows(20, 11), layers=[6], heads=[4]).sum().backward()
        found = model.model.layers[0].mlp.up_proj.weight.grad
        assert found is not None
        return found.clone()

    plain = gradient()
    model.activation_checkpointing_enable()
    torch.testing.assert_close(gradient(), plain)


def test_a_saved_folder_has_the_published_names(model: CostWiseGemmaForCausalLM, folder: Path, tmp_path: Path) -> None:
    import json

    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    model.save_pretrained(tmp_path)
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    with safe_open(tmp_path / "model.safetensors", "pt") as saved:
        assert set(saved.keys()) == set(names)
    said: dict[str, Any] = json.loads((tmp_path / "config.json").read_text())
    published: dict[str, Any] = json.loads((folder / "config.json").read_text())
    aside = {"torch_dtype", "transformers_version"}
    assert {key: said[key] for key in published if key not in aside} == {
        key: value for key, value in published.items() if key not in aside
    }
    assert isinstance(AutoConfig.from_pretrained(tmp_path), CostWiseGemmaConfig)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(again, CostWiseGemmaForCausalLM)
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())


def test_heads_stand_where_the_configuration_says() -> None:
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": BLOCKS, "vocab_size": 9, "head_dim": 4}
    config = CostWiseGemmaConfig(**sizes, start_layer=1, layer_sep=3, layer_wise=True, intermediate_size=8)
    assert config.head_layers == [1, 4]
    assert len(CostWiseGemmaForCausalLM(config).lm_head) == 2
