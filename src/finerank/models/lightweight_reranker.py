"""Rerankers with a head per layer that read passages ever shorter: faster by an early exit and by compression.

A Gemma 2 of the architecture ``CostWiseGemmaForCausalLM`` (bge-reranker-v2.5-gemma2-lightweight). A pair is laid out as
for other prompted language models and padded right; its score at a layer is that of its last token.

Which layers are scored from, by which heads, and how the same weights can be read in two ways: ``lightweight_depth``.
Source: FlagEmbedding's ``decoder-only-lightweight``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Gemma2Config

from finerank.batching.llm_layout import PASSAGE_PREFIX, QUERY_PREFIX, LlmLayout
from finerank.batching.prompts import Tokenizer
from finerank.core.errors import UserError
from finerank.core.protocols import AnyPair, Progress
from finerank.core.records import Group
from finerank.core.seeding import DEFAULT_SEED
from finerank.models import adapters, engine, pairwise
from finerank.models.attention import set_dropout
from finerank.models.costwise_gemma import (
    CostWiseGemmaConfig,
    CostWiseGemmaForCausalLM,
    from_language_model,
)
from finerank.models.language_models import load_causal, load_tokenizer, token_id
from finerank.models.lightweight_depth import Depth, Reading, depth_of, shown
from finerank.models.load import bounded_length, facts, weights_digest
from finerank.models.model_files import FINERANK_JSON, base_of, read_json, stored_settings

CLASS = "decoder-only-lightweight"
PREDICT_PROMPT = "Predict whether passage B contains an answer to query A."
ANSWER = "Yes"
START_LAYER = 8
"""First layer with a head of the published model."""
DEFAULT_MAX_LEN = 512
TRAINING_TOKENS = 4096
UNCUT = 1_000_000


class LayersModule(torch.nn.Module):
    """A CostWiseGemmaForCausalLM and how deep it reads; ``forward`` runs micro-batches of a step."""

    def __init__(self, model: CostWiseGemmaForCausalLM, depth: Depth) -> None:
        super().__init__()
        self.model = model
        self.depth, self.heads = depth, depth.heads(model.config.head_layers)
        model.cap_attention(depth.as_configured)

    def logits(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return float32 scores [n, C] of a batch that is padded right."""
        scores: torch.Tensor = self.model(
            features["input_ids"], features["attention_mask"], self.depth.layers, self.heads, features["kept"],
            self.depth.compression,
        )  # fmt: skip
        return scores

    def forward(self, micro: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Return the scores [N, C] of padded micro-batches, one after the other."""
        return torch.cat([self.logits(features) for features in micro])


class LightweightReranker:
    """A Scorer, and a Trainable (see ``core.protocols``)."""

    TASK = "CAUSAL_LM"
    """What peft calls it."""

    def __init__(
        self, model: CostWiseGemmaForCausalLM, hf_tokenizer: Any, name: str, device: torch.device, max_len: int,
        query_max_len: int | None, passage_max_len: int | None, layout: LlmLayout, depth: Depth,
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
        self.module = LayersModule(model, depth)
        self._fingerprint = ""

    @classmethod
    def load(
        cls, name: str, *, device: torch.device, dtype: torch.dtype, max_len: int | None = None,
        query_max_len: int | None = None, passage_max_len: int | None = None, query_prefix: str | None = None,
        passage_prefix: str | None = None, prompt: str | None = None, cutoff_layers: Sequence[int] | None = None,
        compress_ratio: int | None = None, compress_layers: Sequence[int] | None = None,
        lightweight_reading: Reading | None = None, start_layer: int | None = None, cache_dir: str | None = None,
        trust_remote_code: bool = False, peft_path: str | None = None, new_head: bool = False, seed: int = DEFAULT_SEED,
    ) -> LightweightReranker:  # fmt: skip
        """Load a folder or a hub name; an adapter is merged into its base. None means the model's own, else the usual.

        Args:
            cutoff_layers: layers to score from; usually the last, or in training all that have a head.
            compress_ratio: how many tokens of a passage become one; usually 1.
            compress_layers: blocks before which they do, counted from 0; usually 8.
            lightweight_reading: how the weights are read (see ``lightweight_depth``).
            start_layer: first layer that is trained; where a plain Gemma 2 gets its first head, usually 8.
            trust_remote_code: of no effect, the architecture is our own; so is ``seed``, no weight is drawn.
            new_head: load for training; a plain Gemma 2 gets heads, which begin as the row of "Yes".

        Raises:
            UserError: if there is no such model, it is of another architecture, or it has no such layers.
        """
        base = base_of(name, cache_dir) or name
        own = stored_settings([*([peft_path] if peft_path else []), name, base], cache_dir)
        opener = partial(_opened, settings=own, first=start_layer if new_head else None, new_head=new_head)
        model, source = load_causal(name, device, dtype, cache_dir, False, peft_path, opener)
        depth = depth_of(
            model.config, own, name, layers=cutoff_layers, ratio=compress_ratio, before=compress_layers,
            reading=lightweight_reading, first=start_layer, training=new_head,
        )  # fmt: skip
        layout = LlmLayout(
            _first(query_prefix, own.get("query_prefix"), QUERY_PREFIX),
            _first(passage_prefix, own.get("passage_prefix"), PASSAGE_PREFIX),
            _first(prompt, own.get("prompt"), PREDICT_PROMPT),
        )
        length = bounded_length(max_len, own.get("max_len") or DEFAULT_MAX_LEN, model.config, "max length")
        if max_len is None and query_max_len is None and passage_max_len is None:
            query_max_len, passage_max_len = own.get("query_max_len"), own.get("passage_max_len")
        hf_tokenizer = load_tokenizer(source, cache_dir, False, padding="right")
        return cls(model, hf_tokenizer, name, device, length, query_max_len, passage_max_len, layout, depth)

    @property
    def layers(self) -> list[int]:
        """Layers that are scored from, ascending; the highest gives ``score``."""
        return list(self.module.depth.layers)

    @property
    def transformer(self) -> Any:
        """The transformers model."""
        return self.module.model

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights (scores are computed in float32)."""
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
        """Return the highest layer's scores [N] in the order of ``pairs``; each distinct pair is computed once."""
        scores: NDArray[np.float32] = self.layer_scores(pairs, progress, placed=placed)[-1]
        return scores

    def layer_scores(
        self, pairs: Sequence[AnyPair], progress: Progress | None = None, *, placed: bool = False
    ) -> NDArray[np.float32]:
        """Return the scores [C, N] of each of ``layers``."""
        found = engine.run(
            self.module, pairwise.tuples(pairs),
            lambda part: self.tokens(part if placed else self.layout.prefixed(part)), self.module.logits,
            tokenizer=self.tokenizer, device=self.device, width=len(self.layers), progress=progress,
        )  # fmt: skip
        return np.ascontiguousarray(found.T)

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
        """Return ``scores`` [B, G] of the highest layer and ``layer_scores`` [B, G, C] of one step."""
        layered = pairwise.scores(results, batch)
        return {"scores": layered[..., -1], "layer_scores": layered}

    def truncated(self, pairs: Sequence[AnyPair]) -> tuple[int, int]:
        """Return how many of the pairs are cut, and the length in tokens of a pair."""
        before = self.layout.prefixed(pairs)
        whole = self.layout.tokens(self.tokenizer, before, UNCUT)
        cut = sum(len(left.ids) > len(right.ids) for left, right in zip(whole, self.tokens(before)))
        return cut, self.max_len

    def prepare_for_training(self, dropout: float | None) -> None:
        """Set dropout; attention stays that of the reading."""
        set_dropout(self.transformer, dropout)

    def save(self, folder: Path) -> None:
        """Write a folder in the published format, which this class and FlagEmbedding's load.

        A model with an adapter writes the adapter alone, or with ``merge_adapter`` the merged model.
        """
        adapters.save_plain(self.transformer, self.hf_tokenizer, folder, merging=self.merge_adapter)
        settings = {"class": CLASS, **self.settings()}
        (folder / FINERANK_JSON).write_text(json.dumps(settings, ensure_ascii=False) + "\n", encoding="utf-8")

    def describe(self) -> dict[str, object]:
        """Return the facts of a start banner."""
        depth, blocks = self.module.depth, self.transformer.config.num_hidden_layers
        lengths = f"pair {self.max_len}, query {self.query_max_len or self.max_len * 3 // 4} tokens"
        found = facts(self.name, self.transformer, self.device, self.dtype)
        found |= {"lengths": lengths, "layers": f"{shown(depth.layers)} of {blocks}", "reading": depth.reading}
        if depth.compression.ratio == 1:
            return found
        return found | {"compression": f"{depth.compression.ratio} before {shown(sorted(depth.compression.layers))}"}

    def settings(self) -> Mapping[str, Any]:
        """Return what decides a score beside weights, tokenizer and number format, as a saved folder says it."""
        depth, config = self.module.depth, self.transformer.config
        return {
            "max_len": self.max_len,
            "query_max_len": self.query_max_len,
            "passage_max_len": self.passage_max_len,
            "query_prefix": self.layout.query_prefix,
            "passage_prefix": self.layout.passage_prefix,
            "prompt": self.layout.prompt,
            "cutoff_layers": list(depth.layers),
            "compress_ratio": depth.compression.ratio,
            "compress_layers": sorted(depth.compression.layers),
            "lightweight_reading": depth.reading,
            "start_layer": config.start_layer,
            "layer_sep": config.layer_sep,
        }


def _opened(
    source: str, *, dtype: torch.dtype, cache_dir: str | None, settings: Mapping[str, Any], first: int | None,
    new_head: bool, **_: Any,
) -> CostWiseGemmaForCausalLM:  # fmt: skip
    """Open published weights or, for training and for what was trained so, a plain Gemma 2."""
    said = read_json(source, "config.json", cache_dir)
    kind = said.get("model_type", CostWiseGemmaConfig.model_type)
    if kind == CostWiseGemmaConfig.model_type:
        if said and not said.get("layer_wise"):
            raise UserError(f'{source} has no heads by layer: its config.json says "layer_wise": false')
        return _weights(source, dtype, cache_dir)
    if kind != Gemma2Config.model_type or not (new_head or settings.get("start_layer")):
        named = (said.get("architectures") or [kind])[0]
        hint = "finerank train reranker makes one of a Gemma 2" if kind == Gemma2Config.model_type else None
        raise UserError(f"{source} is no {CLASS} reranker: its architecture is {named}", hint=hint)
    blocks = said.get("num_hidden_layers", START_LAYER)
    begin = first or settings.get("start_layer") or min(START_LAYER, blocks)
    if begin > blocks:
        raise UserError(f"start layer {begin}: {source} has layers 1 to {blocks}")
    model = from_language_model(source, begin, settings.get("layer_sep") or 1, dtype=dtype, cache_dir=cache_dir)
    tokenizer = load_tokenizer(source, cache_dir, False, padding="right")
    model.begin_heads(token_id(tokenizer, ANSWER, source))
    return model


def _weights(source: str, dtype: torch.dtype, cache_dir: str | None) -> CostWiseGemmaForCausalLM:
    """Read weights; a head that is missing would come out random, so each must be there."""
    model: CostWiseGemmaForCausalLM
    model, report = CostWiseGemmaForCausalLM.from_pretrained(
        source, dtype=dtype, cache_dir=cache_dir, output_loading_info=True
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(f"model {source} cannot be loaded: {len(missing)} weights are missing, {missing[0]} the first")
    return model


def _first(*values: str | None) -> str:
    return next(value for value in values if value is not None)
