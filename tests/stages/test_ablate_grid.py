"""``finerank ablate --dataset``: a grid of pipelines on a judged folder, each computation once, cost beside quality."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finerank.cli import main
from finerank.core.errors import UsageError
from finerank.data.trec import read_qrels, read_run
from finerank.evaluation.grid import Pipeline, grid, names_of, parse_diverse
from finerank.evaluation.metrics import evaluate_run, mean
from finerank.retrieval.diverse import diverse_select, weights

SOME = "cat dog file find fish list name number open path read remove search sort string text tree write"
WORDS = SOME.split()
USUAL = weights(0.87, 0.03, 0.1)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty passages, some of them copies; eight queries."""
    folder = tmp_path_factory.mktemp("judged") / "toy"
    (folder / "qrels").mkdir(parents=True)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=8)) for _ in range(32)]
    texts += [f"{text} again" for text in texts[:8]]
    corpus = [{"_id": f"d{place}", "title": "", "text": text} for place, text in enumerate(texts)]
    queries = [{"_id": f"q{place}", "text": " ".join(texts[place].split()[:4])} for place in range(8)]
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs = [f"q{place}\td{place}\t1" for place in range(8)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *pairs]) + "\n")
    return folder


def ablated(judged: Path, out: Path, *words: str) -> dict[str, Any]:
    asked = ["ablate", "--dataset", str(judged), "--output_file", str(out), "--dtype", "float32", "--device", "cpu"]
    assert main([*asked, *words]) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_the_grid_has_no_pipeline_twice() -> None:
    found = grid(["bm25", "e"], [None, USUAL], [None, "r"], [20, 10])
    assert len(found) == len(set(found)) == 2 * (1 + 2 + 2 + 2)
    assert found[0] == Pipeline("bm25", None, None, 20)
    names = list(names_of(found))
    assert len(names) == len(found)
    assert names[:3] == ["bm25", "r over bm25 @10", "r over bm25 @20"]
    assert "r over bm25 diverse 0.87/0.03/0.1 @10" in names


def test_diversities_are_read() -> None:
    assert parse_diverse([], USUAL) == [None, USUAL]
    assert parse_diverse(["1,0,1", "none", "2,0,2"], USUAL) == [weights(1, 0, 1), None]
    for bad in ("1,2", "some", "0,0,0", "1,-1,1"):
        with pytest.raises(UsageError):
            parse_diverse([bad], USUAL)


def test_quality_and_cost_of_every_pipeline(
    judged: Path, tiny_encoder: str, tiny_reranker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    data = ablated(
        judged, tmp_path / "out.json", "--first_stage", "bm25", tiny_encoder, "--diverse", "none", "0.5,0,0.5",
        "--reranker", "none", tiny_reranker, "--depth", "5", "10", "--run_dir", str(runs),
        "--metrics", "nDCG@10", "Recall@10",
    )  # fmt: skip
    assert len(data["grid"]) == len(data["arms"]) == 2 * 7
    qrels = read_qrels(runs / "qrels.txt")
    files = json.loads((runs / "runs.json").read_text())["arms"]
    for cell in data["grid"]:
        run = read_run(runs / files[cell["arm"]])
        arm = next(arm for arm in data["arms"] if arm["name"] == cell["arm"])
        for metric in ("nDCG@10", "Recall@10"):
            again = mean(evaluate_run(qrels, run, [metric])[metric])
            assert arm["metrics"][metric]["mean"] == pytest.approx(again, abs=1e-9)
        held = sum(map(len, run.values()))
        assert cell["pairs_scored"] == (held if cell["reranker"] else 0)
        assert all(len(found) <= cell["depth"] for found in run.values())
        assert cell["latency_ms"] is None
    shown = capsys.readouterr().out
    assert "pairs a query" in shown
    assert "ms a query" in shown
    page = (tmp_path / "out.html").read_text()
    assert "Quality and cost" in page
    assert "milliseconds a query" in page
    tests = {(test["arm"], test["against"]) for test in data["comparisons"]}
    name = Path(tiny_reranker).name
    assert (f"{name} over bm25 @10", "bm25") in tests
    assert (f"{name} over bm25 diverse 0.5/0/0.5 @5", "bm25 diverse 0.5/0/0.5 @5") in tests
    manifest = json.loads((tmp_path / "out.json.manifest.json").read_text())
    assert "latency_ms" in json.dumps(manifest)


def test_a_diverse_list_is_the_diverse_retrievers(judged: Path, tiny_encoder: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    runs = tmp_path / "runs"
    words = ("--first_stage", tiny_encoder, "--diverse", "0.6,0,0.4", "--depth", "5", "--run_dir", str(runs))
    ablated(judged, tmp_path / "out.json", *words)
    (file,) = runs.glob("*.run")
    found = read_run(file)
    model = SentenceTransformer(tiny_encoder, device="cpu")
    lines = [
        [json.loads(line) for line in (judged / name).read_text().splitlines()]
        for name in ("corpus.jsonl", "queries.jsonl")
    ]
    passages = model.encode([line["text"] for line in lines[0]])
    same = 0
    for line in lines[1]:
        positions, _ = diverse_select(
            model.encode(line["text"]), passages, k=5, lambda1=0.6, lambda2=0, lambda3=0.4, pool_factor=3
        )
        order = sorted(found[line["_id"]], key=lambda name, line=line: -found[line["_id"]][name])
        same += order == [lines[0][position]["_id"] for position in positions]
    assert same >= 7  # two encoders may order a near-tie differently


def test_each_pair_is_scored_once_and_each_search_made_once(
    judged: Path, tiny_reranker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finerank.models.cross_encoder import CrossEncoder
    from finerank.retrieval.sparse import SparseIndex

    scored: list[tuple[str, str]] = []
    searched: list[str] = []
    score, search = CrossEncoder.score, SparseIndex.search
    monkeypatch.setattr(
        CrossEncoder, "score", lambda self, pairs, progress=None: scored.extend(pairs) or score(self, pairs)
    )
    monkeypatch.setattr(SparseIndex, "search", lambda self, query, k: searched.append(query) or search(self, query, k))
    data = ablated(
        judged, tmp_path / "out.json", "--reranker", "none", tiny_reranker, "--depth", "3", "6", "9"
    )  # fmt: skip
    assert len(data["grid"]) == 1 + 3 + 3 + 3
    assert len(scored) == len(set(scored)) > 0
    assert len(searched) == len(set(searched)) == 8


def test_the_same_seed_gives_the_same_bytes_and_a_done_one_is_shown_again(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ablated(judged, tmp_path / "one.json", "--depth", "5")
    ablated(judged, tmp_path / "two.json", "--depth", "5")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    capsys.readouterr()
    ablated(judged, tmp_path / "one.json", "--depth", "5")
    shown = capsys.readouterr()
    assert "done already" in shown.err
    assert "pairs a query" in shown.out
    timed = ablated(judged, tmp_path / "timed.json", "--depth", "5", "--record_times")
    assert all(cell["latency_ms"] > 0 for cell in timed["grid"])


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--single", "diverse"), 2, "--corpus"),
        (("--metrics", "ndgc@10"), 2, "unknown metric"),
        (("--diverse", "0.5,0.5"), 2, "three numbers"),
        (("--baseline", "bm52"), 2, "no arm is called"),
        (("--reranker", "./nowhere"), 1, "nowhere"),
    ],
)
def test_mistakes_are_one_sentence(
    judged: Path, words: tuple[str, ...], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert main(["ablate", "--dataset", str(judged), "--output_file", str(out), *words]) == code
    assert says in capsys.readouterr().err
    assert not out.exists()
