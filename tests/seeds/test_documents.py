"""The lines in this folder are the documents' own; checked where the documents lie beside the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .lines import ABLATION_LINES, DATA_LINES, DOCUMENTED, GENERATE_LINES, TRAIN_LINES, Line

DOCUMENTS = Path(__file__).parents[3] / "shared" / "seeds"
needs_documents = pytest.mark.skipif(not DOCUMENTS.is_dir(), reason="the seed documents are not here")


def document(name: str) -> str:
    (path,) = DOCUMENTS.glob(f"{name}_*")
    return re.sub(r"[ \t]+\n", "\n", path.read_text(encoding="utf-8"))


@needs_documents
@pytest.mark.parametrize(
    "line",
    [*DATA_LINES, *TRAIN_LINES, *GENERATE_LINES, *ABLATION_LINES],
    ids=lambda line: f"{line.verb} {line.document}",
)
def test_the_line_stands_in_its_document(line: Line) -> None:
    assert line.text.strip() in document(line.document)


@needs_documents
def test_all_data_command_lines_of_the_seeds_are_here() -> None:
    scripts = ("hn_mine", "hn_mine.py", "add_reranker_score.py", "split_data_by_length.py")
    found = [
        (path.name[:3], match)
        for path in sorted(DOCUMENTS.iterdir())
        for match in re.findall(r"python (?:-m )?(\S+)", path.read_text(encoding="utf-8"))
        if match.endswith(scripts)
    ]
    assert sorted(found) == sorted((line.document, line.script) for line in DATA_LINES)


@needs_documents
def test_all_training_command_lines_of_the_seeds_are_here() -> None:
    scripts = ("run.py", "finetune.run", "reranker.run", "train.py", "train_reranker.py")
    found = [
        (path.name[:3], match)
        for path in sorted(DOCUMENTS.iterdir())
        for match in re.findall(r"(?:python |--nproc_per_node 7 |-m )(\S+)", path.read_text(encoding="utf-8"))
        if match.endswith(scripts)
    ]
    assert sorted(found) == sorted((line.document, line.script) for line in TRAIN_LINES)


@needs_documents
def test_all_generator_lines_of_the_seeds_are_here() -> None:
    line_of = re.compile(r"^python (?:\./)?contrastive_data_generator\.py.*$", re.MULTILINE)
    found = [
        (path.name[:3], line)
        for path in sorted(DOCUMENTS.iterdir())
        for line in line_of.findall(path.read_text(encoding="utf-8"))
    ]
    assert found == [(line.document, line.text.strip()) for line in GENERATE_LINES]


@needs_documents
def test_all_evaluating_command_lines_of_the_seeds_are_here() -> None:
    scripts = ("test_reranker.py", "rerank_ablation_test.py")
    found = [match for match in re.findall(r"python (\S+) --", document("003")) if match.endswith(scripts)]
    assert sorted(found) == sorted(line.script for line in ABLATION_LINES)


@needs_documents
@pytest.mark.parametrize("verb", DOCUMENTED)
def test_the_documented_options_are_the_documents(verb: str) -> None:
    text = document("004")
    assert all(f"**`{name}`**" in text for name in DOCUMENTED[verb])
