"""Gemma 2 as a reranker with a head per layer, an early exit and passages that get shorter on the way.

The architecture ``CostWiseGemmaForCausalLM`` of bge-reranker-v2.5-gemma2-lightweight, on transformers' own Gemma 2
blocks: same configuration, same names of weights, no remote code. "Layer k" is what stands after k blocks, under the
model's last norm; layers from ``start_layer`` to the last, each ``layer_sep``-th, have a head with one output.

Sources: FlagEmbedding's lightweight reranker (what it computes); Gemma 2 (arXiv:2408.00118) for the blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, Gemma2Config
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.models.gemma2.modeling_gemma2 import Gemma2Model, Gemma2PreTrainedModel

CAPPED, UNCAPPED = "eager", "sdpa"
"""Implementations of attention: torch's fused one cannot cap attention scores."""


class CostWiseGemmaConfig(Gemma2Config):  # type: ignore[misc]
    """Gemma 2's configuration and where the heads are.

    Attributes:
        start_layer, layer_sep: heads stand on layers ``start_layer``, ``start_layer + layer_sep``, … to the last.
        layer_wise: whether there are such heads; the architecture without them is a plain Gemma 2.
    """

    model_type = "cost_wise_gemma"

    start_layer: int = 28
    layer_sep: int = 28
    layer_wise: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        # Read by transformers 4, which knows no rope_parameters.
        self.rope_theta = (self.rope_parameters or {}).get("rope_theta")

    @property
    def head_layers(self) -> list[int]:
        """Layers that have a head, ascending."""
        return list(range(self.start_layer, self.num_hidden_layers + 1, self.layer_sep))


class Compression(NamedTuple):
    """How passages get shorter.

    Attributes:
        ratio: tokens that become one; 1 for none.
        layers: blocks before which it happens, counted from 0; before block 0 it never does.
    """

    ratio: int = 1
    layers: frozenset[int] = frozenset()

    def before(self, block: int) -> bool:
        """Say whether passages are compressed before a block."""
        return self.ratio > 1 and block > 0 and block in self.layers


WHOLE = Compression()


def compress(hidden: Tensor, lengths: Tensor, kept: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
    """Average each ``ratio`` neighbouring states of a passage, in every row by itself.

    A last group that is not full is averaged over the states that it has.

    Args:
        hidden: states [N, L, D], padded right.
        lengths: states of each row without padding [N].
        kept: states at the begin and at the end of each row that stay as they are [N, 2]; between them is the passage.

    Returns:
        states [N, L', D], zeros where padded; lengths [N].
    """
    first, last = kept.to(lengths).unbind(1)
    passages = (lengths - first - last).clamp(min=0)
    groups = (passages + ratio - 1) // ratio
    shorter = lengths - passages + groups
    place = torch.arange(int(shorter.max()), device=hidden.device)[None]
    begin, middle = place < first[:, None], place < (first + groups)[:, None]
    done = (place - first[:, None]) * ratio
    source = torch.where(begin, place, torch.where(middle, first[:, None] + done, place + (passages - groups)[:, None]))
    sizes = torch.where(middle & ~begin, (passages[:, None] - done).clamp(max=ratio), 1)
    sizes = torch.where(place < shorter[:, None], sizes, 0)
    member = torch.arange(ratio, device=hidden.device)
    taken = (source[..., None] + member).clamp(max=hidden.shape[1] - 1)
    row = torch.arange(hidden.shape[0], device=hidden.device)[:, None, None]
    states = hidden[row, taken].masked_fill((member >= sizes[..., None])[..., None], 0)
    return states.sum(2) / sizes[..., None].clamp(min=1).to(hidden.dtype), shorter


class CostWiseHead(nn.Module):
    """One score of a state, in float32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear_head = nn.Linear(size, 1, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """Turn states [N, D] into scores [N]."""
        with torch.autocast(states.device.type, enabled=False):
            return functional.linear(states.float(), self.linear_head.weight.float()).squeeze(-1)


class CostWiseGemmaModel(Gemma2Model):  # type: ignore[misc]
    """The blocks of a Gemma 2, run up to a layer."""

    config: CostWiseGemmaConfig
    _supports_sdpa = True

    def forward(
        self, input_ids: Tensor, lengths: Tensor, layers: Sequence[int], kept: Tensor | None, compression: Compression
    ) -> list[Tensor]:
        """Return the last state of each row at each of ``layers``, ascending: [N, D] each, under the last norm."""
        hidden = self.embed_tokens(input_ids)
        surroundings = self._surroundings(hidden)
        found = []
        for number, block in enumerate(self.layers[: max(layers)]):
            if kept is not None and compression.before(number):
                hidden, lengths = compress(hidden, lengths, kept, compression.ratio)
                surroundings = self._surroundings(hidden)
            hidden = block(hidden, **surroundings[self.config.layer_types[number]])
            if number + 1 in layers:
                found.append(self.norm(hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]))
        return found

    def _surroundings(self, hidden: Tensor) -> dict[str, dict[str, Any]]:
        """Return what each kind of block takes besides its states [N, L, D], whose positions are 0 to L - 1.

        Rows are padded right, where no state looks at: the masks need not know of it.
        """
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        shared = {"position_embeddings": self.rotary_emb(hidden, positions), "position_ids": positions}
        facts: dict[str, Any] = {"config": self.config, "inputs_embeds": hidden, "attention_mask": None,
                                 "past_key_values": None}  # fmt: skip
        return {
            "full_attention": {**shared, "attention_mask": create_causal_mask(**facts)},
            "sliding_attention": {**shared, "attention_mask": create_sliding_window_causal_mask(**facts)},
        }


class CostWiseGemmaForCausalLM(Gemma2PreTrainedModel):  # type: ignore[misc]
    """The reranker; ``forward`` gives the scores of some layers."""

    config: CostWiseGemmaConfig
    config_class = CostWiseGemmaConfig
    _supports_sdpa = True
    # FlagEmbedding ties a vocabulary head to the embeddings of models that have none; some weights files hold it.
    _keys_to_ignore_on_load_unexpected = (r"^lm_head\.weight$",)

    def __init__(self, config: CostWiseGemmaConfig) -> None:
        super().__init__(config)
        self.model = CostWiseGemmaModel(config)
        self.lm_head = nn.ModuleList(CostWiseHead(config.hidden_size) for _ in config.head_layers)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, layers: Sequence[int], heads: Sequence[int],
        kept: Tensor | None = None, compression: Compression = WHOLE,
    ) -> Tensor:  # fmt: skip
        """Score rows [N, L] that are padded right.

        Args:
            layers: layers to score from, ascending.
            heads: positions, among the heads, of the head of each.
            kept: tokens at the begin and at the end of each row that compression leaves alone [N, 2].

        Returns:
            float32 scores [N, C] of the C layers.
        """
        states = self.model(input_ids, attention_mask.sum(-1), layers, kept, compression)
        scores = torch.stack([self.lm_head[head](state) for head, state in zip(heads, states)], dim=1)
        cap = self.config.final_logit_softcapping
        return scores if cap is None else cap * torch.tanh(scores / cap)

    def cap_attention(self, capped: bool) -> None:
        """Cap attention scores as the configuration says, or not at all."""
        self.set_attn_implementation(CAPPED if capped else UNCAPPED)
        for block in self.model.layers:
            block.self_attn.attn_logit_softcapping = self.config.attn_logit_softcapping if capped else None

    def begin_heads(self, token: int) -> None:
        """Let every head begin as a token's row of the vocabulary head, which is that of the embeddings."""
        embeddings: Tensor = self.get_input_embeddings().weight
        with torch.no_grad():
            for weight in self.lm_head.parameters():
                weight.copy_(embeddings[token][None])

    def get_output_embeddings(self) -> None:
        """Return None: there is no head over a vocabulary."""


def from_language_model(name: str, start_layer: int, layer_sep: int, **loading: Any) -> CostWiseGemmaForCausalLM:
    """Open a plain Gemma 2 as a reranker that has yet to be trained; its heads are as transformers draws them."""
    plain = Gemma2Config.from_pretrained(name, cache_dir=loading.get("cache_dir")).to_dict()
    aside = {"model_type", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"}
    known = {key: value for key, value in plain.items() if key not in aside}
    config = CostWiseGemmaConfig(**known, start_layer=start_layer, layer_sep=layer_sep, layer_wise=True)
    model: CostWiseGemmaForCausalLM = CostWiseGemmaForCausalLM.from_pretrained(name, config=config, **loading)
    return model


AutoConfig.register(CostWiseGemmaConfig.model_type, CostWiseGemmaConfig, exist_ok=True)
AutoModelForCausalLM.register(CostWiseGemmaConfig, CostWiseGemmaForCausalLM, exist_ok=True)
