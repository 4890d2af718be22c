"""convert: every format there and back, containers, judged folders, refusals, what is lost said aloud."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from finerank.cli import main
from finerank.core.errors import DataError, UsageError, UserError
from finerank.data import containers, grouping
from finerank.data.sources import read_judged, read_rows
from finerank.data.text import digest
from finerank.stages.convert import ConvertOptions, run

ROWS: list[dict[str, Any]] = [
    {"query": f"q{n}\u2028é", "pos": [f"p{n}", f"r{n}"], "neg": [f"n{n}", f"m{n}", "shared"]} for n in range(6)
]
SCORED = [row | {"pos_scores": [3.0, 2.5], "neg_scores": [1.0, 0.5, -1.0]} for row in ROWS]


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def convert(source: str | Path | list[str], to: str, place: Path, **options: Any) -> dict[str, Any]:
    files = source if isinstance(source, list) else [str(source)]
    where = {"output_dir" if to == "beir" else "output_file": str(place)}
    return run(ConvertOptions(files=files, to_format=to, **where, **options)).data


def read(path: Path, **keywords: Any) -> list[dict[str, Any]]:
    return [row.to_mapping() for row in read_rows([path], **keywords)]


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".jsonl.gz", ".json.zst", ".parquet"])
@pytest.mark.parametrize("form", ["rows", "triplet", "n-tuple", "tevatron", "labeled-pair", "labeled-list"])
def test_there_and_back(tmp_path: Path, form: str, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "CHUNK_LINES", 4)
    monkeypatch.setattr(containers, "GROUP_LINES", 4)
    holds = form not in ("labeled-pair", "labeled-list")
    source = write(tmp_path / "rows.jsonl", SCORED if holds else ROWS)
    there, back = tmp_path / f"there{ending}", tmp_path / "back.jsonl"
    counts = convert(source, form, there)
    assert counts["rows"] == 6
    assert counts["lines"] == {"triplet": 36, "n-tuple": 12, "labeled-pair": 30}.get(form, 6)
    convert(there, "rows", back)
    wanted = ("query", "pos", "neg", "pos_scores", "neg_scores")
    found = [{key: value for key, value in row.items() if key in wanted} for row in read(back)]
    assert found == (SCORED if holds else ROWS)


def test_pairs_hold_queries_and_positives(tmp_path: Path) -> None:
    counts = convert(write(tmp_path / "rows.jsonl", ROWS), "pair", tmp_path / "pairs.jsonl")
    assert (counts["lines"], counts["rows_losing_negatives"]) == (12, 6)
    convert(tmp_path / "pairs.jsonl", "rows", tmp_path / "back.jsonl")
    assert read(tmp_path / "back.jsonl") == [row | {"neg": []} for row in ROWS]
    convert(tmp_path / "pairs.jsonl", "rows", tmp_path / "flat.jsonl", group=False)
    assert [(row["query"], row["pos"]) for row in read(tmp_path / "flat.jsonl")] == [
        (row["query"], [text]) for row in ROWS for text in row["pos"]
    ]


def test_lines_of_a_query_are_gathered_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "BUCKET", 2)
    monkeypatch.setattr(grouping, "FLUSHED", 100)
    lines = [
        {"anchor": row["query"], "positive": positive, "negative": negative}
        for index in range(3) for row in ROWS for positive in row["pos"] for negative in row["neg"][index : index + 1]
    ]  # fmt: skip
    write(tmp_path / "triplets.jsonl", lines)
    convert(tmp_path / "triplets.jsonl", "rows", tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == ROWS
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.jsonl",
        "out.jsonl.manifest.json",
        "triplets.jsonl",
    ]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    for ending in (".jsonl.gz", ".json.zst", ".parquet"):
        for name in ("a", "b"):
            convert(source, "tevatron", tmp_path / f"{name}{ending}")
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()
    plain = tmp_path / "plain.jsonl"
    convert(source, "tevatron", plain)
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == plain.read_bytes()
    body = zstandard.ZstdDecompressor().stream_reader((tmp_path / "a.json.zst").read_bytes()).read()
    assert json.loads(body) == [json.loads(line) for line in plain.read_text().split("\n")[:-1]]


@pytest.mark.parametrize(
    ("form", "ending"), [("triplet", ".jsonl"), ("n-tuple", ".parquet"), ("labeled-list", ".json")]
)
def test_what_sentence_transformers_loads(tmp_path: Path, form: str, ending: str) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / f"out{ending}"
    convert(write(tmp_path / "rows.jsonl", SCORED), form, path)
    kind = "parquet" if ending == ".parquet" else "json"
    found = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    columns = {
        "triplet": ["anchor", "positive", "negative", "scores"],
        "n-tuple": ["anchor", "positive", "negative_1", "negative_2", "negative_3", "scores"],
        "labeled-list": ["query", "docs", "labels"],
    }[form]
    assert found.column_names == columns
    assert len(found) == {"triplet": 36, "n-tuple": 12, "labeled-list": 6}[form]


@pytest.mark.parametrize(("form", "scores"), [("triplet", "margin"), ("triplet", "list"), ("n-tuple", "margin")])
def test_margins_are_what_their_loss_expects(tmp_path: Path, form: str, scores: str, tiny_encoder: str) -> None:
    """The loss of sentence-transformers on the converted lines is that of the margins taken by hand."""
    torch = pytest.importorskip("torch")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss

    row = {"query": "find", "pos": ["file"], "neg": ["dog", "cat tree"], "pos_scores": [3.0], "neg_scores": [1.0, -0.5]}
    path = tmp_path / "out.jsonl"
    convert(write(tmp_path / "rows.jsonl", [row]), form, path, teacher_scores=scores)
    model = SentenceTransformer(tiny_encoder, device="cpu")
    vectors = model.encode(["find", "file", "dog", "cat tree"], convert_to_tensor=True)
    predicted = [float(vectors[0] @ (vectors[1] - vectors[index])) for index in (2, 3)]
    wanted = [(predicted[0] - 2.0) ** 2, (predicted[1] - 3.5) ** 2]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = []
    for line in lines:
        label = torch.tensor([line.get("scores", line.get("score"))])
        features = [model.tokenize([text]) for key, text in line.items() if key not in ("score", "scores")]
        with torch.no_grad():
            found.append(float(MarginMSELoss(model.eval())(features, label)))
    expected = wanted if form == "triplet" else [sum(wanted) / 2]
    assert found == pytest.approx(expected, rel=1e-4)


def test_beir_there_and_back(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    place = tmp_path / "beir"
    counts = convert(source, "beir", place, output_split="dev", write_negatives=True)
    assert (counts["queries"], counts["passages"], counts["judgements"]) == (6, 6 * 4 + 1, 6 * 5)
    judged = read_judged(place, "dev")
    assert judged.queries == [row["query"] for row in ROWS]
    assert set(judged.qrels[digest(ROWS[0]["query"])].values()) == {0, 1}
    back = read(place, split="dev")
    assert [{key: row[key] for key in ("query", "pos", "neg")} for row in back] == ROWS
    assert back[0]["id"] == digest(ROWS[0]["query"])
    assert read_rows([place], split="dev")[1].where == f"{place / 'queries.jsonl'}:2"
    with pytest.raises(UserError, match='no split "train" here: it has the splits dev') as caught:
        read_rows([place])
    assert caught.value.hint == "--split dev"


def test_beir_keeps_ids_and_leaves_negatives_unjudged(tmp_path: Path) -> None:
    rows = [
        {"query": "a", "pos": ["p"], "neg": ["n"], "id": "Q 1", "pos_id": ["x"], "neg_id": ["y"], "prompt": "z"},
        {"query": "a", "pos": ["r"], "neg": ["p"], "id": "Q 1"},
    ]
    counts = convert(write(tmp_path / "rows.jsonl", rows), "beir", tmp_path / "beir")
    assert counts["keys_lost"] == {"prompt": 1}
    assert (counts["queries"], counts["rows_losing_negatives"]) == (1, 2)
    lines = (tmp_path / "beir" / "qrels" / "test.tsv").read_text().splitlines()
    assert lines == ["query-id\tcorpus-id\tscore", "Q 1\tx\t1", f"Q 1\t{digest('r')}\t1"]
    corpus = [json.loads(line) for line in (tmp_path / "beir" / "corpus.jsonl").read_text().splitlines()]
    assert [line["text"] for line in corpus] == ["p", "n", "r", "p"]
    (row,) = read(tmp_path / "beir", split="test")
    assert (row["id"], row["pos"], row["neg"]) == ("Q 1", ["p", "r"], [])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"query": "a", "pos": ["p"], "id": "1"}, {"query": "b", "pos": ["p"], "id": "1"}], 'the id "1" stands'),
        ([{"query": "a", "pos": ["p", "r"], "pos_id": ["1", "1"]}], 'the id "1" stands'),
        ([{"query": "a", "pos": ["p"], "id": "1\t2"}], "tab-separated"),
    ],
)
def test_ids_that_cannot_be_written(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    source = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=message) as caught:
        convert(source, "beir", tmp_path / "beir")
    assert str(caught.value.where).startswith(str(source))
    assert not (tmp_path / "beir.manifest.json").exists()


def test_grades_of_a_judged_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "set"
    write(root / "corpus.jsonl", [{"_id": f"d{n}", "title": "", "text": f"t{n}"} for n in range(4)])
    write(root / "queries.jsonl", [{"_id": f"q{n}", "text": f"query {n}"} for n in (2, 1, 3)])
    (root / "qrels").mkdir()
    qrels = ["q1\td0\t2", "q1\td1\t1", "q1\td2\t0", "q1\tgone\t1", "q2\td3\t1", "q3\td0\t0", "q9\td0\t1"]
    (root / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(qrels))
    assert [(row["query"], row["pos"], row["neg"], row["id"]) for row in read(root)] == [
        ("query 2", ["t3"], [], "q2"),
        ("query 1", ["t0", "t1"], ["t2"], "q1"),
    ]
    said = capsys.readouterr().err
    for sentence in (
        "1 relevant passages are not in corpus.jsonl, or blank",
        "1 queries of split",
        "1 judged queries have no text",
    ):
        assert sentence in said
    convert(root, "rows", tmp_path / "out.jsonl", min_grade=2, from_format="beir")
    assert [(row["pos"], row["neg"]) for row in read(tmp_path / "out.jsonl")] == [(["t0"], ["t2"])]
    write(root / "corpus.jsonl", [{"_id": "d0", "text": "a"}, {"_id": "d0", "text": "b"}, {"text": "c"}])
    with pytest.raises(DataError) as caught:
        read_rows([root])
    assert [problem.code for problem in caught.value.problems][:2] == ["duplicate-id", "bad-id"]


def test_n_tuples_need_equally_many_negatives(tmp_path: Path) -> None:
    rows = [ROWS[0], ROWS[1] | {"neg": ["a"]}, ROWS[2] | {"neg": []}]
    source = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match="1 to 3 negatives") as caught:
        convert(source, "n-tuple", tmp_path / "out.jsonl")
    assert caught.value.hint == "--negative_number 1 keeps all rows that have one, 3 keeps 50% of them"
    counts = convert(source, "n-tuple", tmp_path / "out.jsonl", negative_number=2)
    assert (counts["lines"], counts["rows_short"], counts["rows_without_negatives"]) == (2, 1, 1)
    assert counts["negatives_cut"] == 1


def test_a_format_that_holds_no_row_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [row | {"neg": []} for row in ROWS])
    with pytest.raises(UserError, match="none of the 6 rows gives a line in the format triplet"):
        convert(source, "triplet", tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_bad_lines_stop_the_conversion_and_leave_no_output(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [{"anchor": "a", "positive": "p"}, {"text": "x"}, {"anchor": "a"}])
    with pytest.raises(DataError) as caught:
        convert(source, "rows", tmp_path / "out.jsonl")
    assert [problem.where.rpartition(":")[2] for problem in caught.value.problems] == ["2", "3"]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_pool_taken_for_rows_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a passage of a pool") as caught:
        read_rows([write(tmp_path / "pool.jsonl", [{"text": "a"}])])
    assert caught.value.hint is not None
    assert "--candidate_pool" in caught.value.hint


def test_passages_by_id_take_their_texts_from_the_corpus(tmp_path: Path) -> None:
    record = {"query_id": "1", "query_text": "q", "positive_document_ids": ["a"], "negative_document_ids": ["b"]}
    source = write(tmp_path / "train.jsonl", [record])
    corpus = [{"docid": name, "title": "T" if name == "a" else "", "text": name * 2} for name in "abc"]
    write(tmp_path / "corpus.jsonl", corpus)
    with pytest.raises(DataError, match="named by id") as caught:
        convert(source, "rows", tmp_path / "out.jsonl")
    assert caught.value.hint is not None
    assert "--corpus" in caught.value.hint
    convert(source, "rows", tmp_path / "out.jsonl", corpus=str(tmp_path / "corpus.jsonl"))
    (row,) = read(tmp_path / "out.jsonl")
    assert row == {"query": "q", "pos": ["T aa"], "neg": ["bb"], "id": "1", "pos_id": ["a"], "neg_id": ["b"]}


def test_values_that_a_container_cannot_hold(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [ROWS[0] | {"x": 1}, ROWS[1] | {"x": "one"}])
    with pytest.raises(UserError, match='"x" holds values of several types'):
        convert(source, "rows", tmp_path / "out.parquet")
    write(tmp_path / "late.jsonl", [ROWS[0], ROWS[1] | {"x": [1.5]}, ROWS[2] | {"x": [2]}])
    convert(tmp_path / "late.jsonl", "rows", tmp_path / "late.parquet")
    assert [row.get("x") for row in read(tmp_path / "late.parquet")] == [None, [1.5], [2.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to_format": "beir", "output_file": "x.jsonl"}, "--to beir needs --output_dir"),
        ({"to_format": "rows"}, "--to rows needs --output_file"),
        ({"to_format": "rows", "output_file": "x.jsonl", "output_dir": "y"}, "so --output_dir has no place"),
        ({"to_format": "rows", "output_file": "x.txt"}, "ending must be"),
        ({"to_format": "rows", "output_file": "x.parquet.gz"}, "compressed inside"),
        (
            {"to_format": "labeled-list", "output_file": "x.jsonl", "teacher_scores": "margin"},
            "for triplet and n-tuple",
        ),
        ({"to_format": "beir", "output_dir": "x", "output_split": "a/b"}, "must be a name"),
    ],
)
def test_usage(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(UsageError, match=message):
        run(ConvertOptions(files=[str(source)], **options))


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "rows.jsonl", [row | {"prompt": "x"} for row in SCORED])
    out = tmp_path / "out.jsonl"
    words = ["convert", str(source), "--from", "rows", "--to", "labeled-pair", "-o", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "6 rows → 30 lines (labeled-pair)" in said
    assert "6 rows lose their teacher scores" in said
    assert "prompt (6)" in said
    before = out.stat().st_mtime_ns
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows_losing_scores"] == 6
    assert out.stat().st_mtime_ns == before
    assert main([*words[:5], "pair", *words[6:]]) == 1
    assert "--to_format labeled-pair → pair" in capsys.readouterr().err
