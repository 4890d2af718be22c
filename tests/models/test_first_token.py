"""A last block of first tokens alone gives what the whole block gives for them, there and back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

from finerank.models import first_token, fused
from finerank.models.bi_encoder import reads_first
from finerank.models.load import load_encoder, load_scorer
from tests.models.test_packed import CPU, MODELS, SIZES, batch_of, gradients, results

HEADED = [pair for pair in MODELS if "Sequence" in pair[1].__name__]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Note what the last block gives where it is computed for first tokens."""
    noted: list[tuple[int, ...]] = []
    own = first_token.of_last_block

    def noting(*given: Any) -> Tensor:
        states = own(*given)
        noted.append(tuple(states.shape))
        return states

    monkeypatch.setattr(first_token, "of_last_block", noting)
    return noted


def moved(model: Any) -> Any:
    """Move all weights away from where they begin, norms and biases too, so that attention has something to choose."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model.eval()


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("lengths", [(12, 9, 9, 4, 1), (7, 7), (1,), (1, 30)])
@pytest.mark.parametrize(("config", "kind"), HEADED)
def test_values_and_gradients_are_those_of_the_whole_block(
    config: Any, kind: Any, lengths: tuple[int, ...], blocks: int, taken: list[tuple[int, ...]]
) -> None:
    model = moved(kind(config(**SIZES | {"num_hidden_layers": blocks})))
    batch = batch_of(lengths)
    with torch.no_grad():
        values = results(model, batch)
    learned = gradients(model, batch)
    assert first_token.alone_is_read_by(model)
    assert fused.install(model, CPU, first_alone=True)
    with torch.no_grad():
        torch.testing.assert_close(results(model, batch), values, atol=1e-5, rtol=1e-5)
    found = gradients(model, batch)
    assert taken == [(len(lengths), 32)] * 2
    # Of each weight of the encoder, that of the keys' biases too: DDP waits for all of them.
    assert len(found) == len(learned)
    torch.testing.assert_close(found, learned, atol=1e-5, rtol=1e-3)


def test_tokens_behind_the_first_one_of_the_last_block_are_never_computed() -> None:
    model = moved(BertForSequenceClassification(BertConfig(**SIZES)))
    fused.install(model, CPU, first_alone=True)
    seen: list[tuple[int, ...]] = []
    for name, part in model.bert.encoder.layer[-1].named_modules():
        if isinstance(part, nn.Linear):
            part.register_forward_pre_hook(lambda _, args, name=name: seen.append((name, *args[0].shape)))
    with torch.no_grad():
        model(**batch_of((12, 9, 4)))
    assert {name for name, *_ in seen} == {
        "attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense"
    }  # fmt: skip
    assert all(shape[:-1] == [3] for _, *shape in seen)


def test_bfloat16_is_as_near_as_the_models_own() -> None:
    exact = moved(BertForSequenceClassification(BertConfig(**SIZES))).requires_grad_(False)
    rounded = copy.deepcopy(exact).to(torch.bfloat16)
    batch = batch_of()
    with torch.no_grad():
        expected = exact.bert(**batch).last_hidden_state[:, 0]
        own = (rounded.bert(**batch).last_hidden_state[:, 0] - expected).abs().mean()
        fused.install(rounded, CPU, first_alone=True)
        off = (rounded.bert(**batch).last_hidden_state[:, 0] - expected).abs().mean()
    assert 0 < off < 1.2 * own


def test_gradients_in_bfloat16_are_as_near_as_the_models_own() -> None:
    """Behind blocks of the processor's tiles, where there are such."""

    def learned(model: Any, dtype: torch.dtype) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return torch.cat([gradient.flatten() for gradient in gradients(model, batch_of((30, 17, 4)))])

    model = moved(BertForSequenceClassification(BertConfig(**SIZES | {"hidden_size": 64, "num_attention_heads": 2})))
    expected, own = learned(model, torch.float32), learned(model, torch.bfloat16)
    fused.install(model, CPU, first_alone=True)
    found = learned(model, torch.bfloat16)
    assert 0 < (found - expected).norm() < 1.2 * (own - expected).norm()


def test_padding_on_the_left_is_no_first_token(taken: list[tuple[int, ...]]) -> None:
    model = moved(BertModel(BertConfig(**SIZES)))
    batch = batch_of((9, 4, 1), left=True)
    with torch.no_grad():
        whole = model(**batch).last_hidden_state
        fused.install(model, CPU, first_alone=True)
        found = model(**batch).last_hidden_state
    assert taken == [(3, 32)]
    torch.testing.assert_close(found[:, 0], torch.stack([whole[0, 0], whole[1, 5], whole[2, 8]]), atol=1e-5, rtol=0)


def test_a_block_that_is_not_as_it_was_goes_its_own_way(taken: list[tuple[int, ...]]) -> None:
    class Adapted(nn.Linear):
        def forward(self, tokens: Tensor) -> Tensor:
            return super().forward(tokens) * 1.5

    model = moved(BertForSequenceClassification(BertConfig(**SIZES)))
    model.bert.encoder.layer[-1].attention.self.key.__class__ = Adapted
    batch = batch_of()
    with torch.no_grad():
        expected = results(model, batch)
        fused.install(model, CPU, first_alone=True)
        torch.testing.assert_close(results(model, batch), expected, atol=1e-5, rtol=0)
    assert taken == []


def test_a_head_that_is_not_transformers_own_may_read_all() -> None:
    class Meaning(BertForSequenceClassification):
        """Its head could take the mean."""

    assert not first_token.alone_is_read_by(Meaning(BertConfig(**SIZES)))


class _Towers(list[Any]):
    """Modules in the order of a sentence-transformers model."""


@pytest.mark.parametrize(
    ("behind", "said"),
    [
        ([Pooling(8, "cls")], True),
        ([Pooling(8, "cls"), Dense(8, 4), Normalize()], True),
        ([Pooling(8, "mean"), Normalize()], False),
        ([Pooling(8, ("cls", "mean"))], False),
        ([Pooling(8, "cls", include_prompt=False)], False),  # the first token behind the prompt
        ([Pooling(8, "cls"), nn.Identity()], False),
        ([Normalize()], False),
        ([], False),
    ],
)
def test_poolings_that_read_first_tokens(behind: list[Any], said: bool) -> None:
    assert reads_first(_Towers([nn.Identity(), *behind])) is said


def test_a_reranker_and_an_embedder_take_it_by_themselves(
    tiny_reranker: str, tiny_encoder: str, taken: list[tuple[int, ...]]
) -> None:
    texts = ["a wolf", "a fox and a hare in the wood", "salt"]
    reranker = load_scorer(tiny_reranker, device="cpu", dtype="float32")
    pairs = [("who", text) for text in texts]
    scores = reranker.score(pairs)
    width = reranker.transformer.config.hidden_size
    assert taken == [(3, width)]
    features = reranker.hf_tokenizer([query for query, _ in pairs], texts, padding=True, return_tensors="pt")
    plain = type(reranker.transformer).from_pretrained(tiny_reranker).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(scores), plain(**features).logits[:, 0], atol=1e-4, rtol=0)
    taken.clear()
    by_first, by_mean = (
        load_encoder(tiny_encoder, device="cpu", dtype="float32", pooling=pooling) for pooling in ("cls", "mean")
    )
    vectors = by_first.encode_passages(texts)
    assert taken == [(3, width)]
    by_mean.encode_passages(texts)
    assert len(taken) == 1
    plain = SentenceTransformer(tiny_encoder, device="cpu")
    plain[1] = Pooling(width, "cls")
    expected = plain.encode(texts)
    torch.testing.assert_close(torch.from_numpy(vectors), torch.as_tensor(expected), atol=1e-4, rtol=0)
