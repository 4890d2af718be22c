"""The pages in a real browser: nothing complains, nothing runs over the edge, everything that can be clicked works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import chromium
import pytest
from chromium import Browser

from finerank.evaluation import report
from finerank.evaluation.report_html import render
from finerank.evaluation.significance import bootstrap_intervals, paired_randomisations
from tests.page import examples

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.found() is None, reason="no Chromium on this machine (apt install chromium)"),
]
DESKTOP, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.browser() as found:
        yield found


def few_resamples(patch: pytest.MonkeyPatch) -> None:
    """The pages are what counts here: their intervals may be rough."""
    patch.setattr(report, "bootstrap_intervals", partial(bootstrap_intervals, resamples=100))
    patch.setattr(report, "paired_randomisations", partial(paired_randomisations, resamples=2000))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with pytest.MonkeyPatch.context() as patch:
        few_resamples(patch)
        return examples.write(tmp_path_factory.mktemp("pages"))


def texts(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.run(f"[...document.querySelectorAll({selector!r})].map((each) => each.textContent)")
    return found


def hidden_columns(browser: Browser, selector: str) -> list[int]:
    """Return by how many points tables are wider than their boxes, of those that are."""
    boxes = f"[...document.querySelectorAll({selector!r})].map((table) => table.parentElement)"
    found: list[int] = browser.run(
        f"{boxes}.map((box) => box.scrollWidth - box.clientWidth).filter((wide) => wide > 0)"
    )
    return found


def test_every_page_is_quiet_and_fits(browser: Browser, pages: dict[str, Path]) -> None:
    assert set(pages) == {"evaluate", "hostile", "single", "train", "mine"}
    for page in pages.values():
        for (width, height), dark in ((DESKTOP, False), (PHONE, True)):
            browser.open(page, width=width, height=height, dark=dark)
            assert browser.requests == [page.as_uri()]  # nothing but the file itself
            # All that is folded is opened: it must fit, too.
            browser.run("[...document.querySelectorAll('details')].slice(0, 9).forEach((one) => { one.open = true; })")
            assert browser.overflow() <= 0, (page.name, width)
            assert hidden_columns(browser, ".parts" if width < 600 else ".parts, .figures") == [], (page.name, width)
            assert browser.run("document.querySelector('h1').textContent.trim().length") > 3
            assert browser.run("window.broken") is None
            assert browser.errors == []


def test_dark_and_light_and_paper(browser: Browser, pages: dict[str, Path]) -> None:
    def brightness() -> int:
        colour = browser.run("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    browser.open(pages["evaluate"], dark=True)
    assert brightness() < 150
    browser.open(pages["evaluate"])
    assert brightness() > 600
    browser.open(pages["evaluate"], width=794, height=1123)  # A4
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.overflow() <= 0
    assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.run("getComputedStyle(document.querySelector('.tools')).display") == "none"


def test_a_table_is_sorted_by_a_click(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["evaluate"])
    column = "table.tests tbody td:nth-child(3)"

    def means() -> list[float]:
        return [float(text.split()[0]) for text in texts(browser, column)[:3]]

    browser.run("document.querySelectorAll('table.tests')[1].closest('details').remove()")
    browser.click("table.tests th:nth-child(3)")
    assert means() == sorted(means(), reverse=True)
    browser.click("table.tests th:nth-child(3)")
    assert means() == sorted(means())
    assert browser.run("document.querySelector('table.tests th:nth-child(3)').ariaSort") == "ascending"


def test_queries_are_searched_filtered_and_opened(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["evaluate"])
    assert texts(browser, "#count") == ["60 queries"]
    assert browser.run("document.querySelectorAll('#queries details[open]').length") == 1  # the first has its lists
    browser.click("#search")
    browser.write("number 17?")
    assert texts(browser, "#queries .query") == ["what is said of number 17?"]
    assert texts(browser, "#count") == ["1 of 60 queries"]
    browser.run("search.value = ''; search.dispatchEvent(new Event('input'))")
    browser.run("filter.value = 'worse'; filter.dispatchEvent(new Event('input'))")
    shown = texts(browser, "#queries .meta")
    assert shown
    assert all(text.startswith("−") for text in shown)
    browser.run("filter.value = 'lists'; filter.dispatchEvent(new Event('input'))")
    assert len(texts(browser, "#queries .query")) == 20
    browser.run("order.value = 'worst'; order.dispatchEvent(new Event('input'))")
    changes = [float(text.split()[0].replace("−", "-")) for text in texts(browser, "#queries .meta")]
    assert changes == sorted(changes)
    browser.click("#queries details:first-child summary")
    browser.run("new Promise((done) => setTimeout(done, 50))")
    assert len(texts(browser, "#queries details:first-child .column h4")) == 3
    browser.click(".arms button:last-of-type")
    assert len(texts(browser, "#queries details:first-child .column h4")) == 2
    assert texts(browser, "#queries details:first-child .move")
    browser.click("#queries details:first-child .passage")
    assert browser.run("document.querySelectorAll('.passage.whole').length") == 1


def test_hostile_texts_are_shown_as_they_are(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["hostile"])
    browser.run("document.querySelectorAll('#queries details').forEach((each) => { each.open = true; })")
    browser.run("new Promise((done) => setTimeout(done, 50))")
    shown = "\n".join(texts(browser, "#queries"))
    assert all(bad in shown for bad in examples.HOSTILE[:5])
    assert browser.run("document.images.length + document.querySelectorAll('svg[onload]').length") == 0
    assert browser.run("document.scripts.length") == 2  # the page's own, and its data
    assert browser.run("window.broken") is None
    assert browser.errors == []


def test_a_hundred_thousand_queries_open_at_once(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_resamples(monkeypatch)
    found = examples.report(100_000, depth=10)
    page = tmp_path / "large.html"
    page.write_text(render(found, data=examples.everything(found)), encoding="utf-8")
    assert page.stat().st_size < 3_000_000
    browser.open(page)
    assert browser.errors == []
    assert browser.overflow() <= 0
    assert "1,000 of 100,000 queries" in texts(browser, "#explorer")[0] + "".join(texts(browser, ".lead"))
    # By the clock, unless the machine is busy with others: then by what the page's own thread computed.
    opening, worked = browser.opening()["loaded"] / 1000, browser.worked()
    assert min(opening, worked) < 2.0
