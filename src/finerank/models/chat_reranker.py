"""Rerankers that answer yes or no in a chat: how much likelier yes is than no after an instruction and a pair.

The log-odds of the two answers, logit(yes) - logit(no) at the last position: their sigmoid is the probability that the
model cards give. Only these two rows of the head are computed. Source: Qwen3-Reranker's model card; folders of
sentence-transformers' CrossEncoder with a LogitScore say answers and chat template themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finerank.batching.chat_layout import ChatLayout
from finerank.batching.prompts import Tokenizer
from finerank.core.protocols import AnyPair, Progress
from finerank.core.records import Group
from finerank.core.seeding import DEFAULT_SEED
from finerank.models import adapters, chat_files, engine, pairwise
from finerank.models.answer_head import AnswerHead, AnsweringModule, whole_head
from finerank.models.attention import set_dropout
from finerank.models.language_models import load_causal, load_tokenizer
from finerank.models.load import bounded_length, facts, weights_digest
from finerank.models.model_files import FINERANK_JSON, stored_settings

CLASS = "decoder-only-chat"
LONGEST = 8192
"""Tokens that the published code reads at most."""
TRAINING_TOKENS = 4096
UNCUT = 1_000_000


class ChatReranker:
    """A Scorer, and a Trainable (see ``core.protocols``)."""

    TASK = "CAUSAL_LM"
    """What peft calls it."""

    def __init__(
        self, model: Any, hf_tokenizer: Any, name: str, device: torch.device, max_len: int, query_max_len: int | None,
        passage_max_len: int | None, layout: ChatLayout, answers: Sequence[int],
        transformer_config: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.device = device
        self.max_len, self.query_max_len, self.passage_max_len = max_len, query_max_len, passage_max_len
        self.layout = layout
        self.answers = list(answers)
        self._transformer_config = dict(transformer_config or {})
        self.tokens_per_forward = TRAINING_TOKENS
        self.texts_per_forward: int | None = None
        self.merge_adapter = False
        self.hf_tokenizer = hf_tokenizer
        self.tokenizer = Tokenizer(hf_tokenizer, with_types=False)
        self._head = model.get_output_embeddings()
        model.set_output_embeddings(AnswerHead(self._head, self.answers))
        self.module = AnsweringModule(model)
        self._fingerprint = ""

    @classmethod
    def load(
        cls, name: str, *, device: torch.device, dtype: torch.dtype, max_len: int | None = None,
        query_max_len: int | None = None, passage_max_len: int | None = None, query_prefix: str | None = None,
        passage_prefix: str | None = None, prompt: str | None = None, cache_dir: str | None = None,
        trust_remote_code: bool = False, peft_path: str | None = None, new_head: bool = False, seed: int = DEFAULT_SEED,
    ) -> ChatReranker:  # fmt: skip
        """Load a folder or a hub name; an adapter is merged into its base. None means the model's own, else the usual.

        Args:
            prompt: the instruction.

        Raises:
            UserError: if there is no such model, it is no causal language model, it has no tokens for the answers, or
                its chat template has no place for what it should.
        """
        model, source = load_causal(name, device, dtype, cache_dir, trust_remote_code, peft_path)
        own = stored_settings([*([peft_path] if peft_path else []), name, source], cache_dir)
        hf_tokenizer = load_tokenizer(source, cache_dir, trust_remote_code, padding="left")
        usual = min(own.get("max_len") or chat_files.longest(hf_tokenizer, source, cache_dir) or LONGEST, LONGEST)
        length = bounded_length(max_len, usual, model.config, "max length")
        layout = chat_files.layout_of(
            hf_tokenizer, source, cache_dir, own.get("prompt") if prompt is None else prompt,
            own.get("query_prefix", "") if query_prefix is None else query_prefix,
            own.get("passage_prefix", "") if passage_prefix is None else passage_prefix,
        )  # fmt: skip
        if max_len is None and query_max_len is None and passage_max_len is None:
            query_max_len, passage_max_len = own.get("query_max_len"), own.get("passage_max_len")
        answers = chat_files.answers_of(hf_tokenizer, source, cache_dir)
        return cls(
            model, hf_tokenizer, name, device, length, query_max_len, passage_max_len, layout, answers,
            chat_files.transformer_config(source, cache_dir),
        )  # fmt: skip

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
            texts = [self.layout.text(self.layout.prompt), self.layout.instructed]
            recipe = json.dumps([CLASS, self.settings(), self.answers, repr(texts), self.device.type])
            self._fingerprint = weights_digest(self.module, self.transformer.config, recipe, self.tokenizer.state)
        return self._fingerprint

    def score(
        self, pairs: Sequence[AnyPair], progress: Progress | None = None, *, placed: bool = False
    ) -> NDArray[np.float32]:
        """Return log-odds [N] in the order of ``pairs``; each distinct pair is computed once."""
        return engine.run(
            self.module, pairwise.tuples(pairs),
            lambda part: self.tokens(part if placed else self.layout.prefixed(part)), self.module.logits,
            tokenizer=self.tokenizer, device=self.device, progress=progress,
        )  # fmt: skip

    def rank(self, query: str, passages: Sequence[str], top_k: int | None = None) -> list[tuple[int, float]]:
        """Return (position, probability of yes) of the passages, best first; equal scores keep their order."""
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
        """Write a folder that transformers and sentence-transformers (as a CrossEncoder) load as well.

        A model with an adapter writes the adapter alone, or with ``merge_adapter`` the merged model.
        """
        with whole_head(self.transformer, self._head):
            adapters.save_plain(self.transformer, self.hf_tokenizer, folder, merging=self.merge_adapter)
        settings = {"class": CLASS, **self.settings()}
        (folder / FINERANK_JSON).write_text(json.dumps(settings, ensure_ascii=False) + "\n", encoding="utf-8")
        if not adapters.adapted(self.transformer):
            chat_files.save(
                folder, self.hf_tokenizer, self.layout, self.answers, self.max_len, self._transformer_config
            )

    def describe(self) -> dict[str, object]:
        """Return the facts of a start banner."""
        sides = [f"query {self.query_max_len}" if self.query_max_len else "",
                 f"passage {self.passage_max_len}" if self.passage_max_len else ""]  # fmt: skip
        lengths = ", ".join(filter(None, [f"chat {self.max_len}", *sides])) + " tokens"
        found = facts(self.name, self.transformer, self.device, self.dtype)
        words = self.hf_tokenizer.convert_ids_to_tokens(self.answers)
        return found | {"lengths": lengths, "answer": " against ".join(words)}

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
