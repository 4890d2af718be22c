"""The report of a mining run as a page: HTML without scripts or network, Markdown, or JSON; texts are whole here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import PurePath
from typing import Any

from finerank.retrieval.mining_report import Suspect, facts, funnel, measures

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0 2rem; }
td, th { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line); }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
article { border: 1px solid var(--line); border-radius: .5rem; margin: 1rem 0; padding: .8rem 1rem; }
article h3 { margin: 0 0 .5rem; font-size: 1rem; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
.pair div { background: var(--soft); border-radius: .3rem; padding: .6rem .8rem; }
.pair p, .where { margin: .3rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.where { color: #888; font-size: .85rem; }
"""
EXPLAINED = (
    "Mined negatives that are closest to their row's positive, or above it: by the reranker's score (in brackets) "
    "where there is one, else by cosine. Some of them may answer the query and merely lack the label."
)


def page(path: str, counts: Mapping[str, Any], sampled_range: str, suspects: Sequence[Suspect], output: str) -> bytes:
    """Return the page in the format that the name of ``path`` asks for."""
    suffix = PurePath(path).suffix.lower()
    if suffix == ".json":
        plain = {name: value for name, value in counts.items() if name != "suspects"}
        whole = {"output_file": output, **plain, "suspects": [suspect.to_mapping() for suspect in suspects]}
        return json.dumps(whole, indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    write = markdown if suffix == ".md" else html
    return write(counts, sampled_range, suspects, output).encode("utf-8", "replace")


def html(counts: Mapping[str, Any], sampled_range: str, suspects: Sequence[Suspect], output: str) -> str:
    """Return a self-contained page; every text is escaped, and the policy lets nothing run or load."""
    title = f"Hard negatives: {PurePath(output).name}"
    rows = counts["rows"]
    went = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{count:,}</td><td class="n">{count / rows:.1f}</td></tr>'
        for name, count in funnel(counts, sampled_range)
    )
    known = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{escape(value)}</td></tr>' for name, value in facts(counts)
    )
    beside = "".join(map(_article, suspects)) or "<p>None to show.</p>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        f"<h2>Where the candidates went</h2><table><tr><th>candidates</th><th>count</th><th>per row</th></tr>{went}"
        f"</table>\n<h2>Rows and similarities</h2><table>{known}</table>\n"
        f"<h2>Suspected false negatives</h2><p>{escape(EXPLAINED)}</p>{beside}</body></html>\n"
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
        f"<div><strong>{name}</strong> {escape(figures)}<p>{escape(text)}</p></div>"
        for name, figures, text in _sides(suspect)
    )
    return (
        f"<article><h3>{suspect.gap:+.4f} {escape(suspect.query)}</h3>"
        f'<div class="pair">{sides}</div><p class="where">{escape(suspect.where)}</p></article>\n'
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
