"""``finerank export``: the graph gives what the model gives, every verb finds it, and a bad one is not written."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import MPNetConfig, MPNetModel, PreTrainedTokenizerFast

from finerank.cli import main
from finerank.core.errors import UsageError, UserError
from finerank.models import openvino
from finerank.models.load import load_encoder, load_scorer, trainable_scorer
from finerank.models.merging import open_model, state_of
from finerank.models.openvino import Compiled
from finerank.stages import export
from finerank.stages.export import ExportOptions, run
from tests.models.test_families import PAIRS, TEXTS
from tests.stages.test_train import write_judged, write_rows

# Not importorskip: nncf takes seconds to import, in every process that collects the tests.
pytestmark = pytest.mark.skipif(
    not (find_spec("openvino") and find_spec("nncf")), reason="openvino and nncf are not installed"
)


def options(model: str, folder: Path, **values: Any) -> ExportOptions:
    return ExportOptions(model_name_or_path=model, output_dir=str(folder), **values)


@pytest.fixture(scope="module")
def exported_reranker(tiny_reranker: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("exported") / "reranker"
    run(options(tiny_reranker, folder, dtype="float32"))  # bounds of gaps are those of float32
    return str(folder)


@pytest.fixture
def no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model itself stand for its graph."""
    monkeypatch.setattr(openvino, "convert", lambda *_, **__: Path())
    monkeypatch.setattr(openvino, "Compiled", lambda own, *_: own)


@pytest.mark.slow
def test_an_embedder_gives_the_same_vectors(tiny_encoder: str, tmp_path: Path) -> None:
    outcome = run(options(tiny_encoder, tmp_path / "graph", dtype="float32"))
    assert outcome.data["least_cosine"] == pytest.approx(1, abs=1e-5)
    graph, model = (load_encoder(name, dtype="float32") for name in (str(tmp_path / "graph"), tiny_encoder))
    assert isinstance(graph.transformer, Compiled)
    assert graph.describe()["computed by"] == "OpenVINO"
    # Texts of many lengths: what the graph was traced with decides nothing.
    for side in ("query", "passage"):
        np.testing.assert_allclose(graph.encode(TEXTS, side), model.encode(TEXTS, side), atol=1e-5)
    assert graph.fingerprint("query") != model.fingerprint("query")
    beside = SentenceTransformer(str(tmp_path / "graph"), device="cpu")
    np.testing.assert_allclose(beside.encode(TEXTS[:3]), model.encode_passages(TEXTS[:3]), atol=1e-4)


def test_a_reranker_gives_the_same_scores_to_every_verb(
    exported_reranker: str,
    tiny_reranker: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, model = (load_scorer(name, dtype="float32") for name in (exported_reranker, tiny_reranker))
    assert isinstance(graph.transformer, Compiled)
    np.testing.assert_allclose(graph.score(PAIRS), model.score(PAIRS), atol=1e-4)
    monkeypatch.setattr("finerank.models.engine.CPU_TOKENS", 20)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # batches side by side, each by a request of its own
    side_by_side = load_scorer(exported_reranker, dtype="float32").score(PAIRS)
    torch.set_num_threads(threads)
    np.testing.assert_allclose(side_by_side, model.score(PAIRS), atol=1e-4)
    assert main(["rerank", "-m", exported_reranker, "--query", "red cat", "--passages", "a red cat", "a fish"]) == 0
    assert "OpenVINO" in capsys.readouterr().err
    # Training and merging take the weights beside the graph.
    assert not isinstance(trainable_scorer(exported_reranker, device="cpu").transformer, Compiled)
    assert state_of(open_model(exported_reranker)).keys() == state_of(open_model(tiny_reranker)).keys()


@pytest.mark.slow
def test_int8_is_measured_on_rows_and_on_judged_data(
    tiny_reranker: str, tiny_encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 12)
    outcome = run(options(tiny_reranker, tmp_path / "of_rows", int8=True, data=[rows], max_loss=1.0))
    assert outcome.data["queries"] == 12
    assert 0 < outcome.data["before"] <= 1
    assert outcome.data["largest_gap"] > 0
    assert (tmp_path / "of_rows" / "openvino" / openvino.INT8_GRAPH).is_file()
    assert "nDCG@10" in outcome.text
    judged = write_judged(tmp_path / "beir", rows)
    words = ["export", "-m", tiny_encoder, "--output_dir", str(tmp_path / "of_judged"), "--int8", "--data", str(judged)]
    capsys.readouterr()
    assert main([*words, "--max_loss", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)  # what quantises prints nothing among it
    assert found["least_cosine"] < 0.999999
    assert found["queries"] > 0


@pytest.mark.usefixtures("no_graph")
def test_a_graph_that_ranks_worse_is_not_written(
    tiny_reranker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 8)
    figures = iter([{"nDCG@10": [0.9] * 8}, {"nDCG@10": [0.8] * 8}])
    monkeypatch.setattr("finerank.evaluation.held_out.measure_on", lambda *_: lambda: next(figures))
    with pytest.raises(UserError, match=r"loses 0\.1000 nDCG@10 .* more than --max_loss 0\.05: nothing is written"):
        run(options(tiny_reranker, tmp_path / "graph", data=[rows], max_loss=0.05))
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".xml", ".bin", ".safetensors", ".json")]


def test_done_is_done(exported_reranker: str, tiny_reranker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_export", lambda *_: pytest.fail("made again"))
    outcome = run(options(tiny_reranker, Path(exported_reranker), dtype="float32"))
    assert outcome.data["largest_gap"] < 1e-4


@pytest.mark.usefixtures("no_graph")
@pytest.mark.parametrize("cosine", [0.9, float("nan")])
def test_a_graph_that_computes_something_else_is_not_written(
    cosine: float, tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_beside", lambda *_: {"least_cosine": cosine})
    with pytest.raises(UserError, match=rf"a cosine of {cosine:.4f}: nothing is written"):
        run(options(tiny_encoder, tmp_path / "graph"))
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.usefixtures("no_graph")
def test_what_it_wins_is_told_in_the_number_format_of_the_verbs(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[torch.dtype] = []
    own = export._computed
    monkeypatch.setattr(export, "_computed", lambda model, items: (timed.append(model.dtype), own(model, items))[1])
    outcome = run(options(tiny_encoder, tmp_path / "graph", dtype="bfloat16"))
    # How near the graph is, is measured by the model in float32.
    assert timed[0] == torch.float32
    assert torch.bfloat16 in timed
    assert "items/s in bfloat16" in outcome.text


@pytest.mark.slow
def test_a_model_without_fused_attention_keeps_its_mask(tiny_tokenizer_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mpnet"
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tiny_tokenizer_file), pad_token="[PAD]", unk_token="[UNK]",
                                        cls_token="[CLS]", sep_token="[SEP]", model_max_length=64)  # fmt: skip
    torch.manual_seed(0)
    MPNetModel(MPNetConfig(vocab_size=len(tokenizer), pad_token_id=0, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    outcome = run(options(str(folder), tmp_path / "graph", dtype="float32"))
    assert outcome.data["least_cosine"] == pytest.approx(1, abs=1e-5)


def test_an_adapter_is_computed_by_torch(exported_reranker: str, tiny_reranker: str, tmp_path: Path) -> None:
    from tests.models.test_adapters import tuned
    from tests.stages.test_train import RerankerOptions

    pytest.importorskip("peft")
    tuned(RerankerOptions, tiny_reranker).save(tmp_path / "adapter")
    adapted = [
        load_scorer(name, dtype="float32", peft_path=str(tmp_path / "adapter")).score(PAIRS)
        for name in (exported_reranker, tiny_reranker)
    ]
    np.testing.assert_array_equal(*adapted)
    assert not np.allclose(adapted[0], load_scorer(exported_reranker, dtype="float32").score(PAIRS), atol=1e-4)


def test_without_openvino_torch_computes_and_says_so(
    exported_reranker: str, tiny_reranker: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    scorer = load_scorer(exported_reranker, dtype="float32")
    assert not isinstance(scorer.transformer, Compiled)
    assert "openvino is not installed: computing with torch" in capsys.readouterr().err
    with pytest.raises(UserError, match="not installed"):
        openvino.convert(scorer.transformer, Path("nowhere"), [{}], int8=True)


def test_another_graph_is_another_model(exported_reranker: str) -> None:
    path = openvino.graph_of(exported_reranker)
    assert path is not None
    first = load_scorer(exported_reranker).fingerprint()
    other = {"float32": "bfloat16", "bfloat16": "float32"}[str(load_scorer(exported_reranker).dtype)[6:]]
    assert load_scorer(exported_reranker, dtype=other).fingerprint() != first
    assert load_scorer(exported_reranker).fingerprint() == first
    weights = path.with_suffix(".bin")
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-4] + b"\x00\x00\x80\x3f")
        assert load_scorer(exported_reranker).fingerprint() != first
    finally:
        weights.write_bytes(kept)


def test_what_cannot_be_exported_is_said(
    tiny_language_model: str, exported_reranker: str, tiny_reranker: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is a language model"):
        run(options(tiny_language_model, tmp_path / "graph"))
    with pytest.raises(UsageError, match="is exported already"):
        run(options(exported_reranker, tmp_path / "graph"))
    with pytest.raises(UsageError, match="--int8 needs --data"):
        options(tiny_reranker, tmp_path / "graph", int8=True)
    with pytest.raises(UsageError, match="OpenVINO graphs are for CPUs"):
        options(tiny_reranker, tmp_path / "graph", device="cuda")
    assert not (tmp_path / "graph").exists()
    assert json.loads((Path(exported_reranker) / "openvino" / "finerank.json").read_text())["int8"] is False
    assert "openvino" in sys.modules
