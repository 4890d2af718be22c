"""Rerankers that are prompted language models: the logit of "Yes" after a query, a passage and a question.

Any causal language model of transformers. Only the last position goes through the head, and only the row of "Yes".
Source: FlagEmbedding's ``decoder-only-base`` (bge-reranker-v2-gemma).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finerank.batching.llm_layout import ANSWER_PROMPT, PASSAGE_PREFIX, QUERY_PREFIX, LlmLayout
from finerank.batching.prompts import Tokenizer
from finerank.core.protocols import AnyPair, Progress
from finerank.core.records import Group
from finerank.core.seeding import DEFAULT_SEED
from finerank.models import adapters, engine, pairwise
from finerank.models.answer_head import AnswerHead, AnsweringModule, whole_head
from finerank.models.attention import set_dropout
from finerank.models.language_models import load_causal, load_tokenizer, token_id
from finerank.models.load import bounded_length, facts, weights_digest
from finerank.models.model_files import FINERANK_JSON, stored_settings

CLASS = "decoder-only-base"
ANSWER = "Yes"
DEFAULT_MAX_LEN = 512
TRAINING_TOKENS = 4096
UNCUT = 1_000_000


class LlmReranker:
    """A Scorer, and a Trainable (see ``core.protocols``)."""

    TASK = "CAUSAL_LM"
    """What peft calls it."""

    def __init__(
        self, model: Any, hf_tokenizer: Any, name: str, device: torch.device, max_len: int, query_max_len: int | None,
        passage_max_len: int | None, layout: LlmLayout,
    ) -> None:  # fmt: skip
        self.name = name
        self.device = device
        self.max_len, self.query_max_len, self.passage_max_len = max_len, query_max_len, passage_max_len
        self.layout = layout
        self.tokens_per_forward = TRAINING_TOKENS
        self.texts_per_forward: int | None = None
        self.merge_adapter = False
        self.hf_tokenizer = hf_tokenizer
        self.tokenizer = Tokenizer(hf_tokenizer, with_types=False)
        self._head = model.get_output_embeddings()
        model.set_output_embeddings(AnswerHead(self._head, [token_id(hf_tokenizer, ANSWER, name)]))
        self.module = AnsweringModule(model)
        self._fingerprint = ""

    @classmethod
    def load(
        cls, name: str, *, device: torch.device, dtype: torch.dtype, max_len: int | None = None,
        query_max_len: int | None = None, passage_max_len: int | None = None, query_prefix: str | None = None,
        passage_prefix: str | None = None, prompt: str | None = None, cache_dir: str | None = None,
        trust_remote_code: bool = False, peft_path: str | None = None, new_head: bool = False, seed: int = DEFAULT_SEED,
    ) -> LlmReranker:  # fmt: skip
        """Load a folder or a hub name; an adapter is merged into its base. None means the model's own, else the usual.

        Raises:
            UserError: if there is no such model, it is no causal language model, or "Yes" is no token of it.
        """
        model, source = load_causal(name, device, dtype, cache_dir, trust_remote_code, peft_path)
        own = stored_settings([*([peft_path] if peft_path else []), name, source], cache_dir)
        length = bounded_length(max_len, own.get("max_len") or DEFAULT_MAX_LEN, model.config, "max length")
        layout = LlmLayout(
            _first(query_prefix, own.get("query_prefix"), QUERY_PREFIX),
            _first(passage_prefix, own.get("passage_prefix"), PASSAGE_PREFIX),
            _first(prompt, own.get("prompt"), ANSWER_PROMPT),
        )
        if max_len is None and query_max_len is None and passage_max_len is None:
            query_max_len, passage_max_len = own.get("query_max_len"), own.get("passage_max_len")
        hf_tokenizer = load_tokenizer(source, cache_dir, trust_remote_code, padding="left")
        return cls(model, hf_tokenizer, name, device, length, query_max_len, passage_max_len, layout)

    @property
    def transformer(self) -> Any:
        """The transformers model."""
        return self.module.model

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights (answers are computed in float32)."""
        dtype: torch.dtype = next(self.transformer.parameters()).dtype
        return dtype

    def fingerprint(self) -> str:
        """Digest of all that decides a score."""
        if not self._fingerprint:
            recipe = json.dumps([CLASS, self.settings(), self.device.type])
            self._fingerprint = weights_digest(self.module, self.transformer.config, recipe, self.tokenizer.state)
        return self._fingerprint

    def score(
        self, pairs: Sequence[AnyPair], progress: Progress | None = None, *, placed: bool = False
    ) -> NDArray[np.float32]:
        """Return logits [N] in the order of ``pairs``; each distinct pair is computed once."""
        return engine.run(
            self.module, pairwise.tuples(pairs),
            lambda part: self.tokens(part if placed else self.layout.prefixed(part)), self.module.logits,
            tokenizer=self.tokenizer, device=self.device, progress=progress,
        )  # fmt: skip

    def rank(self, query: str, passages: Sequence[str], top_k: int | None = None) -> list[tuple[int, float]]:
        """Return (position, sigmoid of the score) of the passages, best first; equal scores keep their order."""
        return pairwise.rank(self.score([(query, passage) for passage in passages]), top_k)

    def tokens(self, pairs: Sequence[AnyPair]) -> list[Any]:
        """Tokenise pairs that have their prefixes, cut to the model's lengths."""
        return self.layout.tokens(self.tokenizer, pairs, self.max_len, self.query_max_len, self.passage_max_len)

    def pairs_of(self, group: Group) -> list[AnyPair]:
        """Return a group's pairs behind the group's own prefixes, else the model's."""
        return pairwise.pairs_of(group, self.layout.query_prefix, self.layout.passage_prefix)

    def collate(self, groups: Sequence[Group]) -> dict[str, Any]:
        """Return one step: all pairs of all groups, in token-sorted micro-batches."""
        tokens = self.tokens([pair for group in groups for pair in self.pairs_of(group)])
        return pairwise.step(tokens, groups, self.tokenizer, self.tokens_per_forward, self.texts_per_forward)

    def outputs(self, results: torch.Tensor, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return ``scores`` [B, G] of one step."""
        return {"scores": pairwise.scores(results, batch)}

    def truncated(self, pairs: Sequence[AnyPair]) -> tuple[int, int]:
        """Return how many of the pairs are cut, and the length in tokens of a pair."""
        before = self.layout.prefixed(pairs)
        whole = self.layout.tokens(self.tokenizer, before, UNCUT)
        cut = sum(len(left.ids) > len(right.ids) for left, right in zip(whole, self.tokens(before)))
        return cut, self.max_len

    def prepare_for_training(self, dropout: float | None) -> None:
        """Set dropout; attention stays the model's own."""
        set_dropout(self.transformer, dropout)

    def save(self, folder: Path) -> None:
        """Write a folder that transformers loads as the causal language model that it is.

        A model with an adapter writes the adapter alone, or with ``merge_adapter`` the merged model.
        """
        with whole_head(self.transformer, self._head):
            adapters.save_plain(self.transformer, self.hf_tokenizer, folder, merging=self.merge_adapter)
        settings = {"class": CLASS, **self.settings()}
        (folder / FINERANK_JSON).write_text(json.dumps(settings, ensure_ascii=False) + "\n", encoding="utf-8")

    def describe(self) -> dict[str, object]:
        """Return the facts of a start banner."""
        lengths = f"pair {self.max_len}, query {self.query_max_len or self.max_len * 3 // 4} tokens"
        found = facts(self.name, self.transformer, self.device, self.dtype)
        return found | {"lengths": lengths, "answer": ANSWER}

    def settings(self) -> Mapping[str, Any]:
        """Return what decides a score beside weights, tokenizer and number format, as a saved folder says it."""
        return {
            "max_len": self.max_len,
            "query_max_len": self.query_max_len,
            "passage_max_len": self.passage_max_len,
            "query_prefix": self.layout.query_prefix,
            "passage_prefix": self.layout.passage_prefix,
            "prompt": self.layout.prompt,
        }


def _first(*values: str | None) -> str:
    return next(value for value in values if value is not None)
