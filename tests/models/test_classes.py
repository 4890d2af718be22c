"""Which class serves a model, by its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finerank.models.families import class_of, family_of, is_language_model


def model(folder: Path, architecture: str, **files: object) -> str:
    folder.mkdir(exist_ok=True)
    for name, content in {"config.json": {"architectures": [architecture]}, **files}.items():
        (folder / name).write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize(
    ("architecture", "name", "found"),
    [
        ("XLMRobertaForSequenceClassification", "bge-reranker-v2-m3", "encoder-only-base"),
        ("GemmaForCausalLM", "bge-reranker-v2-gemma", "decoder-only-base"),
        ("LayerWiseMiniCPMForCausalLM", "bge-reranker-v2-minicpm-layerwise", "decoder-only-layerwise"),
        ("CostWiseGemmaForCausalLM", "bge-reranker-v2.5-gemma2-lightweight", "decoder-only-lightweight"),
        ("Qwen3ForCausalLM", "Qwen3-Reranker-0.6B", "decoder-only-chat"),
        ("Qwen3ForCausalLM", "Qwen3-0.6B", "decoder-only-base"),
        ("BertModel", "bge-base", None),
    ],
)
def test_published_rerankers_are_known(architecture: str, name: str, found: str | None, tmp_path: Path) -> None:
    assert class_of(model(tmp_path / name, architecture)) == found


def test_a_decoder_of_sentence_transformers_is_an_embedder(tmp_path: Path) -> None:
    folder = model(tmp_path / "e5", "MistralForCausalLM", **{"modules.json": []})
    assert (class_of(folder), family_of(folder)) == (None, "bi_encoder")


def test_what_we_saved_says_itself_what_it_is(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", "Qwen3ForCausalLM", **{"finerank.json": {"class": "decoder-only-chat"}})
    assert class_of(folder) == "decoder-only-chat"
    assert not is_language_model(folder)


def test_an_adapter_is_what_its_task_says(tmp_path: Path) -> None:
    base = model(tmp_path / "base", "LlamaForCausalLM")
    assert is_language_model(base)
    for task, found in (
        ("CAUSAL_LM", "decoder-only-base"),
        ("FEATURE_EXTRACTION", None),
        ("SEQ_CLS", "encoder-only-base"),
    ):
        config = {"base_model_name_or_path": base, "task_type": task}
        (tmp_path / task).mkdir()
        (tmp_path / task / "adapter_config.json").write_text(json.dumps(config))
        assert class_of(str(tmp_path / task)) == found
