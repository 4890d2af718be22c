"""Adapters (LoRA) on a transformers model: added for training, loaded, merged into the weights they stand beside.

An adapter folder holds ``adapter_config.json``, which names the base, and ``adapter_model.safetensors``: the low-rank
matrices and, whole, the modules that the base has not got (a new head and what feeds it). For inference an adapter is
merged, so that an adapted model is an ordinary one from there on. Source: Hu et al. 2021, W' = W + (alpha / rank) B A.

A head that is not among the saved modules would come back random at the next loading (sentence-transformers' issue
3980); so everything in a reranker that stands on its blocks is saved, and a folder that lacks a weight is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from finerank.core.adapter_options import AdapterOptions
from finerank.core.errors import UserError
from finerank.core.seeding import stream_seed
from finerank.data.console import say, warn
from finerank.models.load import save_model, unbounded
from finerank.models.model_files import ADAPTER_CONFIG, base_of, quiet, read_json

PREFIX = "base_model.model."
"""What peft puts in front of a weight's name in a file."""
NAME = "default"
BASE_MARK = "finerank_base.json"
"""Says by which weights an adapter was tuned, so that a base that has changed since is noticed."""
SAMPLED = 256
PIP = "pip install 'finerank[lora]'"
EVERY_LINEAR = "all-linear"
REGULAR_EXPRESSION = frozenset("*+?[(|\\^$")


def add_lora(
    transformer: Any, options: AdapterOptions, base: str, whole: Sequence[str], seed: int, *, task: str
) -> None:
    """Freeze ``transformer`` and put new adapters beside its linear layers; the first product with them is the base's.

    Args:
        base: what the adapter will say that it stands on.
        whole: a reranker's modules that are tuned and saved whole; none for an embedder.
        task: peft's name of the sort of model.

    Raises:
        UserError: if peft is missing, or no layer has such a name.
    """
    _need_peft()
    from peft import LoraConfig

    targets, excluded = _targets(transformer, options.target_modules, whole)
    saved = [*dict.fromkeys([*whole, *options.modules_to_save])]
    config = LoraConfig(
        r=options.lora_rank, lora_alpha=options.lora_alpha, lora_dropout=options.lora_dropout, target_modules=targets,
        exclude_modules=excluded or None, modules_to_save=saved or None,
        task_type=task,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), _explained("--use_lora"):
        torch.manual_seed(stream_seed(seed, "adapter"))
        transformer.add_adapter(config)
    transformer.peft_config[NAME].base_model_name_or_path = base
    where = targets if isinstance(targets, str) else ", ".join(targets)
    tuned_whole = f"; tuned whole: {', '.join(saved)}" if saved else ""
    say(f"LoRA of rank {options.lora_rank}, alpha {options.lora_alpha} on {where}{tuned_whole}")


def continue_adapter(transformer: Any, folder: str, base: str, cache_dir: str | None = None) -> None:
    """Put the adapter of ``folder`` beside the layers of ``transformer``, to be tuned further."""
    _attach(transformer, folder, cache_dir)
    transformer.peft_config[NAME].base_model_name_or_path = base
    transformer.set_adapter(NAME)


def merge_folder(transformer: Any, folder: str, cache_dir: str | None = None) -> None:
    """Add the adapter of ``folder`` to the weights of ``transformer`` and replace what it holds whole.

    The adapter may stand there already, as sentence-transformers loads it: its weights are set again.

    Raises:
        UserError: if peft is missing, or the adapter does not fit the model.
    """
    _attach(transformer, folder, cache_dir)
    mark = read_json(folder, BASE_MARK, cache_dir).get("weights")
    if mark is not None and mark != _base_digest(transformer):
        warn(f"the base of the adapter {folder} has other weights than when it was tuned: its results differ")
    merge(transformer)


def save(model: Any, folder: Path, *, merging: bool) -> None:
    """Write a sentence-transformers model; one with adapters writes these alone, or merged an ordinary folder."""
    transformer = model[0].model
    if merging and adapted(transformer):
        merge(transformer)
    save_model(model, folder)
    _mark_base(transformer, folder)


def save_plain(transformer: Any, tokenizer: Any, folder: Path, *, merging: bool) -> None:
    """Write a transformers model with its tokenizer; one with adapters writes these alone, or the merged model."""
    if merging and adapted(transformer):
        merge(transformer)
    unbounded(tokenizer)
    with quiet():
        transformer.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
    _mark_base(transformer, folder)


def _mark_base(transformer: Any, folder: Path) -> None:
    if adapted(transformer):
        mark = json.dumps({"weights": _base_digest(transformer)})
        (folder / BASE_MARK).write_text(mark + "\n", encoding="utf-8")


def merge(transformer: Any) -> None:
    """Add the adapters to the weights they stand beside; the model is an ordinary one then."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(transformer.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            _replace(transformer, name, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            _replace(transformer, name, module.modules_to_save[NAME])
    del transformer.peft_config
    transformer._hf_peft_config_loaded = False
    transformer.requires_grad_(True)


def adapted(transformer: Any) -> bool:
    """Say whether adapters stand beside the layers of ``transformer``."""
    return bool(getattr(transformer, "_hf_peft_config_loaded", False))


def holds_head(name: str, cache_dir: str | None = None) -> bool:
    """Say whether the adapter ``name`` holds whole modules, as that of a reranker does."""
    return bool(read_json(name, ADAPTER_CONFIG, cache_dir).get("modules_to_save"))


@contextmanager
def opening(name: str, cache_dir: str | None = None) -> Iterator[None]:
    """Say of an adapter's base that cannot be had whose base it is; of peft, how to install it."""
    base = base_of(name, cache_dir)
    if base is None:
        yield
        return
    _need_peft()
    hint = f"base_model_name_or_path in {Path(name) / ADAPTER_CONFIG} says where it is"
    if base_of(base, cache_dir) is not None:
        raise UserError(
            f"{name} is an adapter of an adapter, {base}", hint=f"finerank merge -m {base} --output_dir BASE"
        )
    if base.startswith(("/", "./", "../", "~")) and not Path(base).expanduser().is_dir():
        raise UserError(f"{name} is an adapter of {base}, and there is no such folder", hint=hint)
    try:
        yield
    except UserError as error:
        raise UserError(f"{name} is an adapter of {base}: {error.message}", hint=hint) from error


def _attach(transformer: Any, folder: str, cache_dir: str | None) -> None:
    """Add the adapter of ``folder`` unless it is there, and set all its weights."""
    _need_peft()
    from peft import PeftConfig, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    if not read_json(folder, ADAPTER_CONFIG, cache_dir):
        raise UserError(f"expected an adapter, found no {ADAPTER_CONFIG}", where=folder)
    kwargs: dict[str, Any] = {} if Path(folder).exists() or cache_dir is None else {"cache_dir": cache_dir}
    with _explained(folder):
        if not adapted(transformer):
            config = PeftConfig.from_pretrained(folder, **kwargs)
            config.inference_mode = False
            transformer.add_adapter(config)
        found = load_peft_weights(folder, device="cpu", **kwargs)
        state = {key.removeprefix(PREFIX): tensor for key, tensor in found.items()}
        wanted = set(get_peft_model_state_dict(transformer, adapter_name=NAME, save_embedding_layers=False))
        lacking = sorted(wanted - set(state)) or sorted(set(state) - wanted)
        if lacking:
            word = "lacks" if wanted - set(state) else "has no place for"
            raise ValueError(f"it {word} {', '.join(lacking[:3])}{' …' if len(lacking) > 3 else ''}")
        set_peft_model_state_dict(transformer, state, adapter_name=NAME)


def _base_digest(transformer: Any) -> str:
    """Return a digest of evenly spaced numbers of every weight that adapters leave as it is; costs no full pass."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted((key.replace(".base_layer", ""), value) for key, value in _untouched(transformer)):
        step = max(tensor.numel() // SAMPLED, 1)
        digest.update(f"{name}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().reshape(-1)[::step].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _untouched(transformer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in transformer.named_parameters():
        if not any(part in name for part in ("lora_", "modules_to_save.", "original_module.")):
            yield name, tensor


def _targets(transformer: Any, asked: list[str], whole: Sequence[str]) -> tuple[list[str] | str, list[str]]:
    """Return what gets an adapter, as peft takes it, and modules of such names that do not; none in ``whole`` does."""
    if len(asked) == 1 and REGULAR_EXPRESSION & set(asked[0]):
        return asked[0], []
    if asked and asked != [EVERY_LINEAR]:
        return asked, []
    linear = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    blocks = tuple(
        f"{name}." for name, module in transformer.named_modules() if isinstance(module, torch.nn.ModuleList)
    )
    heads = tuple(f"{name}." for name in whole)
    inside = [name for name in linear if name.startswith(blocks) and not name.startswith(heads)]
    ends = sorted({name.rpartition(".")[2] for name in inside})
    if not ends:
        raise UserError("this architecture has no linear layers in blocks", hint="--target_modules NAME …")
    outside = [name for name in linear if name not in inside and name.rpartition(".")[2] in ends]
    return ends, outside


def _replace(model: torch.nn.Module, name: str, module: torch.nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _need_peft() -> None:
    try:
        import peft  # noqa: F401
    except ImportError:
        raise UserError("adapters need the package peft, which is not installed", hint=PIP) from None


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what peft says of an adapter into one sentence."""
    try:
        yield
    except (ValueError, RuntimeError, KeyError, TypeError, OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the adapter does not fit: {reason}", where=what) from error
