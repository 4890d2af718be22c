"""Pages with everything on them, made of plain figures: what the browser opens, and what a person may look at."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from finerank.core.records import Row
from finerank.core.runs import Qrels, Run
from finerank.evaluation.report import Report, build_report, report_data
from finerank.evaluation.report_html import render
from finerank.retrieval.mining import Mined
from finerank.retrieval.mining_page import page as mining_page
from finerank.retrieval.mining_report import Tally, suspects, total
from finerank.retrieval.mining_shapes import texts
from finerank.retrieval.negatives import Selection
from finerank.training.page import training_page

HOSTILE = [
    "</script><script>window.broken = 1</script>", '<img src=x onerror="window.broken = 1">', "a & b < c > d \" ' `",
    "</style></title>", "--><svg onload=window.broken=1>", "nul \x00 and \u202e turned", "\u2028 line \u2029",
    "unbreakable" * 40,
]  # fmt: skip
LONG = "BAAI/bge-reranker-v2-m3-tuned-on-our-own-documents-for-three-epochs"
TUNED = f"{LONG} over bm25"


def report(queries: int = 60, hostile: bool = False, depth: int = 30, **more: Any) -> Report:
    """Compare a weak, a strong and a middling arm on made-up queries; ``hostile`` puts markup into every text."""
    draw = random.Random(7)
    pool = 4 * depth
    qrels: Qrels = {f"q{number}": {f"p{number % pool}": 2, f"p{(number + 7) % pool}": 1} for number in range(queries)}
    arms = {"bm25": 1.0, TUNED: 2.5, "middling": 1.8}
    runs: dict[str, Run] = {name: {} for name in arms}
    for name, lift in arms.items():
        for query, grades in qrels.items():
            found = draw.sample(range(pool), depth - 2)
            scores = {f"p{place}": draw.gauss(0.0, 1.0) for place in found}
            runs[name][query] = scores | {passage: draw.gauss(lift, 1.0) for passage in grades}
    bad = iter(HOSTILE * (1 + queries // len(HOSTILE)))
    asked = {query: f"what is said of number {query[1:]}?" + (f" {next(bad)}" if hostile else "") for query in qrels}
    passages = {f"p{place}": f"Passage {place} tells of things. " * 6 for place in range(pool)}
    if hostile:
        passages = {name: HOSTILE[place % len(HOSTILE)] + text for place, (name, text) in enumerate(passages.items())}
    more = {"metrics": ["nDCG@10", "MRR@10"], "title": "things, test", "notes": ["made up"], **more}
    return build_report(runs, qrels, asked, passages, baseline="bm25", comparisons=[(TUNED, "middling")], **more)


def everything(found: Report) -> dict[str, Any]:
    """Return the result of a comparison with every key that ``finerank evaluate`` can add."""

    def near(value: float) -> dict[str, float]:
        return {"mean": value, "low": value - 0.05, "high": value + 0.04}

    curve = [
        {"depth": depth, "value": near(0.4 + 0.03 * place), "ceiling": 0.6 + 0.05 * place, "recall": 0.1 * place,
         "pairs": 60 * depth}
        for place, depth in enumerate((10, 20, 50, 100, 1000), start=1)
    ]  # fmt: skip
    parts = [
        {"kind": kind, "name": name, "queries": 20, "value": near(0.6), "baseline": near(0.4),
         "difference": near(difference), "p_holm": 0.01 if abs(difference) > 0.1 else 0.4}
        for kind, name, difference in (
            ("length", "up to 3 words", 0.2), ("length", "over 8 words", -0.15), ("script", "Latin", 0.1),
            ("script", "Chinese", 0.02),
        )
    ]  # fmt: skip
    bins = [
        {
            "low": place / 10,
            "high": (place + 1) / 10,
            "pairs": 60,
            "predicted": place / 10 + 0.05,
            "relevant": place**2 / 81,
        }
        for place in range(10)
    ]
    ends = {
        "gained": [{"query_id": "q1", "query": "what is said of number 1?", "before": 0.0, "after": 1.0}],
        "lost": [{"query_id": "q2", "query": "what is said of number 2?", "before": 0.9, "after": 0.2}],
    }
    names = [arm.name for arm in found.arms]
    other = report_data(report(40, title="another, test", sample_queries=0))
    forgets = "it forgets: -0.021 [-0.035, -0.008] nDCG@10 on another (0.680 → 0.659), p = 0.004"
    return report_data(found) | {
        "extremes": [{"arm": TUNED, "against": "bm25", "metric": "nDCG@10", **ends},
                     {"arm": "middling", "against": "bm25", "metric": "nDCG@10", **ends}],
        "depth": [{"arm": TUNED, "first_stage": "bm25", "metric": "nDCG@10", "first_stage_value": 0.39,
                   "curve": curve}],
        "slices": [{"arm": arm, "against": "bm25", "metric": "nDCG@10", "parts": parts} for arm in (TUNED, "middling")],
        "calibration": [
            {"arm": TUNED, "pairs": 600, "relevant": 90, "bins": bins, "error": 0.041, "brier": 0.08,
             "threshold": {"score": -1.23, "probability": 0.226, "chosen_on": "judged", "queries": 60,
                           "precision": near(0.5), "recall": near(0.6), "F1": near(0.55),
                           "sentence": "cut at a score of −1.23 (probability 0.226)"}}],
        "also": [other | {"data": "another", "split": "test", "verdicts": [
            {"arm": TUNED, "against": "bm25", "metric": "nDCG@10", "before": 0.68, "after": 0.659,
             "difference": near(-0.02), "p_holm": 0.004, "verdict": "forgets", "sentence": forgets}]}],
        "cost": {name: {"pairs": 60 * place, "texts": 10 * place, "pairs_per_query": 50.0 * place}
                 for place, name in enumerate(names)},
        "times": {name: {"index_seconds": 0.4, "seconds": 1.0, "ms_per_query": 10.0 * place}
                  for place, name in enumerate(names)},
        "baselines": {"random": {"metrics": {"nDCG@10": near(0.1), "MRR@10": near(0.1)}, "overall": {}, "facts": {}}},
    }  # fmt: skip


def training() -> str:
    """Return the page of a training."""
    draw = random.Random(3)
    base, best = [draw.random() for _ in range(90)], [draw.random() ** 0.5 for _ in range(90)]
    counts = {
        "rows": 1200, "steps": 400, "best_step": 200, "base": {"nDCG@10": 0.5, "loss": 2.0},
        "best": {"nDCG@10": 0.7, "loss": 1.0}, "tripwires": ["the <b>model</b> is worse than its first stage"],
        "changes": {"nDCG@10": {"mean": 0.2, "low": 0.1, "high": 0.3}},
        "first_stage": {"name": LONG, "figures": {"nDCG@10": 0.65}},
        "fused": {"weight": 2, "figures": {"nDCG@10": 0.8}},
    }  # fmt: skip
    history: list[dict[str, Any]] = [{"eval_nDCG@10": 0.5, "eval_loss": 2.0, "step": 0}]
    history += [{"loss": 2.0 / step + draw.random() / 9, "learning_rate": 1e-5, "step": step} for step in range(1, 401)]
    history += [
        {"eval_nDCG@10": 0.7, "eval_loss": 1.0, "step": 200},
        {"eval_nDCG@10": 0.6, "eval_loss": 1.1, "step": 400},
    ]
    bins = [round(50 * draw.random()) for _ in range(40)]
    shape = {"low": -5.0, "high": 5.0, "relevant": bins, "other": bins[::-1], "relevant_median": 1.0,
             "other_median": -1.0, "apart": 0.8}  # fmt: skip
    options = {"model_name_or_path": LONG, "train_data": ["a/very/long/path/" * 6], "seed": 42}
    values = {"base": {"nDCG@10": base}, "best": {"nDCG@10": best}}
    return training_page(f"train reranker: {LONG}", history, counts, options, values, {"base": shape, "best": shape})


def mining() -> str:
    """Return the page of a mining run, with markup in its texts."""
    draw, tally, rows = random.Random(5), Tally(), []
    pool = [f"{HOSTILE[place % len(HOSTILE)]} passage {place} " * 5 for place in range(60)]
    for index in range(30):
        row = Row(f"query {index} {HOSTILE[index % len(HOSTILE)]}", ("the positive",), where=f"rows.jsonl:{index + 1}")
        rows.append(row)
        similarities = sorted((draw.gauss(0.4, 0.15) for _ in range(5)), reverse=True)
        places = draw.sample(range(60), 5)
        chosen = Selection(places, similarities, sorted(draw.sample(range(2, 200), 5)), in_range=198, survivors=90)
        tally.add(
            Mined(row, [], [], [pool[place] for place in places], chosen, [draw.gauss(0.7, 0.1)], index), dropped=False
        )
    counts = total([tally.to_mapping()], pool=60)
    found = suspects(counts, rows, pool, 10)
    return mining_page(
        "mined.html", counts, "2-200", found, "out/mined.jsonl", texts(counts["shapes"], rows, pool)
    ).decode()


def write(folder: Path) -> dict[str, Path]:
    """Write one page of each kind; return name -> file."""
    plain, hostile = report(), report(hostile=True, title=HOSTILE[0])
    pages = {
        "evaluate": render(plain, data=everything(plain)),
        "hostile": render(hostile),
        "single": render(build_report({"only": {"q": {"p": 1.0}}}, {"q": {"p": 1}}, {"q": "?"}, {"p": "text"})),
        "train": training(),
        "mine": mining(),
    }
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in pages}
