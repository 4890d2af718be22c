"""Training on data of every shape: several sets, FlagEmbedding's row keys, too few negatives, too few rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finerank.core.errors import DataError
from finerank.core.records import Group
from finerank.core.train_options import EmbedderOptions, RerankerOptions, TrainOptions
from finerank.models.load import load_encoder, load_scorer
from finerank.stages.train import run
from finerank.training.objectives import embedder_objective

FLAG_TOY = Path(__file__).parents[3] / "shared" / "data" / "flag_toy"
RERANKERS = ("normal", "finetune", "prompt", "unified", "qa", "icl", "tool", "convsearch")
NO_ROWS = ("toy_pretrain_data", "chat", "toy_evaluation_corpus")


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def lines(count: int, negatives: int = 3, **keys: Any) -> list[dict[str, Any]]:
    def one(at: int) -> dict[str, Any]:
        others = [f"red dog {at} {number}" for number in range(negatives)]
        return {"query": f"find code {at}", "pos": [f"given file {at}"], "neg": others, **keys}

    return list(map(one, range(count)))


def trained(family: type[TrainOptions], model: str, folder: Path, *data: str, **values: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "model_name_or_path": model, "train_data": list(data), "output_dir": str(folder), "train_group_size": 4,
        "per_device_train_batch_size": 4, "device": "cpu", "dtype": "float32", "logging_steps": 1, "max_steps": 2,
    }  # fmt: skip
    outcome = run(family(**defaults | values), {})
    return outcome.data


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Callable[[type[TrainOptions]], str]:
    names = {EmbedderOptions: "tiny_encoder", RerankerOptions: "tiny_reranker"}
    return lambda family: str(request.getfixturevalue(names[family]))


FAMILIES = pytest.mark.parametrize("family", [EmbedderOptions, RerankerOptions])


@FAMILIES
@pytest.mark.parametrize(
    ("rows", "values"),
    [
        (lines(1), {}),  # a batch larger than the data
        (lines(2, 0), {}),
        (lines(3, 1), {"max_steps": 1}),
        (lines(5, 9), {"num_train_epochs": 1, "max_steps": -1}),
        ([{"query": "a", "pos": ["b"], "neg": ["b", "c", "B"]}], {}),  # a positive that is also a negative
        (lines(3, 2, type=None, prompt=None), {}),
        (lines(6, 2), {"dataloader_drop_last": True}),
    ],
)
def test_edges(
    tmp_path: Path, model: Callable[..., str], family: type[TrainOptions], rows: list[dict[str, Any]],
    values: dict[str, Any],
) -> None:  # fmt: skip
    result = trained(family, model(family), tmp_path / "out", write(tmp_path / "rows.jsonl", *rows), **values)
    assert result["rows"] == len(rows)
    assert result["final_loss"] == pytest.approx(result["final_loss"])
    load = load_encoder if family is EmbedderOptions else load_scorer
    load(str(tmp_path / "out"), device="cpu", dtype="float32")


@FAMILIES
def test_one_row_without_anything_to_be_a_negative(
    tmp_path: Path, model: Callable[..., str], family: type[TrainOptions]
) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1: the row has no negative"):
        trained(family, model(family), tmp_path / "out", write(tmp_path / "rows.jsonl", *lines(1, 0)))


def test_flagembeddings_data_sets_train_together(
    tmp_path: Path, tiny_encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    retrieval = tmp_path / "retrieval"
    write(retrieval / "msmarco.jsonl", *lines(6, 5, prompt="find: ", type="normal"))
    write(retrieval / "nli.jsonl", *lines(5, 1, type="only_1neg", batch_size=2))
    classes = tmp_path / "classification-no_in_batch_neg"
    write(classes / "reviews.jsonl", *lines(5, 2, type="symmetric_class"))
    sts = write(tmp_path / "sts.jsonl", *lines(3, 4, prompt="sort: ", type="symmetric_sts"))
    folders = [str(retrieval), str(classes), sts]
    for apart in (False, True):
        values = {"same_dataset_within_batch": apart, "num_train_epochs": 2, "max_steps": -1}
        result = trained(EmbedderOptions, tiny_encoder, tmp_path / f"out {apart}", *folders, **values)
        heard = capsys.readouterr().err
        assert "5 rows of type only_1neg: groups of 2" in heard
        assert "data set reviews: 5 rows, no in-batch negatives" in heard
        assert "9 of 19 rows bring an instruction of their own" in heard
        assert result["steps"] == 2 * (2 + 3 + 2 + 1 if apart else 3 + 2 + 2)
    assert ("batches of their own" in heard) is False


def test_weights_and_the_key_they_change(tmp_path: Path, tiny_encoder: str) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", *lines(4)) for name in "ab"]
    values = {"num_train_epochs": 1, "max_steps": -1}
    assert trained(EmbedderOptions, tiny_encoder, tmp_path / "one", *paths, **values)["steps"] == 2
    weighted = trained(EmbedderOptions, tiny_encoder, tmp_path / "two", *paths, data_weights=[2, 0.5], **values)
    assert weighted["steps"] == 3


def test_an_embedder_reads_a_rows_prompt_in_the_place_of_its_own(tiny_encoder: str) -> None:
    encoder = load_encoder(tiny_encoder, device="cpu", dtype="float32", query_prompt="find: ", passage_prompt="text: ")

    def embedded(**keys: Any) -> tuple[torch.Tensor, torch.Tensor]:
        batch = encoder.collate([Group("red dog", ("blue cat", "code"), 0, **keys)])
        outputs = encoder.outputs(encoder.module(batch["micro"]), batch)
        return outputs["queries"], outputs["passages"]

    def expected(side: str, *texts: str) -> torch.Tensor:
        bare = load_encoder(tiny_encoder, device="cpu", dtype="float32", query_prompt="", passage_prompt="")
        return torch.from_numpy(bare.encode(texts, side))  # type: ignore[arg-type]

    for keys, before, before_passage in (
        ({}, "find: ", "text: "),
        ({"query_prompt": "list: "}, "list: ", "text: "),
        ({"query_prompt": ""}, "", "text: "),
        ({"alike": True}, "find: ", "find: "),
        ({"query_prompt": "list: ", "alike": True}, "list: ", "list: "),
    ):
        queries, passages = embedded(**keys)  # type: ignore[arg-type]
        assert torch.allclose(queries, expected("query", before + "red dog"), atol=1e-5)
        assert torch.allclose(
            passages, expected("passage", before_passage + "blue cat", before_passage + "code"), atol=1e-5
        )


def test_groups_with_several_prompts_in_one_batch(tiny_encoder: str) -> None:
    encoder = load_encoder(tiny_encoder, device="cpu", dtype="float32", query_prompt="find: ")
    groups = [
        Group("red", ("a", "b"), 0, query_prompt="sort: "),
        Group("red", ("c", "d"), 1),
        Group("red", ("e", "f"), 2),
    ]
    batch = encoder.collate(groups)
    queries = encoder.outputs(encoder.module(batch["micro"]), batch)["queries"]
    assert not torch.allclose(queries[0], queries[1], atol=1e-3)
    assert torch.allclose(queries[1], queries[2], atol=1e-6)


def test_a_reranker_reads_instructions_before_both_texts(tmp_path: Path, tiny_reranker: str) -> None:
    scorer = load_scorer(tiny_reranker, device="cpu", dtype="float32")
    group = Group("red", ("dog", "cat"), 0, query_prompt="find: ", passage_prompt="text: ")
    batch = scorer.collate([group])
    scores = scorer.outputs(scorer.module(batch["micro"]), batch)["scores"][0]
    assert scores.tolist() == pytest.approx(
        scorer.score([("find: red", "text: dog"), ("find: red", "text: cat")]).tolist(), abs=1e-5
    )
    rows = write(tmp_path / "rows.jsonl", *lines(4, query_prompt="list: "))
    given = {"query_instruction_for_rerank": "find: ", "passage_instruction_for_rerank": "text: "}
    plain = trained(RerankerOptions, tiny_reranker, tmp_path / "plain", rows)
    instructed = trained(RerankerOptions, tiny_reranker, tmp_path / "instructed", rows, **given)
    assert plain["final_loss"] != instructed["final_loss"]


def measured(folder: Path) -> list[dict[str, float]]:
    """Return all figures of a run, of the base model first, by their names."""
    entries = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    figures = ("eval_nDCG@10", "eval_MRR", "eval_accuracy")
    return [{name: entry[name] for name in figures} for entry in entries if figures[0] in entry]


@FAMILIES
@pytest.mark.parametrize("held_out", ["eval_data", "hold_out"])
def test_rows_are_measured_with_the_prompts_that_they_are_trained_on(
    tmp_path: Path, model: Callable[..., str], family: type[TrainOptions], held_out: str
) -> None:
    embedder = family is EmbedderOptions
    flag = "query_instruction_for_retrieval" if embedder else "query_instruction_for_rerank"
    key = "prompt" if embedder else "query_prompt"

    def figures(name: str, instruction: str, **keys: Any) -> list[dict[str, float]]:
        rows = write(tmp_path / f"{name}.jsonl", *lines(40, 8, **keys))
        watched = {"eval_data": [rows]} if held_out == "eval_data" else {"hold_out": 0.5}
        given: dict[str, Any] = {flag: instruction, "learning_rate": 1e-3, "eval_steps": 1, **watched}
        trained(family, model(family), tmp_path / name, rows, **given)
        return measured(tmp_path / name)

    prompted = figures("prompted", "read the tree: ", **{key: "sort two dog: "})
    assert len(prompted) == 3
    # Every row has the same one, so it is as if the run had it.
    assert prompted == figures("given", "sort two dog: ")
    assert prompted[0] != figures("bare", "read the tree: ")[0]


def test_a_batch_without_in_batch_negatives_has_the_loss_of_its_own_groups(tiny_encoder: str) -> None:
    vectors = torch.nn.functional.normalize(torch.randn(9, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    outputs = {"queries": vectors[:3], "passages": vectors[3:]}
    batch = {"passage_ids": torch.arange(6), "positive_ids": [torch.tensor([2 * at]) for at in range(3)]}
    own = (outputs["queries"][:, None] * outputs["passages"].view(3, 2, 8)).sum(-1) / 0.05
    expected = -own.log_softmax(dim=-1)[:, 0]
    loss = embedder_objective(temperature=0.05)
    assert torch.allclose(loss(outputs, {**batch, "in_batch": False}), expected, atol=1e-5)
    assert not torch.allclose(loss(outputs, batch), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["kl", "m3_kd"])
def test_distillation_without_in_batch_negatives(tmp_path: Path, tiny_encoder: str, kind: str) -> None:
    scored = [{**line, "pos_scores": [2.0], "neg_scores": [0.5, 0.25, -1.0]} for line in lines(4)]
    rows = write(tmp_path / "topics-no_in_batch_neg.jsonl", *scored)
    result = trained(
        EmbedderOptions, tiny_encoder, tmp_path / "out", rows, knowledge_distillation=True, kd_loss_type=kind
    )
    assert result["final_loss"] == pytest.approx(result["final_loss"])


@pytest.mark.slow
@pytest.mark.skipif(not FLAG_TOY.is_dir(), reason="FlagEmbedding's toy data is not beside the repository")
def test_flagembeddings_toy_data(tmp_path: Path, tiny_encoder: str, tiny_reranker: str) -> None:
    files = sorted(path for path in FLAG_TOY.iterdir() if path.suffix in (".json", ".jsonl"))
    assert len(files) > 15
    for path in files:
        if any(word in path.stem for word in NO_ROWS):
            with pytest.raises(DataError) as caught:
                trained(EmbedderOptions, tiny_encoder, tmp_path / path.stem, str(path))
            assert f"{path}:1: " in str(caught.value).splitlines()[0]
            continue
        scored = '"neg_scores"' in path.read_text(encoding="utf-8")
        for learning in ({}, {"knowledge_distillation": True}) if scored else ({},):
            folder = tmp_path / f"{path.stem} {len(learning)}"
            assert trained(EmbedderOptions, tiny_encoder, folder, str(path), **learning)["steps"] == 2
            if any(word in path.stem for word in RERANKERS):
                folder = folder.with_name(f"{folder.name} reranker")
                assert trained(RerankerOptions, tiny_reranker, folder, str(path), **learning)["steps"] == 2
    together = [str(path) for path in files if path.name.startswith("embedder")]
    for apart in (False, True):
        folder = tmp_path / f"together {apart}"
        values = {"same_dataset_within_batch": apart, "max_steps": -1, "num_train_epochs": 1}
        assert trained(EmbedderOptions, tiny_encoder, folder, *together, **values)["rows"] == 80
