"""What a person watches on stderr: banner, notes, progress; and the plain table that goes to stdout."""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

LINE_EVERY, LINE_AT_LEAST = 5.0, 60.0
"""Seconds between two progress lines where stderr is no terminal: at first, and once the work takes long."""
GROWTH = 12
"""That time grows with the work: a line for every twelfth of what has passed, lest a night fills its log."""
CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""What a passage must not tell a terminal: colours, titles, cursor moves."""
_muted = False
_bars = 0
_said: set[str] | None = None


def banner(title: str, facts: Mapping[str, object]) -> None:
    """Show what is about to run: a title and one aligned line per fact."""
    wide = max(map(width, facts), default=0)
    _write("\n".join([title, *(f"  {_filled(name, wide)}  {_shown(value)}" for name, value in facts.items())]))


def say(text: str) -> None:
    """Show one line."""
    if _is_new(text):
        _write(text)


def warn(text: str) -> None:
    """Show one line that asks for attention."""
    if _is_new(text):
        _write(f"warning: {text}")


@contextmanager
def once() -> Iterator[None]:
    """Show the same line only once meanwhile: for a verb that reads its input several times."""
    global _said
    before, _said = _said, set()
    try:
        yield
    finally:
        _said = before


def mute() -> None:
    """Show nothing from now on: for a worker whose fellow says the same."""
    global _muted
    _muted = True


@contextmanager
def progress(total: int, label: str, unit: str = "texts") -> Iterator[Callable[[int], None]]:
    """Give ``update(n)``: a bar with rate and time left on a terminal, else a line every few seconds.

    Args:
        total: how many there are; 0 if that is not known.
    """
    if not is_main_process():
        yield lambda count: None
    elif sys.stderr.isatty():
        from tqdm import tqdm

        with (
            tqdm(
                total=total or None, desc=label, unit=f" {unit}", file=sys.stderr, dynamic_ncols=True, leave=False
            ) as bar,
            _shown_bar(),
        ):
            yield lambda count: _ignore(bar.update(count))
    else:
        lines = _Lines(total, label, unit)
        yield lines.update
        lines.close()


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an aligned text table; numbers stand to the right.

    >>> print(table(["model", "nDCG@10"], [["base", 0.55], ["tuned", 0.61]]))
    model  nDCG@10
    -----  -------
    base    0.5500
    tuned   0.6100
    """
    cells = [[_shown(cell) for cell in row] for row in rows]
    widths = [max(width(line[column]) for line in [list(headers), *cells]) for column in range(len(headers))]
    right = [bool(rows) and all(_is_figure(row[column]) for row in rows) for column in range(len(headers))]
    lines = [list(headers), ["-" * wide for wide in widths], *cells]
    return "\n".join(
        "  ".join(_filled(cell, wide, left) for cell, wide, left in zip(line, widths, right)).rstrip()
        for line in lines
    )  # fmt: skip


class _Lines:
    """Progress for log files and notebooks: a line every ``LINE_EVERY`` seconds, fewer later; then the end."""

    def __init__(self, total: int, label: str, unit: str) -> None:
        self.total, self.label, self.unit = total, label, unit
        self.done = 0
        self.started = self.last = time.monotonic()
        self.shown = False

    def update(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last >= min(LINE_AT_LEAST, max(LINE_EVERY, (now - self.started) / GROWTH)):
            self.last, self.shown = now, True
            self._line(now)

    def close(self) -> None:
        if self.shown:
            self._line(time.monotonic())

    def _line(self, now: float) -> None:
        elapsed = max(now - self.started, 1e-9)
        rate = self.done / elapsed
        gone = f"{rate:,.1f} {self.unit}/s, {clock(elapsed)} gone"
        if not self.total:
            _write(f"{self.label}: {self.done:,} {self.unit}, {gone}")
            return
        left = max(self.total - self.done, 0) / rate if rate else 0.0
        share = f"{self.done:,} of {self.total:,} {self.unit} ({self.done / self.total:.0%})"
        _write(f"{self.label}: {share}, {gone}, {clock(left)} left")


def clock(seconds: float) -> str:
    """Write a duration as ``m:ss`` or ``h:mm:ss``.

    >>> clock(75)
    '1:15'
    """
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for a Chinese character, none for an accent.

    >>> width("abc"), width("检索"), width("e\\u0301")
    (3, 4, 1)
    """
    return sum(
        0 if unicodedata.combining(mark) else 2 if unicodedata.east_asian_width(mark) in "WF" else 1 for mark in text
    )


def plain(text: str) -> str:
    """Return a text without control characters but line ends and tabs."""
    return text.translate(CONTROLS)


def show(text: str) -> None:
    """Write a result to stdout; what its encoding lacks stands there as an escape, rather than as an error."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(plain(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")


def show_json(text: str) -> None:
    """Write JSON to stdout as it is; what the encoding lacks is escaped as JSON does."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        import json

        text = json.dumps(json.loads(text), indent=2)
    sys.stdout.write(text + "\n")


def _filled(text: str, columns: int, left: bool = False) -> str:
    blank = " " * (columns - width(text))
    return blank + text if left else text + blank


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _is_figure(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_new(text: str) -> bool:
    if _said is None:
        return True
    known = text in _said
    _said.add(text)
    return not known


def is_main_process() -> bool:
    """Say whether this process speaks for its fellows: the first that a launcher started, or the only one."""
    return not _muted and os.environ.get("RANK", "0") in ("", "0")


def launched() -> bool:
    """Say whether a launcher has started several processes of this run."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def _ignore(value: object) -> None:
    return None


@contextmanager
def _shown_bar() -> Iterator[None]:
    global _bars
    _bars += 1
    try:
        yield
    finally:
        _bars -= 1


def _write(text: str) -> None:
    if not is_main_process():
        return
    if _bars:  # a line of its own above the bars, which are drawn anew
        from tqdm import tqdm

        tqdm.write(plain(text), file=sys.stderr)
    else:
        sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()
