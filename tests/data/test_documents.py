"""Corpora of every shape become documents; Markdown is cut where a reader would cut it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from finerank.core.errors import DataError, UserError
from finerank.data.documents import Document, Documents, Pages, input_of, open_documents
from finerank.data.markdown import plain, sections_of
from finerank.data.sources import iter_pool


def write(path: Path, *lines: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def test_flashrag(tmp_path: Path) -> None:
    path = write(tmp_path / "wiki.jsonl",
                 {"id": 7, "contents": '"Una River"\nIt rises in a bog.\nIt ends.'},
                 {"id": "8", "contents": "no title here"},
                 {"id": "9", "title": "T", "contents": "T\nbody"})  # fmt: skip
    one, two, three = open_documents(path)
    assert (one.id, one.title, one.text) == ("7", "Una River", "It rises in a bog.\nIt ends.")
    assert (two.title, two.text) == ("", "no title here")
    assert (three.title, three.text) == ("T", "body")
    assert [each.passage for each in (one, two, three)] == list(iter_pool(path))


def test_beir_folder_and_its_pool_have_the_same_texts(tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl",
          {"_id": "a", "title": "Title", "text": "Text."}, {"_id": "b", "title": "", "text": "B"},
          {"_id": "c", "title": "", "text": "  "})  # fmt: skip
    documents = open_documents(tmp_path)
    assert [(each.id, each.title, each.text) for each in documents] == [("a", "Title", "Text."), ("b", "", "B")]
    assert list(documents.passages()) == ["Title Text.", "B"]
    assert documents.skipped == {"blank": 1}
    assert documents.number_of("b") == 1
    assert documents.number_of("zzz") is None


def test_plain_packed_and_parquet(tmp_path: Path) -> None:
    packed = tmp_path / "pool.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    assert [(each.id, each.text) for each in open_documents(packed)] == [("d0", "one"), ("d1", "two")]
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.table({"_id": ["x"], "title": ["T"], "text": ["body"]}), tmp_path / "pool.parquet")
    assert [each.passage for each in open_documents(tmp_path / "pool.parquet")] == ["T body"]


def test_all_bad_lines_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", {"id": "1", "contents": 3}, {"id": "2"}, {"id": "3", "text": "fine"})
    with pytest.raises(DataError) as raised:
        open_documents(path)
    assert [problem.where.rsplit(":", 1)[1] for problem in raised.value.problems] == ["1", "2"]


def test_an_id_stands_for_one_document(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="several documents"):
        open_documents(write(tmp_path / "twice.jsonl", {"id": "1", "text": "a"}, {"id": "1", "text": "b"}))


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        open_documents(tmp_path / "absent.jsonl")
    with pytest.raises(UserError, match="no document"):
        open_documents(write(tmp_path / "blank.jsonl", {"text": " "}))


PAGE = """---
title: The guide
tags: [a]
---
Welcome text.

# Install

Run it like [this](http://example.com/x).

```bash
# not a heading
make
```

Setext heading
--------------
Below it.

## Linux
Use the package. <!-- hidden -->

## Empty
"""


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("a <!-- b --> c [d](e) ![f](g) [h][i]", "a  c d f h"),
        ("a <!-- b <!-- c --> d <!-- e", "a  d <!-- e"),
        ("[a [b](c) [d", "[a b [d"),
        ("[![a](b)](c)", "a"),
        ("<!-- " * 20000, "<!-- " * 20000),
        ("[" * 20000, "[" * 20000),
    ],
)
def test_markdown_without_its_marks(line: str, left: str) -> None:
    assert plain([line]) == left


def test_markdown_is_cut_at_its_headings() -> None:
    found = [(part.headings, part.text) for part in sections_of(PAGE, "file")]
    assert [headings for headings, _ in found] == [
        ("The guide",), ("The guide", "Install"), ("The guide", "Install", "Setext heading"),
        ("The guide", "Install", "Linux"),
    ]  # fmt: skip
    texts = [text for _, text in found]
    assert texts[1] == "Run it like this.\n\n```bash\n# not a heading\nmake\n```"
    assert texts[3] == "Use the package."


def test_a_long_section_is_cut_between_paragraphs_but_not_inside_a_fence() -> None:
    fence = "```\n" + "\n\n".join(f"line {n}" for n in range(900)) + "\n```"
    parts = [part.text for part in sections_of(f"# A\n{'word ' * 700}\n\n{fence}\n\nend", "file")]
    assert len(parts) >= 2
    assert [part.count("```") for part in parts if "```" in part] == [2]


def test_a_folder_of_pages(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    for name, text in {
        "guide.md": "# Guide\nHello.\n## Install\nOne.\n## Install\nTwo.\n", "deep/how-to_run.txt": "Just text.",
        "deep/README.md": "No heading.", ".hidden/x.md": "# X\nx", "node_modules/y.md": "# Y\ny", "data.json": "{}",
    }.items():  # fmt: skip
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        (docs / name).write_text(text, encoding="utf-8")
    (docs / "latin.md").write_bytes("# Caf\xe9\nx".encode("latin-1"))
    documents = open_documents(docs)
    assert {each.id: each.title for each in documents} == {
        "deep/README.md#deep": "Deep", "deep/how-to_run.txt": "How to run", "guide.md#guide": "Guide",
        "guide.md#install": "Guide › Install", "guide.md#install-2": "Guide › Install",
    }  # fmt: skip
    assert documents.skipped == {"file not UTF-8": 1}
    assert documents[documents.number_of("guide.md#install")].passage == "Guide › Install\nOne."  # type: ignore[index]


def test_only_pages_decide_a_folders_digest(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\ntext")
    pages = input_of(str(tmp_path))
    assert isinstance(pages, Pages)
    before = pages.digest()
    (tmp_path / "train_data.jsonl").write_text("{}")
    assert pages.digest() == before
    (tmp_path / "a.md").write_text("# A\nother")
    assert pages.digest() != before


def test_documents_beyond_memory_read_back(tmp_path: Path) -> None:
    documents = Documents((Document(f"n{i}", f"t{i}", f"text 中 {i}", f"t{i} ") for i in range(500)), in_memory=100)
    assert len(documents) == 500
    assert documents[-1] == Document("n499", "t499", "text 中 499", "t499 ")
    assert [each.id for each in documents[3:5]] == ["n3", "n4"]
    assert documents.passages()[7] == "t7 text 中 7"
    assert documents.number_of("n321") == 321
    assert documents.length(0) == len("t0 text 中 0".encode())
