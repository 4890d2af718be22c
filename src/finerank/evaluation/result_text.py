"""An evaluation's result as text: the report's tables, then costs, curves, slices and what else was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finerank.data.console import table
from finerank.evaluation.report import p_text, signed
from finerank.evaluation.report_text import text_of
from finerank.evaluation.row_report import beside_text
from finerank.evaluation.significance import Interval

SHOWN_EXTREMES = 3
WIDTH = 60
"""Characters of a query in a table."""


def result_text(data: Mapping[str, Any]) -> str:
    """Return all tables of a result; those that it has nothing for are left out."""
    parts = [text_of(data) + beside_text(data)]
    parts += [*_extremes(data), *_depths(data), *_slices(data), *_calibration(data), *_also(data), *_costs(data)]
    return "\n\n".join(parts)


def _extremes(data: Mapping[str, Any]) -> Iterator[str]:
    """Show the queries that the best arm changed most."""
    found = [entry for entry in data.get("extremes", []) if entry["gained"] or entry["lost"]]
    metric = data["metrics"][0]
    means = {arm["name"]: arm["metrics"][metric]["mean"] for arm in data["arms"]}
    best = max(found, key=lambda entry: means[entry["arm"]], default=None)
    if best is None:
        return
    rows = [
        [side, _cut(item["query"]), f"{item['before']:.3f}", f"{item['after']:.3f}"]
        for side in ("gained", "lost")
        for item in best[side][:SHOWN_EXTREMES]
    ]
    yield table([f"{best['arm']}", "query", f"{metric} before", "after"], rows)


def _depths(data: Mapping[str, Any]) -> Iterator[str]:
    for curve in data.get("depth", []):
        rows = [
            [
                str(point["depth"]), _cell(point["value"]), f"{point['ceiling']:.3f}", f"{point['recall']:.3f}",
                f"{point['pairs']:,}",
            ]
            for point in curve["curve"]
        ]  # fmt: skip
        rows.insert(0, ["0", f"{curve['first_stage_value']:.3f}", "", "", "0"])
        heads = [curve["metric"], "at best", "recall", "pairs"]
        yield table([f"depth: {curve['arm']}", *heads], rows)


def _slices(data: Mapping[str, Any]) -> Iterator[str]:
    for entry in data.get("slices", []):
        rows = [
            [f"{part['kind']}: {part['name']}", f"{part['queries']:,}", _cell(part["value"]), *_against(part)]
            for part in entry["parts"]
        ]
        against = [f"less {entry['against']}", "p (Holm)"] if "against" in entry else []
        yield table([entry["arm"], "queries", entry["metric"], *against], rows)


def _against(part: Mapping[str, Any]) -> list[str]:
    return [signed(Interval(**part["difference"])), p_text(part["p_holm"])] if "difference" in part else []


def _calibration(data: Mapping[str, Any]) -> Iterator[str]:
    for entry in data.get("calibration", []):
        rows = [
            [f"{part['low']:.3f} to {part['high']:.3f}", f"{part['pairs']:,}", f"{part['predicted']:.3f}",
             f"{part['relevant']:.3f}"]
            for part in entry["bins"]
        ]  # fmt: skip
        shown = table([f"probability: {entry['arm']}", "pairs", "mean", "relevant"], rows)
        shown += f"\ncalibration error {entry['error']:.3f}, Brier score {entry['brier']:.3f}"
        yield shown + (f"\n{entry['threshold']['sentence']}" if "threshold" in entry else "")


def _also(data: Mapping[str, Any]) -> Iterator[str]:
    for entry in data.get("also", []):
        metrics: Sequence[str] = entry["metrics"]
        rows = [[arm["name"], *(_cell(arm["metrics"][metric]) for metric in metrics)] for arm in entry["arms"]]
        shown = table([f"also {entry['title']}", *metrics], rows)
        yield "\n".join([shown, *(verdict["sentence"] for verdict in entry["verdicts"])])


def _costs(data: Mapping[str, Any]) -> Iterator[str]:
    times = data.get("times", {})
    rows = [
        [name, f"{cost['pairs_per_query']:g}", f"{cost['texts']:,}", *_times(times.get(name))]
        for name, cost in data.get("cost", {}).items()
    ]
    heads = ["index s", "seconds", "ms a query"] if times else []
    if rows:
        yield table(["cost", "pairs a query", "texts encoded", *heads], rows)


def _times(found: Mapping[str, float] | None) -> list[str]:
    keys = ("index_seconds", "seconds", "ms_per_query")
    return [f"{found[key]:.1f}" for key in keys] if found else []


def _cell(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _cut(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= WIDTH else plain[: WIDTH - 1] + "…"
