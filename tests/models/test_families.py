"""The families against their references: sentence-transformers and transformers, in float32."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finerank.core.errors import UserError
from finerank.core.records import Group
from finerank.models import attention
from finerank.models.families import family_of
from finerank.models.load import (
    load_encoder,
    load_scorer,
    resolve_device,
    resolve_dtype,
    trainable_encoder,
    trainable_scorer,
)
from tests.conftest import WORDS

TOLERANCE = 1e-4


def sentences(count: int, seed: int = 0, most: int = 60) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, most))) for _ in range(count)]


TEXTS = sentences(40)
PAIRS = list(zip(sentences(40, 1, 8), TEXTS))


def groups(count: int, size: int = 4) -> list[Group]:
    queries, passages = sentences(count, 2, 6), sentences(count * size, 3, 30)
    return [Group(query, tuple(passages[i * size : (i + 1) * size]), i) for i, query in enumerate(queries)]


def outputs_of(model: Any, batch: list[Group]) -> dict[str, torch.Tensor]:
    step = model.collate(batch)
    return model.outputs(model.module(step["micro"]), step)


def test_embeddings_equal_sentence_transformers(tiny_encoder: str) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(tiny_encoder, device="cpu").encode(TEXTS)
    assert np.abs(load_encoder(tiny_encoder, dtype="float32").encode(TEXTS, "passage") - expected).max() <= TOLERANCE


def test_scores_equal_sequence_classification(tiny_reranker: str) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tiny_reranker).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_reranker)
    batch = tokenizer(PAIRS, padding=True, truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits.squeeze(-1).numpy()
    scores = load_scorer(tiny_reranker, dtype="float32").score(PAIRS)
    assert np.abs(scores - expected).max() <= TOLERANCE


@pytest.mark.parametrize("budget", [64, 200, 100_000])
def test_batch_size_order_and_padding_change_nothing(
    tiny_encoder: str, tiny_reranker: str, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    encoder, scorer = load_encoder(tiny_encoder, dtype="float32"), load_scorer(tiny_reranker, dtype="float32")
    vectors, scores = encoder.encode(TEXTS, "query"), scorer.score(PAIRS)
    monkeypatch.setattr("finerank.models.engine.CPU_TOKENS", budget)
    monkeypatch.setattr("finerank.models.engine.WINDOW", 7)
    shuffled = random.Random(4).sample(range(len(TEXTS)), len(TEXTS))
    again = encoder.encode([TEXTS[i] for i in shuffled], "query")
    assert np.abs(again - vectors[shuffled]).max() <= 1e-5
    assert np.abs(scorer.score([PAIRS[i] for i in shuffled]) - scores[shuffled]).max() <= 1e-5


def test_duplicates_are_computed_once_and_put_back(tiny_encoder: str) -> None:
    encoder = load_encoder(tiny_encoder, dtype="float32")
    seen: list[int] = []
    vectors = encoder.encode([TEXTS[0], TEXTS[1], TEXTS[0]], "query", seen.append)
    assert (vectors[0] == vectors[2]).all()
    assert sum(seen) == 3


def test_saved_models_give_the_same_in_sentence_transformers(
    tiny_encoder: str, tiny_reranker: str, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    encoder = load_encoder(tiny_encoder, dtype="float32", query_prompt="find ", query_max_len=16, passage_max_len=40)
    encoder.save(tmp_path / "encoder")
    loaded = SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    assert np.abs(loaded.encode_query(TEXTS) - encoder.encode(TEXTS, "query")).max() <= TOLERANCE
    assert np.abs(loaded.encode_document(TEXTS) - encoder.encode(TEXTS, "passage")).max() <= TOLERANCE
    again = load_encoder(str(tmp_path / "encoder"), dtype="float32")
    assert (again.prompts, again.max_lens) == (encoder.prompts, encoder.max_lens)

    scorer = load_scorer(tiny_reranker, dtype="float32", max_len=40)
    scorer.save(tmp_path / "reranker")
    loaded_ce = CrossEncoder(str(tmp_path / "reranker"), device="cpu", activation_fn=torch.nn.Identity())
    assert np.abs(loaded_ce.predict(PAIRS) - scorer.score(PAIRS)).max() <= TOLERANCE
    assert load_scorer(str(tmp_path / "reranker")).max_len == 40


def test_lengths_of_the_sides_are_saved(tiny_reranker: str, tmp_path: Path) -> None:
    scorer = load_scorer(tiny_reranker, dtype="float32", query_max_len=4, passage_max_len=9)
    scorer.save(tmp_path / "model")
    again = load_scorer(str(tmp_path / "model"), dtype="float32")
    assert (again.max_len, again.query_max_len, again.passage_max_len) == (16, 4, 9)
    assert (again.score(PAIRS) == scorer.score(PAIRS)).all()
    wider = load_scorer(str(tmp_path / "model"), max_len=40)
    assert (wider.max_len, wider.query_max_len) == (40, None)


def test_a_long_tokenizer_does_not_make_long_pairs(tiny_reranker: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    config = BertConfig.from_pretrained(tiny_reranker, max_position_embeddings=600)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_reranker)
    tokenizer.model_max_length = 8192
    tokenizer.save_pretrained(tmp_path)
    assert load_scorer(str(tmp_path)).max_len == 512
    assert load_scorer(str(tmp_path), max_len=590).max_len == 590


def test_a_prompt_outside_the_pooling_is_outside_in_training_too(tiny_encoder: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(tiny_encoder, device="cpu")
    model[1].include_prompt = False
    model.prompts = {"query": "find the file ", "document": "", "text": "read "}
    model.default_prompt_name = "text"
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    expected = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode_query(TEXTS)
    encoder = trainable_encoder(str(tmp_path / "model"), device="cpu", dropout=0.0)
    assert np.abs(encoder.encode(TEXTS, "query") - expected).max() <= TOLERANCE
    batch = [Group(text, ("cat",), index) for index, text in enumerate(TEXTS)]
    trained = outputs_of(encoder, batch)["queries"].detach().numpy()
    assert np.abs(trained - expected).max() <= TOLERANCE
    encoder.save(tmp_path / "again")
    assert (
        np.abs(load_encoder(str(tmp_path / "again"), dtype="float32").encode(TEXTS, "query") - expected).max()
        <= TOLERANCE
    )


def test_similarity_follows_the_model_and_the_normalisation(tiny_encoder: str, tmp_path: Path) -> None:
    assert load_encoder(tiny_encoder).cosine
    raw = load_encoder(tiny_encoder, normalize=False)
    assert not raw.cosine
    raw.save(tmp_path / "raw")
    assert not load_encoder(str(tmp_path / "raw")).cosine


def test_trained_model_is_saved_with_its_own_attention(tiny_reranker: str, tmp_path: Path) -> None:
    scorer = trainable_scorer(tiny_reranker, device="cpu", max_len=64)
    scorer.save(tmp_path / "model")
    assert attention.NAME not in (tmp_path / "model" / "config.json").read_text()
    assert "attention_probs_dropout_prob" in json.loads((tmp_path / "model" / "config.json").read_text())


def test_sides_are_cut_before_the_pair(tiny_reranker: str) -> None:
    scorer = load_scorer(tiny_reranker, dtype="float32", max_len=30, query_max_len=4, passage_max_len=10)
    long_query, long_passage = "cat " * 20, "dog " * 20
    (tokens,) = scorer.tokens([(long_query, long_passage)])
    assert len(tokens.ids) == 4 + 10 + 3
    assert scorer.score([(long_query, long_passage)])[0] == pytest.approx(
        scorer.score([("cat " * 4, "dog " * 10)])[0], abs=1e-6
    )


def test_longest_side_is_cut_first(tiny_reranker: str) -> None:
    scorer = load_scorer(tiny_reranker, max_len=20)
    (tokens,) = scorer.tokens([("cat " * 5, "dog " * 40)])
    assert len(tokens.ids) == 20
    assert tokens.types is not None
    assert tokens.types.count(0) == 5 + 2


def test_step_equals_one_padded_batch(tiny_encoder: str, tiny_reranker: str) -> None:
    """Micro-batches of any size give the scores and gradients of one padded batch."""
    batch = groups(5)
    scorer = trainable_scorer(tiny_reranker, device="cpu", dropout=0.0)
    scorer.tokens_per_forward = 60
    assert len(scorer.collate(batch)["micro"]) > 3
    scores = outputs_of(scorer, batch)["scores"]
    expected = load_scorer(tiny_reranker, dtype="float32").score([(g.query, p) for g in batch for p in g.passages])
    assert scores.shape == (5, 4)
    assert np.abs(scores.detach().numpy().ravel() - expected).max() <= 1e-5

    encoder = trainable_encoder(tiny_encoder, device="cpu", dropout=0.0)
    encoder.tokens_per_forward = 60
    towers = outputs_of(encoder, batch)
    plain = load_encoder(tiny_encoder, dtype="float32")
    assert np.abs(towers["queries"].detach().numpy() - plain.encode([g.query for g in batch], "query")).max() <= 1e-5
    passages = [text for g in batch for text in g.passages]
    assert np.abs(towers["passages"].detach().numpy() - plain.encode(passages, "passage")).max() <= 1e-5


def test_training_attention_equals_sdpa_with_gradients() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, 7, 8, requires_grad=True) for _ in range(3))
    keep = torch.ones(3, 1, 1, 7, dtype=torch.bool)
    keep[1, ..., 5:] = False
    mask = torch.zeros(3, 1, 7, 7).masked_fill(~keep, torch.finfo(torch.float32).min)
    ours, _ = attention.bmm_attention(torch.nn.Identity(), query, key, value, mask)
    theirs = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
    assert torch.allclose(ours, theirs, atol=1e-6)
    mine = torch.autograd.grad(ours.sin().sum(), (query, key, value), retain_graph=True)
    reference = torch.autograd.grad(theirs.sin().sum(), (query, key, value))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(mine, reference))


@pytest.mark.parametrize("spelling", ["sentence_transformers", "sbert_ce_default_activation_function"])
def test_the_activation_of_an_older_cross_encoder_is_kept(tiny_reranker: str, tmp_path: Path, spelling: str) -> None:
    from sentence_transformers import CrossEncoder

    identity = "torch.nn.modules.linear.Identity"
    shutil.copytree(tiny_reranker, tmp_path / "older")
    for name in ("config_sentence_transformers.json", "modules.json", "sentence_bert_config.json"):
        (tmp_path / "older" / name).unlink(missing_ok=True)
    config = json.loads((tmp_path / "older" / "config.json").read_text())
    config[spelling] = {"activation_fn": identity} if spelling == "sentence_transformers" else identity
    (tmp_path / "older" / "config.json").write_text(json.dumps(config))
    load_scorer(str(tmp_path / "older"), dtype="float32").save(tmp_path / "saved")
    assert isinstance(CrossEncoder(str(tmp_path / "saved"), device="cpu").activation_fn, torch.nn.Identity)
    load_scorer(tiny_reranker, dtype="float32").save(tmp_path / "plain")
    assert isinstance(CrossEncoder(str(tmp_path / "plain"), device="cpu").activation_fn, torch.nn.Sigmoid)


def test_dropout_settings(tiny_reranker: str) -> None:
    scorer = trainable_scorer(tiny_reranker, device="cpu", dropout=0.3)
    layer = scorer.transformer.bert.encoder.layer[0]
    assert (layer.attention.self.dropout.p, layer.attention.output.dropout.p, layer.output.dropout.p) == (0.0, 0.3, 0.3)
    unchanged = trainable_scorer(tiny_reranker, device="cpu").transformer.bert.encoder.layer[0]
    assert (unchanged.attention.self.dropout.p, unchanged.output.dropout.p) == (0.0, 0.1)


def test_new_head_is_seeded_and_refused_for_inference(tiny_encoder: str) -> None:
    heads = [
        trainable_scorer(tiny_encoder, device="cpu", seed=seed).transformer.classifier.weight for seed in (1, 1, 2)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    with pytest.raises(UserError, match="not a reranker"):
        load_scorer(tiny_encoder)


def test_pooling_and_normalisation_can_be_chosen(tiny_encoder: str) -> None:
    raw = load_encoder(tiny_encoder, dtype="float32", normalize=False, pooling="cls")
    vectors = raw.encode(TEXTS[:3], "query")
    assert not np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert not np.allclose(vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
                           load_encoder(tiny_encoder, dtype="float32").encode(TEXTS[:3], "query"))  # fmt: skip
    with pytest.raises(UserError, match='did you mean "mean"'):
        load_encoder(tiny_encoder, pooling="meen")


def test_fingerprint_follows_what_decides_a_vector(tiny_encoder: str) -> None:
    plain = load_encoder(tiny_encoder, dtype="float32")
    assert plain.fingerprint("query") == load_encoder(tiny_encoder, dtype="float32").fingerprint("query")
    others = [
        load_encoder(tiny_encoder, dtype="float32", query_prompt="find "),
        load_encoder(tiny_encoder, dtype="float32", query_max_len=9),
        load_encoder(tiny_encoder, dtype="float32", normalize=False),
        load_encoder(tiny_encoder, dtype="bfloat16"),
    ]
    assert len({model.fingerprint("query") for model in [plain, *others]}) == 5


def test_bfloat16_keeps_the_head_and_the_pooling_in_float32(tiny_encoder: str, tiny_reranker: str) -> None:
    scorer = load_scorer(tiny_reranker, dtype="bfloat16")
    assert scorer.dtype == torch.bfloat16
    assert scorer.transformer.classifier.weight.dtype == torch.float32
    exact = load_scorer(tiny_reranker, dtype="float32").score(PAIRS)
    assert np.abs(scorer.score(PAIRS) - exact).max() < 0.2
    vectors = load_encoder(tiny_encoder, dtype="bfloat16").encode(TEXTS, "query")
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    cosines = (vectors * load_encoder(tiny_encoder, dtype="float32").encode(TEXTS, "query")).sum(1)
    assert cosines.min() > 0.999


def test_missing_and_unfit_models_are_one_sentence(tmp_path: Path, tiny_encoder: str, tiny_reranker: str) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        load_encoder(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="looked for a folder"):
        load_encoder("nobody/no-such-model")
    with pytest.raises(UserError, match="is a reranker, not an embedder"):
        load_encoder(tiny_reranker)
    for name in ("config.json", "model.safetensors"):
        torn = shutil.copytree(tiny_encoder, tmp_path / f"torn-{name}")
        (torn / name).write_bytes((torn / name).read_bytes()[:40])
        with pytest.raises(UserError, match="cannot be loaded"):
            load_encoder(str(torn))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_encoder(str(tmp_path / "empty"))


def test_family_device_and_dtype(tiny_encoder: str, tiny_reranker: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (family_of(tiny_encoder), family_of(tiny_reranker)) == ("bi_encoder", "cross_encoder")
    cpu = resolve_device("cpu")
    assert resolve_dtype(cpu, "float16") in (torch.float32, torch.bfloat16)
    assert "float16 is not computed on a CPU" in capsys.readouterr().err
    with pytest.raises(UserError, match="unknown --device"):
        resolve_device("gpu")


def test_lengths_stop_at_the_positions(tiny_encoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = load_encoder(tiny_encoder, passage_max_len=999)
    assert encoder.max_lens == {"query": 48, "passage": 64}
    assert "more than the 64 positions" in capsys.readouterr().err


def test_rank_is_best_first(tiny_reranker: str) -> None:
    scorer = load_scorer(tiny_reranker, dtype="float32")
    ranking = scorer.rank("find the cat", TEXTS[:10], top_k=4)
    assert len(ranking) == 4
    assert [score for _, score in ranking] == sorted((score for _, score in ranking), reverse=True)
