"""Adapters: added, saved small with what the base has not got, loaded with the same scores everywhere, merged."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from finerank.core.errors import UsageError, UserError
from finerank.core.train_options import EmbedderOptions, RerankerOptions
from finerank.models.families import family_of
from finerank.models.load import load_encoder, load_scorer
from finerank.models.trainables import trainable_of
from tests.models.test_families import PAIRS, TEXTS, groups, outputs_of

pytest.importorskip("peft")
ADAPTER = "adapter_model.safetensors"


def options(family: type[Any], model: str, **values: Any) -> Any:
    given = {"model_name_or_path": model, "train_data": ["rows"], "device": "cpu", "use_lora": True, "lora_rank": 4}
    return family(**given | values)


def tuned(family: type[Any], model: str, **values: Any) -> Any:
    """Return a model whose adapter (and head) is far from where it began."""
    trainable = trainable_of(options(family, model, **values))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainable.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return trainable


def results(model: Any) -> np.ndarray[Any, Any]:
    if not hasattr(model, "encode"):
        return model.score(PAIRS)
    return np.concatenate([model.encode(TEXTS, "query"), model.encode(TEXTS, "passage")])


def opened(family: type[Any], folder: Path) -> Any:
    return (load_scorer if family is RerankerOptions else load_encoder)(str(folder), device="cpu", dtype="float32")


CASES = [
    pytest.param(EmbedderOptions, "tiny_encoder", id="encoder"),
    pytest.param(EmbedderOptions, "tiny_decoder", id="decoder"),
    pytest.param(RerankerOptions, "tiny_reranker", id="reranker"),
    pytest.param(RerankerOptions, "tiny_encoder", id="new-head"),
]


@pytest.mark.parametrize(("family", "base"), CASES)
def test_saved_alone_it_comes_back_with_the_same_scores(
    family: Any, base: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = request.getfixturevalue(base)
    model = tuned(family, name)
    fresh = trainable_of(options(family, name))
    assert np.abs(results(model) - results(fresh)).max() > 0.01
    model.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    stored = load_file(tmp_path / "adapter" / ADAPTER)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == name
    again = opened(family, tmp_path / "adapter")
    assert np.abs(results(again) - results(model)).max() <= 1e-4
    assert not any("lora" in name for name in again.module.state_dict())
    assert not any(parameter.requires_grad for parameter in again.module.parameters())
    whole = options(family, str(tmp_path / "adapter"), use_lora=False)
    assert all(parameter.requires_grad for parameter in trainable_of(whole).module.parameters())


@pytest.mark.parametrize(("family", "base"), CASES)
def test_merged_it_is_an_ordinary_folder(
    family: Any, base: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = tuned(family, request.getfixturevalue(base), save_merged_lora_model=True)
    expected = results(model)
    model.save(tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("adapter*"))
    names = set(load_file(tmp_path / "merged" / "model.safetensors"))
    assert not any("lora" in name or "base_layer" in name or "modules_to_save" in name for name in names)
    assert np.abs(results(opened(family, tmp_path / "merged")) - expected).max() <= 1e-4


@pytest.mark.parametrize("base", ["tiny_encoder", "tiny_decoder"])
def test_sentence_transformers_loads_an_embedder_with_its_adapter(
    base: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from sentence_transformers import SentenceTransformer

    model = tuned(EmbedderOptions, request.getfixturevalue(base), query_instruction_for_retrieval="find ")
    model.save(tmp_path / "adapter")
    loaded = SentenceTransformer(str(tmp_path / "adapter"), device="cpu")
    assert np.abs(loaded.encode_query(TEXTS) - model.encode(TEXTS, "query")).max() <= 1e-4
    assert np.abs(loaded.encode_document(TEXTS) - model.encode(TEXTS, "passage")).max() <= 1e-4
    assert opened(EmbedderOptions, tmp_path / "adapter").prompts["query"] == "find "


@pytest.mark.parametrize("base", ["tiny_reranker", "tiny_encoder"])
def test_peft_and_sentence_transformers_load_a_reranker_with_its_head(
    base: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from peft import PeftModel
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    name = request.getfixturevalue(base)
    model = tuned(RerankerOptions, name)
    model.save(tmp_path / "adapter")
    expected = model.score(PAIRS)
    plain = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1)
    adapted = PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "adapter"))
    batch = tokenizer(PAIRS, padding=True, truncation=True, max_length=model.max_len, return_tensors="pt")
    with torch.no_grad():
        assert np.abs(adapted(**batch).logits.squeeze(-1).numpy() - expected).max() <= 1e-4
    loaded = CrossEncoder(str(tmp_path / "adapter"), device="cpu", activation_fn=torch.nn.Identity())
    assert np.abs(loaded.predict(PAIRS) - expected).max() <= 1e-4


def test_the_head_is_saved_whole_and_a_folder_without_it_is_refused(tiny_encoder: str, tmp_path: Path) -> None:
    model = tuned(RerankerOptions, tiny_encoder)
    model.save(tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter" / ADAPTER)
    own = model.transformer.state_dict()
    for module, weight in (("classifier", "weight"), ("classifier", "bias"), ("bert.pooler", "dense.weight")):
        expected = own[f"{module}.modules_to_save.default.{weight}"]
        assert torch.equal(stored[f"base_model.model.{module}.{weight}"], expected)
    del stored["base_model.model.classifier.weight"]
    save_file(stored, tmp_path / "adapter" / ADAPTER)
    with pytest.raises(UserError, match="lacks classifier.weight"):
        opened(RerankerOptions, tmp_path / "adapter")


def test_a_new_adapter_changes_nothing_and_only_it_learns(tiny_reranker: str) -> None:
    model = trainable_of(options(RerankerOptions, tiny_reranker, lora_dropout=0.0))
    plain = load_scorer(tiny_reranker, device="cpu", dtype="float32")
    assert np.abs(model.score(PAIRS) - plain.score(PAIRS)).max() <= 1e-5
    outputs_of(model, groups(3))["scores"].sum().backward()
    learning = {name for name, parameter in model.module.named_parameters() if parameter.grad is not None}
    assert learning == {name for name, parameter in model.module.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in learning)
    ends = {name.split(".lora_")[0].rpartition(".")[2] for name in learning if "lora_" in name}
    assert ends == {"query", "key", "value", "dense"}
    assert not any("pooler" in name and "lora_" in name for name in learning)
    facts = model.describe()
    assert "parameters (" in facts["trained"]


def test_which_layers_get_one(tiny_decoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    def layers(**values: Any) -> set[str]:
        model = trainable_of(options(EmbedderOptions, tiny_decoder, **values))
        names = [name for name, _ in model.module.named_parameters() if "lora_A" in name]
        return {name.split(".lora_A")[0].rpartition(".")[2] for name in names}

    assert layers() == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert "LoRA of rank 4, alpha 16 on down_proj, gate_proj" in capsys.readouterr().err
    assert layers(target_modules=["q_proj", "v_proj"]) == {"q_proj", "v_proj"}
    assert layers(target_modules=[r".*layers\.1\..*up_proj"]) == {"up_proj"}
    with pytest.raises(UserError, match="does not fit: .*nonsense"):
        layers(target_modules=["nonsense"])


def test_the_first_matrices_come_from_the_seed(tiny_encoder: str) -> None:
    def first(seed: int) -> torch.Tensor:
        torch.manual_seed(torch.seed() % 1000)
        model = trainable_of(options(EmbedderOptions, tiny_encoder, seed=seed))
        return next(value for name, value in model.module.state_dict().items() if "lora_A" in name)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_going_on_and_merging_first(tiny_reranker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tuned(RerankerOptions, tiny_reranker)
    folder = str(tmp_path / "adapter")
    model.save(Path(folder))
    expected = model.score(PAIRS)
    further = trainable_of(options(RerankerOptions, tiny_reranker, use_lora=False, from_peft=folder))
    assert np.abs(further.score(PAIRS) - expected).max() <= 1e-5
    assert any(p.requires_grad for name, p in further.module.named_parameters() if "lora_" in name)
    further.save(tmp_path / "further")
    assert np.abs(opened(RerankerOptions, tmp_path / "further").score(PAIRS) - expected).max() <= 1e-4
    capsys.readouterr()
    second = trainable_of(options(RerankerOptions, tiny_reranker, raw_peft=[folder]))
    assert "the merged model will be saved" in capsys.readouterr().err
    assert np.abs(second.score(PAIRS) - expected).max() <= 1e-4
    second.save(tmp_path / "second")
    assert (tmp_path / "second" / "model.safetensors").exists()
    whole = trainable_of(options(RerankerOptions, tiny_reranker, raw_peft=[folder], use_lora=False))
    assert whole.merge_adapter is False
    assert all(parameter.requires_grad for parameter in whole.module.parameters())


def test_an_adapter_for_a_reranker_given_apart(tiny_reranker: str, tmp_path: Path) -> None:
    model = tuned(RerankerOptions, tiny_reranker)
    model.save(tmp_path / "adapter")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("adapter_config.json", ADAPTER):
        shutil.copy(tmp_path / "adapter" / name, bare)
    expected = model.score(PAIRS)
    for scorer in (load_scorer(tiny_reranker, dtype="float32", peft_path=str(bare)), opened(RerankerOptions, bare)):
        assert np.abs(scorer.score(PAIRS) - expected).max() <= 1e-4
        assert scorer.fingerprint() != load_scorer(tiny_reranker, dtype="float32").fingerprint()
    assert family_of(str(bare)) == "cross_encoder"


def test_a_bare_adapter_takes_its_pooling_from_the_base(tiny_decoder: str, tmp_path: Path) -> None:
    model = tuned(EmbedderOptions, tiny_decoder)
    model.save(tmp_path / "adapter")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("adapter_config.json", ADAPTER):
        shutil.copy(tmp_path / "adapter" / name, bare)
    assert np.abs(results(opened(EmbedderOptions, bare)) - results(model)).max() <= 1e-4


def test_a_base_that_is_gone_or_another(
    tiny_encoder: str, tiny_reranker: str, tiny_decoder: str, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_encoder, base)
    tuned(EmbedderOptions, str(base)).save(tmp_path / "adapter")
    tuned(EmbedderOptions, tiny_decoder).save(tmp_path / "of_decoder")
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"adapter is an adapter of .*base, and there is no such folder"):
        load_encoder(str(tmp_path / "adapter"))
    with pytest.raises(UserError, match=r"(?s)adapter is an embedder's adapter.*finerank merge"):
        load_scorer(str(tmp_path / "adapter"))
    config = tmp_path / "adapter" / "adapter_config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"base_model_name_or_path": str(tmp_path / "elsewhere")}))
    load_encoder(str(tmp_path / "adapter"))
    config.write_text(json.dumps(content | {"base_model_name_or_path": str(tmp_path / "of_decoder")}))
    with pytest.raises(UserError, match="an adapter of an adapter"):
        load_encoder(str(tmp_path / "adapter"))
    with pytest.raises(UserError, match="does not fit"):
        load_scorer(tiny_reranker, peft_path=str(tmp_path / "of_decoder"))


def test_a_base_that_was_changed_is_noticed(
    tiny_encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_encoder, base)
    for family, name in ((EmbedderOptions, "embedder"), (RerankerOptions, "reranker")):
        tuned(family, str(base)).save(tmp_path / name)
        opened(family, tmp_path / name)
        assert "other weights" not in capsys.readouterr().err
    weights = load_file(base / "model.safetensors")
    save_file({key: value + 1e-4 for key, value in weights.items()}, base / "model.safetensors", {"format": "pt"})
    for family, name in ((EmbedderOptions, "embedder"), (RerankerOptions, "reranker")):
        opened(family, tmp_path / name)
        assert f"{name} has other weights than when it was tuned" in capsys.readouterr().err


def test_without_peft(tiny_encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"(?s)peft, which is not installed.*pip install"):
        trainable_of(options(EmbedderOptions, tiny_encoder))


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="--freeze does not go with adapters"):
        options(EmbedderOptions, "m", freeze=["embeddings"])
    with pytest.raises(UsageError, match="--save_merged_lora_model needs an adapter"):
        options(EmbedderOptions, "m", use_lora=False, save_merged_lora_model=True)
