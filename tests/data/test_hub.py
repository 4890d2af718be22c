"""Data sets of the hub, through the ``datasets`` library itself: saved ones, folders laid out like one, cached ones."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from finerank.core.errors import DataError, UserError
from finerank.core.records import Row
from finerank.data import hub
from finerank.data.hub import HubSet, is_hub_name, is_repository, is_saved
from finerank.data.manifest import parts_of
from finerank.data.sources import inputs_of, iter_pool_records, read_rows, scan_rows

datasets = pytest.importorskip("datasets")

LINES = [{"query": f"q{n}", "pos": [f"p{n}"], "neg": [f"n{n}", "m"]} for n in range(5)]
CARD = """---
configs:
- config_name: medical
  data_files:
  - split: train
    path: medical/part-*.parquet
  - split: dev
    path: medical/dev.parquet
- config_name: law
  data_files: law.parquet
---
# a data set
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub._load.cache_clear()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")


def write_parquet(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(lines).to_parquet(str(path))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    write_parquet(root / "medical" / "part-0.parquet", LINES[:2])
    write_parquet(root / "medical" / "part-1.parquet", LINES[2:3])
    write_parquet(root / "medical" / "dev.parquet", LINES[3:4])
    write_parquet(root / "law.parquet", LINES[4:])
    (root / "README.md").write_text(CARD)
    return root


def queries(rows: list[Row]) -> list[str]:
    return [row.query for row in rows]


def test_a_folder_laid_out_like_a_data_set_of_the_hub(repository: Path) -> None:
    assert is_repository(repository)
    rows = read_rows([repository], sub_data_name="medical")
    assert queries(rows) == ["q0", "q1", "q2"]
    assert [row.where for row in rows] == [f"{repository}[medical/train]:{number}" for number in (1, 2, 3)]
    assert queries(read_rows([repository], sub_data_name="medical", split="dev")) == ["q3"]
    assert queries(read_rows([repository], sub_data_name=["law", "medical"])) == ["q4", "q0", "q1", "q2"]
    for keywords, there in (({"split": "test"}, "medical"), ({"sub_data_name": "tax"}, "medical")):
        with pytest.raises(UserError, match=there) as caught:
            read_rows([repository], **{"sub_data_name": "medical", **keywords})
        assert "\n" not in caught.value.message
    with pytest.raises(UserError, match="cannot be read as a data set"):
        read_rows([repository])  # two configs, none named


def test_a_data_set_of_the_hub_that_is_in_the_cache(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``datasets`` built from the folder is put where it keeps the set someone/small, then read by that name."""
    place = repository.parent / "small"
    repository.rename(place)
    datasets.load_dataset(str(place), "medical")
    (made,) = (entry for entry in (tmp_path / "hf_cache").iterdir() if entry.is_dir())
    made.rename(tmp_path / "hf_cache" / "someone___small")
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("someone/small")
    rows = read_rows(["someone/small"], sub_data_name="medical")
    assert queries(rows) == ["q0", "q1", "q2"]
    assert rows[1].where == "someone/small[medical/train]:2"
    assert rows[0].to_mapping() == LINES[0]
    (item,) = inputs_of(["someone/small"], sub_data_name="medical")
    assert str(item) == "someone/small[medical/train]"
    parts = parts_of("check", {}, [item], {}, tmp_path / "out")
    assert list(parts.inputs) == ["someone/small[medical/train]"]
    assert len(parts.inputs["someone/small[medical/train]"]) == 64
    (tmp_path / "someone").mkdir()
    assert not is_hub_name("someone/small")


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("BeIR/scifact", True), ("a/b.c-d_e", True), ("scifact", False), ("a/b/c", False), ("a/rows.jsonl", False),
        ("a/b.parquet", False), ("./a", False), ("../a", False), ("~/a", False), ("a/", False), ("a/b c", False),
    ],
)  # fmt: skip
def test_what_is_spelt_like_a_hub_name(name: str, is_one: bool) -> None:
    assert is_hub_name(name) is is_one


def test_saved_data_sets(tmp_path: Path) -> None:
    one = datasets.Dataset.from_list(LINES)
    one.save_to_disk(tmp_path / "one")
    both = datasets.DatasetDict({"train": one.select(range(3)), "dev": one.select(range(3, 5))})
    both.save_to_disk(tmp_path / "both")
    both.save_to_disk(tmp_path / "nested" / "medical")
    assert is_saved(tmp_path / "one")
    assert is_saved(tmp_path / "both")
    assert queries(read_rows([tmp_path / "one"])) == ["q0", "q1", "q2", "q3", "q4"]
    assert queries(read_rows([tmp_path / "both"], split="dev")) == ["q3", "q4"]
    assert queries(read_rows([tmp_path / "nested"], sub_data_name="medical", split="dev")) == ["q3", "q4"]
    with pytest.raises(UserError, match="it has train, dev") as caught:
        read_rows([tmp_path / "both"], split="test")
    assert caught.value.hint == "--split train"


def test_rows_of_a_shuffled_and_formatted_set_come_as_they_are(tmp_path: Path) -> None:
    mixed = datasets.Dataset.from_list(LINES).shuffle(seed=1)
    expected = list(mixed["query"])
    mixed.with_format("numpy").save_to_disk(tmp_path / "one")
    assert queries(read_rows([tmp_path / "one"])) == expected


def test_columns_without_a_value_are_absent_keys(tmp_path: Path) -> None:
    lines = [{"query": "a", "pos": ["p"], "prompt": None, "neg": None}, {"query": "b", "pos": ["p"], "prompt": "x"}]
    datasets.Dataset.from_list(lines).save_to_disk(tmp_path / "one")
    found = [row.to_mapping() for row in read_rows([tmp_path / "one"])]
    assert found == [{"query": "a", "pos": ["p"], "neg": []}, {"query": "b", "pos": ["p"], "neg": [], "prompt": "x"}]


def test_bad_rows_of_a_data_set_have_places(tmp_path: Path) -> None:
    datasets.Dataset.from_list([LINES[0], {"query": None, "pos": []}]).save_to_disk(tmp_path / "one")
    with pytest.raises(DataError) as caught:
        read_rows([tmp_path / "one"])
    places = {(problem.where, problem.code) for problem in caught.value.problems}
    place = f"{tmp_path / 'one'}[train]:2"
    assert places == {(place, "bad-query"), (place, "empty-pos")}


def test_foreign_columns_of_a_data_set(tmp_path: Path) -> None:
    passages = [{"docid": "1", "title": "T", "text": "p"}]
    lines = [{"query_id": "7", "query": "q", "positive_passages": passages, "negative_passages": passages}]
    datasets.Dataset.from_list(lines).save_to_disk(tmp_path / "tevatron")
    (row,) = read_rows([tmp_path / "tevatron"])
    assert (row.positives, row.extra["pos_id"]) == (("T p",), ["1"])
    datasets.Dataset.from_list([{"_id": "a", "text": "p"}]).save_to_disk(tmp_path / "pool")
    assert list(iter_pool_records(tmp_path / "pool")) == [("a", "p")]


def test_the_digest_is_of_the_rows(tmp_path: Path) -> None:
    def digest(name: str, lines: list[dict[str, Any]]) -> str:
        datasets.Dataset.from_list(lines).save_to_disk(tmp_path / name)
        return HubSet(str(tmp_path / name)).digest()

    assert digest("a", LINES) == digest("b", LINES)
    assert digest("a", LINES) != digest("c", LINES[:4])


def test_without_the_library_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="needs datasets, which is not installed") as caught:
        read_rows(["someone/some-set"], sub_data_name="x")
    assert caught.value.where == "someone/some-set[x/train]"
    assert caught.value.hint == 'pip install "finerank[data]"'


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def peak(name: str, count: int) -> int:
        path = tmp_path / f"{name}.jsonl"
        line = json.dumps({"query": "q", "pos": ["word " * 40], "neg": ["word " * 40]})
        path.write_text(f"{line}\n" * count)
        datasets.load_dataset("json", data_files=str(path), split="train").save_to_disk(tmp_path / name)
        path.unlink()
        tracemalloc.start()
        assert sum(isinstance(item, Row) for item in scan_rows([tmp_path / name])) == count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small, large = peak("small", 1500), peak("large", 3500)
    assert large < 1.2 * small
