"""A training as a page: what it gained, loss, learning rate and held-out figures over the steps, scores apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from finerank.core.watch_options import sign_of
from finerank.page.curves import Point, curve, distributions, short
from finerank.page.layout import Cell, Section, bullets, card, cards, folded, page, table, tiles
from finerank.page.plots import scatter, steps

Values = Mapping[str, Mapping[str, Sequence[float]]]
"""``base`` and ``best`` -> figure -> its value for each held-out query."""


def training_page(
    title: str,
    history: Sequence[Mapping[str, Any]],
    counts: Mapping[str, Any],
    options: Mapping[str, Any],
    values: Values | None = None,
    scores: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Return the page; equal arguments give equal bytes, and nothing in it tells the time.

    Args:
        history: the logged figures, as in ``metrics.jsonl``.
        counts: as in the manifest.
        options: that decided the result.
        values: per held-out query, if they are known.
        scores: ``base`` and ``best`` -> how the scores of held-out pairs are spread, if that is known.
    """
    sections = [
        Section("Figures", _figures(counts), _kept(counts)),
        Section("Course", _curves(history, counts), _legend(counts)),
        _scores(scores or {}),
        _queries(counts, values or {}),
        Section("Options", folded("What decided this model", _options(options))),
    ]
    headline = f"{escape(title)}{_headline(counts)}"
    below = _alarms(counts) + tiles(_tiles(counts))
    chips = [f"{counts['rows']:,} rows", f"{counts['steps']:,} steps"]
    return page("finerank train", title, sections, headline=headline, below=below, chips=chips)


def _decisive(counts: Mapping[str, Any]) -> str | None:
    """Return the figure that a person asks for first."""
    names = list(counts["best"])
    return next((name for name in names if name in counts.get("changes", {})), names[0] if names else None)


def _headline(counts: Mapping[str, Any]) -> str:
    """Return what training gained on the held-out queries, as the rest of a sentence."""
    name = _decisive(counts)
    change = counts.get("changes", {}).get(name)
    if name is None or change is None:
        return ""
    kind = _verdict(name, change)
    told = f"{change['mean']:+.3f} {name}"
    interval = f"[{change['low']:+.3f}, {change['high']:+.3f}]"
    return f': <b class="{kind}">{escape(told)}</b> {interval} on held-out queries'


def _tiles(counts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    shown = []
    for name, value in list(counts["best"].items())[:4]:
        before = counts["base"].get(name)
        change = counts.get("changes", {}).get(name)
        figure = f"{value:.3f}" if before is None else f"{before:.3f} → {value:.3f}"
        shown.append((figure, f"{name}, base → tuned", _verdict(name, change) if change else ""))
    return shown


def _verdict(name: str, change: Mapping[str, float]) -> str:
    low, high = sorted((sign_of(name) * change["low"], sign_of(name) * change["high"]))
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def _alarms(counts: Mapping[str, Any]) -> str:
    tripped = counts.get("tripwires") or []
    if not tripped:
        return '<p class="card fine">No tripwire was set off.</p>\n'
    return "".join(f'<p class="card alarm">{escape(sentence)}</p>\n' for sentence in tripped)


def _kept(counts: Mapping[str, Any]) -> str:
    if not counts["best"]:
        return ""
    return f"The weights are those of step {counts['best_step']:,} of {counts['steps']:,}."


def _figures(counts: Mapping[str, Any]) -> str:
    if not counts["best"]:
        return '<p class="lead">Nothing was measured: training ran without held-out data.</p>\n'
    first, fused = counts.get("first_stage"), counts.get("fused")
    head = ["", "base", "tuned", "change, 95 % interval"]
    head += [f"first stage {first['name']}"] if first else []
    head += [f"fused, weight {fused['weight']:g}"] if fused else []
    rows = []
    for name, value in counts["best"].items():
        cells = [escape(name), _figure(counts["base"].get(name)), _figure(value), _change(counts, name)]
        cells += [_figure(each["figures"].get(name)) for each in (first, fused) if each]
        rows.append(cells)
    return table(head, rows)


def _change(counts: Mapping[str, Any], name: str) -> str:
    change = counts.get("changes", {}).get(name)
    if not change:
        return ""
    told = f"{change['mean']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})"
    return Cell(f'<span class="{_verdict(name, change)}">{told}</span>', change["mean"])


def _legend(counts: Mapping[str, Any]) -> str:
    if not counts["best"]:
        return ""
    lower = [name for name in counts["best"] if sign_of(name) < 0]
    direction = f"Higher is better{f', but for {lower[0]}' if lower else ''}."
    return f"Dashed: the base model. Ring: the weights that were kept. {direction}"


def _curves(history: Sequence[Mapping[str, Any]], counts: Mapping[str, Any]) -> str:
    names = [name for name in ("loss", "learning_rate", "grad_norm") if any(name in entry for entry in history)]
    boxes = [_card(name, _points(history, name)) for name in names]
    for name in counts["best"]:
        points = _points(history, f"eval_{name}")
        best = next((point for point in points if point[0] == counts["best_step"]), None)
        boxes.append(_card(f"held-out {name}", points, counts["base"].get(name), best))
    return cards(boxes) or '<p class="lead">Nothing was logged.</p>'


def _card(name: str, points: Sequence[Point], base: float | None = None, best: Point | None = None) -> str:
    latest = short(points[-1][1]) if points else ""
    drawn = curve(points, f"{name} over the steps", base=base, best=best)
    return card(name.replace("_", " "), drawn, aside=latest)


def _points(history: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    return [(float(entry["step"]), float(entry[name])) for entry in history if name in entry]


def _scores(scores: Mapping[str, Mapping[str, Any]]) -> Section:
    """Return how scores of relevant passages and others are spread before and after."""
    boxes = []
    for which, title in (("base", "before"), ("best", "after")):
        found = scores.get(which)
        if found:
            drawn = distributions(
                found["low"], found["high"], [found["relevant"], found["other"]], ["relevant", "others"], title
            )
            lead = (
                f"medians {short(found['relevant_median'])} and {short(found['other_median'])}; of a relevant passage "
                f"and another, the relevant one has the higher score in {found['apart']:.1%}"
            )
            boxes.append(card(f"{title} training", drawn, lead=lead))
    lead = "Scores of held-out pairs, each kind on an area of its own; training is to pull them apart."
    return Section("Scores before and after", cards(boxes, "even"), lead, "Scores")


def _queries(counts: Mapping[str, Any], values: Values) -> Section:
    """Return the held-out queries one by one, before and after."""
    boxes = []
    base, best = values.get("base", {}), values.get("best", {})
    for name in counts["best"]:
        before, after = base.get(name, ()), best.get(name, ())
        if not before or len(before) != len(after) or not all(0 <= value <= 1 for value in (*before, *after)):
            continue
        differences = [new - old for new, old in zip(after, before)]
        points = [(old, new, f"query {place:,}") for place, (old, new) in enumerate(zip(before, after), start=1)]
        won, lost = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
        lead = f"{won:,} queries better, {lost:,} worse, {len(before) - won - lost:,} equal"
        boxes.append(card(name, steps(differences, name) + scatter(points, "base", "tuned"), lead=lead))
    lead = "Held-out queries: differences sorted, and one dot per query (above the diagonal is better)."
    return Section("Query by query", cards(boxes, "plots"), lead, "Queries")


def _options(options: Mapping[str, Any]) -> str:
    rows = [
        [escape(name), escape(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))]
        for name, value in options.items()
    ]
    return table(["option", "value"], rows, "options") if rows else bullets(["none"])


def _figure(value: float | None) -> str:
    return "" if value is None else Cell(f"{value:.4f}", value)
