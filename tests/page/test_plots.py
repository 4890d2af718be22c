"""Plots and layout as text: nothing outside its box, nothing unescaped, large data aggregated."""

from __future__ import annotations

import json
import random
import re

import pytest

from finerank.page.curves import HEIGHT, WIDTH, Series, columns, distributions, lines
from finerank.page.layout import Cell, Section, json_text, page, table
from finerank.page.plots import CELLS, MOST_STEPS, SIDE, difference_bar, scatter, steps


def test_every_dot_lies_within_its_plot() -> None:
    corners = [(x, y, "query") for x in (0.0, 1.0) for y in (0.0, 1.0) for _ in range(500)]
    dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', scatter(corners, "x", "y"))
    assert len(dots) == 4
    for x, y, radius in (map(float, dot) for dot in dots):
        assert radius <= min(x, y)
        assert max(x, y) + radius <= SIDE


def test_many_queries_become_squares_that_count_them() -> None:
    draw = random.Random(1)
    drawn = scatter([(draw.random(), draw.random(), "query") for _ in range(20_000)], "x", "y")
    counts = [int(each.replace(",", "")) for each in re.findall(r"<title>([\d,]+) queries", drawn)]
    assert sum(counts) == 20_000
    assert len(counts) <= CELLS * CELLS
    assert "<circle" not in drawn
    assert len(drawn) < 120_000


def test_many_differences_are_thinned_and_keep_their_shares() -> None:
    drawn = steps([1.0] * 30_000 + [0.0] * 50_000 + [-0.5] * 20_000, "x")
    gains, losses = (len(re.findall("M", path)) for path in re.findall(r' d="([^"]*)"', drawn)[:2])
    assert gains == pytest.approx(0.3 * MOST_STEPS, abs=1)
    assert losses == pytest.approx(0.2 * MOST_STEPS, abs=1)


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize(
    "points", [[(10.0, 0.5)], [(10.0, 0.2), (100.0, 0.4), (1000.0, 0.1)], [(1.0, 0.0), (2.0, 0.0)]]
)
def test_lines_stay_in_their_box(points: list[tuple[float, float]], logarithmic: bool) -> None:
    band = [(y - 0.1, y + 0.1) for _, y in points]
    drawn = lines([Series("<a>", points, band), Series("b", points, dashed=True)], "plot", "x", logarithmic=logarithmic)
    found = re.findall(r'points="([^"]+)"', drawn)
    places = [tuple(map(float, place.split(","))) for each in found for place in each.split()]
    assert len(places) == 4 * len(points)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    assert "<a>" not in drawn
    assert lines([Series("a", [])], "plot", "x") == ""


def test_distributions_and_columns() -> None:
    drawn = distributions(-1.0, 1.0, [[0, 0, 3], [5, 0, 0]], ["relevant", "others"], "scores")
    assert drawn.count('class="area') == 2
    assert ">0</text>" in drawn
    assert distributions(0.0, 1.0, [[], []], ["a", "b"], "nothing")
    assert columns([("1–4", 3.0), ("5+", 1.0)], "ranks").count("<rect") == 2


def test_a_difference_stays_in_its_bar() -> None:
    numbers = [
        float(each) for each in re.findall(r'(?:x1|x2|cx)="([\d.]+)%"', difference_bar((9.0, -9.0, 99.0), 1.0, "x"))
    ]
    assert all(0 <= number <= 100 for number in numbers)


def test_cells_sort_by_their_number_and_heads_are_escaped() -> None:
    drawn = table(["<head>"], [[Cell("<b>1.5 k</b>", 1500)], ["plain"]])
    assert '<td data-v="1500"><b>1.5 k</b></td>' in drawn
    assert "&lt;head&gt;" in drawn
    assert "<td>plain</td>" in drawn


def test_a_page_leaves_out_empty_sections_and_links_the_others() -> None:
    parts = [
        Section("One", "<p>1</p>"),
        Section("None", ""),
        Section("Two", "<p>2</p>"),
        Section("Three", "<p>3</p>", short="3"),
    ]
    whole = page("made by", "title & more", parts, data={"text": "</script>"})
    assert whole == page("made by", "title & more", parts, data={"text": "</script>"})
    assert "None" not in whole.split("<main>")[1].split("<script")[0]
    assert whole.count('href="#s') == 3
    assert "title &amp; more" in whole
    assert whole.count("</script>") == 2
    assert "http" not in whole.replace("http-equiv", "")


def test_data_survives_its_escaping() -> None:
    data = ["</script><!--", "\u2028\u2029", "日本", '"\\']
    assert json.loads(json_text(data)) == data
    assert not re.search("[<>&\u2028]", json_text(data))
