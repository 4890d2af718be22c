"""The page of a training: whole, escaped, the same bytes, nothing drawn outside its box."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from finerank.page.curves import HEIGHT, WIDTH, curve
from finerank.training.page import training_page

COUNTS: dict[str, Any] = {
    "rows": 1200, "steps": 40, "best_step": 20, "base": {"nDCG@10": 0.5, "loss": 2.0},
    "best": {"nDCG@10": 0.7, "loss": 1.0},
    "changes": {"nDCG@10": {"mean": 0.2, "low": 0.1, "high": 0.3}}, "tripwires": [],
}  # fmt: skip
HISTORY: list[dict[str, Any]] = [
    {"eval_nDCG@10": 0.5, "eval_loss": 2.0, "step": 0},
    *({"loss": 2.0 / step, "learning_rate": 1e-5, "step": step} for step in range(1, 41)),
    {"eval_nDCG@10": 0.7, "eval_loss": 1.0, "step": 20},
    {"eval_nDCG@10": 0.6, "eval_loss": 1.1, "step": 40},
]


class Balance(HTMLParser):
    """Checks that every tag is closed by its own."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def balanced(page: str) -> bool:
    parser = Balance()
    parser.feed(page)
    return not parser.open


def test_a_page_with_everything() -> None:
    counts = COUNTS | {
        "first_stage": {"name": "bm25", "figures": {"nDCG@10": 0.65}},
        "fused": {"weight": 2.0, "figures": {"nDCG@10": 0.8}},
        "tripwires": ["<b>wrong</b>"],
    }  # fmt: skip
    page = training_page("train <x>", HISTORY, counts, {"seed": 42, "train_data": ["<rows>"]})
    assert page == training_page("train <x>", HISTORY, counts, {"seed": 42, "train_data": ["<rows>"]})
    assert balanced(page)
    assert "<b>wrong</b>" not in page
    assert "&lt;b&gt;wrong&lt;/b&gt;" in page
    assert "&lt;rows&gt;" in page
    assert page.count("<script") == 1
    assert page.count("<svg ") == 4  # loss, learning rate, nDCG@10, held-out loss
    assert page.count('class="best"') == 2
    for shown in ("first stage bm25", "fused, weight 2", "0.8000", "+0.2000 (+0.1000 to +0.3000)", "but for loss"):
        assert shown in page


def test_a_page_without_held_out_data() -> None:
    counts = COUNTS | {"base": {}, "best": {}, "changes": {}}
    page = training_page("train", [entry for entry in HISTORY if "loss" in entry], counts, {})
    assert balanced(page)
    assert "Nothing was measured" in page
    assert page.count("<svg ") == 2
    assert training_page("train", [], counts, {}).count("<svg ") == 0


@pytest.mark.parametrize(
    "points",
    [
        [(1.0, 0.5)], [(0.0, 0.0), (10.0, 0.0)], [(0.0, -3.0), (5.0, 8.0), (9.0, float("nan"))],
        [(float(step), step % 7.0) for step in range(5000)],
    ],
)  # fmt: skip
def test_a_curve_stays_in_its_box(points: list[tuple[float, float]]) -> None:
    drawn = curve(points, "loss", base=0.2, best=points[0])
    found = re.search(r'polyline class="curve" points="([^"]+)"', drawn)
    assert found is not None
    places = [tuple(map(float, place.split(","))) for place in found[1].split()]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    assert len(places) <= 401
    assert balanced(drawn)


def test_a_curve_without_points() -> None:
    assert "Nothing was logged" in curve([], "loss")
    assert "Nothing was logged" in curve([(1.0, float("inf"))], "loss")
