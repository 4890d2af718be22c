"""Causal language models and their tokenizers, opened for scoring; the tokens that answers are read from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from finerank.core.errors import UserError
from finerank.models import adapters
from finerank.models.load import load_quietly
from finerank.models.model_files import base_of, model_file


def load_causal(
    name: str, device: torch.device, dtype: torch.dtype, cache_dir: str | None, trust_remote_code: bool,
    peft_path: str | None, opener: Callable[..., Any] | None = None,
) -> tuple[Any, str]:  # fmt: skip
    """Load a causal language model; adapters (``name`` may be one) are merged in float32.

    Args:
        opener: called as ``from_pretrained`` is; without it, transformers chooses by the architecture.

    Returns:
        the transformers model, in evaluation mode, and the folder or hub name that its own weights come from.

    Raises:
        UserError: if there is no such model, or an adapter does not fit it.
    """
    from transformers import AutoModelForCausalLM

    source = base_of(name, cache_dir) or name
    folders = [*([name] if source != name else []), *([peft_path] if peft_path else [])]
    first = torch.float32 if folders else dtype
    opener = opener or AutoModelForCausalLM.from_pretrained
    with adapters.opening(name, cache_dir):
        model = load_quietly(
            source,
            lambda: opener(source, dtype=first, cache_dir=cache_dir, trust_remote_code=trust_remote_code),
        )
    for folder in folders:
        adapters.merge_folder(model, folder, cache_dir)
    return placed(model, device, dtype).eval(), source


def placed(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move a model to its device and number format, but for modules that it keeps in float32."""
    kept = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if not kept:
        return model.to(device=device, dtype=dtype)
    for name, tensor in model.named_parameters():
        if not kept.intersection(name.split(".")):
            tensor.data = tensor.data.to(dtype)
    return model.to(device)


def load_tokenizer(name: str, cache_dir: str | None, trust_remote_code: bool, *, padding: str) -> Any:
    """Load a transformers tokenizer that pads on one side, with its end token if it has no padding token."""
    from transformers import AutoTokenizer

    tokenizer = load_quietly(
        name, lambda: AutoTokenizer.from_pretrained(name, cache_dir=cache_dir, trust_remote_code=trust_remote_code)
    )
    _as_saved(tokenizer, name, cache_dir)
    tokenizer.padding_side = padding
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def _as_saved(tokenizer: Any, name: str, cache_dir: str | None) -> None:
    """Give a tokenizer back the rules of its own file; transformers 5 builds them anew from the vocabulary.

    Llama's then drops leading spaces, which the published rerankers were trained with.
    """
    from tokenizers import Tokenizer as Rust

    path = model_file(name, "tokenizer.json", cache_dir)
    rebuilt = getattr(tokenizer, "backend_tokenizer", None)
    if path is None or rebuilt is None:
        return
    saved = Rust.from_file(str(path))
    if saved.get_vocab() == rebuilt.get_vocab():
        if rebuilt.post_processor is not None:
            saved.post_processor = rebuilt.post_processor
        tokenizer._tokenizer = saved


def token_id(tokenizer: Any, word: str, name: str) -> int:
    """Return the id of the first token of a word.

    Raises:
        UserError: if the model knows no such word.
    """
    ids = tokenizer.encode(word, add_special_tokens=False)
    if not ids or ids[0] == tokenizer.unk_token_id:
        raise UserError(f'{name} cannot answer "{word}": its tokenizer has no token for it')
    return int(ids[0])
