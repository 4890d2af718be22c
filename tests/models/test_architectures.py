"""Any encoder: the same scores and vectors as transformers, through padding, micro-batches and training attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finerank.core.train_options import RerankerOptions
from finerank.models.load import load_encoder, load_scorer, trainable_scorer
from tests.models.test_families import PAIRS, TEXTS, groups

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "initializer_range": 0.2,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "xlm-roberta": SMALL | {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 0},
    "roberta": SMALL | {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 0},
    "modernbert": SMALL | {"max_position_embeddings": 64, "local_attention": 8, "global_attn_every_n_layers": 2,
                           "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2,
                           "sep_token_id": 3},
    "deberta-v2": SMALL | {"max_position_embeddings": 64, "relative_attention": True, "position_buckets": 16,
                           "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
    "electra": SMALL | {"max_position_embeddings": 64, "embedding_size": 32},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64,
                   "initializer_range": 0.2},
}  # fmt: skip


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def reranker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_file: Path
) -> str:
    """Build a tiny one-label model of each architecture; return its folder."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

    types = request.param in ("electra",)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tiny_tokenizer_file), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_max_length=64,
        model_input_names=["input_ids", *(["token_type_ids"] if types else []), "attention_mask"],
    )  # fmt: skip
    config = AutoConfig.for_model(request.param, vocab_size=len(tokenizer), num_labels=1, **CONFIGS[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    model.base_model.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder)
    tokenizer.save_pretrained(folder / "encoder")
    return str(folder)


def test_scores_equal_transformers(reranker: str) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(reranker).eval()
    tokenizer = AutoTokenizer.from_pretrained(reranker)
    batch = tokenizer(PAIRS, padding=True, truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits.squeeze(-1).numpy()
    assert np.ptp(expected) > 0.01, "a constant model would prove nothing"
    assert np.abs(load_scorer(reranker, dtype="float32").score(PAIRS) - expected).max() <= 1e-4


def test_a_training_step_equals_inference(reranker: str) -> None:
    batch = groups(3)
    scorer = trainable_scorer(reranker, device="cpu", dropout=0.0)
    scorer.tokens_per_forward = 80
    step = scorer.collate(batch)
    assert len(step["micro"]) > 1
    scores = scorer.outputs(scorer.module.train()(step["micro"]), step)["scores"]
    expected = load_scorer(reranker, dtype="float32").score([(g.query, p) for g in batch for p in g.passages])
    assert np.abs(scores.detach().numpy().ravel() - expected).max() <= 1e-5
    scores.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in scorer.module.parameters() if p.grad is not None)


def test_bfloat16_stays_near_and_saves_and_loads(reranker: str, tmp_path: Path) -> None:
    exact = load_scorer(reranker, dtype="float32")
    half = load_scorer(reranker, dtype="bfloat16").score(PAIRS)
    spread = float(np.ptp(exact.score(PAIRS)))
    assert np.abs(half - exact.score(PAIRS)).max() < 0.1 * spread + 0.02
    exact.save(tmp_path / "saved")
    again = load_scorer(str(tmp_path / "saved"), dtype="float32")
    assert np.abs(again.score(PAIRS) - exact.score(PAIRS)).max() <= 1e-6


def test_a_head_computes_in_float32_under_a_trainers_autocast(reranker: str) -> None:
    scorer = trainable_scorer(reranker, device="cpu", dropout=0.0)
    step = scorer.collate(groups(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = scorer.module.train()(step["micro"])
        assert torch.is_autocast_enabled("cpu")
    assert not torch.equal(logits, logits.bfloat16().float()), "rounded to bfloat16"
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in scorer.module.parameters() if p.grad is not None)


def test_as_an_embedder_it_equals_sentence_transformers(reranker: str) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = f"{reranker}/encoder"
    expected = SentenceTransformer(encoder, device="cpu").encode(TEXTS)
    assert np.abs(load_encoder(encoder, dtype="float32").encode(TEXTS, "passage") - expected).max() <= 1e-4


def test_an_adapter_of_each_comes_back_with_its_head(reranker: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from tests.models.test_adapters import tuned

    for name, folder in (("reranker", reranker), ("new head", f"{reranker}/encoder")):
        model = tuned(RerankerOptions, folder)
        model.save(tmp_path / name)
        again = load_scorer(str(tmp_path / name), device="cpu", dtype="float32")
        assert np.abs(again.score(PAIRS) - model.score(PAIRS)).max() <= 1e-4
