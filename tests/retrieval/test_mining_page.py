"""The page of a mining run: whole texts, escaped, in three formats."""

from __future__ import annotations

import json

from finerank.core.records import Row
from finerank.retrieval.mining import Mined
from finerank.retrieval.mining_page import page
from finerank.retrieval.mining_report import Tally, suspects, text, total
from finerank.retrieval.negatives import Selection

EVIL = "<script>alert('x')</script> & \"quotes\" | [link](http://x) `code`"
LONG = "a long passage " * 40
POOL = [EVIL, LONG]
ROW = Row("which <b>one</b>?", ("the positive",), where="rows.jsonl:7")


def counts_of(gap_first: float = 0.9) -> dict[str, object]:
    chosen = Selection([0, 1], [gap_first, 0.25], [0, 1], in_range=2, survivors=2)
    mined = Mined(ROW, [], [], POOL, chosen, [0.5], pos_scores=[1.5], neg_scores=[2.75, -3.0])
    tally = Tally()
    tally.add(mined, dropped=False)
    return total([tally.to_mapping()], pool=2)


def written(name: str) -> str:
    counts = counts_of()
    return page(name, counts, "0-2", suspects(counts, [ROW], POOL, 10), "out/mined.jsonl").decode()


def test_html_holds_everything_and_runs_nothing() -> None:
    html = written("report.HTML")
    assert html.count("<script") == 1  # the page's own
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;quotes&quot;" in html
    assert "which &lt;b&gt;one&lt;/b&gt;?" in html
    assert LONG in html
    assert html.index("alert") < html.index("a long passage")  # the suspicious one first
    assert "+1.2500" in html
    assert "0.9000 [+2.75]" in html
    assert "rows.jsonl:7" in html
    assert "default-src &#x27;none&#x27;" in html
    assert "http-equiv" in html
    assert html.count("<article") == 2
    assert "= survivors" in html


def test_markdown_escapes_marks() -> None:
    lines = written("report.md").splitlines()
    assert any(line.startswith("> \\<script\\>alert\\(") for line in lines)
    assert not any("`code`" in line or "[link]" in line for line in lines)
    assert "| candidates in the range 0-2 | 2 | 2.0 |" in lines


def test_json_is_the_whole_of_it() -> None:
    data = json.loads(written("report.json"))
    assert data["rows"] == 1
    assert data["output_file"] == "out/mined.jsonl"
    assert [one["negative"] for one in data["suspects"]] == [EVIL, LONG]
    first = data["suspects"][0]
    assert (first["gap"], first["query"], first["positive"]) == (1.25, ROW.query, "the positive")
    assert (first["pos_similarity"], first["neg_similarity"]) == (0.5, 0.9)


def test_a_page_without_suspects_and_a_lone_surrogate() -> None:
    counts = counts_of()
    assert b"None to show." in page("x.html", counts, "0-2", [], "o.jsonl")
    shown = suspects(counts, [ROW], ["\ud800", LONG], 1)
    assert page("x.html", counts, "0-2", shown, "o.jsonl").decode("utf-8")
    assert page("x.json", counts, "0-2", shown, "o.jsonl").decode("utf-8")


def test_the_terminal_shows_them_shortened() -> None:
    counts = counts_of()
    shown = text(counts, "0-2", "o.jsonl", suspects(counts, [ROW], POOL, 10))
    assert "false negatives, perhaps: the 2 closest to their positive, or above it" in shown
    assert "+1.2500  rows.jsonl:7" in shown
    assert LONG not in shown
    assert max(map(len, shown.splitlines())) < 140
