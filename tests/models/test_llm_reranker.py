"""Prompted language models as rerankers: the logit of Yes at the last position, whatever the padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from finerank.batching.llm_layout import ANSWER_PROMPT
from finerank.models.load import load_scorer, trainable_scorer
from tests.models.test_families import PAIRS, groups, outputs_of

TOLERANCE = 1e-4


def plainly(folder: str, pairs: list[tuple[str, str]]) -> np.ndarray:
    """Score pair by pair, with transformers alone.

    AutoTokenizer would build Qwen's byte-level rules anew over this vocabulary, whatever tokenizer.json says.
    """
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    found = []
    for query, passage in pairs:
        parts = [f"A: {query}", "\n", f"B: {passage}", "\n", ANSWER_PROMPT]
        ids = [tokenizer.bos_token_id, *(i for part in parts for i in tokenizer.encode(part, add_special_tokens=False))]
        yes = tokenizer.encode("Yes", add_special_tokens=False)[0]
        with torch.no_grad():
            found.append(model(torch.tensor([ids])).logits[0, -1, yes].item())
    return np.array(found)


def test_scores_are_the_logit_of_yes(tiny_language_model: str) -> None:
    scores = load_scorer(tiny_language_model, dtype="float32").score(PAIRS)
    assert np.abs(scores - plainly(tiny_language_model, PAIRS)).max() <= TOLERANCE


def test_a_saved_model_is_an_ordinary_language_model(tiny_language_model: str, tmp_path: Path) -> None:
    scorer = load_scorer(tiny_language_model, dtype="float32", max_len=256)
    scorer.save(tmp_path / "model")
    again = load_scorer(str(tmp_path / "model"), dtype="float32")
    assert (again.score(PAIRS) == scorer.score(PAIRS)).all()
    assert again.max_len == 256
    assert np.abs(plainly(str(tmp_path / "model"), PAIRS) - scorer.score(PAIRS)).max() <= TOLERANCE


@pytest.mark.parametrize("budget", [300, 100_000])
def test_a_training_step_scores_what_inference_scores(tiny_language_model: str, budget: int) -> None:
    model = trainable_scorer(tiny_language_model, device="cpu", dropout=0.0)
    model.tokens_per_forward = budget
    batch = groups(3)
    pairs = [(group.query, passage) for group in batch for passage in group.passages]
    scores = outputs_of(model, batch)["scores"].detach().numpy().reshape(-1)
    assert np.abs(scores - load_scorer(tiny_language_model, dtype="float32").score(pairs)).max() <= TOLERANCE


def test_a_pair_may_bring_its_own_prompt(tiny_language_model: str) -> None:
    scorer = load_scorer(tiny_language_model, dtype="float32")
    own = load_scorer(tiny_language_model, dtype="float32", prompt="is it so")
    asked = [(*pair, "is it so") for pair in PAIRS]
    assert np.abs(scorer.score([*asked, *PAIRS]) - [*own.score(PAIRS), *scorer.score(PAIRS)]).max() <= TOLERANCE
