"""A report as text: tables for a terminal or a log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finerank.evaluation.report import SIGNIFICANT, Report, p_text, report_data, signed
from finerank.evaluation.significance import Interval


def report_text(report: Report) -> str:
    """Return the tables that stdout shows."""
    return text_of(report_data(report))


def text_of(data: Mapping[str, Any]) -> str:
    """Render what ``report_data`` gave, also when it comes back from a file."""
    from finerank.data.console import table

    metrics = data["metrics"]
    rows = [[arm["name"], *(_cell(arm["metrics"][metric]) for metric in metrics)] for arm in data["arms"]]
    parts = [data["headline"], "", table(["mean [95 % interval]", *metrics], rows)]
    overall = list(data["arms"][0]["overall"])
    if overall:
        rows = [[arm["name"], *(_cell(arm["overall"][name]) for name in overall)] for arm in data["arms"]]
        parts += ["", table(["over all pairs", *overall], rows)]
    tests = [
        [
            f"{test['arm']} - {test['against']}", test["metric"], signed(Interval(**test["difference"])),
            p_text(test["p_holm"]), f"{test['wins']}/{test['ties']}/{test['losses']}",
        ]
        for test in data["comparisons"]
        if test["metric"] == metrics[0]
    ]  # fmt: skip
    if tests:
        parts += ["", table(["difference", "metric", "mean [95 % interval]", "p (Holm)", "win/tie/loss"], tests)]
        parts += [f"\n{sentence}" for sentence in [power_in_words(data)] if sentence]
    return "\n".join([*parts, *(["", *(f"note: {note}" for note in data["notes"])] if data["notes"] else [])])


def power_in_words(data: Mapping[str, Any]) -> str:
    """Say how small a difference the queries at hand could show, where one was not told from chance."""
    metric = data["metrics"][0]
    unclear = [test for test in data["comparisons"] if test["metric"] == metric and test["p_holm"] >= SIGNIFICANT]
    sizes = [test["smallest_detectable"] for test in unclear if test.get("smallest_detectable")]
    if not sizes:
        return ""
    over = f"{data['num_queries']:,} queries"
    return (
        f"where p is {SIGNIFICANT:g} or more, no difference was shown, nor that there is none: {over} show one of "
        f"{max(sizes):.3f} {metric} or more in 4 of 5 such comparisons"
    )


def _cell(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
