"""Bi-encoders: texts to vectors, loaded and saved as sentence-transformers models.

Pooling, normalisation, prompts and lengths come from the model's own files unless asked otherwise. The transformer
runs in ``--dtype``; pooling and everything after it runs in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

from finerank.batching.collate import micro_batches
from finerank.batching.prompts import Tokenizer, parts_of
from finerank.core.errors import UsageError, UserError, did_you_mean
from finerank.core.protocols import Pair, Progress, Side
from finerank.core.records import Group
from finerank.models import adapters, attention, engine, fused, lanes, packed
from finerank.models.families import is_language_model, is_reranker
from finerank.models.load import bounded_length, facts, load_quietly, weights_digest
from finerank.models.model_files import ST_CONFIG, base_of, read_json

SIDES: tuple[Side, Side] = ("query", "passage")
PROMPT_KEYS = {"query": ("query",), "passage": ("document", "passage")}
POOLING_NAMES = {"last_token": "lasttoken", "last": "lasttoken", "lasttoken": "lasttoken", "cls": "cls", "mean": "mean"}
UNCUT = 1_000_000
FORMAT = "{}_format"
"""Key among a folder's prompts under which a prompt with something behind the text is kept whole."""


class TowerModule(torch.nn.Module):
    """One tower for queries and passages; ``forward`` runs micro-batches of a step."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def embed(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return float32 embeddings [n, D] of a padded batch."""
        transformer, *rest = self.model
        inputs = dict(features)
        pooling_mask = inputs.pop("pooling_mask", None)
        output = transformer(inputs)
        if pooling_mask is not None:
            output["attention_mask"] = pooling_mask
        with torch.autocast(output["token_embeddings"].device.type, enabled=False):
            output["token_embeddings"] = output["token_embeddings"].float()
            for module in rest:
                output = module(output)
            embeddings: torch.Tensor = output["sentence_embedding"]
        return embeddings

    def forward(self, micro: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Return the embeddings [N, D] of padded micro-batches, one after the other."""
        return torch.cat([self.embed(features) for features in micro])


class BiEncoder:
    """An Encoder, and a Trainable (see ``core.protocols``)."""

    TASK = "FEATURE_EXTRACTION"
    """What peft calls it."""

    def __init__(
        self, model: SentenceTransformer, name: str, device: torch.device, prompts: dict[Side, str],
        max_lens: dict[Side, int],
    ) -> None:  # fmt: skip
        self.name = name
        self.device = device
        self.prompts = prompts
        self.max_lens = max_lens
        self.tokens_per_forward = packed.training_tokens(model[0].model)
        self.texts_per_forward: int | None = None
        self.module = TowerModule(model)
        self.tokenizer = Tokenizer(model.tokenizer, with_types="token_type_ids" in model.tokenizer.model_input_names)
        self.merge_adapter = False
        self._pools_prompt = all(module.include_prompt for module in model if isinstance(module, Pooling))
        self._unpooled: dict[tuple[str, Side], int] = {}
        self._fingerprints: dict[Side, str] = {}

    @classmethod
    def load(
        cls, name: str, *, device: torch.device, dtype: torch.dtype, query_prompt: str | None = None,
        passage_prompt: str | None = None, pooling: str | None = None, normalize: bool | None = None,
        query_max_len: int | None = None, passage_max_len: int | None = None, cache_dir: str | None = None,
        trust_remote_code: bool = False,
    ) -> BiEncoder:  # fmt: skip
        """Load a folder or a hub name, an adapter merged into its base; see ``models.load.load_encoder``.

        Raises:
            UserError: if there is no such model, or it is a reranker.
        """
        if is_reranker(name, cache_dir) and not is_language_model(name, cache_dir):
            raise UserError(f"{name} is a reranker, not an embedder: it scores pairs and has no vectors")
        base = base_of(name, cache_dir)
        # An adapter folder of ours has its own pooling and prompts; a bare one takes its base's.
        source = base if base and not read_json(name, ST_CONFIG, cache_dir) else name
        with adapters.opening(name, cache_dir):
            model = load_quietly(
                source,
                lambda: SentenceTransformer(
                    source, device=str(device), cache_folder=cache_dir, trust_remote_code=trust_remote_code,
                    model_kwargs={"dtype": torch.float32},
                ),
            )  # fmt: skip
        _append_end(model.tokenizer, source, cache_dir)
        if base:
            adapters.merge_folder(model[0].model, name, cache_dir)
        _set_pooling(model, pooling)
        _set_normalize(model, normalize)
        transformer = model[0]
        transformer.to(dtype)
        fused.install(transformer.model, device, first_alone=reads_first(model))
        asked: dict[Side, int | None] = {"query": query_max_len, "passage": passage_max_len}
        own = {
            "query": getattr(transformer, "query_length", None),
            "passage": getattr(transformer, "document_length", None),
        }
        lengths: dict[Side, int] = {
            side: bounded_length(
                asked[side], own[side] or model.max_seq_length, transformer.model.config, f"{side} length"
            )
            for side in SIDES
        }
        given: dict[Side, str | None] = {"query": query_prompt, "passage": passage_prompt}
        prompts: dict[Side, str] = {
            side: _own_prompt(model, side) if given[side] is None else given[side] or "" for side in SIDES
        }
        model.eval()
        return cls(model, name, device, prompts, lengths)

    @property
    def model(self) -> SentenceTransformer:
        """The sentence-transformers model that is loaded, trained and saved."""
        return self.module.model

    @property
    def dimension(self) -> int:
        """Length D of a vector."""
        return int(self.model.get_embedding_dimension())

    @property
    def transformer(self) -> Any:
        """The transformers model inside, or what runs in its place."""
        return self.model[0].model

    @transformer.setter
    def transformer(self, transformer: Any) -> None:
        self.model[0].model = transformer

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the transformer's weights."""
        dtype: torch.dtype = self.transformer.dtype
        return dtype

    def fingerprint(self, side: Side) -> str:
        """Digest of all that decides a vector of this side."""
        if side not in self._fingerprints:
            recipe = f"{self.prompts[side]}\x00{self.max_lens[side]}\x00{self.device.type}\x00{list(self.model)[1:]}"
            self._fingerprints[side] = weights_digest(
                self.model, self.model[0].model.config, recipe, self.tokenizer.state
            )
        return self._fingerprints[side]

    def encode(
        self, texts: Sequence[str], side: Side, progress: Progress | None = None, prompts: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Return vectors [N, D] in the order of ``texts``; each distinct text is computed once.

        Args:
            prompts: [N], in the place of the side's own.
        """
        items: Sequence[Any] = texts if prompts is None else list(zip(texts, prompts))

        def tokenise(part: Sequence[Any]) -> list[Any]:
            if prompts is None:
                return self.tokens(part, side)
            return self.tokens([text for text, _ in part], side, [prompt for _, prompt in part])

        return engine.run(
            self.module, items, tokenise, self.module.embed, tokenizer=self.tokenizer, device=self.device,
            width=self.dimension, abreast=lanes.fit(self.transformer, *list(self.model)[1:]), progress=progress,
        )  # fmt: skip

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return query vectors [N, D]."""
        return self.encode(queries, "query")

    def encode_passages(self, passages: Sequence[str]) -> NDArray[np.float32]:
        """Return passage vectors [N, D]."""
        return self.encode(passages, "passage")

    def tokens(self, texts: Sequence[str], side: Side, prompts: Sequence[str] | None = None) -> list[Any]:
        """Tokenise with the side's prompt or, text by text, with ``prompts``; cut to the side's length."""
        before = [self.prompts[side]] * len(texts) if prompts is None else prompts
        if any(parts_of(prompt)[1] for prompt in set(before)):
            tokens = self._between(texts, before, self.max_lens[side])
        else:
            whole = [prompt + text for prompt, text in zip(before, texts)] if any(before) else texts
            tokens = self.tokenizer.texts(whole, self.max_lens[side])
        if self._pools_prompt or not any(before):
            return tokens
        return [item._replace(unpooled=self._unpooled_tokens(prompt, side)) for item, prompt in zip(tokens, before)]

    def _between(self, texts: Sequence[str], prompts: Sequence[str], limit: int) -> list[Any]:
        """Tokenise texts between what stands before and behind them; they are cut, what stands behind is kept."""
        parts = [parts_of(prompt) for prompt in prompts]
        tokens = self.tokenizer.texts([head + text + tail for (head, tail), text in zip(parts, texts)], UNCUT)
        special = len(self.tokenizer.texts([""], UNCUT)[0].ids)
        for place, item in enumerate(tokens):
            if len(item.ids) > limit:
                head, tail = parts[place]
                room = max(limit - special - len(self.tokenizer.plain([tail])[0]), 0)
                (cut,) = self.tokenizer.shortened([head + texts[place]], room)
                (tokens[place],) = self.tokenizer.texts([cut + tail], UNCUT)
        return tokens

    def prompts_of(self, group: Group) -> tuple[str, str]:
        """Return what stands before a group's query, and before its passages: its own prompts, else the model's."""
        query = self.prompts["query"] if group.query_prompt is None else group.query_prompt
        passage = self.prompts["passage"] if group.passage_prompt is None else group.passage_prompt
        return query, query if group.alike else passage

    def collate(self, groups: Sequence[Group]) -> dict[str, Any]:
        """Return one step: queries first, then each group's passages, in token-sorted micro-batches."""
        before = list(map(self.prompts_of, groups))
        queries = self.tokens([group.query for group in groups], "query", [query for query, _ in before])
        passages = self.tokens(
            [text for group in groups for text in group.passages], "passage",
            [prompt for group, (_, prompt) in zip(groups, before) for _ in group.passages],
        )  # fmt: skip
        step = micro_batches(
            [*queries, *passages], self.tokens_per_forward, self.tokenizer.pad_id, left=self.tokenizer.pad_left,
            most=self.texts_per_forward, apart=len(queries),
        )  # fmt: skip
        return step | {"size": len(groups), "group_size": len(groups[0].passages)}

    def outputs(self, results: torch.Tensor, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return ``queries`` [B, D] and ``passages`` [B * G, D] of one step."""
        embeddings = results[batch["order"]]
        return {"queries": embeddings[: batch["size"]], "passages": embeddings[batch["size"] :]}

    @property
    def cosine(self) -> bool:
        """Whether vectors are compared by cosine; models made for inner products say so (``similarity_fn_name``)."""
        return bool(self.model.similarity_fn_name != "dot")

    def truncated(self, pairs: Sequence[Pair]) -> tuple[int, int]:
        """Return how many passages of the pairs are cut, and the length in tokens that cuts them."""
        head, tail = parts_of(self.prompts["passage"])
        passages = [head + passage + tail for _, passage in pairs]
        limit = self.max_lens["passage"]
        lengths = [len(item.ids) for item in self.tokenizer.texts(passages, limit + 1)]
        return sum(length > limit for length in lengths), limit

    def prepare_for_training(self, dropout: float | None) -> None:
        """Switch to training attention and set dropout (``attention.prepare_for_training``)."""
        attention.prepare_for_training(self.transformer, self.device, dropout)

    def save(self, folder: Path) -> None:
        """Write a folder that sentence-transformers loads unchanged, prompts and lengths included.

        A model with an adapter writes the adapter alone, or with ``merge_adapter`` the merged model.
        """
        for key, prompt in {"query": self.prompts["query"], "document": self.prompts["passage"]}.items():
            head, tail = parts_of(prompt)
            self.model.prompts[key] = head
            self.model.prompts.pop(FORMAT.format(key), None)
            if tail:
                self.model.prompts[FORMAT.format(key)] = prompt
        self.model.max_seq_length = max(self.max_lens.values())
        transformer = self.model[0]
        transformer.query_length, transformer.document_length = self.max_lens["query"], self.max_lens["passage"]
        adapters.save(self.model, folder, merging=self.merge_adapter)

    def describe(self) -> dict[str, object]:
        """Return the facts of a start banner."""
        lengths = f"query {self.max_lens['query']}, passage {self.max_lens['passage']} tokens"
        return facts(self.name, self.model, self.device, self.dtype) | {"lengths": lengths}

    def _unpooled_tokens(self, prompt: str, side: Side) -> int:
        """Count the leading tokens that a pooling without the prompt leaves out: the first one and the prompt."""
        if not prompt:
            return 0
        if (prompt, side) not in self._unpooled:
            head, _ = parts_of(prompt)
            self._unpooled[prompt, side] = len(self.tokenizer.texts([head], self.max_lens[side])[0].ids) - 1
        return self._unpooled[prompt, side]


def _append_end(tokenizer: Any, name: str, cache_dir: str | None) -> None:
    """Have an end token behind each text where the folder asks for one; transformers 5 no longer reads that it does."""
    end = tokenizer.eos_token_id
    if end is None or not read_json(name, "tokenizer_config.json", cache_dir).get("add_eos_token"):
        return
    ids = tokenizer("a")["input_ids"]
    if ids[-1] != end:
        tokenizer.add_bos_token = ids[0] == tokenizer.bos_token_id
        tokenizer.add_eos_token = True


def _own_prompt(model: SentenceTransformer, side: Side) -> str:
    named = PROMPT_KEYS[side]
    default = [model.default_prompt_name] if model.default_prompt_name else []
    keys = [*map(FORMAT.format, named), *named, *default]
    return next((str(model.prompts[key]) for key in keys if model.prompts.get(key)), "")


def _set_pooling(model: SentenceTransformer, pooling: str | None) -> None:
    if pooling is None:
        return
    if pooling not in POOLING_NAMES:
        raise UsageError(
            f'unknown pooling "{pooling}"{did_you_mean(pooling, POOLING_NAMES)}', hint="cls, mean or last_token"
        )
    place = next((index for index, module in enumerate(model) if isinstance(module, Pooling)), None)
    if place is not None:
        model[place] = Pooling(model[place].embedding_dimension, POOLING_NAMES[pooling])


def reads_first(model: SentenceTransformer) -> bool:
    """Say whether of a text's states the first alone is read: pooling is "cls", and no prompt is left out of it."""
    pooling, *behind = list(model)[1:] or [None]
    pools = isinstance(pooling, Pooling) and pooling.pooling_mode in ("cls", ("cls",)) and pooling.include_prompt
    return pools and all(isinstance(module, Dense | Normalize) for module in behind)


def _set_normalize(model: SentenceTransformer, normalize: bool | None) -> None:
    places = [name for name, module in model.named_children() if isinstance(module, Normalize)]
    if normalize and not places:
        model.append(Normalize())
    if normalize is not None:
        model.similarity_fn_name = "cosine" if normalize else "dot"
    if normalize is False:
        for name in reversed(places):
            del model[int(name)]
