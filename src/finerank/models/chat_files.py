"""What the files of a chat reranker say: its answers, its chat template, its length; and the files that say so again.

A folder in sentence-transformers' CrossEncoder format names the answers' tokens (LogitScore) and has a chat template
with the roles query and document. A bare language model is read as the published code reads Qwen3-Reranker.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from finerank.batching.chat_layout import INSTRUCTION, ChatLayout, ChatText, chat_text
from finerank.core.errors import UserError
from finerank.models import st_files
from finerank.models.model_files import ST_CONFIG, model_file, read_json
from finerank.models.st_files import METHOD, MODULES, TRANSFORMER_CONFIG

ANSWERS = ("yes", "no")
SCORE, LANGUAGE_MODEL = "LogitScore", "Transformer"
SCORE_FOLDER = "1_LogitScore"
AS_TEXT_GENERATOR: dict[str, Any] = {
    "transformer_task": "text-generation",
    "modality_config": {"text": METHOD, "message": {**METHOD, "format": "flat"}},
    "module_output_name": "causal_logits",
}
"""How sentence-transformers runs a language model whose chat template takes plain texts."""


def answers_of(tokenizer: Any, name: str, cache_dir: str | None) -> list[int]:
    """Return the ids of the token for yes and, usually, the one for no.

    Raises:
        UserError: if the tokenizer has no such token.
    """
    module = _modules(name, cache_dir).get(SCORE)
    if module is not None:
        said = read_json(name, f"{module}/config.json", cache_dir)
        ids = [said.get("true_token_id"), said.get("false_token_id")]
        if not isinstance(ids[0], int):
            raise UserError(f"{name} cannot be loaded: {module}/config.json names no true_token_id")
        return [found for found in ids if isinstance(found, int)]
    ids = tokenizer.convert_tokens_to_ids(list(ANSWERS))
    for word, found in zip(ANSWERS, ids):
        if found is None or found == tokenizer.unk_token_id:
            raise UserError(f'{name} cannot answer "{word}": its tokenizer has no token for it')
    return [int(found) for found in ids]


def layout_of(
    tokenizer: Any, name: str, cache_dir: str | None, prompt: str | None, query_prefix: str, passage_prefix: str
) -> ChatLayout:
    """Return how pairs are laid out; ``prompt`` None is the folder's own instruction, else the published one.

    Raises:
        UserError: if the folder's chat template has no place for query and passage, or none for the prompt.
    """
    if SCORE not in _modules(name, cache_dir):
        return ChatLayout(query_prefix, passage_prefix, INSTRUCTION if prompt is None else prompt)
    plain, instructed = _texts(tokenizer, name, cache_dir)
    own = _instruction(name, cache_dir) if prompt is None else prompt
    if own is not None and instructed is None:
        raise UserError(f"the chat template of {name} has no place for a prompt", hint="leave out --prompt")
    return ChatLayout(query_prefix, passage_prefix, own, plain, instructed)


def longest(tokenizer: Any, name: str, cache_dir: str | None) -> int | None:
    """Return how many tokens a folder in sentence-transformers' format reads at most; None of a bare model."""
    if SCORE not in _modules(name, cache_dir):
        return None
    said = read_json(name, TRANSFORMER_CONFIG, cache_dir)
    own = _processing(said, "text").get("max_length") or said.get("max_seq_length") or tokenizer.model_max_length
    return int(own)


def transformer_config(name: str, cache_dir: str | None) -> dict[str, Any]:
    """Return how sentence-transformers runs a folder's model; empty of a bare model."""
    return read_json(name, TRANSFORMER_CONFIG, cache_dir) if SCORE in _modules(name, cache_dir) else {}


def save(
    folder: Path, tokenizer: Any, layout: ChatLayout, answers: list[int], max_len: int, transformer: dict[str, Any]
) -> None:
    """Write, beside a causal language model and its tokenizer, what sentence-transformers' CrossEncoder reads.

    Args:
        transformer: ``transformer_config`` of the model that was loaded.
    """
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    template = tokenizer.chat_template
    length = tokenizer.model_max_length
    if layout.plain is None and layout.instructed is not None:
        tokenizer.chat_template = layout.instructed.as_template(layout.prompt or INSTRUCTION)
    tokenizer.model_max_length = max_len
    tokenizer.save_pretrained(str(folder))
    tokenizer.chat_template, tokenizer.model_max_length = template, length
    if "max_length" in _processing(transformer, "text"):
        kwargs = transformer["processing_kwargs"]
        transformer = {
            **transformer,
            "processing_kwargs": {**kwargs, "text": {**kwargs["text"], "max_length": max_len}},
        }
    true_id, false_id = [*answers, None][:2]
    prompts = {} if layout.prompt is None or layout.instructed is None else {"default": layout.prompt}
    score = {"true_token_id": true_id, "false_token_id": false_id, "module_input_name": "causal_logits"}
    (folder / SCORE_FOLDER).mkdir(exist_ok=True)
    (folder / SCORE_FOLDER / "config.json").write_text(json.dumps(score, indent=2) + "\n", encoding="utf-8")
    st_files.write(
        folder, [("", Transformer), (SCORE_FOLDER, LogitScore)], transformer or AS_TEXT_GENERATOR,
        {"default_prompt_name": "default" if prompts else None, "prompts": prompts},
    )  # fmt: skip


def _modules(name: str, cache_dir: str | None) -> dict[str, str]:
    """Return the modules that a folder in sentence-transformers' format has: class -> folder; empty of a bare model."""
    path = model_file(name, MODULES, cache_dir)
    if path is None:
        return {}
    try:
        found = {
            str(item["type"]).rpartition(".")[2]: str(item["path"]) for item in json.loads(path.read_text("utf-8"))
        }
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"model {name} cannot be loaded: {MODULES} is not as expected: {error}") from None
    unknown = sorted(set(found) - {SCORE, LANGUAGE_MODEL})
    if unknown or found.get(LANGUAGE_MODEL):
        what = (
            f"modules that this package does not know ({', '.join(unknown)})" if unknown else "its model in a subfolder"
        )
        raise UserError(f"model {name} cannot be loaded as a reranker that answers in a chat: it has {what}")
    return found


def _texts(tokenizer: Any, name: str, cache_dir: str | None) -> tuple[ChatText, ChatText | None]:
    """Return the chat's text without and with a system message; messages hold plain texts, or lists of parts."""
    from jinja2 import TemplateError

    said = read_json(name, TRANSFORMER_CONFIG, cache_dir)
    wanted = {key: value for key, value in _processing(said, "chat_template").items() if key != "restore_suffix"}
    kinds = (partial(_rendered, tokenizer, wanted, parts=parts) for parts in (False, True))
    cause = "it has no place for the roles query and document"
    for render in kinds:
        try:
            plain = chat_text(render, instructed=False)
        except (TemplateError, ValueError, TypeError) as error:
            cause = str(error)
            continue
        if plain is not None:
            return plain, _instructed(render)
    raise UserError(f"the chat template of {name} cannot be used: {cause}")


def _instructed(render: Any) -> ChatText | None:
    from jinja2 import TemplateError

    try:
        return chat_text(render, instructed=True)
    except (TemplateError, ValueError, TypeError):
        return None


def _rendered(tokenizer: Any, wanted: dict[str, Any], messages: list[dict[str, str]], *, parts: bool) -> str:
    if parts:
        messages = [{**item, "content": [{"type": "text", "text": item["content"]}]} for item in messages]  # type: ignore[dict-item]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, **wanted)
    return text


def _processing(said: dict[str, Any], kind: str) -> dict[str, Any]:
    found = (said.get("processing_kwargs") or {}).get(kind)
    return found if isinstance(found, dict) else {}


def _instruction(name: str, cache_dir: str | None) -> str | None:
    """Return the prompt that a folder uses where none is asked for."""
    said = read_json(name, ST_CONFIG, cache_dir)
    key = said.get("default_prompt_name")
    text = (said.get("prompts") or {}).get(key) if key else None
    return str(text) if text else None
