"""The report: true figures, a true sentence, and a page that hostile text cannot break."""

from __future__ import annotations

import json
import random
import re
from html.parser import HTMLParser

import pytest

from finerank.core.errors import UsageError
from finerank.core.runs import Qrels, Run
from finerank.evaluation import report_html
from finerank.evaluation.report import Report, build_report, headline, report_data
from finerank.evaluation.report_text import report_text, text_of
from finerank.evaluation.samples import choose_samples
from finerank.evaluation.score_shapes import shape, shape_of

HOSTILE = [
    "</script><script>alert(1)</script>", '<img src=x onerror="alert(1)">', "a & b < c > d \" ' `", "</style></title>",
    "--><svg onload=alert(1)>", "half a pair: \ud800", "nul \x00 and \u202e turned",
]  # fmt: skip


def runs(lift: float, seed: int, queries: int = 60) -> Run:
    draw = random.Random(seed)
    return {
        f"q{number}": {f"p{place}": draw.gauss(lift if place == number % 30 else 0.0, 1.0) for place in range(30)}
        for number in range(queries)
    }


def sample_report(**more: object) -> Report:
    qrels: Qrels = {f"q{number}": {f"p{number % 30}": 1} for number in range(60)}
    queries = {name: f"query {name}" for name in qrels}
    passages = {f"p{place}": f"passage {place}" for place in range(30)}
    arms = {"base": runs(0.5, 1), "tuned": runs(2.5, 2), "twin": runs(2.5, 3)}
    return build_report(arms, qrels, queries, passages, metrics=["ndcg@10", "mrr@10"], **more)  # type: ignore[arg-type]


def test_figures_tests_and_sentence_agree() -> None:
    report = sample_report(comparisons=[("tuned", "twin")])
    assert report.metrics == ["nDCG@10", "MRR@10"]
    assert [(test.arm, test.against) for test in report.comparisons[:3]] == [
        ("tuned", "base"), ("twin", "base"), ("tuned", "twin")
    ]  # fmt: skip
    better = report.comparisons[0]
    assert better.difference.mean == pytest.approx(
        report.arm("tuned").intervals["nDCG@10"].mean - report.arm("base").intervals["nDCG@10"].mean
    )
    assert better.difference.low > 0
    assert better.p < 0.001
    assert better.wins + better.ties + better.losses == 60
    assert report.comparisons[2].p > 0.05
    assert "p < 0.001" in headline(report)
    assert "over base" in headline(report)


def test_what_was_not_shown_is_said_with_what_could_have_been() -> None:
    report = sample_report(comparisons=[("tuned", "twin")])
    twin = report.comparisons[2]
    assert f"60 queries show one of {twin.detectable:.3f} nDCG@10 or more" in report_text(report)
    assert f"{twin.detectable:.3f} nDCG@10" in report_html.render(report)
    clear = sample_report()
    assert "4 of 5" not in report_text(clear) + report_html.render(clear)


def test_sentences_for_no_gain_and_for_one_arm() -> None:
    assert (
        headline(sample_report(baseline="tuned")).count("not significant")
        + headline(sample_report(baseline="tuned")).startswith("No arm beats")
        == 1
    )
    alone = build_report({"only": runs(1.0, 1)}, {"q1": {"p1": 1}}, {}, {})
    assert headline(alone).startswith("only: nDCG@10")
    assert "1 query" in headline(alone)


def test_json_is_plain_and_gives_the_text_back() -> None:
    report = sample_report(notes=["measured twice"])
    data = json.loads(json.dumps(report_data(report)))
    assert text_of(data) == report_text(report)
    assert data["per_query"]["base"]["nDCG@10"]["q0"] == report.arm("base").values["nDCG@10"]["q0"]
    assert "measured twice" in report_text(report)
    assert data["num_queries"] == 60


def test_lists_show_rank_relevance_and_movement() -> None:
    arms: dict[str, Run] = {"a": {"q": {"x": 2.0, "y": 1.0}}, "b": {"q": {"y": 2.0, "x": 1.0, "z": 0.5}}}
    report = build_report(arms, {"q": {"y": 1}}, {"q": "?"}, {"x": "X", "y": "Y", "z": "Z"})
    shown = report.samples[0].lists["b"]
    assert [(item.passage_id, item.rank, item.moved, item.grade) for item in shown] == [
        ("y", 1, 1, 1), ("x", 2, -1, 0), ("z", 3, None, 0)
    ]  # fmt: skip
    island = re.search(r'<script type="application/json" id="data">(.*?)</script>', report_html.render(report))
    assert island is not None
    data = json.loads(island[1])
    assert data["arms"] == ["a", "b"]
    first, second = [[0, 0, 0, "2"], [1, 1, 0, "1"]], [[1, 1, 1, "2"], [0, 0, -1, "1"], [2, 0, None, "0.5"]]
    assert data["queries"] == [["?", 1, [0.6309, 1.0], [first, second]]]
    assert data["passages"] == ["X", "Y", "Z"]


def test_samples_hold_gains_losses_and_others() -> None:
    values = {f"q{number}": number / 50 for number in range(50)}
    base = dict.fromkeys(values, 0.5)
    chosen = choose_samples(values, base, 20, 42)
    assert len(chosen) == len(set(chosen)) == 20
    assert chosen[0] == "q49"
    assert chosen[-1] == "q0"
    assert chosen == choose_samples(values, base, 20, 42)
    assert choose_samples({"q": 1.0}, {"q": 1.0}, 20, 42) == ["q"]


class Elements(HTMLParser):
    """Counts start tags and keeps the attributes' names."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_text_stays_text(bad: str) -> None:
    arms = {f"one {bad}": runs(1.0, 1, 30), f"two {bad}": runs(2.0, 2, 30)}
    qrels: Qrels = {f"q{number}": {f"p{number}": 1} for number in range(30)}
    passages = {f"p{place}": bad for place in range(30)}
    report = build_report(
        arms, qrels, dict.fromkeys(qrels, bad), passages, title=bad, notes=[bad], facts={f"one {bad}": {bad: bad}}
    )
    page = report_html.render(report)
    elements = Elements()
    elements.feed(page)
    assert elements.tags.count("script") == 2  # the page's own, and its data
    assert "img" not in elements.tags
    assert not [name for name in elements.attributes if name.startswith("on")]
    assert "<svg onload" not in page
    page.encode("utf-8")


def test_the_page_needs_no_network_and_pins_its_script() -> None:
    page = report_html.render(sample_report())
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src" in page
    assert "script-src" in page
    assert page == report_html.render(sample_report())


def test_wrong_names_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="no arm is called"):
        sample_report(baseline="bse")
    with pytest.raises(UsageError, match="nothing to compare"):
        build_report({}, {"q": {"p": 1}}, {}, {})


def test_many_queries_are_listed_and_some_have_lists() -> None:
    report = sample_report(sample_queries=5)
    assert len(report.samples) == 60
    assert sum(bool(sample.lists) for sample in report.samples) == 5
    assert sample_report(sample_queries=0).samples == []
    assert 'id="explorer"' not in report_html.render(sample_report(sample_queries=0))


def test_many_passages_are_cut_shorter() -> None:
    from finerank.evaluation.report_queries import MOST_BYTES, SNIPPET, _length

    assert _length(["é" * 5000] * 10) == SNIPPET
    length = _length(["é" * 5000] * 20_000)
    assert length * 2 * 20_000 <= MOST_BYTES or length == 60


def test_scores_of_relevant_passages_and_others_by_hand() -> None:
    run: Run = {"q": {"a": 3.0, "b": 1.0, "c": 2.0, "d": 0.0}}
    found = shape_of(run, {"q": {"a": 1, "c": 1, "b": 0}, "unseen": {"a": 1}})
    assert found is not None
    assert (found.relevant_median, found.other_median, found.apart) == (2.5, 0.5, 1.0)
    assert (sum(found.relevant), sum(found.other)) == (2, 2)
    assert shape_of(run, {"q": {"a": 0}}) is None
    assert shape([1.0, 1.0], [1.0]) is not None  # one value only
