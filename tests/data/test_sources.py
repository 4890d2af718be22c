"""Where rows come from: files, folders, named subsets; pools; candidates; judged sets; TREC files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finerank.core.errors import DataError, UserError
from finerank.data import files
from finerank.data.sources import (
    is_judged,
    iter_pool_records,
    pool_of,
    read_candidates,
    read_judged,
    read_pool,
    read_rows,
)
from finerank.data.trec import read_qrels, read_run, write_qrels, write_run

LINE = {"query": "q", "pos": ["p"], "neg": ["n"]}


def write(path: Path, *values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def queries(rows: list[Any]) -> list[str]:
    return [row.query for row in rows]


def test_a_folder_is_read_in_order_and_what_is_skipped_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "b.jsonl", LINE | {"query": "2"})
    write(tmp_path / "a.json", LINE | {"query": "1"})
    write(tmp_path / "a.json.manifest.json", {"key": "x"})
    (tmp_path / "README.md").write_text("x")
    (tmp_path / ".hidden.jsonl").write_text("x")
    (tmp_path / "sub").mkdir()
    assert queries(read_rows([tmp_path])) == ["1", "2"]
    said = capsys.readouterr().err
    assert all(name in said for name in ("README.md", "sub", "a.json.manifest.json"))
    assert ".hidden" not in said
    assert queries(read_rows([tmp_path / "b.jsonl", tmp_path])) == ["2", "1", "2"]
    assert queries(read_rows(str(tmp_path))) == ["1", "2"]


def test_a_folder_without_row_files_and_no_path_at_all(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(UserError, match="holds no .jsonl"):
        read_rows([tmp_path])
    with pytest.raises(UserError, match="no row file"):
        read_rows([])


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_named_subsets(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "medical" / f"train{suffix}", LINE | {"query": "m"})
    write(tmp_path / "law" / f"train{suffix}", LINE | {"query": "l"})
    write(tmp_path / "law" / f"dev{suffix}", LINE | {"query": "d"})
    assert queries(read_rows([tmp_path], sub_data_name="medical")) == ["m"]
    assert queries(read_rows([tmp_path], sub_data_name=["law", "medical"])) == ["l", "m"]
    assert queries(read_rows([tmp_path], sub_data_name="law", split="dev")) == ["d"]
    with pytest.raises(UserError, match=r"expected law/test\.jsonl, found dev"):
        read_rows([tmp_path], sub_data_name="law", split="test")
    with pytest.raises(UserError, match=r"expected tax/train\.jsonl, found law, medical"):
        read_rows([tmp_path], sub_data_name="tax")


def test_what_is_neither_here_nor_on_the_hub_is_said_in_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for keywords in ({}, {"sub_data_name": "x"}):
        with pytest.raises(UserError, match="someone/some-set here, then for a data set of that name") as caught:
            read_rows(["someone/some-set"], **keywords)
        assert "\n" not in caught.value.message
        assert caught.value.hint is not None
        assert "--sub_data_name" in caught.value.hint
    with pytest.raises(UserError, match="no such file or folder") as caught:
        read_rows(["nothing"])
    assert "named owner/name" in str(caught.value)
    with pytest.raises(UserError, match="needs a folder laid out"):
        read_rows([tmp_path / "gone"], sub_data_name="x")
    with pytest.raises(UserError, match="folder .*gone does not exist"):
        read_rows([tmp_path / "gone" / "rows.jsonl"])


def test_extra_keys_travel_and_places_are_known(tmp_path: Path) -> None:
    line = LINE | {"pos_scores": [2], "neg_scores": [-1.5], "id": "7", "deep": {"x": [1, None]}}
    path = write(tmp_path / "a.jsonl", LINE, line)
    first, second = read_rows([path])
    assert (first.where, second.where) == (f"{path}:1", f"{path}:2")
    assert second.to_mapping() == line


def test_one_empty_file_among_several_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", LINE)
    write(tmp_path / "b.jsonl")
    with pytest.raises(DataError, match="holds no row") as caught:
        read_rows([tmp_path])
    assert caught.value.where == str(tmp_path / "b.jsonl")


def test_an_array_knows_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([LINE, LINE | {"pos": []}, LINE], indent=1))
    with pytest.raises(DataError) as caught:
        read_rows([path])
    lines = path.read_text().splitlines()
    (problem,) = caught.value.problems
    number = int(problem.where.rpartition(":")[2])
    assert lines[number - 1].strip() == "{"
    assert lines[number + 1].strip() == '"pos": [],'


def test_a_json_array_has_a_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finerank.data.lines.MAX_ARRAY", 100)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([LINE] * 10))
    with pytest.raises(DataError, match="huge-array"):
        read_rows([path])


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([LINE, LINE | {"query": "z"}]), path)
    rows = read_rows([path])
    assert queries(rows) == ["q", "z"]
    assert rows[1].where == f"{path}:2"
    pq.write_table(pa.table({"query": ["a", None], "pos": [["p"], ["p"]]}), path)
    with pytest.raises(DataError, match=r'a\.parquet:2: "query" must be a string, got null'):
        read_rows([path])
    path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
    with pytest.raises(DataError, match="bad-parquet"):
        read_rows([path])


@pytest.mark.parametrize(("package", "name"), [("pyarrow", "a.parquet"), ("zstandard", "a.jsonl.zst")])
def test_a_missing_extra_names_the_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match="which is not installed") as caught:
        read_rows([tmp_path / name])
    assert caught.value.hint == 'pip install "finerank[data]"'


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_damaged_archives(tmp_path: Path, name: str) -> None:
    import gzip

    import zstandard

    whole = json.dumps(LINE).encode() + b"\n"
    packed = (gzip.compress if name.endswith("gz") else zstandard.compress)(whole * 2000)
    (tmp_path / name).write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match=name):
        read_rows([tmp_path / name])
    (tmp_path / name).write_bytes(whole)
    with pytest.raises(DataError, match="unreadable"):
        read_rows([tmp_path / name])


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="permission denied"):
        read_rows([write(tmp_path / "a.jsonl", LINE)])


def test_pool_in_its_three_shapes(tmp_path: Path) -> None:
    pool = write(
        tmp_path / "pool.jsonl",
        {"text": "a"},
        {"_id": "1", "title": "T", "text": "b"},
        {"_id": "2", "title": "", "text": "c"},
        {"id": 3, "contents": "d"},
        {"text": "a"},
        {"_id": "4", "title": "only a title", "text": ""},
    )
    assert read_pool(pool) == ["a", "T b", "c", "d", "only a title"]
    beir = write(tmp_path / "beir" / "corpus.jsonl", {"_id": "1", "title": "T", "text": "b"}).parent
    assert read_pool(beir) == ["T b"]


@pytest.mark.parametrize("name", ["p.jsonl.gz", "p.json.zst", "p.parquet", "p.json"])
def test_a_pool_with_ids_from_any_container_and_folder(tmp_path: Path, name: str) -> None:
    import gzip

    import zstandard

    lines = [{"_id": "1", "title": "T", "text": "b"}, {"_id": "2", "title": None, "text": "c"}]
    path, body = tmp_path / "pool" / name, b"\n".join(json.dumps(line).encode() for line in lines)
    path.parent.mkdir()
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(lines), path)
    else:
        pack = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.rpartition(".")[2], bytes)
        path.write_bytes(pack(body))
    assert list(iter_pool_records(path)) == [("1", "T b"), ("2", "c")]
    write(path.parent / "a.jsonl", {"text": "x"}, {"id": 3, "contents": "y"}, {"docid": "4", "text": "z"})
    assert list(iter_pool_records(path.parent))[:4] == [(None, "x"), ("3", "y"), ("4", "z"), ("1", "T b")]


def test_bad_pools(tmp_path: Path) -> None:
    bad = write(tmp_path / "p.jsonl", {"text": 1}, {"body": "x"}, {}, {"text": " "}, {"text": "x", "title": 3}, [1])
    with pytest.raises(DataError) as caught:
        read_pool(bad)
    codes = ["bad-text", "missing-text", "missing-text", "blank-text", "bad-title", "not-an-object"]
    assert [problem.code for problem in caught.value.problems] == codes
    with pytest.raises(DataError, match="holds no passage"):
        read_pool(write(tmp_path / "empty.jsonl"))


def test_pool_of_rows_is_distinct_in_first_seen_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"query": "q", "pos": ["b", "a"], "neg": ["c", "b"]}, LINE | {"neg": ["a"]})
    assert pool_of(read_rows([path])) == ["b", "a", "c", "p"]


@pytest.mark.parametrize("key", ["knowledges", "kowndges", "documents", "passages", "texts"])
@pytest.mark.parametrize("shape", ["object", "pretty", "array", "lines"])
def test_candidates(tmp_path: Path, key: str, shape: str) -> None:
    one = {"query": "q", key: ["a", "b"]}
    whole = [one] if shape in ("object", "pretty") else [one, one | {"query": "r"}]
    text = {
        "object": json.dumps(one),
        "pretty": json.dumps(one, indent=2),
        "array": json.dumps(whole),
        "lines": "\n".join(map(json.dumps, whole)),
    }[shape]
    for name in ("c.json", "c.jsonl", "c.txt"):
        (tmp_path / name).write_text(text)
        assert read_candidates(tmp_path / name) == [(item["query"], item[key]) for item in whole]


def test_bad_candidates(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.jsonl",
        {"query": "q"},
        {"query": 1, "texts": []},
        {"texts": "abc"},
        {"query": " ", "texts": ["a", None]},
        {"query": "q", "texts": ["good"]},
    )
    with pytest.raises(DataError) as caught:
        read_candidates(path)
    found = [(problem.where.rpartition(":")[2], problem.code) for problem in caught.value.problems]
    assert found == [
        ("1", "missing-passages"),
        ("2", "bad-query"),
        ("2", "bad-passages"),
        ("3", "bad-query"),
        ("3", "bad-passages"),
        ("4", "bad-query"),
        ("4", "bad-passages"),
    ]
    with pytest.raises(DataError, match="empty-file"):
        read_candidates(write(tmp_path / "none.jsonl"))


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    write(root / "corpus.jsonl", {"_id": "d1", "title": "T", "text": "x"}, {"_id": "d2", "title": "", "text": "y"})
    write(root / "queries.jsonl", *({"_id": f"q{n}", "text": f"query {n}"} for n in (3, 1, 2)))
    (root / "qrels").mkdir()
    (root / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq3\td2\t1\nq3\td1\t0\n")
    (root / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td1\t1\n")
    return root


def test_beir_folder(beir: Path) -> None:
    judged = read_judged(beir)
    assert is_judged(beir)
    assert (judged.name, judged.passage_ids, judged.passages) == ("set", ["d1", "d2"], ["T x", "y"])
    assert (judged.query_ids, judged.queries) == (["q3", "q1"], ["query 3", "query 1"])
    assert judged.qrels == {"q3": {"d2": 1, "d1": 0}, "q1": {"d1": 2}}
    assert read_judged(beir, "dev").query_ids == ["q2"]


def test_flagembedding_custom_set(tmp_path: Path) -> None:
    root = tmp_path / "custom"
    write(root / "corpus.jsonl", {"id": 1, "title": "", "text": "x"}, {"id": 2, "text": "y"})
    write(root / "test_queries.jsonl", {"id": 7, "text": "q"})
    write(root / "test_qrels.jsonl", {"qid": 7, "docid": 2, "relevance": 1})
    judged = read_judged(root)
    assert (judged.passage_ids, judged.queries, judged.qrels) == (["1", "2"], ["q"], {"7": {"2": 1}})
    write(root / "test_qrels.jsonl", {"qid": 7, "docid": 2, "relevance": 0.5}, {"qid": None})
    with pytest.raises(DataError, match="whole grade"):
        read_judged(root)
    write(root / "test_qrels.jsonl", {"qid": 7, "docid": 2}, {"qid": "7", "docid": 2, "relevance": 3})
    with pytest.raises(DataError, match="two-grades"):
        read_judged(root)
    write(root / "test_qrels.jsonl")
    with pytest.raises(DataError, match="holds no line"):
        read_judged(root)


def test_judged_set_with_something_missing(beir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="it has the splits dev, test") as caught:
        read_judged(beir, "train")
    assert caught.value.hint == "--split dev"
    (beir / "qrels" / "test.tsv").write_text("q1\td9\t1\nq9\td1\t1\n")
    assert read_judged(beir).qrels == {"q1": {"d9": 1}}
    said = capsys.readouterr().err
    assert "1 judged queries" in said
    assert "1 relevant passages are not in corpus" in said
    (beir / "qrels" / "test.tsv").write_text("q9\td1\t1\n")
    with pytest.raises(UserError, match="no query of queries.jsonl is judged"):
        read_judged(beir)
    (beir / "queries.jsonl").unlink()
    with pytest.raises(UserError, match=r"queries\.jsonl is missing"):
        read_judged(beir)
    (beir / "corpus.jsonl").unlink()
    assert not is_judged(beir)
    with pytest.raises(UserError, match="no corpus"):
        read_judged(beir)


def test_judged_set_with_bad_lines(beir: Path) -> None:
    write(
        beir / "corpus.jsonl",
        {"_id": "d1", "text": "x"},
        {"_id": "d1", "text": "x"},
        {"_id": "d1", "text": "z"},
        {"text": "z"},
        {"_id": True, "text": "z"},
        {"_id": "d3", "text": None},
        [],
    )
    with pytest.raises(DataError) as caught:
        read_judged(beir)
    codes = ["duplicate-id", "bad-id", "bad-id", "bad-text", "not-an-object"]
    assert [problem.code for problem in caught.value.problems] == codes
    write(beir / "corpus.jsonl", {"_id": "d1", "text": ""})
    write(beir / "queries.jsonl", {"_id": "q1", "text": " "})
    with pytest.raises(DataError, match="blank"):
        read_judged(beir)


def test_trec_files_come_back_as_they_went(tmp_path: Path) -> None:
    qrels = {"q2": {"a": 1, "b": 0}, "q1": {"a": -1}}
    run = {"q2": {"a": 0.1, "b": 1 / 3, "c": 0.1}, "q1": {"z": -2e-17}}
    write_qrels(tmp_path / "q.trec", qrels)
    write_run(tmp_path / "r.trec", run, "tag")
    assert read_qrels(tmp_path / "q.trec") == qrels
    assert read_run(tmp_path / "r.trec") == run
    ids = [line.split()[2:4] for line in (tmp_path / "r.trec").read_text().splitlines()]
    assert ids == [["b", "1"], ["c", "2"], ["a", "3"], ["z", "1"]]
    with pytest.raises(UserError, match="white space"):
        write_run(tmp_path / "r.trec", {"a b": {"c": 1.0}}, "tag")


@pytest.mark.parametrize(
    "text", ["q 0 d 1\n", "q\td\t1\n", "\ufeffquery-id\tcorpus-id\tscore\r\nq\td\t1\r\n\r\n", "q d 1.0"]
)
def test_qrels_spellings(tmp_path: Path, text: str) -> None:
    (tmp_path / "q").write_bytes(text.encode())
    assert read_qrels(tmp_path / "q") == {"q": {"d": 1}}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty-file"),
        (b"q d", "bad-qrels"),
        (b"q 0 d x", "bad-qrels"),
        (b"q 0 d 0.5", "bad-qrels"),
        (b"q 0 d nan", "bad-qrels"),
        (b"q 0 d 1\nq 0 d 2", "two-grades"),
        (b"q 0 \xe9 1", "not-utf8"),
        (b"a b c d e f g", "bad-qrels"),
    ],
)
def test_bad_qrels(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "q").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_qrels(tmp_path / "q")
    assert caught.value.problems[-1].code == code


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\n", "empty-file"),
        (b"q Q0 d 1 x t", "bad-run"),
        (b"q d 1", "bad-run"),
        (b"q Q0 d 1 2 t\nq Q0 d 2 1 t", "duplicate-id"),
    ],
)
def test_bad_runs(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_run(tmp_path / "r")
    assert caught.value.problems[-1].code == code
