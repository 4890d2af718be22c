"""Every command that the pages show, run from the first to the last on tiny models that bear the shown names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from finerank.cli import main
from tests.conftest import WORDS
from tests.stages.decoders import LAYERWISE, LIGHTWEIGHT, decoders
from tests.test_docs import PAGES, ROOT, commands

__all__ = ["decoders"]

TEXTS = [f"find the {one} in the {other} file" for one in WORDS[20:30] for other in WORDS[30:38]]
ENCODERS = (
    "BAAI/bge-base-en-v1.5", "BAAI/bge-small-en-v1.5", "BAAI/bge-m3", "sentence-transformers/all-MiniLM-L6-v2", "M",
    "base", "tuned",
)  # fmt: skip
RERANKERS = ("BAAI/bge-reranker-base", "BAAI/bge-reranker-v2-m3")
FOR_TINY_MODELS = {
    "--max_loss": {"0.003": "1"},
    "--cutoff_layers": {"28": "2"},
    "--compress_layers": {"24": "1", "40": "2"},
    "--start_layer": {"8": "1"},
}
"""Values as the pages show them, for models with 28 layers and some sense -> for ours."""


def lines(path: str, objects: list[dict[str, object]]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(each) + "\n" for each in objects), encoding="utf-8")


def judged(folder: str, splits: dict[str, range]) -> None:
    lines(f"{folder}/corpus.jsonl", [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(TEXTS)])
    lines(f"{folder}/queries.jsonl", [{"_id": f"q{n}", "text": text[9:-5]} for n, text in enumerate(TEXTS)])
    Path(folder, "qrels").mkdir()
    for split, numbers in splits.items():
        rows = ["query-id\tcorpus-id\tscore", *(f"q{n}\td{n}\t1" for n in numbers)]
        Path(folder, "qrels", f"{split}.tsv").write_text("\n".join(rows) + "\n")


def files() -> None:
    """Write the files that the pages take for granted."""
    rows: list[dict[str, object]] = [{"query": text[9:-5], "pos": [text]} for text in TEXTS]
    lines("rows.jsonl", rows[:36])
    lines("train.jsonl", rows[:36])
    lines("dev.jsonl", [{**row, "neg": TEXTS[:4]} for row in rows[36:50]])
    lines("test_data.jsonl", [{**row, "neg": TEXTS[:4]} for row in rows[50:62]])
    lines("passages.jsonl", [{"text": text} for text in TEXTS])
    Path("candidates.json").write_text(json.dumps([{"query": "the cat", "passages": TEXTS[:5]}]))
    judged("beir", {"test": range(40, 60), "dev": range(60, 80)})
    judged("general", {"test": range(12)})
    numbers = range(40, 60)
    Path("qrels.dl19-passage.txt").write_text("".join(f"q{n} 0 d{n} 2\n" for n in numbers))
    for name, step in {"bm25.trec": 1, "peer.trec": 2}.items():
        ranks = [(n, k, (n + k * step) % len(TEXTS)) for n in numbers for k in range(8)]
        Path(name).write_text("".join(f"q{n} Q0 d{found} {k + 1} {9 - k} {name}\n" for n, k, found in ranks))


def models(encoder: str, reranker: str, decoders: dict[str, str]) -> None:
    """Put tiny models where the pages' names point, as folders."""
    found = dict.fromkeys(ENCODERS, encoder) | dict.fromkeys(RERANKERS, reranker)
    found |= {
        "BAAI/bge-reranker-v2-minicpm-layerwise": decoders[LAYERWISE],
        "BAAI/bge-reranker-v2.5-gemma2-lightweight": decoders[LIGHTWEIGHT],
        "BAAI/bge-reranker-v2-gemma": decoders["plain gemma"],
        "openbmb/MiniCPM-2B-dpo-bf16": decoders["plain minicpm"],
    }
    for name, folder in found.items():
        shutil.copytree(folder, name)


def fitted(words: list[str]) -> list[str]:
    """Return a command with layers that the tiny models have; a page names one output in several examples."""
    flag, result = "", list[str]()
    for word in words:
        flag = word if word.startswith("--") else flag
        result.append(FOR_TINY_MODELS.get(flag, {}).get(word, word))
    return [*result, "--overwrite"] if {"--output_dir", "--output_file"} & set(words) else result


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))])
def test_every_command_shown_runs(
    page: str, tiny_encoder: str, tiny_reranker: str, decoders: dict[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    files()
    models(tiny_encoder, tiny_reranker, decoders)
    shutil.copytree(ROOT / "recipes", "recipes")
    shutil.copytree(ROOT / "docs", "docs", ignore=shutil.ignore_patterns("adr", "__pycache__"))
    trained = {words[1] for words in commands(page) if words[0] == "train"}
    for family, model in {"embedder": tiny_encoder, "reranker": tiny_reranker}.items():
        if family not in trained:
            shutil.copytree(model, f"my-{family}")
    for words in commands(page):
        code = main(fitted(words))
        assert code == 0, (words, capsys.readouterr().err[-1500:])
