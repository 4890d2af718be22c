"""Lightweight rerankers: layers, heads and compression asked for; the same scores however they are batched or saved."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finerank.core.errors import UserError
from finerank.core.train_options import RerankerOptions
from finerank.models.families import class_of
from finerank.models.lightweight_reranker import LightweightReranker
from finerank.models.load import load_scorer, trainable_scorer
from finerank.models.trainables import trainable_of
from tests.models.test_families import groups, outputs_of, sentences
from tests.parity.tiny_gemma import BLOCKS, MODELS, START_LAYER, plain_gemma2

PAIRS = list(zip(sentences(10, 1, 8), sentences(10, 0, 60)))
LAYERS = list(range(START_LAYER, BLOCKS + 1))
COMPRESSED = {"compress_ratio": 4, "compress_layers": [2, 4]}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny model in the published format, in two shards."""
    return str(MODELS["published"](tmp_path_factory.mktemp("lightweight") / "model"))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny plain Gemma 2."""
    return str(plain_gemma2(tmp_path_factory.mktemp("gemma2") / "model"))


def opened(folder: str | Path, **options: Any) -> Any:
    return load_scorer(str(folder), device="cpu", dtype="float32", **options)


def copied(folder: str, target: Path, **changes: Any) -> str:
    """Return a copy of a model with other keys in its configuration; None takes one out."""
    import shutil

    shutil.copytree(folder, target)
    said = json.loads((target / "config.json").read_text()) | changes
    kept = {key: value for key, value in said.items() if value is not None}
    (target / "config.json").write_text(json.dumps(kept))
    return str(target)


def test_it_is_known_by_its_files(published: str) -> None:
    assert class_of(published) == "decoder-only-lightweight"
    scorer = opened(published)
    assert isinstance(scorer, LightweightReranker)
    assert scorer.layers == [BLOCKS]
    assert scorer.settings()["prompt"] == "Predict whether passage B contains an answer to query A."
    assert (scorer.settings()["compress_ratio"], scorer.settings()["compress_layers"]) == (1, [8])


def test_each_part_of_a_pair_is_where_compression_looks_for_it(published: str) -> None:
    """bos, query and line end before the passage; line end and prompt after it; also where the passage is cut."""
    scorer = opened(published, max_len=48)
    plain = scorer.tokenizer.plain
    pairs = [("find a cat", "the cat is red"), ("find a cat " * 12, "the tree " * 60)]
    end = plain(["\n"])[0] + plain([scorer.layout.prompt])[0]
    for (query, passage), found in zip(pairs, scorer.tokens(scorer.layout.prefixed(pairs))):
        begin = [2, *plain([f"A: {query}"], 36)[0], *plain(["\n"])[0]]
        first, last = found.kept
        assert found.ids[:first] == begin
        assert found.ids[-last:] == end
        between = found.ids[first:-last]
        assert between == plain([f"B: {passage}"])[0][: len(between)]
    assert len(found.ids) == 48 + 2 * len(end)


@pytest.mark.parametrize("options", [{}, COMPRESSED])
def test_batches_and_padding_change_nothing(
    published: str, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    scorer = opened(published, cutoff_layers=[3, 6], **options)
    scores = scorer.layer_scores(PAIRS)
    assert scores.shape == (2, len(PAIRS))
    assert scores.std(axis=1).min() > 0.1
    alone = np.stack([scorer.layer_scores([pair])[:, 0] for pair in PAIRS], axis=1)
    assert np.abs(alone - scores).max() <= TOLERANCE
    monkeypatch.setattr("finerank.models.engine.CPU_TOKENS", 100_000)
    monkeypatch.setattr("finerank.models.engine.WINDOW", 7)
    order = random.Random(4).sample(range(len(PAIRS)), len(PAIRS))
    again = scorer.layer_scores([PAIRS[place] for place in order])
    assert np.abs(again - scores[:, order]).max() <= TOLERANCE


def test_compression_changes_scores_and_a_ratio_of_one_does_not(published: str) -> None:
    plain = opened(published).score(PAIRS)
    assert (opened(published, compress_ratio=1, compress_layers=[2]).score(PAIRS) == plain).all()
    assert np.abs(opened(published, **COMPRESSED).score(PAIRS) - plain).max() > 0.01
    above = opened(published, cutoff_layers=[2], compress_ratio=4, compress_layers=[2, 3])
    assert (above.score(PAIRS) == opened(published, cutoff_layers=[2]).score(PAIRS)).all()


def test_the_score_is_that_of_the_highest_layer(published: str) -> None:
    scorer = opened(published, cutoff_layers=[5, 3, 5], lightweight_reading="architecture")
    assert scorer.layers == [3, 5]
    layered = scorer.layer_scores(PAIRS)
    assert (scorer.score(PAIRS) == layered[1]).all()
    for layer, expected in zip([3, 5], layered):
        alone = opened(published, cutoff_layers=[layer], lightweight_reading="architecture").score(PAIRS)
        assert np.abs(alone - expected).max() <= TOLERANCE


@pytest.mark.parametrize("layers", [[4], [3, 5], LAYERS])
def test_flagembedding_reads_the_nth_layer_with_the_nth_head(published: str, layers: list[int]) -> None:
    """Its own reading is the architecture's without caps, with the heads moved to the layers that they serve."""
    plain = opened(published, cutoff_layers=layers)
    assert plain.settings()["lightweight_reading"] == "flagembedding"
    moved = opened(published, cutoff_layers=layers, lightweight_reading="architecture")
    heads = [head.linear_head.weight.detach().clone() for head in moved.transformer.lm_head]
    with torch.no_grad():
        for place, layer in enumerate(layers):
            moved.transformer.lm_head[layer - START_LAYER].linear_head.weight.copy_(heads[place])
    own = moved.layer_scores(PAIRS)
    moved.transformer.cap_attention(False)
    assert np.abs(moved.layer_scores(PAIRS) - plain.layer_scores(PAIRS)).max() <= TOLERANCE
    assert np.abs(own - plain.layer_scores(PAIRS)).max() > 0.01


def test_what_decides_a_score_decides_the_fingerprint(published: str) -> None:
    options: list[dict[str, Any]] = [
        {}, {"cutoff_layers": [4]}, COMPRESSED, {"lightweight_reading": "architecture"}, {"prompt": "Is it?"},
    ]  # fmt: skip
    found = [opened(published, **given).fingerprint() for given in options]
    assert len(set(found)) == len(found)
    assert opened(published).fingerprint() == found[0]


def test_a_pair_may_bring_its_own_prompt(published: str) -> None:
    pairs = [(*PAIRS[0], "Is it so?"), PAIRS[1]]
    expected = [opened(published, prompt="Is it so?").score(PAIRS[:1])[0], opened(published).score(PAIRS[1:2])[0]]
    assert np.abs(opened(published).score(pairs) - expected).max() <= TOLERANCE


def test_saved_it_comes_back_the_same(published: str, tmp_path: Path) -> None:
    options = {"cutoff_layers": [3, 5], "lightweight_reading": "architecture", "query_prefix": "", "max_len": 64}
    scorer = opened(published, **options, **COMPRESSED)
    scorer.save(tmp_path / "model")
    again = opened(tmp_path / "model")
    assert again.settings() == scorer.settings()
    assert again.fingerprint() == scorer.fingerprint()
    assert (again.layer_scores(PAIRS) == scorer.layer_scores(PAIRS)).all()
    other = opened(tmp_path / "model", cutoff_layers=[6], compress_ratio=1, lightweight_reading="flagembedding")
    assert (other.layers, other.settings()["compress_ratio"]) == ([6], 1)
    assert class_of(copied(str(tmp_path / "model"), tmp_path / "bare")) == "decoder-only-lightweight"


@pytest.mark.parametrize("budget", [300, 100_000])
@pytest.mark.parametrize("compression", [{}, COMPRESSED])
def test_a_training_step_scores_what_inference_scores(published: str, budget: int, compression: dict[str, Any]) -> None:
    model: Any = trainable_scorer(published, device="cpu", dropout=0.0, start_layer=3, **compression)
    model.tokens_per_forward = budget
    batch = groups(3)
    pairs = [(group.query, passage) for group in batch for passage in group.passages]
    found = {name: value.detach().numpy() for name, value in outputs_of(model, batch).items()}
    assert found["layer_scores"].shape == (3, 4, 4)
    assert (found["scores"] == found["layer_scores"][..., -1]).all()
    scorer = opened(published, cutoff_layers=[3, 4, 5, 6], lightweight_reading="architecture", **compression)
    expected = scorer.layer_scores(pairs)
    assert np.abs(found["layer_scores"].reshape(-1, 4).T - expected).max() <= TOLERANCE


def test_training_falls_at_every_layer(published: str) -> None:
    model: Any = trainable_scorer(published, device="cpu", dropout=0.0, **COMPRESSED)
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=3e-3)
    batch, losses = groups(3), []
    for _ in range(15):
        scores = outputs_of(model, batch)["layer_scores"]
        by_layer = -torch.log_softmax(scores, dim=1)[:, 0].mean(0)
        optimizer.zero_grad()
        by_layer.sum().backward()
        optimizer.step()
        losses.append(by_layer.detach())
    assert model.layers == LAYERS
    assert (losses[-1] < 0.5 * losses[0]).all()


def tuned(model: str, **values: Any) -> Any:
    """Return a reranker whose adapter and heads are far from where they began."""
    given = {"model_name_or_path": model, "train_data": ["rows"], "device": "cpu", "use_lora": True, "lora_rank": 4}
    trainable = trainable_of(RerankerOptions(**given | values))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainable.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return trainable


LIGHTWEIGHT = {"reranker_model_class": "decoder-only-lightweight", "start_layer": 3}


@pytest.mark.parametrize(("base", "values"), [("published", {}), ("gemma", LIGHTWEIGHT)])
@pytest.mark.parametrize("merged", [False, True])
def test_an_adapter_comes_back_with_the_same_scores(
    base: str, values: dict[str, Any], merged: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("peft")
    name = request.getfixturevalue(base)
    model = tuned(name, save_merged_lora_model=merged, **values)
    learns = {part for part, parameter in model.transformer.named_parameters() if parameter.requires_grad}
    assert all("lora_" in part or "lm_head" in part for part in learns)
    assert sum("modules_to_save" in part for part in learns) == len(model.transformer.lm_head)
    expected = model.layer_scores(PAIRS)
    begun = trainable_scorer(name, device="cpu", family="lightweight_reranker", start_layer=values.get("start_layer"))
    assert np.abs(begun.layer_scores(PAIRS) - expected).max() > 0.01  # type: ignore[attr-defined]
    model.save(tmp_path / "tuned")
    assert (tmp_path / "tuned" / "model.safetensors").exists() == merged
    again = opened(tmp_path / "tuned")
    assert again.layers == model.layers
    assert again.settings()["lightweight_reading"] == "architecture"
    assert np.abs(again.layer_scores(PAIRS) - expected).max() <= 1e-4
    if not merged and base == "published":
        beside = opened(name, peft_path=str(tmp_path / "tuned"))
        assert np.abs(beside.layer_scores(PAIRS) - expected).max() <= 1e-4


def test_heads_of_a_plain_gemma_begin_as_its_yes(gemma: str) -> None:
    """Before training, the last layer's score is the language model's own logit of Yes."""
    from transformers import AutoModelForCausalLM

    model: Any = trainable_scorer(gemma, device="cpu", dropout=0.0, family="lightweight_reranker", start_layer=4)
    assert model.layers == [4, 5, 6]
    plain = AutoModelForCausalLM.from_pretrained(gemma, attn_implementation="eager").eval()
    yes = model.hf_tokenizer.encode("Yes", add_special_tokens=False)[0]
    expected = []
    for tokens in model.tokens(model.layout.prefixed(PAIRS)):
        with torch.no_grad():
            expected.append(plain(torch.tensor([tokens.ids])).logits[0, -1, yes].item())
    assert np.abs(model.score(PAIRS) - expected).max() <= 1e-4


ASKED = [
    ({"cutoff_layers": [7]}, r"no scores at layer 7: its heads stand on layers 2, 3, … 6"),
    ({"cutoff_layers": [1, 3]}, r"no scores at layer 1:"),
    ({"compress_ratio": 0}, r"compress ratio 0: expected how many tokens become one, as 1, 2, 4 or 8"),
    ({"compress_ratio": 2}, r"cannot compress before block 8: .* are 1 to 5"),
    ({"compress_ratio": 2, "compress_layers": [0, 3]}, r"cannot compress before block 0"),
    ({"compress_layers": [6]}, r"cannot compress before block 6"),
    ({"lightweight_reading": "mine"}, r'unknown reading "mine"'),
]


@pytest.mark.parametrize(("options", "message"), ASKED)
def test_what_a_model_has_not_got_is_an_error(published: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(published, **options)


def test_another_architecture_is_an_error(gemma: str, published: str, tiny_language_model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its architecture is Gemma2ForCausalLM"):
        opened(gemma, family="lightweight_reranker")
    with pytest.raises(UserError, match="its architecture is Qwen2ForCausalLM"):
        trainable_scorer(tiny_language_model, device="cpu", family="lightweight_reranker")
    with pytest.raises(UserError, match="start layer 9: .* has layers 1 to 6"):
        trainable_scorer(gemma, device="cpu", family="lightweight_reranker", start_layer=9)
    with pytest.raises(UserError, match='"layer_wise": false'):
        opened(copied(published, tmp_path / "flat", layer_wise=False))
    with pytest.raises(UserError, match=r"1 weights are missing, lm_head\.5"):
        opened(copied(published, tmp_path / "more", start_layer=1))
    with pytest.raises(UserError, match="not found"):
        opened(tmp_path / "nowhere", family="lightweight_reranker")
