"""MiniCPM with a head per layer, the architecture of bge-reranker-v2-minicpm-layerwise, on stock Llama blocks.

Names of weights and of configuration keys are the published ones, so that the published files load here and files
written here load there. "Layer k" is the final norm of what the k-th block puts out, k from ``start_layer`` to the
number of blocks. Source: what FlagEmbedding's ``LayerWiseMiniCPMForCausalLM`` computes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

HeadType = Literal["raw", "complex", "simple"]
"""``simple``: one number; ``raw`` and ``complex``: the vocabulary, differing in the names of their weights alone."""
SCALED_ROTATIONS = ("linear", "dynamic")


class LayerWiseMiniCPMConfig(LlamaConfig):  # type: ignore[misc]
    """What ``config.json`` says; written back with the published keys.

    Attributes:
        scale_emb: embeddings are multiplied by it.
        scale_depth: what a block adds is multiplied by scale_depth / sqrt(blocks).
        dim_model_base: before a vocabulary head, states are divided by hidden_size / dim_model_base.
        start_layer: first layer that has a head.
        head_multi: whether each layer has a head of its own.
    """

    model_type = "minicpm"

    tie_word_embeddings: bool = True
    scale_emb: int | float = 1
    dim_model_base: int | float = 1
    scale_depth: int | float = 1
    start_layer: int = 8
    head_multi: bool = True
    head_type: HeadType = "simple"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.head_type not in get_args(HeadType):
            raise ValueError(f"head_type {self.head_type} is not known; {', '.join(get_args(HeadType))} are")
        if self.rotation[0] not in ("default", *SCALED_ROTATIONS):
            raise ValueError(f"rope_scaling of type {self.rotation[0]} is not known; linear and dynamic are")

    @property
    def rotation(self) -> tuple[str, float, float]:
        """Type, base and factor of the rotary positions."""
        said = self.rope_parameters or {}
        theta = said.get("rope_theta")
        return said.get("rope_type", "default"), float(10000.0 if theta is None else theta), said.get("factor", 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the published keys: ``rope_theta`` and ``rope_scaling``, no remote code that is not at hand."""
        content: dict[str, Any] = super().to_dict()
        for key in ("rope_parameters", "mlp_bias", "head_dim"):
            content.pop(key, None)
        kind, theta, factor = self.rotation
        scaling = {"type": kind, "factor": factor} if kind in SCALED_ROTATIONS else None
        if any("--" not in str(place) for place in (content.get("auto_map") or {}).values()):
            del content["auto_map"]
        return content | {"rope_theta": theta, "rope_scaling": scaling}


class MiniCPMBlock(LlamaDecoderLayer):  # type: ignore[misc]
    """A Llama block whose two additions to the states are scaled."""

    def __init__(self, config: LayerWiseMiniCPMConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.scale = config.scale_depth / math.sqrt(config.num_hidden_layers)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor | None, rotation: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Return states [N, L, D] from those of the block before."""
        attended = self.self_attn(
            hidden_states=self.input_layernorm(hidden), position_embeddings=rotation, attention_mask=mask
        )[0]
        hidden = hidden + attended * self.scale
        added: torch.Tensor = self.mlp(self.post_attention_layernorm(hidden))
        return hidden + added * self.scale


class VocabularyRows(nn.Module):
    """Rows [V, D] that one number each is read with; not a Linear, so that adapters for these leave it alone."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, size))

    def forward(self, states: torch.Tensor, row: int) -> torch.Tensor:
        """Return float32 scores [N] of states [N, D]."""
        with torch.autocast(states.device.type, enabled=False):
            return functional.linear(states.float(), self.weight[row : row + 1].float()).squeeze(-1)


class LayerHead(nn.Module):
    """Rows under the name that ``complex`` and ``simple`` heads have them."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.linear_head = VocabularyRows(rows, size)

    def forward(self, states: torch.Tensor, row: int) -> torch.Tensor:
        """Return float32 scores [N] of states [N, D]."""
        scores: torch.Tensor = self.linear_head(states, row)
        return scores


class MiniCPMPreTrained(PreTrainedModel):  # type: ignore[misc]
    """What transformers is told of both modules."""

    config_class = LayerWiseMiniCPMConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MiniCPMBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, VocabularyRows):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        else:
            super()._init_weights(module)


class LayerWiseMiniCPMModel(MiniCPMPreTrained):
    """Embeddings, blocks and the norm that every layer shares."""

    def __init__(self, config: LayerWiseMiniCPMConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList([MiniCPMBlock(config, index) for index in range(config.num_hidden_layers)])
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, layers: Sequence[int]) -> torch.Tensor:
        """Return the states [N, C, D] of the last position at ``layers``, ascending; stops at the highest.

        Args:
            input_ids, attention_mask: [N, L], padded left.
        """
        hidden = self.embed_tokens(input_ids) * self.config.scale_emb
        mask = create_causal_mask(self.config, hidden, attention_mask, past_key_values=None)
        rotation = rotations(self.config, attention_mask, hidden.dtype)
        states = [hidden[:, -1]] if 0 in layers else []
        for number, block in enumerate(self.layers[: max(layers)], start=1):
            hidden = block(hidden, mask, rotation)
            if number in layers:
                states.append(hidden[:, -1])
        normed: torch.Tensor = self.norm(torch.stack(states, dim=1))
        return normed


class LayerWiseMiniCPMForCausalLM(MiniCPMPreTrained):
    """MiniCPM with its heads; the class's name is what a saved ``config.json`` says."""

    def __init__(self, config: LayerWiseMiniCPMConfig) -> None:
        super().__init__(config)
        self.model = LayerWiseMiniCPMModel(config)
        self.lm_head: Any = heads(config)
        self._settle()
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, layers: Sequence[int], row: int = 0
    ) -> torch.Tensor:
        """Return float32 scores [N, C] of the last position at ``layers``, ascending.

        Args:
            input_ids, attention_mask: [N, L], padded left.
            row: token that vocabulary heads are asked for; a simple head has the row 0 only.
        """
        states = self.model(input_ids, attention_mask, layers)
        if self.config.head_type != "simple":
            states = states / (self.config.hidden_size / self.config.dim_model_base)
        asked = 0 if self.config.head_type == "simple" else row
        return torch.stack([self.head(layer)(states[:, place], asked) for place, layer in enumerate(layers)], dim=1)

    def head(self, layer: int) -> Any:
        """Return the head of a layer, or the one that all share."""
        return self.lm_head[layer - self.config.start_layer] if self.config.head_multi else self.lm_head

    def get_output_embeddings(self) -> nn.Module | None:
        """Return a head over the vocabulary that is the only one, as that of a plain MiniCPM."""
        return self.lm_head if isinstance(self.lm_head, VocabularyRows) else None

    def grow_heads(self, start_layer: int, head_multi: bool, head_type: HeadType, row: int) -> None:
        """Turn a plain MiniCPM, loaded with one ``raw`` head, into a layer-wise one.

        Every head begins as a copy of the vocabulary's, a simple one of its ``row``, as in FlagEmbedding. A simple
        head reads states that are not divided, so its scores begin hidden_size / dim_model_base times as large.
        """
        vocabulary = self.lm_head.weight.detach()
        self.config.start_layer, self.config.head_multi, self.config.head_type = start_layer, head_multi, head_type
        if (head_type, head_multi) == ("raw", False):
            return
        self.lm_head = heads(self.config)
        self._settle()
        rows = vocabulary[row : row + 1] if head_type == "simple" else vocabulary
        for weight in self.lm_head.parameters():
            weight.data = rows.clone()
        self.all_tied_weights_keys = self.get_expanded_tied_weights_keys(all_submodels=False)

    def _settle(self) -> None:
        """Say which weights are tied, and which stay in float32 whatever the others' format."""
        single = isinstance(self.lm_head, VocabularyRows)
        self._tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"} if single else None
        self._keep_in_fp32_modules_strict = {"linear_head"} if self.config.head_type == "simple" else set()


def heads(config: LayerWiseMiniCPMConfig) -> nn.Module:
    """Return the heads that a configuration asks for, under the published names."""
    if not 0 <= config.start_layer <= config.num_hidden_layers:
        raise ValueError(f"start_layer {config.start_layer} is not among the {config.num_hidden_layers} layers")
    kind = VocabularyRows if config.head_type == "raw" else LayerHead
    rows = 1 if config.head_type == "simple" else config.vocab_size
    if not config.head_multi:
        return kind(rows, config.hidden_size)
    count = config.num_hidden_layers - config.start_layer + 1
    return nn.ModuleList([kind(rows, config.hidden_size) for _ in range(count)])


def rotations(
    config: LayerWiseMiniCPMConfig, attention_mask: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines [N, L, D / H] of the positions, which padding on the left does not move.

    With ``dynamic`` scaling ("NTK-aware") the base grows with a text's own length beyond the positions of the
    configuration, so that a score depends on no other text. FlagEmbedding takes the longest padded batch so far.
    """
    kind, theta, factor = config.rotation
    width = config.head_dim
    positions = (attention_mask.cumsum(-1) - 1).clamp(min=0).float()
    bases = torch.full_like(positions[:, :1], theta)
    if kind == "linear":
        positions = positions / factor
    elif kind == "dynamic":
        share = attention_mask.sum(-1, keepdim=True).float() / config.max_position_embeddings
        bases = bases * (factor * share.clamp(min=1) - (factor - 1)) ** (width / (width - 2))
    exponents = torch.arange(0, width, 2, device=positions.device).float() / width
    angles = positions[..., None] * (1.0 / bases**exponents)[:, None]
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)
