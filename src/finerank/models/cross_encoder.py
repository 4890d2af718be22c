"""Cross-encoders: query-passage pairs to scores, loaded and saved as sequence-classification models.

The pair is cut, longest side first, to ``max_len`` tokens; with ``query_max_len`` or ``passage_max_len`` each side is
cut to its own length before. The transformer runs in ``--dtype``; its head runs in float32, so that close scores stay
apart.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finerank.batching.prompts import Tokenizer
from finerank.core.errors import UserError
from finerank.core.protocols import Pair, Progress
from finerank.core.records import Group
from finerank.core.seeding import DEFAULT_SEED, stream_seed
from finerank.models import adapters, attention, engine, first_token, fused, lanes, packed, pairwise, st_files
from finerank.models.families import SCORING_HEADS, family_of
from finerank.models.load import bounded_length, facts, load_quietly, weights_digest
from finerank.models.model_files import FINERANK_JSON, ST_CONFIG, base_of, read_json, stored_settings

DEFAULT_MAX_LEN = 512
UNCUT = 1_000_000


class ScoringModule(torch.nn.Module):
    """A sequence-classification model with one label; ``forward`` runs micro-batches of a step."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def logits(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return float32 logits [n] of a padded batch."""
        logits: torch.Tensor = self.model(**features).logits
        return logits.float().squeeze(-1)

    def forward(self, micro: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Return the logits [N] of padded micro-batches, one after the other."""
        return torch.cat([self.logits(features) for features in micro])


class CrossEncoder:
    """A Scorer, and a Trainable (see ``core.protocols``)."""

    TASK = "SEQ_CLS"
    """What peft calls it."""

    def __init__(
        self, transformer: Any, tokenizer: Any, name: str, device: torch.device, max_len: int,
        query_max_len: int | None = None, passage_max_len: int | None = None, query_prefix: str = "",
        passage_prefix: str = "",
    ) -> None:  # fmt: skip
        self.name = name
        self.device = device
        self.max_len = max_len
        self.query_max_len = query_max_len
        self.passage_max_len = passage_max_len
        self.query_prefix, self.passage_prefix = query_prefix, passage_prefix
        self.tokens_per_forward = packed.training_tokens(transformer)
        self.texts_per_forward: int | None = None
        self.module = ScoringModule(transformer)
        self.hf_tokenizer = tokenizer
        self.tokenizer = Tokenizer(tokenizer, with_types="token_type_ids" in tokenizer.model_input_names)
        self.merge_adapter = False
        self.described: dict[str, Any] = {}
        self._fingerprint = ""

    @classmethod
    def load(
        cls, name: str, *, device: torch.device, dtype: torch.dtype, max_len: int | None = None,
        query_max_len: int | None = None, passage_max_len: int | None = None, query_prefix: str | None = None,
        passage_prefix: str | None = None, new_head: bool = False, seed: int = DEFAULT_SEED,
        cache_dir: str | None = None, trust_remote_code: bool = False, peft_path: str | None = None,
    ) -> CrossEncoder:  # fmt: skip
        """Load a folder or a hub name; an adapter is merged into its base.

        Args:
            query_prefix, passage_prefix: stand before the texts; None means what the model was tuned with, else
                nothing.
            new_head: give a model without a scoring head a new one (for training), drawn from ``seed``.
            peft_path: an adapter for this model.

        Raises:
            UserError: if there is no such model, it has no scoring head, or more than one label.
        """
        source = base_of(name, cache_dir) or name
        if source != name and family_of(name, cache_dir) == "bi_encoder":
            raise UserError(
                f"{name} is an embedder's adapter, not a reranker",
                hint=f"to tune a reranker from it: finerank merge --model_name_or_path {name} --output_dir MERGED",
            )
        with torch.random.fork_rng(devices=[]), adapters.opening(name, cache_dir):
            torch.manual_seed(stream_seed(seed, "head"))
            transformer, tokenizer = load_quietly(
                source, lambda: _opened(source, cache_dir, trust_remote_code, _headless(source, cache_dir))
            )
        transformer.to(device)
        for folder in [*([name] if source != name else []), *([peft_path] if peft_path else [])]:
            adapters.merge_folder(transformer, folder, cache_dir)
            new_head = new_head or adapters.holds_head(folder, cache_dir)
        _check_head(source, transformer, new_head, cache_dir)
        asked = max_len or (query_max_len + passage_max_len + 3 if query_max_len and passage_max_len else None)
        stored = stored_settings([*([peft_path] if peft_path else []), name, source], cache_dir)
        own = stored.get("max_len") or min(DEFAULT_MAX_LEN, tokenizer.model_max_length)
        length = bounded_length(asked, own, transformer.config, "max length")
        if asked is None and query_max_len is None and passage_max_len is None:
            query_max_len, passage_max_len = stored.get("query_max_len"), stored.get("passage_max_len")
        _keep_heads_float32(transformer, dtype)
        fused.install(transformer, device, first_alone=first_token.alone_is_read_by(transformer))
        transformer.eval()
        before = (
            stored.get(side, "") if given is None else given
            for side, given in (("query_prefix", query_prefix), ("passage_prefix", passage_prefix))
        )
        model = cls(transformer, tokenizer, name, device, length, query_max_len, passage_max_len, *before)
        model.described = read_json(source, ST_CONFIG, cache_dir)
        return model

    @property
    def transformer(self) -> Any:
        """The transformers model that is loaded, trained and saved, or what runs in its place."""
        return self.module.model

    @transformer.setter
    def transformer(self, transformer: Any) -> None:
        self.module.model = transformer

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the transformer's weights (its head is float32)."""
        dtype: torch.dtype = self.transformer.dtype
        return dtype

    def fingerprint(self) -> str:
        """Digest of all that decides a score."""
        if not self._fingerprint:
            recipe = json.dumps([self.settings(), self.device.type])
            self._fingerprint = weights_digest(self.module, self.transformer.config, recipe, self.tokenizer.state)
        return self._fingerprint

    def score(
        self, pairs: Sequence[Pair], progress: Progress | None = None, *, placed: bool = False
    ) -> NDArray[np.float32]:
        """Return logits [N] in the order of ``pairs``; each distinct pair is computed once."""
        return engine.run(
            self.module, [(query, passage) for query, passage in pairs],
            lambda part: self.tokens(part if placed else self.prefixed(part)), self.module.logits,
            tokenizer=self.tokenizer, device=self.device, abreast=lanes.fit(self.transformer), progress=progress,
        )  # fmt: skip

    def rank(self, query: str, passages: Sequence[str], top_k: int | None = None) -> list[tuple[int, float]]:
        """Return (position, sigmoid of the score) of the passages, best first; equal scores keep their order."""
        return pairwise.rank(self.score([(query, passage) for passage in passages]), top_k)

    def prefixed(self, pairs: Sequence[Pair]) -> Sequence[Pair]:
        """Put the prefixes before raw queries and passages."""
        if not (self.query_prefix or self.passage_prefix):
            return pairs
        return [(self.query_prefix + query, self.passage_prefix + passage) for query, passage in pairs]

    def tokens(self, pairs: Sequence[Pair]) -> list[Any]:
        """Tokenise pairs that have their prefixes, cut to the model's lengths."""
        return self.tokenizer.pairs(pairs, self.max_len, self.query_max_len, self.passage_max_len)

    def pairs_of(self, group: Group) -> list[Pair]:
        """Return a group's pairs behind the group's own prefixes, else the model's."""
        return pairwise.pairs_of(group, self.query_prefix, self.passage_prefix)

    def collate(self, groups: Sequence[Group]) -> dict[str, Any]:
        """Return one step: all pairs of all groups, in token-sorted micro-batches."""
        tokens = self.tokens([pair for group in groups for pair in self.pairs_of(group)])
        return pairwise.step(tokens, groups, self.tokenizer, self.tokens_per_forward, self.texts_per_forward)

    def outputs(self, results: torch.Tensor, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return ``scores`` [B, G] of one step."""
        return {"scores": pairwise.scores(results, batch)}

    def truncated(self, pairs: Sequence[Pair]) -> tuple[int, int]:
        """Return how many of the pairs are cut, and the length in tokens of a pair."""
        before = self.prefixed(pairs)
        whole = self.tokenizer.pairs(before, UNCUT)
        cut = sum(len(left.ids) > len(right.ids) for left, right in zip(whole, self.tokens(before)))
        return cut, self.max_len

    def prepare_for_training(self, dropout: float | None) -> None:
        """Switch to training attention and set dropout (``attention.prepare_for_training``)."""
        attention.prepare_for_training(self.transformer, self.device, dropout)

    def save(self, folder: Path) -> None:
        """Write a folder that sentence-transformers and AutoModelForSequenceClassification load unchanged.

        A model with an adapter writes the adapter alone, or with ``merge_adapter`` the merged model.
        """
        self.hf_tokenizer.model_max_length = self.max_len
        adapters.save_plain(self.transformer, self.hf_tokenizer, folder, merging=self.merge_adapter)
        st_files.write_classifier(folder, self.described, self.transformer.config)
        (folder / FINERANK_JSON).write_text(json.dumps(self.settings(), ensure_ascii=False) + "\n", encoding="utf-8")

    def settings(self) -> dict[str, Any]:
        """Return what decides a score beside weights, tokenizer and number format, as a saved folder says it."""
        lengths: dict[str, Any] = {
            "max_len": self.max_len,
            "query_max_len": self.query_max_len,
            "passage_max_len": self.passage_max_len,
        }
        return lengths | {side: text for side in ("query_prefix", "passage_prefix") if (text := getattr(self, side))}

    def describe(self) -> dict[str, object]:
        """Return the facts of a start banner."""
        sides = [f"query {self.query_max_len}" if self.query_max_len else "",
                 f"passage {self.passage_max_len}" if self.passage_max_len else ""]  # fmt: skip
        lengths = ", ".join(filter(None, [f"pair {self.max_len}", *sides])) + " tokens"
        return facts(self.name, self.transformer, self.device, self.dtype) | {"lengths": lengths}


def _headless(name: str, cache_dir: str | None) -> bool:
    architectures = read_json(name, "config.json", cache_dir).get("architectures") or []
    return not any(item.endswith(SCORING_HEADS) for item in architectures)


def _opened(name: str, cache_dir: str | None, trust_remote_code: bool, headless: bool) -> tuple[Any, Any]:
    """Return a transformers model in float32, with a new head of one label if it has none, and its tokenizer.

    Not through sentence-transformers, whose import takes longer than all the rest of scoring a few pairs.
    """
    common = {"cache_dir": cache_dir, "trust_remote_code": trust_remote_code}
    labels = {"num_labels": 1} if headless else {}
    model = AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32, **common, **labels)
    return model, AutoTokenizer.from_pretrained(name, **common)


def _check_head(name: str, transformer: Any, new_head: bool, cache_dir: str | None) -> None:
    labels = getattr(transformer.config, "num_labels", None)
    if labels != 1:
        raise UserError(f"{name} gives {labels} labels a pair; a reranker gives one")
    if _headless(name, cache_dir) and not new_head:
        raise UserError(
            f"{name} is not a reranker: it has no trained scoring head",
            hint=f"finerank train reranker --model_name_or_path {name} --train_data ROWS.jsonl",
        )


def _keep_heads_float32(model: Any, dtype: torch.dtype) -> None:
    """Run the transformer in ``dtype`` and what stands on it in float32, under a trainer's autocast too."""
    model.to(dtype)
    backbone = getattr(model, model.base_model_prefix)
    heads = [child for child in model.children() if child is not backbone]
    for head in [*heads, getattr(backbone, "pooler", None)]:
        if head is not None:
            head.float()
            head.register_forward_pre_hook(_enter_float32)
            head.register_forward_hook(_leave_float32, always_call=True)


class _Running(threading.local):
    """What the heads that are running in a thread have switched off, innermost last; autocast is a thread's own."""

    def __init__(self) -> None:
        self.heads: list[ExitStack] = []


_RUNNING = _Running()


def _enter_float32(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Switch autocast off, unless a launcher has brought the head's own weights to 16 bits."""
    dtype = next((weight.dtype for weight in module.parameters()), torch.float32)
    _RUNNING.heads.append(ExitStack())
    if dtype == torch.float32:
        device = next((item.device.type for item in inputs if isinstance(item, torch.Tensor)), "cpu")
        _RUNNING.heads[-1].enter_context(torch.autocast(device, enabled=False))
    return tuple(item.to(dtype) if _is_float(item) else item for item in inputs)


def _leave_float32(module: torch.nn.Module, inputs: Any, output: Any) -> None:
    _RUNNING.heads.pop().close()


def _is_float(item: Any) -> bool:
    return isinstance(item, torch.Tensor) and item.is_floating_point()
