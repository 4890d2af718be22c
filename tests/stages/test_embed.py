"""``finerank embed`` on a tiny model: the vectors of every text in order, each text once, what survives a kill."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import finerank
from finerank.cli import main
from finerank.data import vector_files
from finerank.models.bi_encoder import BiEncoder
from finerank.stages import embed

SOME = "cat dog file find fish list name number open path read remove search sort string text tree two write red"
WORDS = SOME.split()
SIZE = 8


def sentences(count: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    return list(dict.fromkeys(" ".join(rng.choices(WORDS, k=rng.randint(2, 9))) for _ in range(count)))


TEXTS = [*sentences(30), *sentences(30)[::-3], "a cat", *sentences(12, seed=2), sentences(30)[4]]
"""With repeats near and far."""


def write(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write(tmp_path / "pool.jsonl", [{"text": text} for text in TEXTS])


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "SHARD_TEXTS", SIZE)
    monkeypatch.setattr(vector_files, "BLOCK", 5)
    monkeypatch.setattr(vector_files, "OPEN_FILES", 2)


def words(model: str, source: Path, output: Path, *more: str) -> list[str]:
    return ["embed", "--model_name_or_path", model, "--input_file", str(source), "--output_file", str(output),
            "--device", "cpu", "--dtype", "float32", *more]  # fmt: skip


def manifest(output: Path) -> dict[str, Any]:
    return dict(json.loads(Path(f"{output}.manifest.json").read_text()))


def expected(model: str, texts: Sequence[str], side: str = "passage", **options: Any) -> Any:
    return finerank.Embedder(model, device="cpu", dtype="float32", **options).encode(texts, side)  # type: ignore[arg-type]


class Killed(BaseException):
    """Stands for SIGKILL inside the process: no handler of the code under test catches it."""


def counting(monkeypatch: pytest.MonkeyPatch, die_at: int | None = None) -> list[list[str]]:
    """Note the texts of every call of the encoder; the call ``die_at`` ends the run."""
    real, calls = BiEncoder.encode, list[list[str]]()

    def noted(self: BiEncoder, texts: Sequence[str], *more: Any) -> Any:
        if len(calls) == die_at:
            raise Killed
        calls.append(list(texts))
        return real(self, texts, *more)

    monkeypatch.setattr(BiEncoder, "encode", noted)
    return calls


def test_the_vectors_of_every_text_in_order_each_text_encoded_once(
    tiny_encoder: str, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = expected(tiny_encoder, TEXTS)
    calls = counting(monkeypatch)
    assert main(words(tiny_encoder, pool, tmp_path / "out.npy")) == 0
    found = np.load(tmp_path / "out.npy")
    assert (found.shape, found.dtype) == ((len(TEXTS), 32), np.float32)
    np.testing.assert_allclose(found, vectors, rtol=0, atol=1e-6)
    assert (found[TEXTS.index(TEXTS[-1])] == found[-1]).all()
    distinct = list(dict.fromkeys(TEXTS))
    assert [text for call in calls for text in call] == distinct
    assert {len(call) for call in calls[:-1]} == {SIZE}
    counts = manifest(tmp_path / "out.npy")["counts"]
    assert counts == {"texts": len(TEXTS), "texts_distinct": len(distinct), "ids": 0, "dimension": 32}
    assert not (tmp_path / "out.npy.ids.jsonl").exists()
    assert "ids: none" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parquet_holds_the_same_vectors_and_the_ids(
    tiny_encoder: str, tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    lines = [{"_id": f"d{at}", "title": "file" if at % 2 else "", "text": text} for at, text in enumerate(TEXTS)]
    source = write(tmp_path / "corpus.jsonl", lines)
    assert main(words(tiny_encoder, source, tmp_path / "out.npy", "--output_dtype", dtype)) == 0
    assert main(words(tiny_encoder, source, tmp_path / "out.parquet", "--output_dtype", dtype)) == 0
    matrix, table = np.load(tmp_path / "out.npy"), parquet.read_table(tmp_path / "out.parquet")
    assert matrix.dtype == dtype
    assert table.column_names == ["id", "vector"]
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), dtype=dtype), matrix)
    ids = [json.loads(line)["id"] for line in (tmp_path / "out.npy.ids.jsonl").read_text().splitlines()]
    assert ids == table["id"].to_pylist() == [line["_id"] for line in lines]
    texts = [f"{line['title']} {line['text']}".strip() for line in lines]
    np.testing.assert_allclose(matrix, expected(tiny_encoder, texts), rtol=0, atol=1e-6 if dtype == "float32" else 1e-3)
    assert "ids: column id" in capsys.readouterr().out


def test_lines_of_a_text_file_end_at_line_feeds_only(tiny_encoder: str, tmp_path: Path) -> None:
    source = tmp_path / "texts.txt"
    source.write_bytes("\ufeffa cat\u2028and a dog\r\nfind\u0085the file\n\n\n".encode())
    assert main(words(tiny_encoder, source, tmp_path / "out.npy")) == 0
    texts = ["a cat\u2028and a dog", "find\u0085the file"]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected(tiny_encoder, texts), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gap.txt", b"a cat\n\na dog\n", "gap.txt:2: the line is blank"),
        ("latin.txt", b"a cat\nd\xe9j\xe0\n", "latin.txt:2: byte 0xe9 at column 2 is not UTF-8"),
        ("empty.txt", b"\n\n", "empty.txt: the file holds no text"),
        ("rows.jsonl", b'{"query": "q", "pos": ["p"]}\n', "--text_key NAME says which key holds the text"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": 3}\n{"text": " "}\n', "bad.jsonl:3: "),
    ],
)
def test_bad_input_is_said_before_the_model_is_opened(
    name: str, content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert main(words("./no/model", tmp_path / name, tmp_path / "out.npy")) == 1
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_key_of_any_records(tiny_encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": 7, "query": "find a cat", "pos": ["a cat", "a dog"]}, {"query": "sort", "pos": ["the list"]}]
    source = write(tmp_path / "rows.jsonl", rows)
    assert main(words(tiny_encoder, source, tmp_path / "q.npy", "--text_key", "query", "--side", "query")) == 0
    assert main(words(tiny_encoder, source, tmp_path / "p.npy", "--text_key", "pos")) == 0
    queries = expected(tiny_encoder, ["find a cat", "sort"], "query")
    np.testing.assert_allclose(np.load(tmp_path / "q.npy"), queries, rtol=0, atol=1e-6)
    passages = expected(tiny_encoder, ["a cat", "a dog", "the list"])
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), passages, rtol=0, atol=1e-6)
    assert (tmp_path / "p.npy.ids.jsonl").read_text() == '{"id":"7"}\n{"id":"7"}\n{"id":null}\n'
    assert main(words(tiny_encoder, source, tmp_path / "x.npy", "--text_key", "answer")) == 1
    assert 'the record has no "answer", only id, query, pos' in capsys.readouterr().err


def test_the_sides_of_a_judged_folder(tiny_encoder: str, tmp_path: Path) -> None:
    folder = tmp_path / "judged"
    (folder / "qrels").mkdir(parents=True)
    write(folder / "corpus.jsonl", [{"_id": "d1", "title": "cat", "text": "a red fish"}, {"_id": "d2", "text": "two"}])
    write(folder / "queries.jsonl", [{"_id": "q1", "text": "find the cat"}])
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    assert main(words(tiny_encoder, folder, tmp_path / "corpus.npy")) == 0
    assert main(words(tiny_encoder, folder, tmp_path / "queries.npy", "--side", "query")) == 0
    corpus = expected(tiny_encoder, ["cat a red fish", "two"])
    np.testing.assert_allclose(np.load(tmp_path / "corpus.npy"), corpus, rtol=0, atol=1e-6)
    assert np.load(tmp_path / "queries.npy").shape == (1, 32)
    assert (tmp_path / "queries.npy.ids.jsonl").read_text() == '{"id":"q1"}\n'


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_run_that_dies_goes_on_to_the_same_bytes(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, suffix: str
) -> None:
    source = write(tmp_path / "pool.jsonl", [{"id": str(at), "text": text} for at, text in enumerate(TEXTS)])
    whole, output = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    assert main(words(tiny_encoder, source, whole)) == 0
    with monkeypatch.context() as patch:
        counting(patch, die_at=after)
        with pytest.raises(Killed):
            main(words(tiny_encoder, source, output))
    assert not output.exists()
    calls = counting(monkeypatch)
    assert main(words(tiny_encoder, source, output)) == 0
    assert [text for call in calls for text in call] == list(dict.fromkeys(TEXTS))[after * SIZE :]
    assert output.read_bytes() == whole.read_bytes()
    if suffix == ".npy":
        assert Path(f"{output}.ids.jsonl").read_bytes() == Path(f"{whole}.ids.jsonl").read_bytes()


@pytest.mark.slow
def test_two_devices_write_the_bytes_of_one(tiny_encoder: str, pool: Path, tmp_path: Path) -> None:
    assert main(words(tiny_encoder, pool, tmp_path / "one.npy")) == 0
    assert main([*words(tiny_encoder, pool, tmp_path / "two.npy"), "--devices", "cpu", "cpu"]) == 0
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "two.npy").read_bytes()


def test_every_option_that_decides_a_vector_reaches_the_model(
    tiny_encoder: str, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tiny_encoder, pool, tmp_path / "plain.npy")) == 0
    for more in (
        ["--passage_instruction_for_retrieval", "read "],
        ["--pooling_method", "cls"],
        ["--normalize_embeddings", "False"],
        ["--embedder_passage_max_length", "4"],
        ["--side", "query", "--query_instruction_for_retrieval", "find", "--query_instruction_format_for_retrieval",
         "the {} {}"],
        ["--side", "query", "--embedder_query_max_length", "4"],
    ):  # fmt: skip
        assert main(words(tiny_encoder, pool, tmp_path / "other.npy", "--overwrite", *more)) == 0
        assert (tmp_path / "other.npy").read_bytes() != (tmp_path / "plain.npy").read_bytes(), more
    capsys.readouterr()
    more = ["--query_instruction_for_retrieval", "find "]
    assert main(words(tiny_encoder, pool, tmp_path / "same.npy", *more)) == 0
    assert "--query_instruction_for_retrieval has no effect with --side passage" in capsys.readouterr().err
    assert (tmp_path / "same.npy").read_bytes() == (tmp_path / "plain.npy").read_bytes()


def test_done_work_is_said_and_ids_that_are_gone_or_anothers_are_not_passed_over(
    tiny_encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "pool.jsonl", [{"id": str(at), "text": text} for at, text in enumerate(TEXTS)])
    output, ids = tmp_path / "out.npy", tmp_path / "out.npy.ids.jsonl"
    ids.write_text("somebody's\n")
    assert main(words(tiny_encoder, source, output)) == 1
    assert "out.npy.ids.jsonl: already exists, and no manifest says what made it" in capsys.readouterr().err
    assert not output.exists()
    ids.unlink()
    assert main(words(tiny_encoder, source, output)) == 0
    assert main(words(tiny_encoder, source, output)) == 0
    assert "already embedded" in capsys.readouterr().err
    ids.unlink()
    assert main(words(tiny_encoder, source, output)) == 1
    assert "out.npy.ids.jsonl: is gone, or was changed" in capsys.readouterr().err
    assert main(words(tiny_encoder, source, output, "--overwrite")) == 0
    assert len(ids.read_text().splitlines()) == len(TEXTS)


def test_what_cannot_be_is_refused(
    tiny_encoder: str, tiny_reranker: str, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(words(tiny_encoder, pool, tmp_path / "out.csv")) == 2
    assert "--output_file must end in .npy or .parquet" in capsys.readouterr().err
    assert main(words(tiny_reranker, pool, tmp_path / "out.npy")) == 1
    assert "is a reranker, not an embedder" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(words(tiny_encoder, pool, tmp_path / "out.parquet")) == 1
    assert 'pip install "finerank[data]"' in capsys.readouterr().err


def test_numbers_too_large_for_float16_are_an_error(
    tiny_encoder: str, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(BiEncoder, "encode", lambda self, texts, *more: np.full((len(texts), 32), 1e5, np.float32))
    assert main(words(tiny_encoder, pool, tmp_path / "out.npy", "--output_dtype", "float16")) == 1
    assert "too large for float16" in capsys.readouterr().err
    monkeypatch.setattr(BiEncoder, "encode", lambda self, texts, *more: np.full((len(texts), 32), np.nan, np.float32))
    assert main(words(tiny_encoder, pool, tmp_path / "out.npy")) == 1
    assert f'the text "{TEXTS[0]}" a vector that holds no numbers' in capsys.readouterr().err


def test_the_library_call(tiny_encoder: str, pool: Path, tmp_path: Path) -> None:
    options = finerank.EmbedOptions(
        model_name_or_path=tiny_encoder, input_file=[str(pool)], output_file=str(tmp_path / "o.npy"), device="cpu"
    )
    assert finerank.embed(options).data["texts"] == len(TEXTS)
