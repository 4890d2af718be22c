"""split: which row goes where, what is kept, what a second run and an interrupted one do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finerank.core.command_line import parse
from finerank.core.errors import DataError, UsageError, UserError
from finerank.core.outcomes import Outcome
from finerank.data.lengths import RowLengths
from finerank.data.shards import Shards
from finerank.stages import split
from finerank.stages.split import SplitOptions, run

SEED_004 = """--input_path train_data --output_dir train_data_split --cache_dir .cache --log_name .split_log
--length_list 0 500 1000 2000 3000 4000 5000 6000 7000 --model_name_or_path BAAI/bge-m3
--num_proc 16 --overwrite False"""


@pytest.fixture
def model(tiny_tokenizer_file: Path) -> str:
    return str(tiny_tokenizer_file.parent)


def row(tokens: int, **more: Any) -> dict[str, Any]:
    """A row of ``tokens`` tokens, the two special ones included; a negative is its longest text."""
    return {"query": "cat", "pos": ["dog"], "neg": ["tree " * (tokens - 2)]} | more


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return str(path)


def lengths_in(path: Path) -> list[int]:
    return [len(json.loads(line)["neg"][0].split()) + 2 for line in path.read_text().splitlines()]


def made(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name != ".split_log"}


def splits(path: str, folder: Path, model: str, bounds: list[int], **more: Any) -> Outcome:
    options = {"input_path": [path], "output_dir": str(folder), "model_name_or_path": model, "length_list": bounds}
    return run(SplitOptions(**options | {"num_proc": 1} | more))


def test_ranges_are_half_open_and_empty_ones_write_no_file(tmp_path: Path, model: str) -> None:
    path = write(tmp_path / "rows.jsonl", *(row(length) for length in (4, 5, 9, 10, 11, 30)))
    outcome = splits(path, tmp_path / "out", model, [0, 5, 10, 15, 20])
    assert {name: lengths_in(tmp_path / "out" / name) for name in made(tmp_path / "out")} == {
        "rows_len-0-5.jsonl": [4],
        "rows_len-5-10.jsonl": [5, 9],
        "rows_len-10-15.jsonl": [10, 11],
        "rows_len-20-inf.jsonl": [30],
    }
    assert outcome.data["rows"] == 6
    assert "len-15-20" in outcome.text


def test_the_longest_text_decides_and_nothing_is_cut(tmp_path: Path, model: str) -> None:
    rows = [
        {"query": "cat " * 7, "pos": ["dog"], "neg": ["a"]},
        {"query": "cat", "pos": ["dog", "dog " * 7], "neg": []},
        {"query": "cat", "pos": ["dog"], "neg": ["a", "a " * 900]},
    ]
    splits(write(tmp_path / "r.jsonl", *rows), tmp_path / "out", model, [0, 9, 10, 902, 903])
    assert {name: body.count(b"\n") for name, body in made(tmp_path / "out").items()} == {
        "r_len-9-10.jsonl": 2,
        "r_len-902-903.jsonl": 1,
    }


def test_lines_pass_through_as_they_stand(tmp_path: Path, model: str) -> None:
    lines = [
        b'{"query":"cat", "pos" : ["dog"],"neg":["a"], "pos_scores":[0.10],"neg_scores":[1e-3],"x":{"\\u00e9": null}}',
        '{"query": "Käse\u2028cat", "pos": ["dog"], "prompt": "a\\tb"}'.encode(),
    ]
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines[0] + b" \r\n\n" + lines[1])
    splits(str(path), tmp_path / "out", model, [0])
    assert made(tmp_path / "out") == {"r_len-0-inf.jsonl": lines[0] + b"\n" + lines[1] + b"\n"}


def test_the_log(tmp_path: Path, model: str) -> None:
    write(tmp_path / "in" / "b.jsonl", row(4), row(6))
    write(tmp_path / "in" / "a.jsonl", row(5))
    (tmp_path / "in" / "notes.txt").write_text("no rows")
    splits(str(tmp_path / "in"), tmp_path / "out", model, [0, 5], log_name="log.json")
    first, second = map(json.loads, (tmp_path / "out" / "log.json").read_text().splitlines())
    assert list(second) == ["file_name", "size", "avg_length", "file_path", "start_time", "end_time", "split_info"]
    assert (first["file_name"], second["file_name"]) == ("a.jsonl", "b.jsonl")
    assert (second["size"], second["avg_length"]) == (2, 5.0)
    assert second["split_info"] == {"len-0-5": 1, "len-5-inf": 1}
    assert second["file_path"] == str(tmp_path / "in" / "b.jsonl")
    assert first["start_time"] <= first["end_time"]


def test_other_files_of_a_folder_are_named(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in" / "a.jsonl", row(5))
    (tmp_path / "in" / "notes.txt").write_text("no rows")
    splits(str(tmp_path / "in"), tmp_path / "out", model, [0])
    assert "skipped notes.txt" in capsys.readouterr().err


def test_rows_below_the_first_bound_are_said(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "r.jsonl", row(4), row(5), row(6))
    outcome = splits(path, tmp_path / "out", model, [6, 10])
    assert list(made(tmp_path / "out")) == ["r_len-6-10.jsonl"]
    assert outcome.data["below"] == 2
    assert "2 of 3 rows are shorter than 6 tokens" in outcome.text
    assert "2 of 3 rows are shorter than 6 tokens" in capsys.readouterr().err


def test_bad_rows_are_all_named_and_nothing_is_written(tmp_path: Path, model: str) -> None:
    path = write(tmp_path / "r.jsonl", row(4), {"query": "cat"}, row(5), {"query": "", "pos": ["dog"]})
    with pytest.raises(DataError) as caught:
        splits(path, tmp_path / "out", model, [0])
    assert [problem.where for problem in caught.value.problems] == [f"{path}:2", f"{path}:4"]
    assert not list(tmp_path.glob("out/*.jsonl"))


def test_the_same_stem_twice_is_an_error(tmp_path: Path, model: str) -> None:
    paths = [write(tmp_path / name / "r.jsonl", row(4)) for name in ("a", "b")]
    with pytest.raises(UserError, match="would both be written to r_len"):
        splits("", tmp_path / "out", model, [0], input_path=paths)


def test_an_input_in_the_output_folder_is_refused(tmp_path: Path, model: str) -> None:
    path = write(tmp_path / "out" / "r.jsonl", row(4))
    with pytest.raises(UsageError, match="lies in --output_dir"):
        splits(path, tmp_path / "out", model, [0], overwrite=True)
    assert Path(path).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--length_list 0 5 5", "the same bound twice"),
        ("--length_list -1 5", "at least 0"),
        ("--log_name a/b", "not a path"),
        ("--num_proc 0", "at least 1"),
    ],
)
def test_wrong_options(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(SplitOptions, ["--input_path", "a", "--output_dir", "b", *words.split()], "split")


def test_the_seeds_flags_and_defaults() -> None:
    seed = parse(SplitOptions, SEED_004.split(), "split").options
    plain = parse(SplitOptions, ["--input_path", "train_data", "--output_dir", "train_data_split"], "split").options
    assert seed.cache_dir == ".cache"
    seed.cache_dir = None
    assert seed == plain
    assert parse(SplitOptions, ["--input_path", "a", "--output_dir", "b", "--overwrite"], "split").options.overwrite
    assert parse(
        SplitOptions, ["a", "--output_dir", "b", "--length_list", "500", "0"], "split"
    ).options.length_list == [0, 500]


def test_a_second_run_does_nothing_and_another_one_is_refused(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = write(tmp_path / "r.jsonl", row(4), row(8)), tmp_path / "out"
    first = splits(path, folder, model, [0, 5])
    capsys.readouterr()
    again = splits(path, folder, model, [0, 5], num_proc=2)
    assert "nothing to do" in capsys.readouterr().err
    assert again.text == first.text
    with pytest.raises(UserError, match="length_list"):
        splits(path, folder, model, [0, 6], overwrite=False)
    splits(path, folder, model, [0, 6], overwrite=True)
    assert list(made(folder)) == ["r_len-0-6.jsonl", "r_len-6-inf.jsonl"]
    renamed = str(Path(path).rename(tmp_path / "s.jsonl"))
    with pytest.raises(UserError, match="differs in"):
        splits(renamed, folder, model, [0, 6])


def many(path: Path, count: int = 60) -> str:
    return write(path, *(row(3 + number * 7 % 11, id=number) for number in range(count)))


def test_processes_do_not_change_the_bytes(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "SHARD_ROWS", 7)
    monkeypatch.setattr(split, "SHARD_BYTES", 300)
    path = many(tmp_path / "r.jsonl")
    splits(path, tmp_path / "one", model, [0, 5, 9], num_proc=1)
    monkeypatch.setattr(split, "processes_for", lambda *_: 2)
    splits(path, tmp_path / "two", model, [0, 5, 9], num_proc=2)
    monkeypatch.undo()
    splits(path, tmp_path / "whole", model, [0, 5, 9])
    assert made(tmp_path / "one") == made(tmp_path / "two") == made(tmp_path / "whole")
    assert sum(body.count(b"\n") for body in made(tmp_path / "one").values()) == 60


def test_an_interrupted_run_goes_on(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "SHARD_ROWS", 7)
    path = many(tmp_path / "r.jsonl")
    splits(path, tmp_path / "whole", model, [0, 5, 9])
    calls: list[int] = []
    real = RowLengths.__call__

    def failing(self: RowLengths, block: Any) -> Any:
        calls.append(block.first)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, block)

    monkeypatch.setattr(RowLengths, "__call__", failing)
    with pytest.raises(KeyboardInterrupt):
        splits(path, tmp_path / "out", model, [0, 5, 9])
    assert calls == [1, 8, 15, 22]
    work = tmp_path / "out.work"
    torn = sorted(work.glob("*.shard"))[1]
    torn.write_bytes(torn.read_bytes()[:-1])
    splits(path, tmp_path / "out", model, [0, 5, 9])
    assert calls[4:] == [8, 22, 29, 36, 43, 50, 57]  # the torn shard, then those that had not landed
    assert made(tmp_path / "out") == made(tmp_path / "whole")
    assert not work.exists()


def test_death_while_the_files_are_written(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = many(tmp_path / "r.jsonl")
    splits(path, tmp_path / "whole", model, [0, 5, 9])
    real = Shards.body
    monkeypatch.setattr(Shards, "body", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        splits(path, tmp_path / "out", model, [0, 5, 9])
    monkeypatch.setattr(Shards, "body", real)
    monkeypatch.setattr(RowLengths, "__call__", lambda *_: pytest.fail("measured again"))
    splits(path, tmp_path / "out", model, [0, 5, 9])
    assert made(tmp_path / "out") == made(tmp_path / "whole")


def test_any_source(tmp_path: Path, model: str) -> None:
    rows = [row(4, id=1), row(9, id=2)]
    (tmp_path / "r.json").write_text(json.dumps(rows, indent=1))
    splits(str(tmp_path / "r.json"), tmp_path / "out", model, [0, 5])
    assert [json.loads(body) for body in made(tmp_path / "out").values()] == rows
    (tmp_path / "sets" / "one").mkdir(parents=True)
    write(tmp_path / "sets" / "one" / "train.jsonl", *rows)
    outcome = splits(str(tmp_path / "sets"), tmp_path / "sub", model, [0, 5], sub_data_name=["one"])
    assert outcome.data["files"][0]["size"] == 2


def test_the_public_function() -> None:
    import finerank

    assert finerank.split is run
    assert finerank.SplitOptions is SplitOptions
