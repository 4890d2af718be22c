"""What a text looks like to check: its digest, and what is odd about it; texts that are the same but for marks."""

from __future__ import annotations

import re
from operator import itemgetter
from typing import NamedTuple

from xxhash import xxh3_64_digest

from finerank.data.text import normal_form

SHORT_BYTES = 8
LONG_CHARACTERS = 20_000
REMEMBERED = 2**23
"""Characters of texts whose digests are remembered: negatives come again and again."""
FLAGS = ("damaged-text", "control-characters", "no-words", "long-text", "short-passage")
SHORT = 1 << FLAGS.index("short-passage")


_DAMAGED = re.compile("\ufffd|[\x80-\x9f]|Ã[\x80-\xbf]|â€")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_PRINTABLE = bytes(range(32, 127)) + b"\0"
_first = itemgetter(0)
_NOT_WORD = re.compile(r"[\W_]+")
_DROPPED = {code: None for code in range(128) if not chr(code).isalnum()}


class RowLooks(NamedTuple):
    """A row's texts as they are compared.

    Attributes:
        forms: normal forms, the query's first.
        digests: 8 bytes of each.
        flags: the odd things, one bit each.
        heads: the first character of each form if all are letters or digits, else empty.
    """

    forms: list[str]
    digests: list[bytes]
    flags: int
    heads: str = ""

    def may_be_near(self, positives: int) -> bool:
        """Say whether a negative may be a positive but for marks: at a glance, which settles most rows."""
        heads = self.heads
        return not heads or not set(heads[1 : positives + 1]).isdisjoint(heads[positives + 1 :])


class Looks:
    """Looks at the texts of rows; remembers for a while what took long."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, bytes, int]] = {}
        self._size = 0

    def of_row(self, texts: list[str], joined: str | None) -> RowLooks:
        """Return what a query and its passages look like.

        Args:
            joined: the texts joined by NUL, which is looked at in one go where nothing is special about it.
        """
        if joined is not None and joined.isascii():
            found = _plain(texts, joined)
            if found is not None:
                return found
        looks = [self._known.get(text) or self._look(text) for text in texts]
        flags = looks[0][2] & ~SHORT
        for _, _, each in looks[1:]:
            flags |= each
        return RowLooks([look[0] for look in looks], [look[1] for look in looks], flags)

    def settle(self) -> None:
        """Forget everything once it is much."""
        if self._size > REMEMBERED:
            self._known.clear()
            self._size = 0

    def _look(self, text: str) -> tuple[str, bytes, int]:
        form = normal_form(text)
        self._known[text] = look = form, xxh3_64_digest(form.encode("utf-8", "surrogatepass")), _flags(text, form)
        self._size += 2 * len(text) + 100
        return look


def fingerprint(text: str) -> bytes:
    """Return 8 bytes that stand for a text's normal form."""
    return xxh3_64_digest(normal_form(text).encode("utf-8", "surrogatepass"))


def _plain(texts: list[str], joined: str) -> RowLooks | None:
    """Look at ASCII texts whose normal form is the lower case: no control characters, no space too many."""
    low = joined.lower()
    if "  " in low or "\0 " in low or " \0" in low or low[0] == " " or low[-1] == " ":
        return None
    raw = low.encode()
    if raw.translate(None, _PRINTABLE):
        return None
    forms = low.split("\0")
    heads, lengths = "".join(map(_first, forms)), list(map(len, forms))
    if not heads.isalnum() or max(lengths) > LONG_CHARACTERS:
        return None
    flags = SHORT if min(lengths[1:]) < SHORT_BYTES else 0
    return RowLooks(forms, list(map(xxh3_64_digest, raw.split(b"\0"))), flags, heads)


def _flags(text: str, form: str) -> int:
    if text.isascii():
        damaged, control = False, not text.isprintable() and _CONTROL.search(text) is not None
    else:
        damaged, control = _DAMAGED.search(text) is not None, _CONTROL.search(text) is not None
    wordless = not form[:1].isalnum() and not any(map(str.isalnum, form))
    is_long = len(text) > LONG_CHARACTERS
    short = len(form) < SHORT_BYTES and len(form.encode("utf-8", "surrogatepass")) < SHORT_BYTES
    return damaged | control << 1 | wordless << 2 | is_long << 3 | short << 4


def nearly_same(positives: list[str], negatives: list[str]) -> bool:
    """Say whether a positive and a negative, folded and of about one length, are the same letters and digits."""
    for positive in positives:
        size, start, letters = len(positive), positive[:1], None
        for negative in negatives:
            if negative[:1] != start and negative[:1].isalnum() and start.isalnum():
                continue
            if abs(len(negative) - size) <= 4 + size // 8:
                letters = letters or _letters(positive)
                if _letters(negative) == letters and letters:
                    return True
    return False


def _letters(form: str) -> str:
    return form.translate(_DROPPED) if form.isascii() else _NOT_WORD.sub("", form)
