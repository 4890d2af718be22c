"""The report of a mining run as a page: HTML without network, Markdown, or JSON; texts are whole here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import PurePath
from typing import Any

from finerank.page.curves import columns, distributions
from finerank.page.layout import Cell, Section, card, cards, halves, table, tiles
from finerank.page.layout import page as layout
from finerank.page.plots import bar
from finerank.retrieval.mining_report import CLOSE_RATIO, Suspect, facts, funnel, measures
from finerank.retrieval.mining_shapes import BINS, rank_classes

LEAD = (
    "Negatives far below the positives teach little; those that reach up to them teach most, and are the likeliest to "
    "be unlabelled positives. Ranks are those of the ranking that was sampled, from 1."
)
EXPLAINED = (
    "Mined negatives that are closest to their row's positive, or above it: by the reranker's score (in brackets) "
    "where there is one, else by cosine. Some of them may answer the query and merely lack the label."
)


def page(
    path: str,
    counts: Mapping[str, Any],
    sampled_range: str,
    suspects: Sequence[Suspect],
    output: str,
    rows: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """Return the page in the format that the name of ``path`` asks for; ``rows``, to read, are in HTML only."""
    suffix = PurePath(path).suffix.lower()
    if suffix == ".json":
        plain = {name: value for name, value in counts.items() if name not in ("suspects", "shapes")}
        whole = {"output_file": output, **plain, "suspects": [suspect.to_mapping() for suspect in suspects]}
        return json.dumps(whole, indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    if suffix == ".md":
        return markdown(counts, sampled_range, suspects, output).encode("utf-8", "replace")
    return html(counts, sampled_range, suspects, output, rows).encode("utf-8", "replace")


def html(
    counts: Mapping[str, Any],
    sampled_range: str,
    suspects: Sequence[Suspect],
    output: str,
    rows: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return a self-contained page; every text is escaped."""
    title = f"Hard negatives: {PurePath(output).name}"
    sections = [
        Section(
            "Where the candidates went", halves(_funnel(counts, sampled_range), _facts(counts)), short="Candidates"
        ),
        Section("How hard they are", cards(_shapes(counts), "even"), LEAD, "Hardness"),
        Section("Rows to read", "".join(map(_row, rows)), "Some rows with the negatives that were mined for them."),
        Section("Suspected false negatives", "".join(map(_article, suspects)) or "<p>None to show.</p>", EXPLAINED),
    ]
    written = f"{counts['negatives']:,} negatives for {counts['rows_written']:,} rows"
    headline = f"<b>{escape(written)}</b> in {escape(PurePath(output).name)}"
    chips = [f"pool of {counts['pool']:,} passages", f"sampled from ranks {sampled_range}"]
    return layout("finerank mine", title, sections, headline=headline, below=tiles(_tiles(counts)), chips=chips)


def _tiles(counts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    if counts["positive_similarity_mean"] is None or counts["negative_similarity_mean"] is None:
        return []
    negatives = counts["negatives"]
    share = counts["close_to_positive"] / negatives if negatives else 0.0
    return [
        (f"{counts['positive_similarity_mean']:.3f}", "mean cosine of positives", ""),
        (f"{counts['negative_similarity_mean']:.3f}", "mean cosine of negatives", ""),
        (f"{share:.1%}", f"of the negatives above {CLOSE_RATIO} x their lowest positive: many may be unlabelled", ""),
        (f"{counts['rows_short']:,}", "rows short of negatives before padding", ""),
    ]


def _funnel(counts: Mapping[str, Any], sampled_range: str) -> str:
    rows, went = max(1, counts["rows"]), funnel(counts, sampled_range)
    most = max((count for _, count in went), default=0) or 1
    body = [
        [
            escape(name),
            Cell(f"{count:,}", count),
            Cell(f"{count / rows:.1f}", count),
            Cell(f'<div class="plot">{bar(count, most)}</div>', count),
        ]
        for name, count in went
    ]
    return table(["candidates", "count", "per row", ""], body)


def _facts(counts: Mapping[str, Any]) -> str:
    return table(["rows and similarities", "value"], [[escape(name), escape(value)] for name, value in facts(counts)])


def _shapes(counts: Mapping[str, Any]) -> list[str]:
    found = counts.get("shapes") or {}
    boxes = []
    both = [found.get("positive") or [], found.get("negative") or []]
    held = [place for bins in both for place, count in enumerate(bins) if count]
    if held:
        first, last = max(0, min(held) - 1), min(BINS, max(held) + 2)
        low, high = (-1 + 2 * place / BINS for place in (first, last))
        drawn = distributions(
            low, high, [bins[first:last] for bins in both], ["positives", "negatives"], "cosines to the query"
        )
        boxes.append(card("Cosines to the query", drawn))
    classes = rank_classes(found.get("ranks") or [])
    if classes:
        boxes.append(
            card("Ranks of the negatives", columns([(name, float(count)) for name, count in classes], "ranks"))
        )
    return boxes


def _row(row: Mapping[str, Any]) -> str:
    positive = _side("positive", measures(row["positive_similarity"], None), row["positive"], "relevant")
    negatives = "".join(_side("negative", measures(each, None), text, "") for text, each in row["negatives"])
    where = f'<p class="where">{escape(row["where"])}</p>'
    return (
        f'<details class="sample"><summary><span class="query" dir="auto">{escape(row["query"])}</span>'
        f'<span class="meta">{len(row["negatives"])} shown</span></summary>'
        f'<div class="inside"><div class="pair">{positive}{negatives}</div>{where}</div></details>'
    )


def markdown(counts: Mapping[str, Any], sampled_range: str, suspects: Sequence[Suspect], output: str) -> str:
    """Return the same in Markdown; texts stand in quotes, their marks escaped."""
    rows = counts["rows"]
    lines = [
        f"# Hard negatives: {_plain(PurePath(output).name)}",
        "",
        "| candidates | count | per row |",
        "|---|--:|--:|",
    ]
    lines += [f"| {name} | {count:,} | {count / rows:.1f} |" for name, count in funnel(counts, sampled_range)]
    lines += ["", "| rows and similarities | value |", "|---|--:|"]
    lines += [f"| {name} | {value} |" for name, value in facts(counts)]
    lines += ["", "## Suspected false negatives", "", EXPLAINED]
    for suspect in suspects:
        lines += ["", f"### {suspect.gap:+.4f} {_plain(suspect.query)}", "", f"{_plain(suspect.where)}"]
        for name, figures, text in _sides(suspect):
            lines += ["", f"**{name}** {_plain(figures)}", "", f"> {_plain(text)}"]
    return "\n".join(lines) + "\n"


def _article(suspect: Suspect) -> str:
    sides = "".join(
        _side(name, figures, text, "relevant" if name == "positive" else "") for name, figures, text in _sides(suspect)
    )
    return (
        f'<article class="card"><h3><span class="name" dir="auto">{escape(suspect.query)}</span>'
        f"<span>{suspect.gap:+.4f}</span></h3>"
        f'<div class="pair">{sides}</div><p class="where">{escape(suspect.where)}</p></article>\n'
    )


def _side(name: str, figures: str, text: str, kind: str) -> str:
    return (
        f'<div class="side {kind}"><strong>{name}</strong> <small>{escape(figures)}</small>'
        f'<p dir="auto">{escape(text)}</p></div>'
    )


def _sides(suspect: Suspect) -> list[tuple[str, str, str]]:
    return [
        ("positive", measures(suspect.pos_similarity, suspect.pos_score), suspect.positive),
        ("negative", measures(suspect.neg_similarity, suspect.neg_score), suspect.negative),
    ]


def _plain(text: str) -> str:
    """Return a text on one line, with Markdown's and HTML's marks escaped."""
    line = " ".join(text.split())
    return "".join(f"\\{mark}" if mark in "\\`*_{}[]()#+!|<>~&" else mark for mark in line)
