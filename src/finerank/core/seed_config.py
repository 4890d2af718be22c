"""The YAML config of seed 003's tools (HopWeaver and FlashRAG): what its keys are called here, and which mean nothing.

A config is taken for one of theirs if it has one of their keys; then a key that nobody knows is named, not refused,
since theirs hold keys for further tools. Keys of an API are never read from a file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

RENAMED = {
    "corpus_path": "corpus",
    "generator_model": "llm_model",
    "retrieval_query_max_length": "embedder_query_max_length",
    "instruction": "query_instruction_for_retrieval",
    "retrieval_use_fp16": "use_fp16",
    "reranker_batch_size": "batch_size",
    "reranker_normalize": "normalize",
    "query_max_length": "reranker_query_max_length",
    "passage_max_length": "reranker_passage_max_length",
}
"""Their key -> ours; a verb takes those that it has."""
BY_METHOD = {"model2path": "embedder", "model2pooling": "pooling_method"}
"""Their mapping from the retrieval method -> our name of what stands there."""
SETTINGS = ("openai_setting", "google_setting", "anthropic_setting", "deepseek_setting")
PARAMETERS = {"max_tokens": "llm_max_tokens", "temperature": "llm_temperature"}
OWN_KEYS = """
    corpus_path retrieval_method model2path model2pooling method2index method2corpus retrieval_topk
    retrieval_batch_size retrieval_use_fp16 retrieval_query_max_length faiss_gpu save_retrieval_cache
    use_retrieval_cache retrieval_cache_path generator_model entity_extractor_model question_generator_model
    generation_params generator_batch_size openai_setting google_setting anthropic_setting deepseek_setting
"""
OWN = frozenset(OWN_KEYS.split())
"""Keys by which such a config is known."""
SPARSE = "bm25"
POOLINGS = {"pooler": "cls", "last": "last_token", "lasttoken": "last_token"}


def is_seed_config(content: Mapping[str, Any]) -> bool:
    """Say whether a config has a key of theirs."""
    return not OWN.isdisjoint(content)


def translate(content: Mapping[str, Any], names: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """Return a config in our names, and what must be said aloud.

    Args:
        names: options and aliases of the verb.
    """
    if not is_seed_config(content):
        return dict(content), []
    values: dict[str, Any] = {}
    nothing: list[str] = []
    method = str(content.get("retrieval_method") or "").lower()
    for key, value in content.items():
        found = _of(key, value, method, names)
        values |= found
        if not found and key != "retrieval_method":
            nothing.append(key)
    own = (
        dict(content.get("method2corpus") or {}).get(method) if isinstance(content.get("method2corpus"), dict) else None
    )
    if own and "corpus" in names:
        values["corpus"] = own
        nothing = [key for key in nothing if key != "method2corpus"]
    notes = [f"config keys without a meaning here: {', '.join(nothing)}"] if nothing else []
    if any(isinstance(content.get(key), dict) and _keys_in(content[key]) for key in SETTINGS):
        notes.append("API keys in the config are not read: put the key in the environment")
    return values, notes


def _of(key: str, value: Any, method: str, names: Collection[str]) -> dict[str, Any]:
    """Return what one key means, in our names; nothing if it means nothing for the verb."""
    if value is None:
        return {}
    if key in names and key not in RENAMED:
        return {key: value}
    if key in BY_METHOD and isinstance(value, dict):
        found = value.get(method) if method != SPARSE else None
        found = POOLINGS.get(str(found), found) if key == "model2pooling" else found
        return {BY_METHOD[key]: found} if found and BY_METHOD[key] in names else {}
    if key in SETTINGS and isinstance(value, dict):
        return {"llm_base_url": value["base_url"]} if value.get("base_url") and "llm_base_url" in names else {}
    if key == "generation_params" and isinstance(value, dict):
        return {ours: value[theirs] for theirs, ours in PARAMETERS.items() if theirs in value and ours in names}
    ours = RENAMED.get(key)
    return {ours: value} if ours in names and ours is not None else {}


def _keys_in(setting: Mapping[str, Any]) -> bool:
    return any(setting.get(name) for name in ("api_key", "api_keys"))
