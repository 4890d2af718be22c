"""What every family holds to, whatever it computes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scoring_memory
import torch
from fork_server import SERVER

from finerank.batching.collate import pad
from finerank.evaluation.ranking import score_groups, vector_groups
from finerank.models.families import FAMILIES
from finerank.models.load import load_encoder, load_scorer, trainable_encoder, trainable_scorer
from finerank.training.losses import group_cross_entropy
from tests.models.test_families import PAIRS, TEXTS, groups, outputs_of
from tests.parity import tiny_base, tiny_gemma, tiny_minicpm

TOLERANCE = 1e-4
BUILDERS: dict[str, Callable[[Path], Path]] = {
    "llm_reranker": tiny_base.gemma,
    "chat_reranker": tiny_base.qwen2,
    "layerwise_reranker": tiny_minicpm.MODELS["simple"],
    "lightweight_reranker": tiny_gemma.MODELS["published"],
}
AS_TRAINED: Mapping[str, dict[str, Any]] = {"lightweight_reranker": {"lightweight_reading": "architecture"}}
"""Options under which a published model is read as it is in training."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: str, tiny_reranker: str) -> dict[str, str]:
    place = tmp_path_factory.mktemp("families")
    built = {family: str(build(place / family)) for family, build in BUILDERS.items()}
    return {"bi_encoder": tiny_encoder, "cross_encoder": tiny_reranker, **built}


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(family: str, folder: str, **options: Any) -> Any:
    if family == "bi_encoder":
        return load_encoder(folder, device="cpu", dtype="float32", **options)
    return load_scorer(folder, family=family, device="cpu", dtype="float32", **options)


def trainable(family: str, folder: str) -> Any:
    if family == "bi_encoder":
        return trainable_encoder(folder, device="cpu", dropout=0.0)
    return trainable_scorer(folder, family=family, device="cpu", dropout=0.0)


def results(model: Any, places: list[int] | None = None) -> np.ndarray:
    """Return what the model gives for the passages, or the pairs, of these places."""
    chosen = range(len(TEXTS)) if places is None else places
    if hasattr(model, "encode"):
        return model.encode([TEXTS[place] for place in chosen], "passage")
    return model.score([PAIRS[place] for place in chosen])


def test_float32_is_accepted_and_results_differ_by_input(family: str, folders: dict[str, str]) -> None:
    model = opened(family, folders[family])
    found = results(model)
    assert model.dtype == torch.float32
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert found.std(axis=0).max() > 0.01


def test_a_saved_model_comes_back_as_what_it_is(family: str, folders: dict[str, str], tmp_path: Path) -> None:
    model = opened(family, folders[family])
    model.save(tmp_path / "model")
    load = load_encoder if family == "bi_encoder" else load_scorer
    again = load(str(tmp_path / "model"), device="cpu", dtype="float32")
    assert type(again) is type(model)
    assert np.abs(results(again) - results(model)).max() <= 1e-6
    assert again.describe().keys() == model.describe().keys()


def test_a_fingerprint_knows_the_model_and_its_lengths(family: str, folders: dict[str, str], tmp_path: Path) -> None:
    side = ("passage",) if family == "bi_encoder" else ()
    model = opened(family, folders[family])
    model.save(tmp_path / "model")
    assert opened(family, str(tmp_path / "model")).fingerprint(*side) == model.fingerprint(*side)
    shorter = opened(family, folders[family], **({"passage_max_len": 17} if side else {"max_len": 37}))
    assert shorter.fingerprint(*side) != model.fingerprint(*side)


@pytest.mark.parametrize("budget", [64, 100_000])
def test_batches_change_nothing(
    family: str, folders: dict[str, str], budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(family, folders[family])
    expected = results(model)
    monkeypatch.setattr("finerank.models.engine.CPU_TOKENS", budget)
    monkeypatch.setattr("finerank.models.engine.WINDOW", 7)
    shuffled = random.Random(4).sample(range(len(TEXTS)), len(TEXTS))
    assert np.abs(results(model, shuffled) - expected[shuffled]).max() <= TOLERANCE


def test_padding_changes_nothing(family: str, folders: dict[str, str]) -> None:
    model = trainable(family, folders[family])
    model.module.eval()
    step = model.collate(groups(2))
    tokens_per_input = [int(count) for micro in step["micro"] for count in micro["attention_mask"].sum(dim=1)]
    assert len(set(tokens_per_input)) > 1
    with torch.no_grad():
        expected = model.module(step["micro"])
        padded = model.module([_wider(micro, model.tokenizer) for micro in step["micro"]])
    assert (padded - expected).abs().max() <= TOLERANCE


def _wider(micro: dict[str, torch.Tensor], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Pad a batch by eleven positions more."""
    filler = {"input_ids": tokenizer.pad_id}
    sides = (11, 0) if tokenizer.pad_left else (0, 11)
    return {
        name: tensor if name == "kept" else torch.nn.functional.pad(tensor, sides, value=filler.get(name, 0))
        for name, tensor in micro.items()
    }


@pytest.mark.parametrize("budget", [300, 100_000])
def test_a_training_step_gives_what_inference_gives(family: str, folders: dict[str, str], budget: int) -> None:
    model, batch = trainable(family, folders[family]), groups(3)
    model.tokens_per_forward = budget
    with torch.no_grad():
        found = outputs_of(model, batch)
    reference = opened(family, folders[family], **AS_TRAINED.get(family, {}))
    passages = [passage for group in batch for passage in group.passages]
    if family == "bi_encoder":
        assert np.abs(found["passages"].numpy() - reference.encode(passages, "passage")).max() <= TOLERANCE
        return
    pairs = [(group.query, passage) for group in batch for passage in group.passages]
    assert np.abs(found["scores"].numpy().reshape(-1) - reference.score(pairs)).max() <= TOLERANCE


def test_what_rows_bring_along_is_measured_as_it_is_trained_on(family: str, folders: dict[str, str]) -> None:
    model, plain = trainable(family, folders[family]), groups(3)
    third: dict[str, Any] = {"alike": True, "query_prompt": "sort: "} if family == "bi_encoder" else {"prompt": "is it"}
    own = [replace(plain[0], query_prompt="find: "), replace(plain[1], passage_prompt="text: ")]
    own += [plain[2] if family == "cross_encoder" else replace(plain[2], **third)]
    score = vector_groups if family == "bi_encoder" else score_groups
    measured = score(model, own)
    with torch.no_grad():
        step = outputs_of(model, own)
    trained = step["scores"] if "scores" in step else 0.1 * _similarities(step)
    assert np.abs(measured - trained.numpy().reshape(-1)).max() <= TOLERANCE
    bare = score(model, plain)
    changed = np.abs(measured - bare).reshape(3, 4).max(axis=1) > TOLERANCE
    assert changed.tolist() == [True, True, family != "cross_encoder"]


def test_the_loss_falls(family: str, folders: dict[str, str]) -> None:
    model, batch = trainable(family, folders[family]), groups(3)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW([item for item in model.module.parameters() if item.requires_grad], lr=3e-3)
    losses = []
    for _ in range(12):
        found = outputs_of(model, batch)
        scores = found["scores"] if "scores" in found else _similarities(found)
        loss = group_cross_entropy(scores).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def _similarities(found: dict[str, torch.Tensor]) -> torch.Tensor:
    queries, passages = found["queries"], found["passages"]
    return torch.einsum("bd,bgd->bg", queries, passages.view(len(queries), -1, queries.shape[1])) / 0.1


def test_padding_of_single_inputs_is_to_their_own_length(family: str, folders: dict[str, str]) -> None:
    model = opened(family, folders[family])
    tokens = model.tokens(TEXTS[:1], "passage") if family == "bi_encoder" else model.tokens(PAIRS[:1])
    assert pad(tokens, model.tokenizer.pad_id, left=model.tokenizer.pad_left)["attention_mask"].all()


@pytest.mark.slow
def test_answers_take_no_memory_of_a_vocabulary(tmp_path: Path) -> None:
    # 16 x 512 tokens and 250,000 words: the logits of all would take 8 GB.
    scoring_memory.write(tmp_path / "model")
    process = SERVER.Process(target=scoring_memory.measure, args=(tmp_path / "model", tmp_path / "added.json"))
    process.start()
    process.join(240)
    process.kill()
    added = json.loads((tmp_path / "added.json").read_text())
    assert added.keys() == set(scoring_memory.FAMILIES)
    assert max(added.values()) < 50, added
