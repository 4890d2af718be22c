"""The rows of a training: data sets, weights, samples, small files, what a row may not say; in memory and on disk."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finerank.core.data_sets import DataSet, Kind
from finerank.core.errors import DataError, UsageError
from finerank.core.records import Row
from finerank.core.train_options import EmbedderOptions
from finerank.data import row_store, training_rows
from finerank.data.row_index import index_of, number_of
from finerank.data.row_store import StoredRows, lay_out
from finerank.data.training_rows import TrainingRows


def write(path: Path, count: int, name: str = "", **keys: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    label = name or path.stem
    rows = [
        {"query": f"{label} {index}", "pos": [f"{label} yes {index}"], "neg": [f"{label} no {index}"], **keys}
        for index in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(*paths: str | Path, **values: Any) -> TrainingRows:
    given: dict[str, Any] = {"model_name_or_path": "m", "train_data": [str(path) for path in paths], **values}
    return training_rows.training_rows(EmbedderOptions(**given))


def sets(rows: TrainingRows) -> list[tuple[str, int, float, bool]]:
    return [(each.name, len(each), each.weight, each.in_batch) for each in rows.sets]


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay all rows on disk, however few."""
    monkeypatch.setattr(training_rows.row_store, "lay_out", partial(lay_out, most=0))


def test_every_path_and_every_file_of_a_folder_is_a_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write(folder / "b.jsonl", 2)
    write(folder / "a.json", 3)
    rows = read(folder, write(tmp_path / "c.jsonl", 1), data_weights=[0.5, 2])
    assert sets(rows) == [("a", 3, 0.5, True), ("b", 2, 0.5, True), ("c", 1, 2.0, True)]
    assert [row.query for row in rows] == ["a 0", "a 1", "a 2", "b 0", "b 1", "c 0"]
    assert [each.start for each in rows.sets] == [0, 3, 5]


def test_a_folder_of_labeled_pairs_is_one_data_set(tmp_path: Path) -> None:
    for name, label in (("a", 1), ("b", 0)):
        line = {"query": "q", "passage": f"text {name}", "label": label}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    rows = read(tmp_path)
    assert sets(rows) == [(tmp_path.name, 1, 1.0, True)]
    assert (rows[0].positives, rows[0].negatives) == (("text a",), ("text b",))


def test_weights_are_one_for_each_path(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", 1)
    with pytest.raises(UsageError, match="one number for each --train_data: 1, got 2"):
        read(path, data_weights=[1, 2])
    with pytest.raises(UsageError, match="--data_weights must be more than 0"):
        read(path, data_weights=[0])


def test_names_that_end_in_no_in_batch_neg(tmp_path: Path) -> None:
    file = write(tmp_path / "topics-no_in_batch_neg.jsonl", 1)
    folder = tmp_path / "classes-no_in_batch_neg"
    write(folder / "one.jsonl", 1)
    write(folder / "two.jsonl", 1)
    assert [each.in_batch for each in read(file, folder, write(tmp_path / "other.jsonl", 1)).sets] == [
        False, False, False, True,
    ]  # fmt: skip


def test_a_sample_of_each_data_set_in_file_order(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", count) for name, count in (("a", 20), ("b", 3))]
    rows = read(*paths, max_example_num_per_dataset=5)
    assert sets(rows) == [("a", 5, 1.0, True), ("b", 3, 1.0, True)]
    places = [int(row.query.split()[1]) for row in rows[:5]]
    assert places == sorted(set(places)) != list(range(5))
    assert [row.query for row in read(*paths, max_example_num_per_dataset=5)] == [row.query for row in rows]
    assert [row.query for row in read(*paths, max_example_num_per_dataset=5, seed=1)] != [row.query for row in rows]
    assert rows.index_of_rows.row(5) == (number_of("b 0"), [number_of("b yes 0")], [number_of("b no 0")])


def test_small_files_of_a_folder_are_merged_or_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    for name, count in (("a", 2), ("b", 9), ("c", 1)):
        write(folder / f"{name}.jsonl", count)
    apart = {"same_dataset_within_batch": True}
    assert sets(read(folder, small_threshold=3, **apart)) == [("a + c", 3, 1.0, True), ("b", 9, 1.0, True)]
    assert [row.query for row in read(folder, small_threshold=3, **apart)][:4] == ["a 0", "a 1", "c 0", "b 0"]
    capsys.readouterr()
    assert sets(read(folder, small_threshold=3, drop_threshold=4, **apart)) == [("b", 9, 1.0, True)]
    assert "a + c: 3 rows, fewer than --drop_threshold 4: left out" in capsys.readouterr().err
    assert len(read(folder, small_threshold=3, drop_threshold=4).sets) == 3
    assert "no effect without --same_dataset_within_batch" in capsys.readouterr().err
    with pytest.raises(UsageError, match="leaves no row"):
        read(folder, small_threshold=30, drop_threshold=40, **apart)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prompt": 3}, 'rows.jsonl:1: "prompt" must be a string, got a number'),
        ({"query_prompt": ["x"]}, '"query_prompt" must be a string, got a list'),
        ({"type": {}}, '"type" must be a string, got an object'),
        ({"batch_size": 0}, '"batch_size" must be a whole number from 1, got a number 0'),
        ({"batch_size": True}, '"batch_size" must be a whole number from 1, got a boolean'),
    ],
)
def test_what_a_row_may_not_say(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / "rows.jsonl", 1, **keys))
    assert message in str(caught.value)


def test_null_keys_are_absent_ones(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "rows.jsonl", 2, prompt=None, type=None, batch_size=None))
    assert rows.index_of_rows.table == [Kind()]


def test_every_row_without_scores_is_named(tmp_path: Path) -> None:
    scored = {"pos_scores": [1.0], "neg_scores": [0.0]}
    path = tmp_path / "rows.jsonl"
    lines = [{"query": "a", "pos": ["b"], "neg": ["c"], **keys} for keys in (scored, {}, {"pos_scores": [1.0]})]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(read(path)) == 3
    with pytest.raises(DataError, match="rows.jsonl:2: distillation needs") as caught:
        read(path, knowledge_distillation=True)
    assert [problem.where for problem in caught.value.problems] == [f"{path}:2", f"{path}:3"]
    assert "finerank score" in str(caught.value)


@pytest.mark.parametrize("score", ["NaN", "Infinity", "1e999", "null", '"1"'])
def test_scores_that_are_no_numbers(tmp_path: Path, score: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"query": "a", "pos": ["b"], "neg": ["c"], "pos_scores": [{score}], "neg_scores": [0]}}\n')
    with pytest.raises(DataError, match=r"rows.jsonl:1"):
        read(path, knowledge_distillation=True)


def test_a_pool_and_a_conversation_are_no_rows(tmp_path: Path) -> None:
    pool, chat = tmp_path / "pool.jsonl", tmp_path / "chat.jsonl"
    pool.write_text(json.dumps({"text": "a passage"}) + "\n")
    chat.write_text(json.dumps({"history": ["a"], "query": "b", "answers": ["c"], "task": "chat"}) + "\n")
    with pytest.raises(DataError, match="a passage of a pool, not a row"):
        read(pool)
    with pytest.raises(DataError, match='the row has no "pos"'):
        read(chat)


def test_rows_taken_out_keep_their_data_sets(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", 3) for name in "abc"]
    rows = read(*paths, data_weights=[1, 2, 3]).take([5, 0, 4])
    assert [row.query for row in rows] == ["a 0", "b 1", "b 2"]
    assert rows.sets == (DataSet("a", 0, 1, 1.0), DataSet("b", 1, 3, 2.0))


SHAPES: list[dict[str, Any]] = [
    {"query": "ﬁ Ünïcode 東京", "pos": ["one", "two"], "neg": []},
    {"query": "q", "pos": ["p"], "prompt": "do: ", "type": "only_1neg", "batch_size": 3, "id": 7, "other": {"a": [1]}},
    {"query": "q ", "pos": ["P"], "neg": ["n", "m"], "pos_scores": [0.1], "neg_scores": [-1e-300, 12345678.9]},
]


@pytest.mark.usefixtures("on_disk")
def test_rows_on_disk_are_those_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(shape) + "\n" for shape in SHAPES))
    stored = read(path)
    assert isinstance(stored.rows, StoredRows)
    for row, shape in zip(stored, SHAPES):
        assert (row.query, list(row.positives), list(row.negatives)) == (
            shape["query"], shape["pos"], shape.get("neg", []),
        )  # fmt: skip
    assert stored[1].extra == {"prompt": "do: ", "type": "only_1neg", "batch_size": 3}
    assert (stored[2].pos_scores, stored[2].neg_scores) == ((0.1,), (-1e-300, 12345678.9))
    assert [row.where for row in stored] == [f"{path}:{line}" for line in (1, 2, 3)]
    assert stored[-1] == stored[2]
    assert stored[1:] == [stored[1], stored[2]]
    with pytest.raises(IndexError):
        _ = stored[3]


@pytest.mark.parametrize(
    "change", [{}, {"max_example_num_per_dataset": 2}, {"same_dataset_within_batch": True, "small_threshold": 5}]
)
def test_the_same_rows_from_disk_and_memory(
    tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    for name, count in (("a", 4), ("b", 7), ("c", 3)):
        write(folder / f"{name}.jsonl", count, type="only_1neg")
    paths = [str(folder), write(tmp_path / "d.jsonl", 5)]
    held = read(*paths, **change)
    monkeypatch.setattr(training_rows.row_store, "lay_out", partial(lay_out, most=0))
    stored = read(*paths, **change)
    assert isinstance(stored.rows, StoredRows)
    assert isinstance(held.rows, list)
    assert stored.sets == held.sets
    assert list(stored) == list(held)
    for one in (stored, pickle.loads(pickle.dumps(stored)), stored.take(range(len(stored)))):
        for column in ("numbers", "first", "positives", "kinds"):
            assert np.array_equal(getattr(one.index_of_rows, column), getattr(held.index_of_rows, column))
        assert one.index_of_rows.table == held.index_of_rows.table


@pytest.mark.usefixtures("on_disk")
def test_rows_on_disk_are_small_to_send(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "rows.jsonl", 2000))
    assert len(pickle.dumps(rows)) < 1000
    again = pickle.loads(pickle.dumps(rows))
    assert list(again) == list(rows)


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])])
@pytest.mark.parametrize("name", ["rows", "begins", "numbers", "whole.json"])
def test_what_is_on_disk_is_found_again_and_torn_rows_are_laid_anew(
    tmp_path: Path, damage: Callable[[Path], Any], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "rows.jsonl", 5)
    rows = read(path)
    expected = list(rows)
    assert "laid on disk" in capsys.readouterr().err
    assert list(read(path)) == expected
    assert "laid on disk" not in capsys.readouterr().err
    assert isinstance(rows.rows, StoredRows)
    damage(rows.rows.folder / name)
    assert list(read(path)) == expected
    assert "laid on disk" in capsys.readouterr().err


@pytest.mark.usefixtures("on_disk")
def test_other_content_or_another_split_of_the_data_are_other_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", 5)
    first = read(path).rows
    write(tmp_path / "rows.jsonl", 6)
    second = read(path).rows
    assert isinstance(first, StoredRows)
    assert isinstance(second, StoredRows)
    assert first.folder != second.folder
    assert (len(first), len(second)) == (5, 6)


@pytest.mark.usefixtures("on_disk")
def test_a_bad_row_leaves_nothing_on_disk(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "rows.jsonl", 3))
    path.write_text(path.read_text() + '{"query": "q"}\n')
    before = set(row_store.cache_folder().glob("*/"))
    with pytest.raises(DataError, match=r"rows.jsonl:4"):
        read(path)
    assert set(row_store.cache_folder().glob("*/")) == before


def test_the_index_of_rows_in_memory_is_made() -> None:
    index = index_of([Row("Q", ("a", "A"), ("b",)), Row("q", ("c",))])
    assert index.row(0) == (number_of("q"), [number_of("a")] * 2, [number_of("b")])
    assert index.row(1) == (number_of("q"), [number_of("c")], [])
    part = index.take([1])
    assert part.row(0) == index.row(1)
    assert len(part) == 1
