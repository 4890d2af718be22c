"""``finerank train``: both families against a plain loop, resume, what is odd in data and flags, what is written."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import train_process
from fork_server import SERVER
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from finerank.batching.groups import GroupMaker
from finerank.core.command_line import parse
from finerank.core.errors import DataError, UsageError, UserError
from finerank.core.records import Group
from finerank.data.sources import read_rows
from finerank.stages.train import EmbedderOptions, RerankerOptions, TrainOptions, run
from finerank.training.contrastive import info_nce, similarities
from finerank.training.dataset import EpochBatches

NOUNS = ["cat", "code", "dog", "file", "find", "fish", "list", "name", "path", "string", "text", "tree", "word"]
PLAIN = {"optim": ["sgd"]}
"""Adam would blow rounding errors of near-zero gradients up to whole steps; plain descent keeps them small."""


def write_rows(path: Path, count: int, negatives: int = 3, **extra: Any) -> str:
    lines = []
    for index in range(count):
        noun, other = NOUNS[index % len(NOUNS)], NOUNS[(index * 5 + 1) % len(NOUNS)]
        row = {
            "query": f"{noun} {index}",
            "pos": [f"the {noun} of {other} {index} is " + "read and write " * (index % 4)],
            "neg": [f"{other} {NOUNS[(index + step) % len(NOUNS)]} " + "search " * step for step in range(negatives)],
        }
        lines.append(json.dumps(row | extra))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def rows_file(tmp_path: Path) -> str:
    return write_rows(tmp_path / "rows.jsonl", 10)


def options(family: type[TrainOptions], model: str, rows: str, folder: Path, **values: Any) -> Any:
    defaults: dict[str, Any] = {
        "model_name_or_path": model, "train_data": [rows], "output_dir": str(folder), "train_group_size": 3,
        "per_device_train_batch_size": 4, "device": "cpu", "dtype": "float32", "learning_rate": 0.05,
        "logging_steps": 1, "dropout": 0.0, "warmup_ratio": 0.0, "weight_decay": 0.0, "lr_scheduler_type": "constant",
    }  # fmt: skip
    return family(**defaults | values)


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in journal(folder) if "loss" in entry]


def batches(rows: str, epochs: int) -> list[list[Group]]:
    groups, order, made = GroupMaker(read_rows([rows]), 3, 42), EpochBatches(10, 4, 42), []
    for order.epoch in range(epochs):
        made += [[groups.group(place.epoch, place.index) for place in places] for places in order]
    return made


def descend(parameters: list[torch.nn.Parameter], loss: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def same_weights(module: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(module.state_dict().values(), other.state_dict().values())
    return all(torch.allclose(one, two, atol=1e-5) for one, two in pairs)


def test_reranker_equals_a_plain_padded_loop(tmp_path: Path, rows_file: str, tiny_reranker: str) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run(options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", num_train_epochs=2), PLAIN)
    tokenizer = AutoTokenizer.from_pretrained(tiny_reranker)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_reranker, attn_implementation="eager").eval()
    expected = []
    for batch in batches(rows_file, 2):
        pairs = [(group.query, text) for group in batch for text in group.passages]
        inputs = tokenizer(*map(list, zip(*pairs)), padding=True, truncation=True, max_length=64, return_tensors="pt")
        scores = model(**inputs).logits.view(len(batch), 3)
        loss = cross_entropy(scores, torch.zeros(len(batch), dtype=torch.long))
        descend(list(model.parameters()), loss)
        expected.append(loss.item())
    assert losses(tmp_path / "out") == pytest.approx(expected, abs=1e-5)
    assert same_weights(model, AutoModelForSequenceClassification.from_pretrained(tmp_path / "out"))


def test_embedder_equals_a_plain_padded_loop(tmp_path: Path, rows_file: str, tiny_encoder: str) -> None:
    from sentence_transformers import SentenceTransformer

    given = options(EmbedderOptions, tiny_encoder, rows_file, tmp_path / "out", num_train_epochs=2, temperature=0.05)
    run(given, PLAIN)
    model = SentenceTransformer(tiny_encoder, device="cpu").eval()

    def embed(texts: list[str]) -> torch.Tensor:
        return model(model.preprocess(texts))["sentence_embedding"]

    expected = []
    for batch in batches(rows_file, 2):
        texts = [text for group in batch for text in group.passages]
        masked = torch.tensor([[text in group.known_positives for text in texts] for group in batch])
        queries = embed([group.query for group in batch])
        loss = info_nce(similarities(queries, embed(texts), 3, 0.05, hidden=masked)).mean()
        descend(list(model.parameters()), loss)
        expected.append(loss.item())
    assert losses(tmp_path / "out") == pytest.approx(expected, abs=1e-5)
    assert same_weights(model, SentenceTransformer(str(tmp_path / "out"), device="cpu"))


@pytest.mark.parametrize("family", [EmbedderOptions, RerankerOptions])
def test_loss_falls_and_the_best_is_kept(
    tmp_path: Path, tiny_encoder: str, family: type[TrainOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 8)
    given = options(
        family, tiny_encoder, rows, tmp_path / "out", eval_data=[rows], num_train_epochs=15, learning_rate=3e-3,
    )  # fmt: skip
    outcome = run(given)
    curve = losses(tmp_path / "out")
    assert sum(curve[-4:]) < 0.5 * sum(curve[:4])
    base, best = outcome.data["base"], outcome.data["best"]
    assert set(best) == {"nDCG@10", "MRR", "accuracy"}
    assert best["nDCG@10"] > base["nDCG@10"]
    evaluated = {entry["step"]: entry["eval_nDCG@10"] for entry in journal(tmp_path / "out") if "eval_MRR" in entry}
    assert evaluated[0] == base["nDCG@10"]
    assert max(value for step, value in evaluated.items() if step) == best["nDCG@10"]
    assert "nDCG@10" in outcome.text
    said = capsys.readouterr().err
    assert "before the first step: nDCG@10" in said
    assert "1 positive + 2 negatives" in said
    assert run(given).data == outcome.data
    assert "already trained" in capsys.readouterr().err


@pytest.mark.parametrize("family", [EmbedderOptions, RerankerOptions])
def test_the_card_has_a_snippet_that_runs(tmp_path: Path, rows_file: str, tiny_encoder: str, family: Any) -> None:
    run(options(family, tiny_encoder, rows_file, tmp_path / "out", max_steps=1))
    card = (tmp_path / "out" / "README.md").read_text()
    assert re.search(r'rows.jsonl": "[0-9a-f]{64}"', card)
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert snippet is not None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(snippet[1], {})
    assert printed.getvalue().strip()


def test_what_was_measured_is_what_the_saved_model_gives(tmp_path: Path, rows_file: str, tiny_reranker: str) -> None:
    from finerank.evaluation.held_out import rows_measure
    from finerank.models.load import load_scorer

    given = options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", eval_data=[rows_file], max_steps=4)
    outcome = run(given)
    saved = load_scorer(str(tmp_path / "out"), device="cpu", dtype="float32")
    values = rows_measure(read_rows([rows_file]), scorer=saved)()
    assert {name: sum(each) / len(each) for name, each in values.items()} == pytest.approx(outcome.data["best"])


def write_judged(folder: Path, rows_file: str) -> str:
    (folder / "qrels").mkdir(parents=True)
    rows = read_rows([rows_file])
    texts = list(dict.fromkeys(text for row in rows for text in (*row.positives, *row.negatives)))
    write = lambda name, items: (folder / name).write_text("\n".join(json.dumps(item) for item in items))  # noqa: E731
    write("corpus.jsonl", [{"_id": f"d{place}", "title": "", "text": text} for place, text in enumerate(texts)])
    write("queries.jsonl", [{"_id": f"q{place}", "text": row.query} for place, row in enumerate(rows)])
    lines = [f"q{place}\td{texts.index(row.positives[0])}\t1" for place, row in enumerate(rows)]
    (folder / "qrels" / "dev.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return str(folder)


def test_judged_folders(tmp_path: Path, rows_file: str, tiny_encoder: str, tiny_reranker: str) -> None:
    folder = write_judged(tmp_path / "judged", rows_file)
    given: dict[str, Any] = {"eval_data": [folder], "max_steps": 2}
    embedder = run(options(EmbedderOptions, tiny_encoder, rows_file, tmp_path / "e", **given))
    bm25 = run(options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "r", **given))
    dense = run(options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "d", first_stage=tiny_encoder, **given))
    for outcome in (embedder, bm25, dense):
        assert 0 < outcome.data["base"]["nDCG@10"] <= 1
    with pytest.raises(UsageError, match="one judged folder"):
        run(options(EmbedderOptions, tiny_encoder, rows_file, tmp_path / "x", eval_data=[folder, rows_file]))


def test_the_first_stage_is_part_of_what_was_trained(
    tmp_path: Path, rows_file: str, tiny_encoder: str, tiny_reranker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finerank.models import trainables

    judged = write_judged(tmp_path / "judged", rows_file)
    first = tmp_path / "first"
    shutil.copytree(tiny_encoder, first)
    asked: list[dict[str, Any]] = []
    honest = trainables.load_encoder
    monkeypatch.setattr(trainables, "load_encoder", lambda name, **given: asked.append(given) or honest(name, **given))
    given = options(
        RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", eval_data=[judged], max_steps=1,
        first_stage=str(first), cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    run(given)
    assert [(each["cache_dir"], each["trust_remote_code"]) for each in asked] == [(str(tmp_path / "cache"), False)]
    assert run(given).data["steps"] == 1
    weights = load_file(first / "model.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    save_file(weights | {name: weights[name] + 1.0}, first / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="model first_stage"):
        run(given)


def test_a_model_made_for_inner_products_is_trained_and_measured_by_them(
    tmp_path: Path, rows_file: str, tiny_encoder: str
) -> None:
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(tiny_encoder, device="cpu")
    del plain[2]
    folders = {}
    for name in ("cosine", "dot"):
        plain.similarity_fn_name = name
        plain.save_pretrained(str(tmp_path / name), create_model_card=False)
        given = options(EmbedderOptions, str(tmp_path / name), rows_file, tmp_path / f"{name}-out", max_steps=1)
        run(given)
        folders[name] = losses(tmp_path / f"{name}-out")
    batch = batches(rows_file, 1)[0]
    texts = [text for group in batch for text in group.passages]
    masked = torch.tensor([[text in group.known_positives for text in texts] for group in batch])
    queries, passages = (torch.tensor(plain.encode(part)) for part in ([group.query for group in batch], texts))
    expected = info_nce(similarities(queries, passages, 3, 1.0, hidden=masked)).mean().item()
    assert folders["dot"] == pytest.approx([expected], rel=1e-4)
    unit = [torch.nn.functional.normalize(vectors, dim=-1) for vectors in (queries, passages)]
    expected = info_nce(similarities(*unit, 3, 0.02, hidden=masked)).mean().item()
    assert folders["cosine"] == pytest.approx([expected], rel=1e-4)


def test_saving_nothing_still_keeps_the_best(
    tmp_path: Path, rows_file: str, tiny_reranker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options(
        RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", eval_data=[rows_file], num_train_epochs=4,
        eval_steps=1, learning_rate=0.5,
    )  # fmt: skip
    outcome = run(given, {"save_strategy": ["no"]})
    assert "--save_strategy no: each new best is saved" in capsys.readouterr().err
    evaluated = {entry["step"]: entry["eval_nDCG@10"] for entry in journal(tmp_path / "out") if "eval_MRR" in entry}
    assert outcome.data["best"]["nDCG@10"] == max(value for step, value in evaluated.items() if step)


def test_the_card_tells_the_change_and_its_interval(tmp_path: Path, rows_file: str, tiny_reranker: str) -> None:
    from finerank.evaluation.held_out import rows_measure
    from finerank.evaluation.significance import paired_interval
    from finerank.models.load import load_scorer

    given = options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", eval_data=[rows_file], max_steps=4)
    outcome = run(given)
    base, tuned = (
        rows_measure(read_rows([rows_file]), scorer=load_scorer(str(name), device="cpu", dtype="float32"))()
        for name in (tiny_reranker, tmp_path / "out")
    )
    expected = paired_interval(tuned["MRR"], base["MRR"], 42)
    assert outcome.data["changes"]["MRR"] == pytest.approx(expected._asdict())
    line = f"{expected.mean:+.4f} | {expected.low:+.4f} to {expected.high:+.4f} |"
    assert line in (tmp_path / "out" / "README.md").read_text()
    assert f"{expected.low:+.4f} to {expected.high:+.4f}" in outcome.text


@pytest.mark.parametrize("family", [EmbedderOptions, RerankerOptions])
def test_odd_data(tmp_path: Path, tiny_encoder: str, family: Any, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_rows(tmp_path / "one.jsonl", 1)
    assert run(options(family, tiny_encoder, one, tmp_path / "one")).data["steps"] == 1
    bare = write_rows(tmp_path / "bare.jsonl", 5, negatives=0)
    counts = run(options(family, tiny_encoder, bare, tmp_path / "bare", eval_data=[bare])).data["groups"]
    assert (counts["own"], counts["random"], counts["repeated"]) == (0, 10, 0)
    assert "5 of 5 rows have under 2 usable negatives: 10 random" in capsys.readouterr().err
    large = options(
        family, tiny_encoder, one, tmp_path / "large", per_device_train_batch_size=64, dataloader_drop_last=True
    )  # fmt: skip
    assert run(large).data["steps"] == 1
    assert "would drop all 1 rows" in capsys.readouterr().err
    lonely = write_rows(tmp_path / "lonely.jsonl", 1, negatives=0)
    with pytest.raises(DataError, match=r"lonely.jsonl:1: the row has no negative"):
        run(options(family, tiny_encoder, lonely, tmp_path / "lonely"))


def test_rows_are_drawn_per_data_set(tmp_path: Path, tiny_encoder: str) -> None:
    first, second = write_rows(tmp_path / "a.jsonl", 9), write_rows(tmp_path / "b.jsonl", 2)
    given = options(
        EmbedderOptions, tiny_encoder, first, tmp_path / "out", max_example_num_per_dataset=4, max_steps=1,
        train_data=[first, second],
    )  # fmt: skip
    assert run(given).data["rows"] == 6


def test_bfloat16_products_leave_float32_weights(tmp_path: Path, rows_file: str, tiny_encoder: str) -> None:
    for family in (EmbedderOptions, RerankerOptions):
        folder = tmp_path / family.__name__
        given = options(family, tiny_encoder, rows_file, folder, dtype="bfloat16", eval_data=[rows_file], max_steps=2)
        run(given)
        assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} <= {
            torch.float32, torch.int64,
        }  # fmt: skip
        full = options(family, tiny_encoder, rows_file, folder.with_suffix(".full"), max_steps=2)
        run(full)
        assert losses(folder) == pytest.approx(losses(folder.with_suffix(".full")), rel=0.05)
        assert losses(folder) != losses(folder.with_suffix(".full"))


def test_gradient_checkpointing_changes_nothing(tmp_path: Path, rows_file: str, tiny_reranker: str) -> None:
    run(options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "plain"))
    run(options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "saved"), {"gradient_checkpointing": ["True"]})
    assert losses(tmp_path / "saved") == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)


def test_workers_change_nothing(tmp_path: Path, rows_file: str, tiny_encoder: str) -> None:
    run(options(EmbedderOptions, tiny_encoder, rows_file, tmp_path / "0", num_train_epochs=2, dropout=0.1))
    given = options(EmbedderOptions, tiny_encoder, rows_file, tmp_path / "2", num_train_epochs=2, dropout=0.1)
    run(given, {"dataloader_num_workers": ["2"]})
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "02"]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("family", "kills"),
    [
        ("RerankerOptions", 1),
        pytest.param("RerankerOptions", 10, marks=pytest.mark.slow),
        pytest.param("EmbedderOptions", 10, marks=pytest.mark.slow),
    ],
)
def test_sigkill_then_the_same_command_gives_the_same_bytes(
    tmp_path: Path, rows_file: str, tiny_encoder: str, family: str, kills: int
) -> None:
    values = {
        "model_name_or_path": tiny_encoder, "train_data": [rows_file], "eval_data": [rows_file], "eval_steps": 3,
        "train_group_size": 3, "per_device_train_batch_size": 4, "device": "cpu", "dtype": "float32",
        "learning_rate": 1e-3, "save_steps": 1, "logging_steps": 1, "num_train_epochs": 1 + 2 * kills,
    }  # fmt: skip
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    train_process.train(family, values | {"output_dir": str(tmp_path / "whole" / "out")})
    folder = tmp_path / "killed" / "out"
    generator = random.Random(kills)
    for _ in range(kills):
        process = SERVER.Process(target=train_process.train, args=(family, values | {"output_dir": str(folder)}, True))
        process.start()
        wait_for_lines(folder / "metrics.jsonl", generator.randint(1, 6), process)
        time.sleep(generator.random() * 0.1)
        process.kill()
        process.join()
    train_process.train(family, values | {"output_dir": str(folder)})
    for name in ("model.safetensors", "config.json"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / "out" / name).read_bytes()
    assert (folder / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "out" / "metrics.jsonl").read_bytes()


def wait_for_lines(path: Path, lines: int, process: Any) -> None:
    """Wait until ``process`` has added ``lines`` lines, or has ended."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    start = None
    while process.is_alive():
        if path.exists() and path.stat().st_mtime_ns != before:
            count = len(path.read_bytes().splitlines())
            start = count if start is None else start
            if count - start >= lines:
                return
        time.sleep(0.005)


def test_many_cut_positives_and_a_worse_model_are_said(
    tmp_path: Path, rows_file: str, tiny_reranker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from finerank.training.tripwires import worse_than_base

    run(options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", max_len=8, max_steps=1))
    assert "positives (100%) are longer than 8 tokens" in capsys.readouterr().err
    assert worse_than_base({"MRR": 0.5}, {"MRR": 0.4}, "MRR") == (
        "the tuned model is worse than the base: MRR 0.5000 -> 0.4000"
    )
    assert worse_than_base({"MRR": 0.5}, {"MRR": 0.5}, "MRR") is None


def test_another_run_over_a_finished_one_is_refused(tmp_path: Path, rows_file: str, tiny_reranker: str) -> None:
    run(options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", max_steps=1))
    with pytest.raises(UserError, match="--max_steps"):
        run(options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", max_steps=2))
    again = options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", max_steps=2, overwrite=True)
    assert run(again).data["steps"] == 2


def test_a_missing_model_is_one_sentence(tmp_path: Path, rows_file: str) -> None:
    with pytest.raises(UserError, match="not found: there is no such folder"):
        run(options(RerankerOptions, "./no/such/model", rows_file, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_figure_that_decides(tmp_path: Path, rows_file: str, tiny_reranker: str) -> None:
    given = options(RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", metric_for_best_model="ndcg@1")
    with pytest.raises(UsageError, match='unknown --metric_for_best_model "ndcg@1"; did you mean "ndcg@10"'):
        run(given)
    typed = options(
        RerankerOptions, tiny_reranker, rows_file, tmp_path / "out", eval_data=[rows_file], max_steps=1,
        metric_for_best_model="eval_mrr",
    )  # fmt: skip
    assert run(typed).data["best_step"] == 1
    assert not (tmp_path / "out" / "checkpoint-0").exists()


def test_the_other_spelling_of_the_instruction_format() -> None:
    words = ["--model_name_or_path", "M", "--train_data", "R", "--query_instruction_format_for_retrieval", "{} | {}"]
    parsed = parse(EmbedderOptions, words, "train embedder", passthrough=True)
    assert parsed.options.query_instruction_format == "{} | {}"
    assert parsed.extras == {}


def test_bare_resume_flag() -> None:
    words = ["--model_name_or_path", "M", "--train_data", "R", "--resume_from_checkpoint", "--seed", "7"]
    assert parse(RerankerOptions, words, "train reranker").options.resume_from_checkpoint == "auto"
    words[5:5] = ["some/folder"]
    assert parse(RerankerOptions, words, "train reranker").options.resume_from_checkpoint == "some/folder"
