"""What a result holds beside figures and tests, as sections: depth, slices, scores, calibration, forgetting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from finerank.evaluation.report import SIGNIFICANT, Report, p_text
from finerank.evaluation.score_shapes import Shape
from finerank.page.curves import Series, distributions, lines, short
from finerank.page.layout import Cell, Section, card, cards, halves, name, table
from finerank.page.plots import Range, difference_bar, trade_off

MOST_SHAPES = 9
SLICE_NAMES = {"length": "by the query's length", "script": "by script", "type": "by type"}


def parts(report: Report, data: Mapping[str, Any]) -> list[Section]:
    """Return the sections in the order of the page; those without data are empty."""
    return [_depth(data), _cost(report, data), _slices(data), _scores(report), _calibration(data), _also(data)]


def interval(value: Mapping[str, float]) -> Range:
    """Return an interval's mean and ends."""
    return value["mean"], value["low"], value["high"]


def _depth(data: Mapping[str, Any]) -> Section:
    lead = (
        "The metric with this many of the first stage's candidates reranked. Dashed: its value if those candidates "
        "stood in the best order there is; no reranker can pass that. Where the curve is flat, more depth only costs."
    )
    return Section("How deep to rerank", cards(map(_depth_card, data.get("depth", []))), lead, "Depth")


def _depth_card(found: Mapping[str, Any]) -> str:
    curve = found["curve"]
    depths = [float(each["depth"]) for each in curve]
    values = [interval(each["value"]) for each in curve]
    first = found["first_stage_value"]
    series = [
        Series(found["arm"], [(x, value[0]) for x, value in zip(depths, values)], [value[1:] for value in values]),
        Series("best order of the candidates", [(x, each["ceiling"]) for x, each in zip(depths, curve)], dashed=True),
        Series(f"{found['first_stage']} alone, {first:.3f}", [(x, first) for x in depths], dashed=True),
    ]
    plot = lines(series, f"{found['metric']} of {found['arm']} by depth", "candidates reranked", logarithmic=True)
    rows = [
        [
            Cell(f"{each['depth']:,}", each["depth"]), Cell(f"{value[0]:.3f}", value[0]),
            Cell(f"{each['ceiling']:.3f}", each["ceiling"]), Cell(f"{each['recall']:.3f}", each["recall"]),
            Cell(f"{each['pairs']:,}", each["pairs"]),
        ]
        for each, value in zip(curve, values)
    ]  # fmt: skip
    figures = table(["depth", found["metric"], "ceiling", "recall", "pairs"], rows)
    return card(found["arm"], halves(plot, figures))


def _cost(report: Report, data: Mapping[str, Any]) -> Section:
    """Return quality against cost, where the arms differ in it."""
    metric = report.headline_metric
    values = {arm.name: arm.intervals[metric] for arm in report.arms}
    found = []
    for key, of, label in (
        ("cost", "pairs_per_query", "pairs scored a query"),
        ("times", "ms_per_query", "milliseconds a query"),
    ):
        each = data.get(key, {})
        points = [(each[arm][of], value, arm) for arm, value in values.items() if arm in each]
        if len({cost for cost, _, _ in points}) > 1:
            found.append(card(f"{metric} and {label}", trade_off(points, label, metric)))
    lead = "One dot per arm, with its 95 % interval; up and left is better. Indexing and encoding are not in it."
    return Section("Quality and cost", cards(found, "even"), lead, "Cost")


def _slices(data: Mapping[str, Any]) -> Section:
    boxes = [_slice_card(found) for found in data.get("slices", []) if found["parts"]]
    lead = "The queries cut into parts, each with its difference to the baseline and 95 % interval."
    return Section("Where it gains and where it loses", cards(boxes, "even"), lead, "Slices")


def _slice_card(found: Mapping[str, Any]) -> str:
    bound = max(abs(found_end) for part in found["parts"] for found_end in interval(part["difference"])[1:])
    bodies = []
    for kind in dict.fromkeys(part["kind"] for part in found["parts"]):
        rows = []
        for part in (each for each in found["parts"] if each["kind"] == kind):
            change, p = interval(part["difference"]), part["p_holm"]
            told = "unclear" if p >= SIGNIFICANT else "better" if change[0] > 0 else "worse"
            after = part["value"]["mean"]
            rows.append(
                [
                    f"{escape(part['name'])} <small>{part['queries']:,} queries</small>",
                    Cell(f"{part['baseline']['mean']:.3f} → {after:.3f}", after),
                    Cell(f'<div class="plot">{difference_bar(change, bound, told)}</div>', change[0]),
                    Cell(f'<span class="{told}">{change[0]:+.3f}</span> <small>{escape(p_text(p))}</small>', change[0]),
                ]
            )
        bodies.append(table([SLICE_NAMES.get(kind, kind), found["metric"], "", "change"], rows, "parts"))
    return card(f"{found['arm']} against {found['against']}", "".join(bodies))


def _scores(report: Report) -> Section:
    shapes = [(arm.name, arm.shape) for arm in report.arms if arm.shape is not None]
    boxes = [_spread(arm, shape) for arm, shape in shapes[:MOST_SHAPES]]
    lead = (
        "Scores of relevant passages and of the others that an arm returned, each on an area of its own; all queries "
        "together. The further apart, the better one threshold can cut."
    )
    return Section("Scores of relevant passages and others", cards(boxes, "plots"), lead, "Scores")


def _spread(arm: str, shape: Shape) -> str:
    drawn = distributions(
        shape.low, shape.high, [shape.relevant, shape.other], ["relevant", "others"], f"{arm}: scores"
    )
    lead = (
        f"medians {short(shape.relevant_median)} and {short(shape.other_median)}; of a relevant passage and another, "
        f"the relevant one has the higher score in {shape.apart:.1%}"
    )
    return card(arm, drawn, lead=lead)


def _calibration(data: Mapping[str, Any]) -> Section:
    lead = (
        "Of pairs whose score, as a probability, is x, the share y is relevant; on the diagonal a score means what it "
        "says. Below: where to cut by score."
    )
    return Section("What a score means", cards(map(_reliability, data.get("calibration", []))), lead, "Calibration")


def _reliability(found: Mapping[str, Any]) -> str:
    points = [(each["predicted"], each["relevant"]) for each in found["bins"]]
    plot = lines([Series(found["arm"], points)], f"{found['arm']}: reliability", "probability by its score", unit=True)
    facts = (
        f"{found['pairs']:,} pairs, {found['relevant']:,} relevant; calibration error {found['error']:.3f}, "
        f"Brier score {found['brier']:.3f}"
    )
    cut = found.get("threshold")
    if not cut:
        return card(found["arm"], plot, lead=facts)
    biased = "; these are the queries it was chosen on, so its figures flatter" if cut["chosen_on"] == "judged" else ""
    rows = [
        [each, Cell(f"{mean:.3f} <small>[{low:.3f}, {high:.3f}]</small>", mean)]
        for each in ("precision", "recall", "F1")
        for mean, low, high in [interval(cut[each])]
    ]
    said = f'<p class="lead">{escape(cut["sentence"])}{biased}.</p>'
    return card(found["arm"], halves(plot, said + table(["at that threshold", ""], rows)), lead=facts)


def _also(data: Mapping[str, Any]) -> Section:
    lead = "The same arms on data of another kind: a model that got better at home may have got worse there."
    return Section("Forgetting", "".join(map(_further, data.get("also", []))), lead)


def _further(found: Mapping[str, Any]) -> str:
    said = "".join(
        f'<p class="card {_alarm(each["verdict"])}">{escape(each["sentence"])}</p>'
        for each in found.get("verdicts", [])
    )
    metrics: Sequence[str] = found["metrics"]
    rows = [
        [
            name(arm["name"]),
            *(_mean(interval(arm["metrics"][metric])) for metric in metrics if metric in arm["metrics"]),
        ]
        for arm in found["arms"]
    ]
    about = f"{found['title']}: {found['num_queries']:,} queries"
    return f'<h3 class="also">{escape(about)}</h3>{said}{table(["arm", *metrics], rows, "figures")}'


def _alarm(told: str) -> str:
    return {"forgets": "alarm", "gains": "fine"}.get(told, "quiet")


def _mean(value: Range) -> Cell:
    mean, low, high = value
    return Cell(f"{mean:.3f} <small>[{low:.3f}, {high:.3f}]</small>", mean)
