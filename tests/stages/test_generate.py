"""``finerank generate``: rows, splits, resumes, refusals; on made-up corpora, without a model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from finerank.cli import main
from finerank.generation import collecting, making

from ..generation.corpus import chinese, illnesses, world, write
from ..llm_server import chat

FILES = ("train_data.jsonl", "test_data.jsonl", "test_data_sample.jsonl")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def words(corpus: Path, output: Path, *more: str) -> list[str]:
    return ["generate", "--corpus", str(corpus), "--output_dir", str(output), *more]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write(tmp_path / "pool.jsonl", illnesses())


@pytest.fixture
def wiki(tmp_path: Path) -> Path:
    return write(tmp_path / "wiki.jsonl", world())


def documents_of(rows: list[dict[str, Any]]) -> set[str]:
    return {name.removesuffix("#cut") for row in rows for name in (*row["pos_id"], *row["neg_id"], row["source_id"])}


def test_a_folder_of_pages_just_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in illnesses():
        name, part = line["_id"].split("-")
        page = tmp_path / "docs" / f"{name}.md"
        page.parent.mkdir(exist_ok=True)
        head = "" if page.exists() else f"# {name.capitalize()} illness\n"
        with open(page, "a", encoding="utf-8") as file:
            file.write(f"{head}\n## {part.capitalize()}\n\n{line['text']}\n")
    assert main(["generate", "docs/", "--num_examples", "24", "--test_share", "0.25"]) == 0
    shown = capsys.readouterr()
    assert "24 of 24 rows" in shown.out
    assert "finerank mine" in shown.out
    assert "oracle" in shown.err
    train, test = read(Path("data/train_data.jsonl")), read(Path("data/test_data.jsonl"))
    assert len(train) + len(test) <= 24
    assert test
    assert read(Path("data/test_data_sample.jsonl")) == test[:10]
    pool = {each["contents"] for each in read(Path("data/corpus.jsonl"))}
    for row in train + test:
        assert row["neg"]
        assert row["pos"][-1] in pool
        assert set(row["neg"]) <= pool - set(row["pos"])
    assert {row["entity"] for row in train}.isdisjoint({row["entity"] for row in test})
    assert documents_of(train).isdisjoint(documents_of(test))
    assert main(["check", "data/train_data.jsonl", "--test_data", "data/test_data.jsonl"]) == 0


def test_bridges_and_their_summary(wiki: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    more = (
        "--query_mode",
        "bridge",
        "--num_examples",
        "12",
        "--min_length",
        "200",
        "--data_output",
        str(tmp_path / "all.jsonl"),
    )
    assert main(words(wiki, output, *more, "--output", str(tmp_path / "summary.json"))) == 0
    rows = read(tmp_path / "all.jsonl")
    assert rows
    for row in rows:
        assert row["mode"] == "bridge"
        assert row["source_id"] not in row["pos_id"]
        assert all(row["entity"].lower() in text.lower() for text in row["pos"])
        assert len(row["neg"]) == len(row["neg_id"]) == len(row["neg_source"])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["summary"]) == {
        "total_attempts", "successful_examples", "failed_attempts", "success_rate", "execution_time", "output_path",
    }  # fmt: skip
    assert summary["summary"]["successful_examples"] == len(rows)
    assert summary["config"]["lambda1"] == 0.7
    assert "timestamp" in summary


def test_negatives_about_a_rows_topic(pool: Path, tmp_path: Path) -> None:
    """They are about its illness; ``any`` has the others too, and test rows always do."""
    for about in ("auto", "topic", "any"):
        more = ("--num_examples", "24", "--query_mode", "template", "--negatives_about", about)
        assert main(words(pool, tmp_path / about, *more)) == 0
    auto, topic, every = (read(tmp_path / about / "train_data.jsonl") for about in ("auto", "topic", "any"))
    assert [row["query"] for row in auto] == [row["query"] for row in topic] == [row["query"] for row in every]
    near = [[text for text in row["neg"] if row["entity"].lower() in text.lower()] for row in every]
    assert any(near)
    for first, second, third, own in zip(auto, topic, every, near):
        assert second["neg"][: len(own)] == own
        assert first["neg"] == (second["neg"] or third["neg"])
    assert len({(tmp_path / about / "test_data.jsonl").read_bytes() for about in ("auto", "topic", "any")}) == 1


def test_same_seed_same_bytes_another_seed_others(pool: Path, tmp_path: Path) -> None:
    for name, more in {"a": (), "b": (), "c": ("--seed", "7")}.items():
        assert main(words(pool, tmp_path / name, "--num_examples", "20", *more)) == 0
    made = {name: [(tmp_path / name / file).read_bytes() for file in FILES] for name in "abc"}
    assert made["a"] == made["b"]
    assert made["a"] != made["c"]


def test_done_is_done_and_other_options_are_refused(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(words(pool, output, "--num_examples", "10")) == 0
    first = capsys.readouterr().out
    assert main(words(pool, output, "--num_examples", "10")) == 0
    again = capsys.readouterr()
    assert "nothing to do" in again.err
    assert again.out == first
    assert main(words(pool, output, "--num_examples", "11")) == 1
    assert "--num_examples 10 → 11" in capsys.readouterr().err
    assert main(words(pool, output, "--num_examples", "11", "--overwrite")) == 0
    (output / "notes.txt").write_text("mine")
    assert main(words(pool, output, "--num_examples", "12", "--overwrite")) == 0
    assert (output / "notes.txt").read_text() == "mine"


def test_a_small_corpus_ends_with_what_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = write(tmp_path / "few.jsonl", illnesses()[:8])
    assert main(words(pool, tmp_path / "out", "--num_examples", "5000", "--query_mode", "template", "--json")) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["end"] == "exhausted"
    assert 0 < found["made"] < 5000
    assert found["attempts"] == found["made"] + sum(
        count for why, count in found["reasons"].items() if not why.endswith("by_split")
    )  # fmt: skip
    assert "gave no new row" in shown.err


def test_attempts_end_a_run(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(pool, tmp_path / "out", "--num_examples", "40", "--max_attempts", "7", "--json")) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["attempts"] == 7
    assert "--max_attempts" in shown.err


def test_a_corpus_that_gives_nothing_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write(tmp_path / "one.jsonl", [{"text": "Only this document stands here. " * 20}])
    assert main(words(corpus, tmp_path / "out", "--num_examples", "3", "--query_mode", "bridge")) == 1
    shown = capsys.readouterr()
    assert "0 of 3 rows" in shown.out
    assert "gives no query" in shown.out
    assert not (tmp_path / "out" / "train_data.jsonl").exists()
    assert main(words(corpus, tmp_path / "out", "--min_length", "9000")) == 1
    assert "9,000 characters" in capsys.readouterr().err


def test_chinese(tmp_path: Path) -> None:
    corpus = write(tmp_path / "zh.jsonl", chinese())
    assert main(words(corpus, tmp_path / "out", "--num_examples", "10", "--min_length", "60", "--test_share", "0")) == 0
    rows = read(tmp_path / "out" / "train_data.jsonl")
    assert len(rows) == 10
    assert not (tmp_path / "out" / "test_data.jsonl").exists()


def test_listed_documents_come_first(wiki: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("w3\n\nw0\nw999\n")
    more = ("--doc_ids", str(listed), "--num_examples", "2", "--query_mode", "title", "--test_share", "0",
            "--negatives", "0")  # fmt: skip
    assert main(words(wiki, tmp_path / "out", *more)) == 0
    assert [row["source_id"] for row in read(tmp_path / "out" / "train_data.jsonl")] == ["w3", "w0"]
    assert '"w999"' in capsys.readouterr().err


def judged(folder: Path) -> Path:
    lines = illnesses()
    write(folder / "corpus.jsonl", lines)
    write(
        folder / "queries.jsonl",
        [{"_id": f"q{n}", "text": f"care of {lines[4 * n]['text'].split(' is ')[0]}"} for n in range(8)],
    )
    (folder / "qrels").mkdir()
    (folder / "qrels" / "train.tsv").write_text(
        "query-id\tcorpus-id\tscore\n"
        + "".join(f"q{n}\t{lines[4 * n]['_id']}\t1\nq{n}\t{lines[4 * n + 3]['_id']}\t1\n" for n in range(8))
    )  # fmt: skip
    return folder


def test_gold_takes_the_corpus_own_queries(tmp_path: Path) -> None:
    corpus = judged(tmp_path / "beir")
    assert main(words(corpus, tmp_path / "out", "--oracle", "gold", "--test_share", "0", "--num_examples", "8")) == 0
    rows = read(tmp_path / "out" / "train_data.jsonl")
    assert len(rows) == 8
    for row in rows:
        assert [name.split("-")[1] for name in row["pos_id"]] == ["what", "treatment"]
        assert not set(row["neg_id"]) & set(row["pos_id"])


def test_an_embedder_finds_the_candidates(pool: Path, tmp_path: Path, tiny_encoder: str) -> None:
    more = ("--embedder", tiny_encoder, "--embedding_cache", "none", "--device", "cpu", "--dtype", "float32")
    assert main(words(pool, tmp_path / "out", "--num_examples", "5", "--round_trip", "0", *more)) == 0
    assert all(row["neg"] for row in read(tmp_path / "out" / "train_data.jsonl"))


def verdicts(prompt: str, before: int) -> Any:
    if prompt.startswith("Write one search query"):
        document = prompt.split("Document: ", 1)[1].strip()
        return chat(json.dumps({"query": f"what about {' '.join(document.split()[:4])}"}))
    if before % 5 == 4:
        return 500, b"", {}
    return chat("hm" if before % 7 == 6 else json.dumps({"verdict": "yes" if "usual therapy" in prompt else "no"}))


def test_a_language_model_writes_and_judges(
    serve: Any, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINERANK_CACHE", str(tmp_path / "cache"))
    server = serve(verdicts)
    more = (
        "--query_mode", "llm", "--oracle", "llm", "--llm_base_url", server.url, "--llm_model", "tiny",
        "--num_examples", "4",
        "--llm_retries", "0", "--llm_concurrency", "1", "--max_doc_candidates", "4", "--max_attempts", "20", "--json",
    )  # fmt: skip
    assert main(words(pool, tmp_path / "out", *more)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdicts"]["unknown: llm_call_failed"] > 0
    assert found["verdicts"]["unknown: llm_answer_unreadable"] > 0
    assert found["reasons"]["source_not_confirmed"] > 0
    assert not any(why.startswith("negative: llm_c") for why in found["verdicts"])
    asked = len(server.calls)
    budget = ("--max_llm_calls", "3", "--overwrite")
    assert main(words(pool, tmp_path / "out", *more, *budget)) == 1
    assert json.loads(capsys.readouterr().out)["reasons"]["llm_budget"] == 17
    assert len(server.calls) == asked  # all three came from the cache


def test_what_does_not_go_together(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, said in {
        ("--query_mode", "bride"): 'did you mean "bridge"?',
        ("--query_mode", "title:0"): "more than 0",
        ("--oracle", "llm"): "--llm_model",
        ("--lambda1", "0", "--lambda2", "0", "--lambda3", "0"): "all 0",
    }.items():
        assert main(words(pool, tmp_path / "out", *more)) == 2
        assert said in capsys.readouterr().err
    assert main(words(pool, tmp_path / "out", "--oracle", "gold")) == 1
    assert "queries.jsonl" in capsys.readouterr().err


def test_a_break_changes_no_byte(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "SHARD", 4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(words(pool, whole, "--num_examples", "20")) == 0
    make, calls = making.Workshop.make, []

    def breaking(self: making.Workshop, start: int, stop: int) -> Any:
        calls.append(start)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return make(self, start, stop)

    monkeypatch.setattr(making.Workshop, "make", breaking)
    assert main(words(pool, broken, "--num_examples", "20")) == 130
    assert main(words(pool, broken, "--num_examples", "20")) == 0
    assert calls[:6] == [0, 4, 8, 12, 12, 16]
    assert [(broken / name).read_bytes() for name in FILES] == [(whole / name).read_bytes() for name in FILES]


@pytest.mark.slow
def test_sigkill_anywhere_changes_no_byte(pool: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(words(pool, whole, "--num_examples", "100")) == 0
    command = [sys.executable, "-m", "finerank", *words(pool, killed, "--num_examples", "100")]
    for seconds in (0.8, 1.2, 1.6, 2.0, 2.4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert [(killed / name).read_bytes() for name in FILES] == [(whole / name).read_bytes() for name in FILES]
