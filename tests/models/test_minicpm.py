"""The layer-wise MiniCPM: the published files, its arithmetic by hand, an early exit, padding that changes nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from finerank.models.minicpm import LayerWiseMiniCPMConfig, LayerWiseMiniCPMForCausalLM
from tests.parity.tiny_minicpm import BLOCKS, KINDS, START_LAYER, cut, minicpm, plain_minicpm

LAYERS = (2, 3, 5)
ROW = 77


def opened(folder: Path, dtype: torch.dtype = torch.float32) -> LayerWiseMiniCPMForCausalLM:
    config = LayerWiseMiniCPMConfig.from_pretrained(folder)
    model, report = LayerWiseMiniCPMForCausalLM.from_pretrained(
        folder, config=config, dtype=dtype, output_loading_info=True
    )
    assert (report["missing_keys"], report["unexpected_keys"]) == (set(), set())
    return model.eval()


def batch(lengths: tuple[int, ...] = (21, 14, 1), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask of inputs that are padded left with random tokens."""
    ids = torch.randint(3, 300, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    mask = torch.stack([torch.arange(max(lengths)) >= max(lengths) - length for length in lengths]).long()
    return ids, mask


def by_hand(folder: Path, ids: list[int]) -> dict[int, float]:
    """Score one input at each layer with plain arithmetic on the weights of the folder."""
    said = json.loads((folder / "config.json").read_text())
    weights = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    heads, groups = said["num_attention_heads"], said["num_key_value_heads"]
    size, length = said["hidden_size"] // heads, len(ids)
    scale = said["scale_depth"] / math.sqrt(said["num_hidden_layers"])
    scaling = said["rope_scaling"] or {"type": None, "factor": 1.0}
    base = said["rope_theta"]
    if scaling["type"] == "dynamic" and length > said["max_position_embeddings"]:
        stretch = scaling["factor"] * length / said["max_position_embeddings"] - (scaling["factor"] - 1)
        base *= stretch ** (size / (size - 2))
    places = torch.arange(length) / (scaling["factor"] if scaling["type"] == "linear" else 1.0)
    angles = torch.outer(places, base ** -(torch.arange(0, size, 2) / size))

    def norm(states: torch.Tensor, name: str) -> torch.Tensor:
        return states / (states.pow(2).mean(-1, keepdim=True) + said["rms_norm_eps"]).sqrt() * weights[f"{name}.weight"]

    def linear(states: torch.Tensor, name: str) -> torch.Tensor:
        return states @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(1))

    def turned(states: torch.Tensor) -> torch.Tensor:
        low, high = states.chunk(2, dim=-1)
        return torch.cat([low * angles.cos() - high * angles.sin(), high * angles.cos() + low * angles.sin()], dim=-1)

    def parted(states: torch.Tensor, count: int) -> torch.Tensor:
        return states.view(length, count, size).transpose(0, 1).repeat_interleave(heads // count, dim=0)

    def head(state: torch.Tensor, layer: int) -> float:
        kind, name = said["head_type"], "lm_head."
        if said["head_multi"]:
            name += f"{layer - said['start_layer']}."
        rows = weights.get(
            f"{name}{'' if kind == 'raw' else 'linear_head.'}weight", weights["model.embed_tokens.weight"]
        )
        if kind == "simple":
            return (rows[0] @ state).item()
        return (rows[ROW] @ state / (said["hidden_size"] / said["dim_model_base"])).item()

    hidden = weights["model.embed_tokens.weight"][ids] * said["scale_emb"]
    causal = torch.full((length, length), -math.inf).triu(1)
    scores = {}
    for block in range(said["num_hidden_layers"]):
        before = f"model.layers.{block}."
        normed = norm(hidden, f"{before}input_layernorm")
        query = turned(parted(linear(normed, f"{before}self_attn.q_proj"), heads))
        key = turned(parted(linear(normed, f"{before}self_attn.k_proj"), groups))
        value = parted(linear(normed, f"{before}self_attn.v_proj"), groups)
        attended = torch.softmax(query @ key.transpose(1, 2) / math.sqrt(size) + causal, dim=-1) @ value
        joined = attended.transpose(0, 1).reshape(length, -1)
        hidden = hidden + linear(joined, f"{before}self_attn.o_proj") * scale
        normed = norm(hidden, f"{before}post_attention_layernorm")
        gate = torch.nn.functional.silu(linear(normed, f"{before}mlp.gate_proj"))
        hidden = hidden + linear(gate * linear(normed, f"{before}mlp.up_proj"), f"{before}mlp.down_proj") * scale
        if block + 1 >= said["start_layer"]:
            scores[block + 1] = head(norm(hidden[-1], "model.norm"), block + 1)
    return scores


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_plain_arithmetic(kind: str, tmp_path: Path) -> None:
    folder = minicpm(tmp_path, **KINDS[kind] | ({"max_position_embeddings": 10} if kind == "dynamic" else {}))
    ids, mask = batch()
    with torch.no_grad():
        scores = opened(folder)(ids, mask, LAYERS, ROW)
    assert scores.dtype == torch.float32
    for row, (values, kept) in enumerate(zip(ids, mask)):
        expected = by_hand(folder, values[kept == 1].tolist())
        assert scores[row].tolist() == pytest.approx([expected[layer] for layer in LAYERS], abs=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_what_was_published(kind: str, tmp_path: Path) -> None:
    folder = minicpm(tmp_path / "published", **KINDS[kind])
    opened(folder).save_pretrained(tmp_path / "saved")
    before = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    after = load_file(tmp_path / "saved" / "model.safetensors")
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    said, again = (json.loads((place / "config.json").read_text()) for place in (folder, tmp_path / "saved"))
    aside = {"torch_dtype", "transformers_version", "auto_map"}
    assert {key: again.get(key) for key in said if key not in aside} == {
        key: value for key, value in said.items() if key not in aside
    }
    assert "auto_map" not in again  # the code it names is in no file of the folder


def test_remote_code_of_a_repository_stays_named(tmp_path: Path) -> None:
    named = {"AutoConfig": "some/repository--configuration_minicpm_reranker.LayerWiseMiniCPMConfig"}
    assert LayerWiseMiniCPMConfig(auto_map=named).to_dict()["auto_map"] == named


def test_blocks_above_the_highest_layer_do_not_run(tmp_path: Path) -> None:
    model = opened(minicpm(tmp_path))
    ran: list[int] = []
    for number, block in enumerate(model.model.layers, start=1):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    ids, mask = batch()
    with torch.no_grad():
        whole = model(ids, mask, range(START_LAYER, BLOCKS + 1))
        ran.clear()
        early = model(ids, mask, [2, 4])
    assert ran == [1, 2, 3, 4]
    assert torch.equal(early, whole[:, [0, 2]])


@pytest.mark.parametrize("kind", ["simple_grouped", "dynamic", "raw_tied"])
def test_padding_and_neighbours_change_nothing(kind: str, tmp_path: Path) -> None:
    model = opened(minicpm(tmp_path, **KINDS[kind] | {"max_position_embeddings": 16}))
    ids, mask = batch((21, 20, 9, 3))
    with torch.no_grad():
        together = model(ids, mask, LAYERS, ROW)
        alone = [model(row[kept == 1][None], torch.ones(1, int(kept.sum())).long(), LAYERS, ROW)
                 for row, kept in zip(ids, mask)]  # fmt: skip
    assert (together - torch.cat(alone)).abs().max() <= 1e-5


def test_shards_and_pickled_weights_load_alike(tmp_path: Path) -> None:
    folder = minicpm(tmp_path / "one")
    shards = minicpm(tmp_path / "many")
    cut(shards, 4)
    pickled = minicpm(tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    ids, mask = batch()
    with torch.no_grad():
        first, *others = (opened(place)(ids, mask, LAYERS) for place in (folder, shards, pickled))
    assert all(torch.equal(first, other) for other in others)


class Rogue:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle ran code",))


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    folder = minicpm(tmp_path)
    torch.save({**load_file(folder / "model.safetensors"), "extra": Rogue()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(Exception, match=r"(?i)weights.only|unsupported|unpickl"):
        opened(folder)


def test_one_number_heads_stay_in_float32(tmp_path: Path) -> None:
    simple = opened(minicpm(tmp_path / "simple"), torch.bfloat16)
    assert {tensor.dtype for tensor in simple.lm_head.parameters()} == {torch.float32}
    assert simple.model.embed_tokens.weight.dtype == torch.bfloat16
    whole = opened(minicpm(tmp_path / "raw", head_type="raw"), torch.bfloat16)
    assert {tensor.dtype for tensor in whole.parameters()} == {torch.bfloat16}
    ids, mask = batch()
    with torch.no_grad():
        assert simple(ids, mask, LAYERS).dtype == torch.float32
        assert whole(ids, mask, LAYERS, ROW).dtype == torch.float32


@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("kind", ["simple", "complex", "raw"])
def test_heads_of_a_plain_model_begin_as_its_vocabulary(kind: str, multi: bool, tmp_path: Path) -> None:
    folder = plain_minicpm(tmp_path / "plain", head_type="raw", head_multi=False, start_layer=BLOCKS)
    rows = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    model = opened(folder)
    ids, mask = batch()
    with torch.no_grad():
        spoken = model(ids, mask, [BLOCKS], ROW)
        model.grow_heads(3, multi, kind, ROW)  # type: ignore[arg-type]
        grown = model(ids, mask, [3, BLOCKS], ROW)
    scale = 48 / 16 if kind == "simple" else 1.0
    assert (grown[:, 1] - spoken[:, 0] * scale).abs().max() <= 1e-5
    heads = [model.head(layer) for layer in range(3, BLOCKS + 1)]
    assert len({id(head) for head in heads}) == (3 if multi else 1)
    first = next(heads[0].parameters())
    assert torch.equal(first, rows[ROW : ROW + 1] if kind == "simple" else rows)
    assert (first.data_ptr() == model.model.embed_tokens.weight.data_ptr()) == (kind == "raw" and not multi)
    model.save_pretrained(tmp_path / "grown")
    with torch.no_grad():
        assert torch.equal(opened(tmp_path / "grown")(ids, mask, [3, BLOCKS], ROW), grown)


@pytest.mark.parametrize(
    "wrong", [{"head_type": "other"}, {"rope_scaling": {"type": "yarn", "factor": 2.0}}, {"start_layer": 9}]
)
def test_configurations_that_are_not_known_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    said = json.loads((minicpm(tmp_path) / "config.json").read_text()) | wrong
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(Exception, match=r"head_type|rope_scaling|start_layer"):
        opened(tmp_path)


def test_unused_names_of_old_files_do_no_harm(tmp_path: Path) -> None:
    folder = minicpm(tmp_path)
    weights = load_file(folder / "model.safetensors")
    model = opened(folder)
    save_file(weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    again = LayerWiseMiniCPMForCausalLM.from_pretrained(folder, config=model.config).eval()
    ids, mask = batch()
    with torch.no_grad():
        assert np.array_equal(model(ids, mask, LAYERS), again(ids, mask, LAYERS))
