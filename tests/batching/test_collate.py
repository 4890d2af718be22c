"""A step's micro-batches: distinct inputs once, each result back in its place, equal gradients."""

from __future__ import annotations

import torch

from finerank.batching.collate import micro_batches, pad
from finerank.batching.prompts import Tokens


def back(step: dict[str, object], width: int) -> list[list[int]]:
    """Return each input's ids, by the step's own order, without its padding."""
    rows = [row[mask.bool()] for part in step["micro"] for row, mask in zip(part["input_ids"], part["attention_mask"])]  # type: ignore[attr-defined]
    assert len(rows) == width
    return [rows[place].tolist() for place in step["order"]]  # type: ignore[attr-defined]


def test_equal_inputs_are_computed_once() -> None:
    ids = [[5, 6], [7], [5, 6], [8, 9, 9], [7], [5, 6]]
    step = micro_batches([Tokens(each) for each in ids], budget=4, pad_id=0)
    assert back(step, 3) == ids
    assert [part["input_ids"].shape[0] for part in step["micro"]] == [1, 2]


def test_what_differs_in_anything_is_apart() -> None:
    items = [Tokens([5], [0]), Tokens([5], [1]), Tokens([5], [0])]
    assert len(back(micro_batches(items, 100, 0), 2)) == 3
    items = [Tokens([5, 6], unpooled=1), Tokens([5, 6])]
    assert len(back(micro_batches(items, 100, 0), 2)) == 2


def test_a_query_is_not_its_passage() -> None:
    ids = [[5], [6], [5], [6], [6]]
    step = micro_batches([Tokens(each) for each in ids], 100, 0, apart=2)
    assert back(step, 4) == ids
    assert step["order"][0] != step["order"][2]
    assert step["order"][3] == step["order"][4]


def test_gradients_of_equal_inputs_add_up() -> None:
    ids = [[5, 6], [7], [5, 6]]
    weights = torch.randn(10, requires_grad=True)
    wanted = torch.tensor([0.5, -2.0, 3.0])

    def loss(step: dict[str, object]) -> torch.Tensor:
        parts = [(weights[part["input_ids"]] * part["attention_mask"]).sum(1) for part in step["micro"]]  # type: ignore[attr-defined]
        return (torch.cat(parts).exp()[step["order"]] * wanted).sum()  # type: ignore[index]

    once = torch.autograd.grad(loss(micro_batches([Tokens(each) for each in ids], 4, 0)), weights)[0]
    plain = torch.stack([weights[torch.tensor(each)].sum() for each in ids]).exp() @ wanted
    torch.testing.assert_close(once, torch.autograd.grad(plain, weights)[0])


def test_an_input_without_tokens_becomes_a_padding_token() -> None:
    alone = pad([Tokens([], [])], 9)
    assert {name: tensor.tolist() for name, tensor in alone.items()} == {
        "input_ids": [[9]], "attention_mask": [[1]], "token_type_ids": [[0]],
    }  # fmt: skip
    assert alone["input_ids"].dtype == torch.long
    assert pad([Tokens([3, 4]), Tokens([])], 9)["attention_mask"].tolist() == [[1, 1], [1, 0]]
