from __future__ import annotations

import json

import pytest

from finerank.core.errors import UserError
from finerank.data.function_search import DEV_SHARE, TEST_SHARE, build, files, sample, split_modules
from finerank.data.functions import Function, Harvest


def harvest(modules: dict[str, int], unaskable: frozenset[str] = frozenset()) -> Harvest:
    found = [
        Function(f"{module}:f{i}", f"do {module} {i}", f"def f{i}(): {module}", module, f"{module}.py:{i}")
        for module, size in modules.items()
        for i in range(size)
    ]
    return Harvest(found, frozenset(item.id for item in found) - unaskable, {})


def test_shares_are_met_and_no_module_is_in_two_splits() -> None:
    sizes = {f"m{i}": 1 + i % 7 for i in range(200)}
    split_of = split_modules(sizes)
    total = sum(sizes.values())
    held = {split: sum(sizes[name] for name in sizes if split_of[name] == split) for split in ("test", "dev", "train")}
    assert split_of.keys() == sizes.keys()
    assert held["test"] == pytest.approx(total * TEST_SHARE, abs=7)
    assert held["dev"] == pytest.approx(total * DEV_SHARE, abs=7)


def test_the_split_does_not_depend_on_the_order_of_modules() -> None:
    sizes = {f"m{i}": 1 + i % 7 for i in range(50)}
    assert split_modules(sizes) == split_modules(dict(reversed(sizes.items())))


def test_a_module_that_would_decide_a_figure_alone_is_trained_on() -> None:
    assert split_modules({"giant": 500} | {f"m{i}": 5 for i in range(100)})["giant"] == "train"


def test_few_large_modules_still_give_three_splits() -> None:
    assert sorted(split_modules({"a": 40, "b": 50, "c": 60}).values()) == ["dev", "test", "train"]


def test_ambiguous_functions_stay_in_the_corpus_and_are_not_asked_for() -> None:
    modules = {f"m{i}": 10 for i in range(20)}
    data = build(harvest(modules, frozenset({"m0:f0", "m3:f4"})))
    asked = [item.id for items in data.queries.values() for item in items]
    assert len(data.corpus) == 200
    assert len(asked) == len(set(asked)) == 198
    assert data.counts()["passages"] == 200
    assert sum(data.counts()[f"{split}_modules"] for split in ("train", "dev", "test")) == 20


def test_files_are_a_beir_folder_and_rows_that_agree() -> None:
    content = files(build(harvest({f"m{i}": 10 for i in range(20)})))
    lines = {name: text.decode().splitlines() for name, text in content.items()}
    corpus = {line["_id"]: line for line in map(json.loads, lines["corpus.jsonl"])}
    queries = {line["_id"]: line["text"] for line in map(json.loads, lines["queries.jsonl"])}
    for split in ("train", "dev", "test"):
        header, *judged = lines[f"qrels/{split}.tsv"]
        assert header == "query-id\tcorpus-id\tscore"
        for line in judged:
            query, passage, grade = line.split("\t")
            assert grade == "1"
            assert query in queries
            assert passage in corpus
    rows = [json.loads(line) for line in lines["train.jsonl"]]
    assert rows
    for line in rows:
        assert line["query"] == queries[line["id"]]
        assert line["pos"] == [corpus[line["pos_id"][0]]["text"]]
    assert corpus["m3:f4"]["metadata"] == {"module": "m3", "where": "m3.py:4"}


def test_the_same_functions_give_the_same_bytes() -> None:
    modules = {f"m{i}": 10 for i in range(20)}
    assert files(build(harvest(modules))) == files(build(harvest(modules)))


def test_a_sample_keeps_the_order_and_does_not_grow() -> None:
    found = harvest({"a": 30, "b": 30}).functions
    some = sample(found, 20)
    assert len(some) == 20
    assert some == [item for item in found if item in some]
    assert set(sample(found, 10)) < set(some)
    assert sample(found, None) == sample(found, 100) == found


@pytest.mark.parametrize("modules", [{"a": 100}, {"a": 50, "b": 50}, {"a": 5, "b": 5, "c": 5}, {}])
def test_too_little_to_judge_by_is_an_error(modules: dict[str, int]) -> None:
    with pytest.raises(UserError, match="too few"):
        build(harvest(modules))
