"""What --freeze names, and that it stays as it was."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from finerank.core.errors import UsageError
from finerank.core.train_options import EmbedderOptions, RerankerOptions
from finerank.models.trainables import trainable_of
from tests.models.test_families import groups, outputs_of

PREFIX = re.compile(r"^model\.(0\.model\.)?")


def model_of(family: type[Any], name: str, *freeze: str, **values: Any) -> Any:
    given: dict[str, Any] = {"model_name_or_path": name, "train_data": ["rows"], "device": "cpu", "freeze": freeze}
    return trainable_of(family(**given | values))


def frozen(model: Any) -> set[str]:
    return {PREFIX.sub("", name) for name, parameter in model.module.named_parameters() if not parameter.requires_grad}


def under(model: Any, *prefixes: str) -> set[str]:
    names = {PREFIX.sub("", name) for name, _ in model.module.named_parameters()}
    return {name for name in names if name.startswith(prefixes)}


def test_words_and_patterns(tiny_encoder: str, tiny_reranker: str) -> None:
    model = model_of(EmbedderOptions, tiny_encoder, "embeddings")
    assert frozen(model) == under(model, "embeddings.")
    model = model_of(EmbedderOptions, tiny_encoder, "layers:0-1")
    assert frozen(model) == under(model, "encoder.layer.0.")
    model = model_of(EmbedderOptions, tiny_encoder, "layers:1", "embeddings.LayerNorm")
    assert frozen(model) == under(model, "encoder.layer.1.", "embeddings.LayerNorm.")
    model = model_of(EmbedderOptions, tiny_encoder, "*.LayerNorm.*")
    assert len(frozen(model)) == 2 * 5
    model = model_of(RerankerOptions, tiny_reranker, "all_but_head")
    assert frozen(model) == under(model, "bert.") - under(model, "bert.pooler.")
    assert under(model, "classifier.")
    assert not frozen(model) & under(model, "classifier.")
    assert model.describe()["trained"].startswith("1,089 of ")


def test_a_decoder(tiny_decoder: str) -> None:
    model = model_of(EmbedderOptions, tiny_decoder, "embeddings", "layers:0")
    assert frozen(model) == under(model, "embed_tokens.", "layers.0.")
    positions = model_of(EmbedderOptions, tiny_decoder, fix_position_embedding=True)
    assert not frozen(positions)


def test_position_embeddings(tiny_encoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of(EmbedderOptions, tiny_encoder, fix_position_embedding=True)
    assert frozen(model) == {"embeddings.position_embeddings.weight"}
    assert "has no effect" not in capsys.readouterr().err


def test_frozen_weights_get_no_gradient(tiny_reranker: str) -> None:
    model = model_of(RerankerOptions, tiny_reranker, "embeddings", "layers:0")
    outputs_of(model, groups(3))["scores"].sum().backward()
    for name, parameter in model.module.named_parameters():
        assert (parameter.grad is None) == (PREFIX.sub("", name) in frozen(model))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("layers:0-3", "the model has 2 layers"),
        ("layers:2", "the model has 2 layers"),
        ("nothing", '--freeze "nothing" names no weights'),
        ("*", "leaves nothing to train"),
        ("all_but_head", "leaves nothing to train"),
    ],
)
def test_what_cannot_be_frozen(word: str, said: str, tiny_encoder: str) -> None:
    with pytest.raises(UsageError, match=said.replace("*", r"\*")):
        model_of(EmbedderOptions, tiny_encoder, word)


def test_all_is_trained_without_it(tiny_encoder: str) -> None:
    model = model_of(EmbedderOptions, tiny_encoder)
    assert not frozen(model)
    assert "trained" not in model.describe()
    assert all(torch.is_floating_point(parameter) for parameter in model.module.parameters())
