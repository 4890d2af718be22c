"""Name to family to model: what the name stands for, where it runs, in which number format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from finerank.core.errors import UserError
from finerank.data import console
from finerank.models.families import open_family, scoring_family
from finerank.models.freezing import trained
from finerank.models.machine import multiplies_bfloat16_fast
from finerank.models.memory import keep_freed_memory
from finerank.models.model_files import EXPORTED, base_of, near_folder, quiet, read_json

if TYPE_CHECKING:
    from finerank.models.bi_encoder import BiEncoder
    from finerank.models.cross_encoder import CrossEncoder

INT8 = "int8"
"""Name of the buffer that marks what computes in int8."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ROPE_OR_UNBOUNDED = 10**6
OWN_ARCHITECTURES = ("layerwise_reranker", "lightweight_reranker")
"""Families that bring their architecture along, which transformers need not know."""


def load_encoder(
    name: str, *, device: str = "auto", dtype: str = "auto", graph: bool = True, **options: Any
) -> BiEncoder:
    """Load an embedder for inference.

    Args:
        name: a local folder or a hub name.
        device: auto, cpu, cuda, cuda:N, mps.
        dtype: auto, float32, bfloat16, float16, int8; auto is bfloat16 where the hardware multiplies it fast.
        graph: whether a folder of ``finerank export`` is computed by its graph, or by its weights.
        options: ``query_prompt``, ``passage_prompt``, ``pooling``, ``normalize``, ``query_max_len``,
            ``passage_max_len``, ``cache_dir``, ``trust_remote_code``; None means the model's own.

    Raises:
        UserError: if there is no such model, or it cannot be loaded.
    """
    place = resolve_device(device)
    model: BiEncoder = open_family("bi_encoder").load(name, device=place, dtype=resolve_dtype(place, dtype), **options)
    model.module.requires_grad_(False)
    if dtype == "int8":
        _use_int8(model)
    elif graph:
        _run_by_graph(model)
    return model


def load_scorer(
    name: str, *, device: str = "auto", dtype: str = "auto", family: str | None = None, graph: bool = True,
    **options: Any,
) -> CrossEncoder:  # fmt: skip
    """Load a reranker for inference; options: ``max_len``, ``query_max_len``, ``passage_max_len`` and as above.

    Args:
        family: key of ``families.FAMILIES``; without it, what the model's files say.
        graph: as ``load_encoder``.
    """
    place = resolve_device(device)
    chosen = _scoring_class(name, family, options)
    model: CrossEncoder = chosen.load(name, device=place, dtype=resolve_dtype(place, dtype), **options)
    model.module.requires_grad_(False)
    if dtype == "int8":
        _use_int8(model)
    elif graph and not options.get("peft_path"):  # the graph knows nothing of an adapter
        _run_by_graph(model)
    return model


def _use_int8(model: Any) -> None:
    if model.device.type != "cpu" or not hasattr(model, "transformer"):
        raise UserError("--dtype int8 is for encoders on a CPU", hint="--dtype auto")
    from finerank.models.fused import use_int8

    use_int8(model.transformer)


def _run_by_graph(model: Any) -> None:
    """Have a model that ``finerank export`` wrote computed by its graph."""
    if (Path(model.name) / EXPORTED).is_file():
        from finerank.models.openvino import run_by_graph

        run_by_graph(model)


def Embedder(name: str, **options: Any) -> BiEncoder:
    """Open an embedder: ``Embedder("my-model").encode_queries([...])``; options as ``load_encoder``."""
    return load_encoder(name, **options)


def Reranker(name: str, **options: Any) -> CrossEncoder:
    """Open a reranker: ``Reranker("my-model").rank(query, passages, top_k=5)``; options as ``load_scorer``."""
    return load_scorer(name, **options)


def trainable_encoder(name: str, *, device: str = "auto", dropout: float | None = None, **options: Any) -> BiEncoder:
    """Load an embedder for training: float32 weights, training attention, ``temperature`` left to the loss."""
    place = resolve_device(device)
    model: BiEncoder = open_family("bi_encoder").load(name, device=place, dtype=torch.float32, **options)
    model.prepare_for_training(dropout)
    return model


def trainable_scorer(
    name: str, *, device: str = "auto", dropout: float | None = None, family: str | None = None, **options: Any
) -> CrossEncoder:
    """Load a reranker for training; a base embedder or plain encoder gets a new head (seeded by ``seed``)."""
    place = resolve_device(device)
    chosen = _scoring_class(name, family, options)
    model: CrossEncoder = chosen.load(name, device=place, dtype=torch.float32, new_head=True, **options)
    model.prepare_for_training(dropout)
    return model


def _scoring_class(name: str, family: str | None, options: Mapping[str, Any]) -> Any:
    """Import the family that scores with a model.

    Raises:
        UserError: if nobody knows the model's architecture.
    """
    cache_dir = options.get("cache_dir")
    family = family or scoring_family(name, cache_dir)
    if family not in OWN_ARCHITECTURES and not options.get("trust_remote_code"):
        _check_known(base_of(name, cache_dir) or name, cache_dir)
    return open_family(family)


def _check_known(name: str, cache_dir: str | None) -> None:
    from transformers import CONFIG_MAPPING

    said = read_json(name, "config.json", cache_dir)
    kind = said.get("model_type")
    if kind is not None and kind not in CONFIG_MAPPING:
        architecture = (said.get("architectures") or ["without a name"])[0]
        raise UserError(
            f'{name}: unknown architecture {architecture} (model type "{kind}")',
            hint="a newer transformers, or --trust_remote_code True if its folder brings its own code",
        )


def resolve_device(name: str) -> torch.device:
    """Turn ``--device`` into a device; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: if the device is not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f'unknown --device "{name}"', hint="auto, cpu, cuda, cuda:0 or mps") from None
    if device.type == "cpu":
        keep_freed_memory()
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not available.get(device.type, True):
        raise UserError(f"--device {name}: there is no {device.type} device here", hint="--device auto")
    return device


def resolve_dtype(device: torch.device, name: str) -> torch.dtype:
    """Turn ``--dtype`` into a dtype; float16 on a CPU becomes what the CPU can do, and that is said."""
    fast = torch.bfloat16 if multiplies_bfloat16_fast(device) else torch.float32
    if name == "auto":
        return fast
    if name == "int8":  # what is between the blocks, and behind them
        return torch.bfloat16
    if name == "float16" and device.type == "cpu":
        console.say(f"note: float16 is not computed on a CPU; using {str(fast).removeprefix('torch.')}")
        return fast
    return DTYPES[name]


def load_quietly(name: str, build: Callable[[], Any]) -> Any:
    """Call a library's loader; turn a missing or broken model into one sentence, keep its chatter away.

    Raises:
        UserError: saying what was looked for and where.
    """
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UserError(f"model {name} not found: there is no such folder", hint=near_folder(name))
    try:
        with quiet():
            return build()
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        cause = " ".join(str(error).split())[:300]
        if Path(name).exists():
            raise UserError(f"model {name} cannot be loaded: {cause}") from error
        raise UserError(
            f"model {name} not found: looked for a folder {Path(name).absolute()} and for {name} on the hub ({cause})",
            hint="give a local folder, or check the name and the connection to the hub",
        ) from error


def length_limit(config: Any) -> int:
    """Return the most tokens that a model has positions for."""
    positions = getattr(config, "max_position_embeddings", None)
    if not positions or positions < 0:
        return ROPE_OR_UNBOUNDED
    # RoBERTa's family counts positions from its padding id + 1.
    offset = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
    return int(positions) - offset


def bounded_length(asked: int | None, own: int | None, config: Any, flag: str) -> int:
    """Choose a length in tokens: what was asked, else the model's own; never beyond its positions (said aloud)."""
    limit = length_limit(config)
    wanted = asked or (own if own and own < ROPE_OR_UNBOUNDED else min(limit, 512))
    if wanted > limit and asked:
        console.warn(f"{flag} {asked} is more than the {limit} positions of the model; using {limit}")
    return min(wanted, limit)


def save_model(model: Any, folder: Path) -> None:
    """Write a sentence-transformers model."""
    unbounded(model.tokenizer)
    with quiet():
        model.save_pretrained(str(folder), create_model_card=False)


def unbounded(tokenizer: Any) -> None:
    """Take truncation and padding out of a tokenizer, so that none of them is written with it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()


def facts(name: str, module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> dict[str, object]:
    """Return what a start banner says of any model."""
    parameters = sum(parameter.numel() for parameter in module.parameters())
    part = trained(module)
    in_int8 = any(path.endswith(INT8) for path, _ in module.named_buffers())
    return {
        "model": name,
        **({"parameters": f"{parameters / 1e6:,.1f} M"} if parameters else {"computed by": "OpenVINO"}),
        **({"trained": part} if part else {}),
        "device": str(device),
        "dtype": "int8" if in_int8 else str(dtype).removeprefix("torch."),
    }


def weights_digest(module: torch.nn.Module, config: Any, *parts: str) -> str:
    """Return a digest of a module's weights (names, dtypes, bytes), its configuration and ``parts``."""
    digest = blake2b(digest_size=16)
    for part in (_architecture(config), *parts):
        digest.update(part.encode())
        digest.update(b"\x00")
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _architecture(config: Any) -> str:
    """Return what of a configuration changes results: not where it was loaded from, or by which version."""
    aside = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}
    return json.dumps(
        {key: value for key, value in config.to_diff_dict().items() if key not in aside}, sort_keys=True, default=str
    )
