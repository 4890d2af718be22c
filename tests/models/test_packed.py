"""Packed blocks give what padded ones give: values, gradients, also when a block is run twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    CamembertConfig,
    CamembertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from finerank.models import packed

SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 40, "pad_token_id": 1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    "num_labels": 1,
}  # fmt: skip
MODELS = [
    (BertConfig, BertModel),
    (BertConfig, BertForSequenceClassification),
    (RobertaConfig, RobertaForSequenceClassification),
    (ElectraConfig, ElectraForSequenceClassification),
    (XLMRobertaConfig, XLMRobertaModel),
    (CamembertConfig, CamembertModel),
]
CPU = torch.device("cpu")
LENGTHS = (12, 9, 9, 4, 1)


def batch_of(lengths: tuple[int, ...] = LENGTHS, *, left: bool = False) -> dict[str, Tensor]:
    torch.manual_seed(5)
    ids, mask = torch.ones(len(lengths), max(lengths), dtype=torch.long), torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        part = slice(max(lengths) - length, None) if left else slice(0, length)
        ids[row, part], mask[row, part] = torch.randint(5, 50, (length,)), 1
    return {"input_ids": ids, "attention_mask": mask.long()}


def results(model: Any, batch: dict[str, Tensor]) -> Tensor:
    output = model(**batch)
    if hasattr(output, "logits"):
        return output.logits
    return output.last_hidden_state * batch["attention_mask"].unsqueeze(-1)


def gradients(model: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    model.train()
    results(model, batch).pow(2).mean().backward()
    found = [value.grad.clone() for value in model.parameters() if value.grad is not None]
    model.zero_grad(set_to_none=True)
    model.eval()
    return found


# A head that reads the first place of an input reads padding there if it is on the left.
CASES = [(*pair, left) for pair in MODELS for left in (False, True) if not (left and "Sequence" in pair[1].__name__)]


@pytest.mark.parametrize(("config", "kind", "left"), CASES)
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_values_and_gradients_are_those_of_the_padded_batch(config: Any, kind: Any, left: bool) -> None:
    torch.manual_seed(0)
    model = kind(config(**SIZES)).eval()
    batch = batch_of(left=left)
    values, learned = results(model, batch), gradients(model, batch)
    assert packed.install(model, CPU)
    torch.testing.assert_close(results(model, batch), values, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradients(model, batch), learned, atol=1e-6, rtol=1e-4)
    # Gradient checkpointing runs the blocks of an earlier micro-batch when a later one has been laid out.
    model.gradient_checkpointing_enable()
    model.train()
    other = batch_of((7, 3))
    sum(results(model, each).pow(2).mean() for each in (batch, other)).backward()
    again = [value.grad.clone() for value in model.parameters() if value.grad is not None]
    model.zero_grad(set_to_none=True)
    model.gradient_checkpointing_disable()
    torch.testing.assert_close(
        again, [one + two for one, two in zip(gradients(model, batch), gradients(model, other))], atol=1e-6, rtol=1e-4
    )


def test_blocks_see_real_tokens_alone() -> None:
    model = BertModel(BertConfig(**SIZES)).eval()
    packed.install(model, CPU)
    seen: list[tuple[int, ...]] = []
    for block in model.encoder.layer:
        block.intermediate.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    model(**batch_of())
    assert seen == [(1, sum(LENGTHS), 32)] * 3
    seen.clear()
    model(**batch_of((6, 6)))
    assert seen == [(2, 6, 32)] * 3
    assert model(input_ids=torch.randint(5, 50, (2, 6))).last_hidden_state.shape == (2, 6, 32)


def test_runs_of_equal_lengths() -> None:
    layout = packed.layout_of(batch_of()["attention_mask"])
    assert layout is not None
    assert layout.runs == ((0, 1, 12), (12, 2, 9), (30, 1, 4), (34, 1, 1))
    assert layout.index.tolist() == [row * 12 + place for row, length in enumerate(LENGTHS) for place in range(length)]
    assert packed.layout_of(torch.ones(3, 4)) is None


def test_what_is_not_known_stays_as_it_is() -> None:
    sizes = {"vocab_size": 50, "dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64}
    distilled = DistilBertModel(DistilBertConfig(**sizes))
    assert not packed.install(distilled, CPU)
    assert not packed.install(BertModel(BertConfig(**SIZES, is_decoder=True)), CPU)
    assert not packed.install(BertModel(BertConfig(**SIZES, output_hidden_states=True)), CPU)
    model = BertModel(BertConfig(**SIZES))
    assert not packed.install(model, torch.device("meta"))
    assert packed.install(model, CPU)
    assert not packed.install(model, CPU)
