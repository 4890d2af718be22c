"""``finerank score`` on a tiny teacher: which scores are written, each pair once, what survives a kill."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fork_server import ForkedWorker

import finerank
from finerank.cli import main
from finerank.core.protocols import Pair
from finerank.data.shards import Shards
from finerank.models import fleet
from finerank.models.cross_encoder import CrossEncoder
from finerank.stages import score

SOME = "cat dog file find fish list name number open path read remove search sort string text tree two write red"
WORDS = SOME.split()
SIZE = 16


def write(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def sentence(rng: random.Random, least: int = 3, most: int = 12) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))


def make_rows(count: int = 40) -> list[dict[str, Any]]:
    """Rows of few queries and passages, so that pairs come again in later shards."""
    rng = random.Random(1)
    queries, passages = [sentence(rng) for _ in range(6)], [sentence(rng) for _ in range(25)]
    return [
        {"id": f"r{at}", "query": rng.choice(queries), "pos": rng.sample(passages, 1), "neg": rng.sample(passages, 4)}
        for at in range(count)
    ]


def pairs_of(lines: Sequence[dict[str, Any]]) -> list[Pair]:
    return [(line["query"], text) for line in lines for text in (*line["pos"], *line.get("neg", []))]


def scores_in(lines: Sequence[dict[str, Any]]) -> list[float]:
    return [value for line in lines for value in (*line["pos_scores"], *line["neg_scores"])]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", make_rows())


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "SHARD_PAIRS", SIZE)


def words(model: str, source: Path, output: Path, *more: str) -> list[str]:
    return ["score", "--reranker_name_or_path", model, "--input_file", str(source), "--output_file", str(output),
            "--device", "cpu", "--dtype", "float32", *more]  # fmt: skip


def manifest(output: Path) -> dict[str, Any]:
    return dict(json.loads(Path(f"{output}.manifest.json").read_text()))


def counting(monkeypatch: pytest.MonkeyPatch, die_at: int | None = None) -> list[list[Pair]]:
    """Note the pairs of every call of the scorer; the call ``die_at`` ends the run."""
    real, calls = CrossEncoder.score, list[list[Pair]]()

    def noted(self: CrossEncoder, pairs: Sequence[Pair], progress: Any = None) -> Any:
        if len(calls) == die_at:
            raise Killed
        calls.append(list(pairs))
        return real(self, pairs, progress)

    monkeypatch.setattr(CrossEncoder, "score", noted)
    return calls


class Killed(BaseException):
    """Stands for SIGKILL inside the process: no handler of the code under test catches it."""


@pytest.mark.usefixtures("small_shards")
def test_every_row_gets_the_teachers_logits_and_nothing_else_changes(
    tiny_reranker: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "scored.jsonl"
    assert main(words(tiny_reranker, rows, output)) == 0
    before, after = read(rows), read(output)
    assert [{key: line[key] for key in before[0]} for line in after] == before
    expected = finerank.Reranker(tiny_reranker, device="cpu", dtype="float32").score(pairs_of(before))
    np.testing.assert_allclose(scores_in(after), expected, rtol=0, atol=1e-6)
    assert len(set(scores_in(after))) > 50
    shown = capsys.readouterr()
    assert "mean logit of positives" in shown.out
    assert "rows        40" in shown.err


@pytest.mark.usefixtures("small_shards")
def test_each_distinct_pair_is_scored_once_over_all_shards(
    tiny_reranker: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counting(monkeypatch)
    assert main(words(tiny_reranker, rows, tmp_path / "scored.jsonl")) == 0
    asked = [pair for call in calls for pair in call]
    assert asked == list(dict.fromkeys(pairs_of(read(rows))))
    assert [len(call) for call in calls[:-1]] == [SIZE] * (len(calls) - 1)
    counts = manifest(tmp_path / "scored.jsonl")["counts"]
    assert (counts["pairs"], counts["pairs_distinct"]) == (200, len(asked))
    assert len(asked) < 150


def test_the_size_of_a_shard_moves_no_score(
    tiny_reranker: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for size in (1, 7, 4096):
        monkeypatch.setattr(score, "SHARD_PAIRS", size)
        assert main(words(tiny_reranker, rows, tmp_path / f"{size}.jsonl")) == 0
        found.append(scores_in(read(tmp_path / f"{size}.jsonl")))
    np.testing.assert_allclose(found[0], found[2], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[1], found[2], rtol=0, atol=1e-6)


def test_normalize_is_the_sigmoid_of_the_logits(tiny_reranker: str, rows: Path, tmp_path: Path) -> None:
    assert main(words(tiny_reranker, rows, tmp_path / "logits.jsonl")) == 0
    assert main(words(tiny_reranker, rows, tmp_path / "shares.jsonl", "--normalize")) == 0
    logits, shares = (np.array(scores_in(read(tmp_path / f"{name}.jsonl"))) for name in ("logits", "shares"))
    np.testing.assert_allclose(shares, 1 / (1 + np.exp(-logits)), rtol=0, atol=1e-7)
    assert manifest(tmp_path / "shares.jsonl")["teacher"]["scores"] == "sigmoid of the logits"


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_run_that_dies_goes_on_with_the_shards_that_are_missing(
    tiny_reranker: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "scored.jsonl"
    assert main(words(tiny_reranker, rows, whole)) == 0
    with monkeypatch.context() as patch:
        counting(patch, die_at=after)
        with pytest.raises(Killed):
            main(words(tiny_reranker, rows, output))
    assert not output.exists()
    calls = counting(monkeypatch)
    assert main(words(tiny_reranker, rows, output)) == 0
    distinct = list(dict.fromkeys(pairs_of(read(rows))))
    assert [pair for call in calls for pair in call] == distinct[after * SIZE :]
    assert output.read_bytes() == whole.read_bytes()
    assert manifest(output)["resumed"] is (after > 0)


@pytest.mark.usefixtures("small_shards")
def test_a_torn_shard_is_scored_again(
    tiny_reranker: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "scored.jsonl"
    assert main(words(tiny_reranker, rows, whole)) == 0
    with monkeypatch.context() as patch:
        counting(patch, die_at=3)
        with pytest.raises(Killed):
            main(words(tiny_reranker, rows, output))
    torn = sorted((tmp_path / "scored.jsonl.work").glob("*.shard"))[1]
    torn.write_bytes(torn.read_bytes()[:-2])
    calls = counting(monkeypatch)
    assert main(words(tiny_reranker, rows, output)) == 0
    assert calls[0] == list(dict.fromkeys(pairs_of(read(rows))))[SIZE : 2 * SIZE]
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("started", ["forked", pytest.param("afresh", marks=pytest.mark.slow)])
def test_two_devices_write_the_bytes_of_one(
    tiny_reranker: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, started: str,
) -> None:  # fmt: skip
    """Workers come from the fork server, which has loaded torch; test_fleet starts them as the command does."""
    if started == "forked":
        monkeypatch.setattr(fleet.subprocess, "Popen", ForkedWorker)
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    assert main(words(tiny_reranker, rows, one)) == 0
    capsys.readouterr()
    assert main([*words(tiny_reranker, rows, two), "--devices", "cpu", "cpu"]) == 0
    assert "cpu, cpu" in capsys.readouterr().err
    assert two.read_bytes() == one.read_bytes()
    assert manifest(two)["key"] == manifest(one)["key"]


@pytest.mark.slow
def test_a_worker_that_cannot_open_the_teacher_says_so(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words("./no/teacher", rows, tmp_path / "out.jsonl"), "--devices", "cpu", "cpu"]) == 1
    assert "model ./no/teacher not found" in capsys.readouterr().err


def test_old_scores_are_replaced_and_rows_without_negatives_have_none(
    tiny_reranker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"query": "find", "pos": ["a cat", "a dog"], "pos_scores": [7.5, 8.5], "neg": ["fish"], "neg_scores": [9.5]},
        {"query": "find", "pos": ["a cat"], "topic": {"deep": [1, None]}},
        {"query": "search", "pos": ["a cat"], "neg": [], "neg_similarities": []},
    ]
    output = tmp_path / "scored.jsonl"
    assert main(words(tiny_reranker, write(tmp_path / "rows.jsonl", lines), output)) == 0
    after = read(output)
    assert 7.5 not in after[0]["pos_scores"]
    assert [(len(line["pos_scores"]), line["neg_scores"]) for line in after[1:]] == [(1, []), (1, [])]
    assert after[1]["topic"] == {"deep": [1, None]}
    assert after[0]["pos_scores"][0] == after[1]["pos_scores"][0] != after[2]["pos_scores"][0]
    said = capsys.readouterr().err
    assert "1 rows had scores already: they are replaced" in said
    assert '2 rows have no negatives: their "neg_scores" is an empty list' in said
    counts = manifest(output)["counts"]
    assert (counts["rows_rescored"], counts["rows_without_negatives"], counts["pairs_distinct"]) == (1, 2, 4)


def test_instructions_stand_before_the_texts_and_a_rows_own_takes_their_place(
    tiny_reranker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"query": "q", "pos": ["p"], "neg": ["n"]},
        {"query": "q", "pos": ["p"], "prompt": "own: "},
        {"query": "q", "pos": ["p"], "prompt": "own: ", "query_prompt": "first: ", "passage_prompt": "text: "},
    ]
    source = write(tmp_path / "rows.jsonl", lines)
    calls = counting(monkeypatch)
    assert main(words(tiny_reranker, source, tmp_path / "plain.jsonl")) == 0
    assert calls == [[("q", "p"), ("q", "n")]]
    assert "2 rows carry an instruction of their own" in capsys.readouterr().err
    more = ("--query_instruction_for_rerank", "A", "--query_instruction_format_for_rerank", "<{}> {}",
            "--passage_instruction_for_rerank", "B ")  # fmt: skip
    assert main(words(tiny_reranker, source, tmp_path / "told.jsonl", *more)) == 0
    expected = [("<A> q", "B p"), ("<A> q", "B n"), ("<own: > q", "B p"), ("<first: > q", "text: p")]
    assert calls[1] == expected
    assert "instruction of their own" not in capsys.readouterr().err
    assert manifest(tmp_path / "told.jsonl")["teacher"]["query_format"] == "<{}> {}"
    assert [line["pos"] for line in read(tmp_path / "told.jsonl")] == [["p"]] * 3


def test_options_of_other_teachers_and_of_mine_are_said_to_do_nothing(
    tiny_reranker: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, output = tmp_path / "plain.jsonl", tmp_path / "scored.jsonl"
    assert main(words(tiny_reranker, rows, plain)) == 0
    more = ("--prompt", "say yes", "--cutoff_layers", "8", "16", "--compress_ratio", "2", "--compress_layers", "8",
            "--reranker_batch_size", "3000", "--negative_number", "15", "--use_fp16", "False")  # fmt: skip
    assert main(words(tiny_reranker, rows, output, *more)) == 0
    said = capsys.readouterr().err
    for flag in ("prompt", "cutoff_layers", "compress_ratio", "compress_layers", "reranker_batch_size",
                 "negative_number"):  # fmt: skip
        assert f"--{flag} has no effect" in said, flag
    assert output.read_bytes() == plain.read_bytes()


def test_every_option_that_decides_a_score_reaches_the_teacher(tiny_reranker: str, rows: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.jsonl"
    assert main(words(tiny_reranker, rows, plain)) == 0
    for more in (
        ["--reranker_max_length", "12"],
        ["--reranker_query_max_length", "3"],
        ["--query_instruction_for_rerank", "search "],
        ["--passage_instruction_for_rerank", "text "],
        ["--normalize"],
    ):
        output = tmp_path / "other.jsonl"
        assert main(words(tiny_reranker, rows, output, "--overwrite", *more)) == 0
        assert output.read_bytes() != plain.read_bytes(), more


def test_an_embedder_and_what_is_no_adapter_are_refused(
    tiny_encoder: str, tiny_reranker: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tiny_encoder, rows, tmp_path / "out.jsonl")) == 1
    assert "is not a reranker" in capsys.readouterr().err
    assert main(words(tiny_reranker, rows, tmp_path / "out.jsonl", "--reranker_peft_path", "adapter")) == 1
    assert "adapter: expected an adapter, found no adapter_config.json" in capsys.readouterr().err


def test_bad_rows_are_named_before_the_teacher_is_opened(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write(tmp_path / "bad.jsonl", [*make_rows(2), {"query": "", "pos": ["p"]}, {"query": "q", "pos": []}])
    assert main(words("./no/teacher", bad, tmp_path / "out.jsonl")) == 1
    said = capsys.readouterr().err
    assert "bad.jsonl:3" in said
    assert "bad.jsonl:4" in said
    assert not list(tmp_path.glob("out.jsonl*"))


def test_a_score_that_is_no_number_stops_the_run(
    tiny_reranker: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: CrossEncoder, pairs: Sequence[Pair], progress: Any = None) -> Any:
        return np.array([0.5, np.nan, *[0.1] * (len(pairs) - 2)], dtype=np.float32)

    monkeypatch.setattr(CrossEncoder, "score", broken)
    assert main(words(tiny_reranker, rows, tmp_path / "out.jsonl")) == 1
    second = pairs_of(read(rows))[1]
    assert f'"{second[0]}" with "{second[1]}" as nan' in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_rows_that_change_while_they_are_read_are_noticed(
    tiny_reranker: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Shards.land

    def meddling(self: Shards, *parts: Any) -> Any:
        lines = read(rows)
        lines[0]["pos"] = ["other"]
        write(rows, lines)
        return real(self, *parts)

    monkeypatch.setattr(Shards, "land", meddling)
    assert main(words(tiny_reranker, rows, tmp_path / "out.jsonl")) == 1
    assert "the input changed while it was being read" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_the_same_again_does_nothing_and_other_options_are_refused(
    tiny_reranker: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    assert main(words(tiny_reranker, rows, output)) == 0
    first = capsys.readouterr().out
    calls = counting(monkeypatch)
    assert main(words(tiny_reranker, rows, output)) == 0
    shown = capsys.readouterr()
    assert (calls, shown.out) == ([], first)
    assert "already scored" in shown.err
    assert main(words(tiny_reranker, rows, output, "--normalize")) == 1
    assert "--normalize False → True" in capsys.readouterr().err


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size`` bytes: writing more fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_sentence_and_the_old_output_stays(
    tiny_reranker: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    assert main(words(tiny_reranker, rows, output)) == 0
    old = output.read_bytes()
    capsys.readouterr()
    with files_of_at_most(6000):
        assert main(words(tiny_reranker, rows, output, "--normalize", "--overwrite")) == 1
    said = capsys.readouterr().err
    assert "cannot be written: File too large\nhint: make room" in said
    assert "Traceback" not in said
    assert output.read_bytes() == old
    assert main(words(tiny_reranker, rows, output, "--normalize", "--overwrite")) == 0
    assert scores_in(read(output))[0] == pytest.approx(
        1 / (1 + np.exp(-scores_in([json.loads(old.split(b"\n")[0])])[0]))
    )


def test_folders_and_subsets_of_rows(tiny_reranker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    (folder / "part").mkdir(parents=True)
    lines = make_rows(9)
    write(folder / "b.jsonl", lines[4:])
    write(folder / "a.jsonl", lines[:4])
    write(folder / "part" / "dev.jsonl", lines[2:5])
    (folder / "notes.txt").write_text("no rows\n")
    assert main(words(tiny_reranker, folder, tmp_path / "all.jsonl")) == 0
    assert [line["id"] for line in read(tmp_path / "all.jsonl")] == [line["id"] for line in lines]
    assert capsys.readouterr().err.count("skipped") == 1  # though it is read three times
    more = ("--sub_data_name", "part", "--split", "dev")
    assert main(words(tiny_reranker, folder, tmp_path / "part.jsonl", *more)) == 0
    assert [line["id"] for line in read(tmp_path / "part.jsonl")] == ["r2", "r3", "r4"]


def test_the_library_call(tiny_reranker: str, rows: Path, tmp_path: Path) -> None:
    options = finerank.ScoreOptions(
        reranker_name_or_path=tiny_reranker, input_file=[str(rows)], output_file=str(tmp_path / "o.jsonl"), device="cpu"
    )
    outcome = finerank.score(options)
    assert outcome.data["pairs"] == 200
    assert options.devices == ["cpu"]


@pytest.mark.slow
def test_sigkill_of_two_workers_parent_then_the_same_bytes(tiny_reranker: str, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", make_rows(400))
    script = "import sys; from finerank.stages import score; score.SHARD_PAIRS = 16\nfrom finerank.cli import main\n"
    output = tmp_path / "out.jsonl"
    command = [sys.executable, "-c", f"{script}sys.exit(main(sys.argv[1:]))"]
    assert subprocess.run([*command, *words(tiny_reranker, source, tmp_path / "whole.jsonl")]).returncode == 0
    many = [*command, *words(tiny_reranker, source, output), "--devices", "cpu", "cpu"]
    process = subprocess.Popen(many)
    while process.poll() is None and len(list((tmp_path / "out.jsonl.work").glob("*.shard"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert subprocess.run(many).returncode == 0
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
