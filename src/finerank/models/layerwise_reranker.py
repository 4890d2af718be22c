"""Rerankers with a head per layer: a prompted MiniCPM whose score can be read from a lower layer, sooner.

The architecture is ``models.minicpm``. Pairs are laid out as for any prompted language model. A layer's score is what
its head says of the last position: a one-number head its number, a head over the vocabulary the logit of "Yes".
Source: FlagEmbedding's ``decoder-only-layerwise`` (bge-reranker-v2-minicpm-layerwise).
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

from finerank.batching.llm_layout import ANSWER_PROMPT, PASSAGE_PREFIX, QUERY_PREFIX, LlmLayout
from finerank.batching.prompts import Tokenizer
from finerank.core.errors import UserError
from finerank.core.protocols import AnyPair, Progress
from finerank.core.records import Group
from finerank.core.seeding import DEFAULT_SEED
from finerank.models import adapters, engine, pairwise
from finerank.models.attention import set_dropout
from finerank.models.families import LAYERWISE
from finerank.models.language_models import load_causal, load_tokenizer, token_id
from finerank.models.load import bounded_length, facts, weights_digest
from finerank.models.minicpm import HeadType, LayerWiseMiniCPMConfig, LayerWiseMiniCPMForCausalLM
from finerank.models.model_files import FINERANK_JSON, base_of, read_json, stored_settings

CLASS = "decoder-only-layerwise"
ANSWER = "Yes"
HEADS: dict[str, Any] = {"start_layer": 8, "head_multi": False, "head_type": "simple"}
"""The heads that a plain MiniCPM gets for training unless others are asked for: FlagEmbedding's defaults."""
DEFAULT_MAX_LEN = 512
TRAINING_TOKENS = 4096
UNCUT = 1_000_000


class LayersModule(torch.nn.Module):
    """A layer-wise model asked for some of its layers; ``forward`` runs micro-batches of a step.

    Attributes:
        layers: layers, ascending.
        row: token that heads over the vocabulary are asked for.
    """

    def __init__(self, model: LayerWiseMiniCPMForCausalLM, layers: Sequence[int], row: int) -> None:
        super().__init__()
        self.model = model
        self.layers = tuple(layers)
        self.row = row

    def logits(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return float32 scores [n, C] of a batch that is padded left, a column per layer."""
        scores: torch.Tensor = self.model(features["input_ids"], features["attention_mask"], self.layers, self.row)
        return scores

    def highest(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return float32 scores [n] of the highest layer alone."""
        last: torch.Tensor = self.model(features["input_ids"], features["attention_mask"], self.layers[-1:], self.row)
        return last[:, 0]

    def forward(self, micro: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Return the scores [N, C] of padded micro-batches, one after the other."""
        return torch.cat([self.logits(features) for features in micro])


class LayerwiseReranker:
    """A Scorer, and a Trainable (see ``core.protocols``)."""

    TASK = "CAUSAL_LM"
    """What peft calls it."""

    def __init__(
        self, module: LayersModule, hf_tokenizer: Any, name: str, device: torch.device, max_len: int,
        query_max_len: int | None, passage_max_len: int | None, layout: LlmLayout, cutoff_layers: list[int] | None,
    ) -> None:  # fmt: skip
        self.name = name
        self.device = device
        self.max_len, self.query_max_len, self.passage_max_len = max_len, query_max_len, passage_max_len
        self.layout = layout
        self.cutoff_layers = cutoff_layers
        self.tokens_per_forward = TRAINING_TOKENS
        self.texts_per_forward: int | None = None
        self.merge_adapter = False
        self.hf_tokenizer = hf_tokenizer
        self.tokenizer = Tokenizer(hf_tokenizer, with_types=False)
        self.module = module
        self._fingerprint = ""

    @classmethod
    def load(
        cls, name: str, *, device: torch.device, dtype: torch.dtype, max_len: int | None = None,
        query_max_len: int | None = None, passage_max_len: int | None = None, query_prefix: str | None = None,
        passage_prefix: str | None = None, prompt: str | None = None, cutoff_layers: Sequence[int] | None = None,
        start_layer: int | None = None, head_multi: bool | None = None, head_type: HeadType | None = None,
        from_raw: bool = False, cache_dir: str | None = None, trust_remote_code: bool = False,
        peft_path: str | None = None, new_head: bool = False, seed: int = DEFAULT_SEED,
    ) -> LayerwiseReranker:  # fmt: skip
        """Load a folder or a hub name; an adapter is merged into its base. None means the model's own, else the usual.

        Args:
            cutoff_layers: layers to score from; usually the last, in training all from ``start_layer`` on.
            start_layer: first layer that is trained; where ``from_raw`` gives heads, the first that has one.
            head_multi, head_type: the heads that ``from_raw`` gives: one per layer or one for all, and their kind.
            from_raw: take a plain MiniCPM, and give it heads that begin as the row of "Yes".
            trust_remote_code: of no effect, the architecture is our own; so is ``seed``, no weight is drawn.
            new_head: load for training, where a plain MiniCPM is taken too.

        Raises:
            UserError: if there is no such model, it is no MiniCPM, a weight is missing, or it has no such layer.
        """
        base = base_of(name, cache_dir) or name
        own = stored_settings([*([peft_path] if peft_path else []), name, base], cache_dir)
        named = {"start_layer": start_layer, "head_multi": head_multi, "head_type": head_type}
        asked = {key: value for key, value in named.items() if value is not None}
        opener = partial(_opened, asked=asked, stored=own.get("heads"), growing=new_head, from_raw=from_raw)
        model, source = load_causal(name, device, dtype, cache_dir, False, peft_path, opener)
        hf_tokenizer = load_tokenizer(source, cache_dir, False, padding="left")
        stored = None if new_head else own.get("cutoff_layers")
        cutoffs = sorted(set(cutoff_layers or stored or [])) or None
        layers = _layers(model.config, cutoffs, start_layer if new_head else None, name, every=new_head)
        row = 0 if model.config.head_type == "simple" else token_id(hf_tokenizer, ANSWER, name)
        length = bounded_length(max_len, own.get("max_len") or DEFAULT_MAX_LEN, model.config, "max length")
        layout = LlmLayout(
            _first(query_prefix, own.get("query_prefix"), QUERY_PREFIX),
            _first(passage_prefix, own.get("passage_prefix"), PASSAGE_PREFIX),
            _first(prompt, own.get("prompt"), ANSWER_PROMPT),
        )
        if max_len is None and query_max_len is None and passage_max_len is None:
            query_max_len, passage_max_len = own.get("query_max_len"), own.get("passage_max_len")
        module = LayersModule(model, layers, row)
        return cls(module, hf_tokenizer, name, device, length, query_max_len, passage_max_len, layout, cutoffs)

    @property
    def layers(self) -> list[int]:
        """Layers that are scored or trained, ascending; the highest gives ``score``."""
        return list(self.module.layers)

    @property
    def transformer(self) -> Any:
        """The transformers model."""
        return self.module.model

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights (one-number heads stay in float32, and so do scores)."""
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
        """Return scores [N] of the highest of ``layers``, in the order of ``pairs``; each distinct pair once."""
        return engine.run(
            self.module, pairwise.tuples(pairs),
            lambda part: self.tokens(part if placed else self.layout.prefixed(part)), self.module.highest,
            tokenizer=self.tokenizer, device=self.device, progress=progress,
        )  # fmt: skip

    def layer_scores(self, pairs: Sequence[AnyPair], progress: Progress | None = None) -> NDArray[np.float32]:
        """Return scores [C, N] of each of ``layers``, ascending, computed in one pass."""
        found = engine.run(
            self.module, pairwise.tuples(pairs), lambda part: self.tokens(self.layout.prefixed(part)),
            self.module.logits, tokenizer=self.tokenizer, device=self.device, width=len(self.layers), progress=progress,
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
        """Set dropout; attention stays the model's own."""
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
        lengths = f"pair {self.max_len}, query {self.query_max_len or self.max_len * 3 // 4} tokens"
        found = facts(self.name, self.transformer, self.device, self.dtype)
        layers, count = self.layers, self.transformer.config.num_hidden_layers
        shown = ", ".join(map(str, layers)) if len(layers) < 5 else f"{layers[0]} to {layers[-1]} ({len(layers)})"
        return found | {"lengths": lengths, "layers": f"{shown} of {count}"}

    def settings(self) -> Mapping[str, Any]:
        """Return what decides a score beside weights, tokenizer and number format, as a saved folder says it."""
        config = self.transformer.config
        return {
            "max_len": self.max_len,
            "query_max_len": self.query_max_len,
            "passage_max_len": self.passage_max_len,
            "query_prefix": self.layout.query_prefix,
            "passage_prefix": self.layout.passage_prefix,
            "prompt": self.layout.prompt,
            "cutoff_layers": self.cutoff_layers,
            "heads": {key: getattr(config, key) for key in HEADS},
        }


def _opened(
    source: str, *, dtype: torch.dtype, cache_dir: str | None, asked: Mapping[str, Any],
    stored: Mapping[str, Any] | None, growing: bool, from_raw: bool, **_: Any,
) -> LayerWiseMiniCPMForCausalLM:  # fmt: skip
    """Open published weights or, for training and for adapters that were trained so, a plain MiniCPM with new heads."""
    said = read_json(source, "config.json", cache_dir)
    architecture = (said.get("architectures") or ["model without a config.json"])[0]
    layered = LAYERWISE in architecture.lower()
    if said and said.get("model_type") != LayerWiseMiniCPMConfig.model_type:
        raise UserError(f"{source} is no {CLASS} reranker: it is a {architecture}, and these are MiniCPMs")
    if layered and from_raw:
        raise UserError(f"{source} is a {CLASS} reranker already, and no plain language model to make one from")
    if said and not layered and not (growing or from_raw or stored):
        raise UserError(
            f"{source} is no {CLASS} reranker: it is a plain {architecture}, with no heads on its layers",
            hint="finerank train reranker makes one of it",
        )
    if layered or not said:
        return _weights(source, dtype, cache_dir, LayerWiseMiniCPMConfig.from_pretrained(source, cache_dir=cache_dir))
    return _grown(source, dtype, cache_dir, stored or asked)


def _grown(
    source: str, dtype: torch.dtype, cache_dir: str | None, wanted: Mapping[str, Any]
) -> LayerWiseMiniCPMForCausalLM:
    """Open a plain MiniCPM and give it the heads ``wanted``, or the usual ones."""
    config = LayerWiseMiniCPMConfig.from_pretrained(source, cache_dir=cache_dir)
    blocks = config.num_hidden_layers
    config.start_layer, config.head_multi, config.head_type = blocks, False, "raw"
    usual = min(HEADS["start_layer"], blocks)
    chosen = HEADS | {"start_layer": usual} | dict(wanted)
    if not 0 < chosen["start_layer"] <= blocks:
        raise UserError(
            f"no head can stand on layer {chosen['start_layer']}: {source} has layers 1 to {blocks}",
            hint=f"--start_layer {usual}",
        )
    model = _weights(source, dtype, cache_dir, config)
    tokenizer = load_tokenizer(source, cache_dir, False, padding="left")
    model.grow_heads(**chosen, row=token_id(tokenizer, ANSWER, source))
    return model


def _weights(
    source: str, dtype: torch.dtype, cache_dir: str | None, config: LayerWiseMiniCPMConfig
) -> LayerWiseMiniCPMForCausalLM:
    """Read weights; a head that is missing would come out random, so each must be there."""
    model: LayerWiseMiniCPMForCausalLM
    model, report = LayerWiseMiniCPMForCausalLM.from_pretrained(
        source, config=config, dtype=dtype, cache_dir=cache_dir, output_loading_info=True
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(f"model {source} cannot be loaded: {len(missing)} weights are missing, {missing[0]} the first")
    return model


def _layers(
    config: LayerWiseMiniCPMConfig, cutoffs: Sequence[int] | None, first: int | None, name: str, *, every: bool
) -> list[int]:
    """Return the layers asked for, ascending; without any the last, or all from ``first`` on where ``every``."""
    low, high = config.start_layer, config.num_hidden_layers
    wrong = [layer for layer in [*(cutoffs or []), *([] if first is None else [first])] if not low <= layer <= high]
    if wrong:
        raise UserError(
            f"layer {', '.join(map(str, wrong))} has no head: {name} can be cut off at layers {low} to {high}",
            hint=f"--cutoff_layers {high}",
        )
    if cutoffs:
        return list(cutoffs)
    return list(range(low if first is None else first, high + 1)) if every else [high]


def _first(*values: str | None) -> str:
    return next(value for value in values if value is not None)
