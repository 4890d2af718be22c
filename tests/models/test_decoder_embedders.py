"""Language models as embedders, pooled at their last token: e5-mistral's, Qwen3-Embedding's and bge-en-icl's kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finerank.batching.prompts import format_prompt
from finerank.core.errors import UserError
from finerank.models.load import load_encoder
from tests.models.test_families import TEXTS
from tests.parity.tiny_base import llama, qwen2

TOLERANCE = 1e-4
TASK = "Given a web search query, retrieve relevant passages that answer the query"
E5, QWEN = "Instruct: {}\nQuery: {}", "Instruct: {}\nQuery:{}"


def changed(folder: Path, name: str, **keys: Any) -> Path:
    """Set keys of one of a folder's JSON files."""
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps(content | keys, ensure_ascii=False), encoding="utf-8")
    return folder


def like_e5_mistral(folder: Path, side: str) -> Path:
    """A begin token before each text and an end token behind it, by the tokenizer's configuration."""
    return changed(llama(folder), "tokenizer_config.json", add_eos_token=True, padding_side=side)


def like_qwen3_embedding(folder: Path, side: str) -> Path:
    """An end token behind each text, by the template of tokenizer.json."""
    qwen2(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    end = next(item["id"] for item in content["added_tokens"] if item["content"] == "<|endoftext|>")
    token = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    sides = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
    template = {
        "type": "TemplateProcessing", "single": [sides[0], token], "pair": [sides[0], token, sides[1], token],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [end], "tokens": ["<|endoftext|>"]}},
    }  # fmt: skip
    changed(folder, "tokenizer.json", post_processor=template)
    return changed(folder, "tokenizer_config.json", padding_side=side)


KINDS = {"e5": (like_e5_mistral, E5), "qwen3": (like_qwen3_embedding, QWEN)}


def plainly(folder: Path, texts: list[str], *, most: int) -> np.ndarray:
    """Embed text by text with transformers alone: the last token's state, at unit length."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    if tokenizer.bos_token is not None:
        tokenizer.add_bos_token = tokenizer.add_eos_token = True
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=most, return_tensors="pt")["input_ids"]
        assert ids[0, -1] == tokenizer.eos_token_id
        with torch.no_grad():
            found.append(torch.nn.functional.normalize(model(ids).last_hidden_state[0, -1], dim=-1).numpy())
    return np.array(found)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_bare_model_is_pooled_at_its_last_token_whatever_the_padding(tmp_path: Path, kind: str, side: str) -> None:
    build, template = KINDS[kind]
    folder = build(tmp_path / "model", side)
    prompt = format_prompt(TASK, template)
    encoder = load_encoder(
        str(folder), device="cpu", dtype="float32", pooling="last_token", normalize=True, query_prompt=prompt,
        query_max_len=96, passage_max_len=20,
    )  # fmt: skip
    queries = plainly(folder, [prompt + text for text in TEXTS], most=96)
    assert np.abs(encoder.encode(TEXTS, "query") - queries).max() <= TOLERANCE
    assert np.abs(encoder.encode(TEXTS, "passage") - plainly(folder, TEXTS, most=20)).max() <= TOLERANCE
    assert encoder.tokenizer.pad_left == (side == "left")
    assert encoder.truncated([("", text) for text in TEXTS])[0] > 0


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_sentence_transformers_folder_gives_the_same_there_and_back(tmp_path: Path, kind: str) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    build, template = KINDS[kind]
    modules = [Transformer(str(build(tmp_path / "bare", "left"))), Pooling(32, "lasttoken"), Normalize()]
    theirs = SentenceTransformer(modules=modules, device="cpu", prompts={"query": format_prompt(TASK, template)})
    theirs.max_seq_length = 64
    theirs.save_pretrained(str(tmp_path / "st"), create_model_card=False)
    encoder = load_encoder(str(tmp_path / "st"), device="cpu", dtype="float32")
    assert np.abs(encoder.encode(TEXTS, "query") - theirs.encode(TEXTS, prompt_name="query")).max() <= TOLERANCE
    assert np.abs(encoder.encode(TEXTS, "passage") - theirs.encode(TEXTS)).max() <= TOLERANCE
    encoder.save(tmp_path / "saved")
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert np.abs(encoder.encode(TEXTS, "query") - again.encode_query(TEXTS)).max() <= TOLERANCE


ICL = "<instruct>{}\\n<query>{}\\n<response>"


def test_something_behind_the_query_is_kept_from_the_cut(tmp_path: Path) -> None:
    folder = like_e5_mistral(tmp_path / "model", "left")
    prompt = format_prompt("Find the code", ICL)
    options = {"pooling": "last_token", "normalize": True, "query_max_len": 64}
    encoder = load_encoder(str(folder), device="cpu", dtype="float32", query_prompt=prompt, **options)
    before, after = "<instruct>Find the code\n<query>", "\n<response>"
    short = [text for text in TEXTS if len(encoder.tokenizer.texts([before + text + after], 9999)[0].ids) <= 64]
    assert 0 < len(short) < len(TEXTS)
    expected = plainly(folder, [before + text + after for text in short], most=64)
    assert np.abs(encoder.encode(short, "query") - expected).max() <= TOLERANCE
    end = encoder.tokenizer.texts([before + after], 9999)[0].ids[-8:]
    assert all(item.ids[-8:] == end and len(item.ids) <= 64 for item in encoder.tokens(TEXTS, "query"))
    encoder.save(tmp_path / "saved")
    again = load_encoder(str(tmp_path / "saved"), device="cpu", dtype="float32")
    assert again.prompts == encoder.prompts
    assert np.abs(again.encode(TEXTS, "query") - encoder.encode(TEXTS, "query")).max() <= 1e-6


def test_a_rerankers_format_has_the_text_last() -> None:
    with pytest.raises(UserError, match="the text last"):
        format_prompt("Find the code", ICL, text_last=True)
