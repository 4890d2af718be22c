"""``finerank mine`` on a tiny model: what is written, what is refused, and that kills change no byte."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import verb_process
from fork_server import SERVER

from finerank.cli import main
from finerank.data.text import normal_form
from finerank.retrieval import mining, vectors
from finerank.stages import mine

SOME = "cat dog file find fish list name number open path read remove search sort string text tree two write red"
WORDS = SOME.split()


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sentences(count: int, seed: int, words: int = 6) -> list[str]:
    rng = random.Random(seed)
    return list(dict.fromkeys(" ".join(rng.choices(WORDS, k=words)) for _ in range(count)))


def make_rows(count: int = 30, negatives: int = 3) -> list[dict[str, Any]]:
    texts = sentences(count * (negatives + 2), seed=1)
    width = negatives + 1
    return [
        {"query": " ".join(texts[i * width].split()[:3]), "pos": [texts[i * width]],
         "neg": texts[i * width + 1 : (i + 1) * width], "id": i}
        for i in range(count)
    ]  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", make_rows())


def words(model: str, source: Path, output: Path, *more: str) -> list[str]:
    return ["mine", "--model_name_or_path", model, "--input_file", str(source), "--output_file", str(output),
            "--dtype", "float32", "--device", "cpu", *more]  # fmt: skip


def test_every_row_gets_its_negatives_and_nothing_else_changes(
    tiny_encoder: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mined.jsonl"
    assert main(words(tiny_encoder, rows, output, "--range_for_sampling", "2-40", "--negative_number", "5")) == 0
    before, after = read(rows), read(output)
    pool = {text for row in before for text in (*row["pos"], *row["neg"])}
    assert len(after) == len(before)
    for old, new in zip(before, after):
        assert (new["query"], new["pos"], new["id"]) == (old["query"], old["pos"], old["id"])
        assert len(new["neg"]) == len(set(new["neg"])) == len(new["neg_similarities"]) == 5
        assert set(new["neg"]) <= pool - set(new["pos"])
        assert new["neg_similarities"] == sorted(new["neg_similarities"], reverse=True)
        assert len(new["pos_similarities"]) == 1
    shown = capsys.readouterr()
    assert "survivors" in shown.out
    assert "mean / median" in shown.out
    assert "parameters" in shown.err
    counts = json.loads((tmp_path / "mined.jsonl.manifest.json").read_text())["counts"]
    assert counts["in_range"] == 30 * 38
    assert counts["negatives"] == 30 * 5
    dropped = sum(counts[rule] for rule in mine_rules())
    assert counts["survivors"] == counts["in_range"] - dropped


def mine_rules() -> tuple[str, ...]:
    from finerank.retrieval.negatives import RULES

    return RULES


def test_similarities_are_the_models_cosines(tiny_encoder: str, rows: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer, util

    output = tmp_path / "mined.jsonl"
    assert main(words(tiny_encoder, rows, output, "--range_for_sampling", "0-20")) == 0
    model = SentenceTransformer(tiny_encoder, device="cpu")
    for row in read(output)[:5]:
        vectors = model.encode([row["query"], *row["pos"], *row["neg"]])
        cosines = util.cos_sim(vectors[:1], vectors[1:])[0].tolist()
        assert row["pos_similarities"] + row["neg_similarities"] == pytest.approx(cosines, abs=2e-5)


def test_top_of_the_whole_range_is_the_ranking_without_positives(tiny_encoder: str, rows: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    output = tmp_path / "mined.jsonl"
    more = ("--range_for_sampling", "0-10", "--sampling", "top", "--negative_number", "4", "--embedding_cache", "none")
    assert main(words(tiny_encoder, rows, output, *more)) == 0
    before = read(rows)
    pool = list(dict.fromkeys(text for row in before for text in (*row["pos"], *row["neg"])))
    model = SentenceTransformer(tiny_encoder, device="cpu")
    scores = model.encode([row["query"] for row in before]) @ model.encode(pool).T
    same = sum(
        row["neg"] == [pool[i] for i in (-line).argsort()[:10] if pool[i] not in row["pos"]][:4]
        for row, line in zip(read(output), scores)
    )
    assert same >= 28  # two encoders may order a near-tie differently


def test_two_runs_write_the_same_bytes_whatever_the_batches(tiny_encoder: str, rows: Path, tmp_path: Path) -> None:
    made = []
    for index, more in enumerate(([], ["--search_batch_size", "7", "--batch_size", "3", "--embedding_cache", "none"])):
        output = tmp_path / f"mined{index}.jsonl"
        assert main(words(tiny_encoder, rows, output, "--range_for_sampling", "1-50", *more)) == 0
        made.append(output.read_bytes())
    assert made[0] == made[1]
    output = tmp_path / "other.jsonl"
    assert main(words(tiny_encoder, rows, output, "--range_for_sampling", "1-50", "--seed", "7")) == 0
    assert output.read_bytes() != made[0]


def test_done_is_done_and_other_options_are_refused(
    tiny_encoder: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mined.jsonl"
    assert main(words(tiny_encoder, rows, output)) == 0
    first = output.stat()
    table = capsys.readouterr().out
    assert main(words(tiny_encoder, rows, output)) == 0
    again = capsys.readouterr()
    assert "nothing to do" in again.err
    assert again.out == table
    assert output.stat().st_mtime_ns == first.st_mtime_ns
    assert main(words(tiny_encoder, rows, output, "--negative_number", "3")) == 1
    assert "--negative_number 15 → 3" in capsys.readouterr().err
    assert main(words(tiny_encoder, rows, output, "--negative_number", "3", "--overwrite")) == 0
    assert all(len(row["neg"]) == 3 for row in read(output))


def test_a_sibling_rows_positive_in_another_spelling_is_never_mined(tiny_encoder: str, tmp_path: Path) -> None:
    lines = make_rows(12)
    lines[1]["query"] = lines[0]["query"].upper() + " "
    lines[2]["neg"] = [lines[1]["pos"][0].title(), lines[0]["query"]]
    source, output = write(tmp_path / "rows.jsonl", lines), tmp_path / "mined.jsonl"
    assert main(words(tiny_encoder, source, output, "--range_for_sampling", "0-60", "--negative_number", "60")) == 0
    first, second = read(output)[:2]
    forbidden = {normal_form(text) for text in (*first["pos"], *second["pos"], first["query"])}
    assert len(forbidden) == 3
    for row in (first, second):
        assert not forbidden & {normal_form(text) for text in row["neg"]}


def test_stale_scores_leave_and_that_is_said(
    tiny_encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = make_rows(12)
    for line in lines:
        line |= {"pos_scores": [1.0], "neg_scores": [0.1, 0.2, 0.3], "neg_id": ["a", "b", "c"], "neg_index": [1, 2, 3]}
        line |= {"pos_id": ["p"], "prompt": "find", "type": "retrieval"}
    source, output = write(tmp_path / "rows.jsonl", lines), tmp_path / "mined.jsonl"
    assert main(words(tiny_encoder, source, output, "--range_for_sampling", "0-20")) == 0
    keys = {"query", "pos", "neg", "id", "pos_id", "prompt", "type", "pos_similarities", "neg_similarities"}
    assert all(set(row) == keys for row in read(output))
    assert "neg_scores (12 rows)" in capsys.readouterr().err


def test_keep_negatives(tiny_encoder: str, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "mined.jsonl"
    more = ("--keep_negatives", "--range_for_sampling", "0-40", "--negative_number", "5")
    assert main(words(tiny_encoder, rows, output, *more)) == 0
    for old, new in zip(read(rows), read(output)):
        assert new["neg"][:3] == old["neg"]
        assert len(set(new["neg"])) == len(new["neg_similarities"]) == 5


@pytest.mark.parametrize("when_short", ["pad", "keep", "drop", "error"])
def test_when_short(
    tiny_encoder: str, rows: Path, tmp_path: Path, when_short: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mined.jsonl"
    more = ("--range_for_sampling", "0-5", "--negative_number", "5", "--when_short", when_short)
    code = main(words(tiny_encoder, rows, output, *more))
    if when_short == "error":
        assert code == 1
        assert "--negative_number 5 cannot be met for" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
        return
    assert code == 0
    lengths = [len(row["neg"]) for row in read(output)]
    counts = json.loads((tmp_path / "mined.jsonl.manifest.json").read_text())["counts"]
    assert counts["rows_short"] > 0
    if when_short == "pad":
        assert lengths == [5] * 30
    elif when_short == "keep":
        assert min(lengths) < 5
    else:
        assert len(lengths) == 30 - counts["rows_dropped"] == 30 - counts["rows_short"]


def test_padding_searches_deeper_when_it_must(tiny_encoder: str, tmp_path: Path) -> None:
    lines = make_rows(40, negatives=0)
    lines = [line | {"query": "find the file", "neg": []} for line in lines[:30]] + lines[30:]
    source, output = write(tmp_path / "rows.jsonl", lines), tmp_path / "mined.jsonl"
    assert main(words(tiny_encoder, source, output, "--range_for_sampling", "0-2", "--negative_number", "3")) == 0
    others = {line["pos"][0] for line in lines[30:]}
    for row in read(output)[:30]:  # 30 positives stand before and between: only the other ten may be negatives
        assert len(row["neg"]) == 3
        assert set(row["neg"]) <= others


def test_a_pool_file_replaces_the_rows_texts(tiny_encoder: str, rows: Path, tmp_path: Path) -> None:
    pool = sentences(50, seed=9, words=4)
    source = write(tmp_path / "pool.jsonl", [{"text": text} for text in pool])
    output = tmp_path / "mined.jsonl"
    more = ("--candidate_pool", str(source), "--range_for_sampling", "0-50", "--negative_number", "8")
    assert main(words(tiny_encoder, rows, output, *more)) == 0
    assert all(set(row["neg"]) <= set(pool) and len(row["neg"]) == 8 for row in read(output))


def test_rows_without_neg_and_a_pool_smaller_than_asked(
    tiny_encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"query": f"find {text}", "pos": [text]} for text in sentences(6, seed=3)]
    source, output = write(tmp_path / "rows.jsonl", lines), tmp_path / "mined.jsonl"
    assert main(words(tiny_encoder, source, output, "--range_for_sampling", "0-100")) == 0
    assert all(len(row["neg"]) == 5 for row in read(output))
    said = capsys.readouterr().err
    assert "the pool of 6 is smaller than --negative_number 15" in said
    assert "6 rows have fewer negatives than asked for" in said


@pytest.mark.parametrize(
    ("lines", "more", "code", "said"),
    [
        ([{"query": "q", "pos": ["p"], "neg": ["n"]}], [], 1, "starts beyond the pool of 2 passage"),
        ([{"query": "q", "pos": ["p"]}], ["--range_for_sampling", "0-5", "--when_short", "drop"], 1, "leaves none"),
        ([], [], 1, "no row"),
        ([{"query": "q", "pos": "p"}], [], 1, 'rows.jsonl:1: "pos" must be a list'),
        ([{"query": "q", "pos": ["p"]}], ["--range_for_sampling", "200-2"], 2, "start must be smaller than end"),
        ([{"query": "q", "pos": ["p"]}], ["--similarity_range", "0.3"], 2, "--similarity_range must be two numbers"),
        ([{"query": "q", "pos": ["p"]}], ["--margin", "0.1", "--max_positive_ratio", "0.9"], 2, "give one of them"),
        ([{"query": "q", "pos": ["p"]}], ["--negative_number", "0"], 2, "must be at least 1"),
        (
            [{"query": "q", "pos": ["p"]}],
            ["--retriever", "bm52"],
            2,
            'unknown --retriever "bm52"; did you mean "bm25"?',
        ),
        ([{"query": "q", "pos": ["p"]}], ["--candidate_pool", "nowhere.jsonl"], 1, "nowhere.jsonl"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    lines: list[dict[str, Any]], more: list[str], code: int, said: str,
    tiny_encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source, output = write(tmp_path / "rows.jsonl", lines), tmp_path / "mined.jsonl"
    assert main(words(tiny_encoder, source, output, *more)) == code
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_one_row_file(tiny_encoder: str, tmp_path: Path) -> None:
    lines = [{"query": "find", "pos": ["find the cat"], "neg": ["a dog", "a fish"]}]
    source, output = write(tmp_path / "rows.jsonl", lines), tmp_path / "mined.jsonl"
    assert main(words(tiny_encoder, source, output, "--range_for_sampling", "0-5")) == 0
    assert sorted(read(output)[0]["neg"]) == ["a dog", "a fish"]


def test_an_empty_pool_and_a_missing_model(
    tiny_encoder: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = write(tmp_path / "pool.jsonl", [])
    assert main(words(tiny_encoder, rows, tmp_path / "out.jsonl", "--candidate_pool", str(empty))) == 1
    assert "the pool holds no passage" in capsys.readouterr().err
    assert main(words("./no/such/model", rows, tmp_path / "out.jsonl")) == 1
    assert "model ./no/such/model not found" in capsys.readouterr().err


def test_every_option_but_the_output_reaches_the_run(tiny_encoder: str, rows: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.jsonl"
    assert main(words(tiny_encoder, rows, plain, "--range_for_sampling", "1-60")) == 0
    for more in (
        ["--query_instruction_for_retrieval", "search the tree "],
        ["--pooling_method", "cls"],
        ["--embedder_query_max_length", "3"],
        ["--embedder_passage_max_length", "4"],
        ["--similarity_range", "0.1-0.7"],
        ["--max_positive_ratio", "0.5"],
        ["--margin", "0.3"],
        ["--sampling", "top"],
        ["--keep_negatives"],
    ):
        output = tmp_path / "other.jsonl"
        assert main(words(tiny_encoder, rows, output, "--range_for_sampling", "1-60", "--overwrite", *more)) == 0
        assert output.read_bytes() != plain.read_bytes(), more


def test_blocks_of_rows_do_not_change_a_row(
    tiny_encoder: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for size in (1024, 7, 1):
        monkeypatch.setattr(mine, "SHARD_ROWS", size)
        output = tmp_path / f"{size}.jsonl"
        assert main(words(tiny_encoder, rows, output, "--range_for_sampling", "0-6", "--negative_number", "6")) == 0
        made.append(output.read_bytes())
    assert made[0] == made[1] == made[2]
    assert mining.DEEPER > 1


KILLED = """
import sys
from finerank.cli import main
from finerank.retrieval import vectors
from finerank.stages import mine
mine.SHARD_ROWS = 8
vectors.cached_encode.__defaults__ = (None, 16)
print("started", flush=True)
sys.exit(main(sys.argv[1:]))
"""


def spawn(arguments: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", KILLED, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def orders(tiny_encoder: str, folder: Path, name: str) -> list[str]:
    """Words that write ``name`` with a vector cache of its own."""
    more = ("--range_for_sampling", "2-50", "--embedding_cache", str(folder / f"{name}.cache"))
    return words(tiny_encoder, folder / "rows.jsonl", folder / name, *more)


class Killed(BaseException):
    """Stands for SIGKILL inside the process: no handler of the code under test catches it."""


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_run_that_dies_after_some_shards_goes_on_to_the_same_bytes(
    tiny_encoder: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(mine, "SHARD_ROWS", 8)
    assert main(words(tiny_encoder, rows, tmp_path / "whole.jsonl", "--range_for_sampling", "1-30")) == 0
    real, calls = mining.Miner.mine, []

    def dying(self: mining.Miner, start: int, stop: int) -> list[mining.Mined]:
        calls.append(start)
        if len(calls) == after:
            raise Killed
        return real(self, start, stop)

    arguments = words(tiny_encoder, rows, tmp_path / "mined.jsonl", "--range_for_sampling", "1-30")
    monkeypatch.setattr(mining.Miner, "mine", dying)
    with pytest.raises(Killed):
        main(arguments)
    assert not (tmp_path / "mined.jsonl").exists()
    assert main(arguments) == 0
    assert calls[after:] == list(range(8 * (after - 1), 30, 8))
    assert (tmp_path / "mined.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.slow
def test_sigkill_then_resume(tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "rows.jsonl", make_rows(60))
    arguments = orders(tiny_encoder, tmp_path, "mined.jsonl")
    sizes = {"finerank.stages.mine:SHARD_ROWS": 8}
    process = SERVER.Process(target=verb_process.run, args=(arguments, sizes, str(tmp_path / "notes")))
    process.start()
    while process.exitcode is None and not list(tmp_path.rglob("*.vec")):
        process.join(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "notes.said").read_text()
    landed = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.vec")}
    assert landed
    assert not (tmp_path / "mined.jsonl").exists()
    monkeypatch.setattr(mine, "SHARD_ROWS", 8)
    monkeypatch.setattr(vectors.cached_encode, "__defaults__", (None, verb_process.WINDOW))
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in landed} == landed
    assert main(orders(tiny_encoder, tmp_path, "whole.jsonl")) == 0
    assert (tmp_path / "mined.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "mined.jsonl.work").exists()


@pytest.mark.slow
def test_sigkill_twenty_times(tiny_encoder: str, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", make_rows(60))
    begun = time.monotonic()
    finish(spawn(orders(tiny_encoder, tmp_path, "whole.jsonl")))
    length = time.monotonic() - begun
    whole = (tmp_path / "whole.jsonl").read_bytes()
    rng, output, kills = random.Random(1), tmp_path / "mined.jsonl", 0
    while kills < 20:
        process = spawn(orders(tiny_encoder, tmp_path, "mined.jsonl"))
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.3, 1.0) * length)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if output.exists():  # killed at or after its end: begin anew
            assert output.read_bytes() == whole
            for path in (output, tmp_path / "mined.jsonl.manifest.json"):
                path.unlink(missing_ok=True)
            shutil.rmtree(tmp_path / "mined.jsonl.work", ignore_errors=True)
            shutil.rmtree(tmp_path / "mined.jsonl.cache")
    finish(spawn(orders(tiny_encoder, tmp_path, "mined.jsonl")))
    assert output.read_bytes() == whole


def test_help_imports_no_heavy_library() -> None:
    script = (
        "import sys; from finerank.cli import main; main(['mine', '--help']); "
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "--range_for_sampling" in done.stdout
