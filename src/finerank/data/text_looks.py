"""What a text looks like to check: its digest, and what is odd about it; texts that are the same but for marks."""

from __future__ import annotations

import hashlib
import re

from finerank.data.text import normal_form

SHORT_BYTES = 8
LONG_CHARACTERS = 20_000
REMEMBERED = 2**23
"""Characters of texts whose digests are remembered: negatives come again and again."""
FLAGS = ("damaged-text", "control-characters", "no-words", "long-text", "short-passage")
SHORT = 1 << FLAGS.index("short-passage")


_DAMAGED = re.compile("\ufffd|[\x80-\x9f]|Ã[\x80-\xbf]|â€")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_NOT_WORD = re.compile(r"[\W_]+")
_DROPPED = {code: None for code in range(128) if not chr(code).isalnum()}


class Looks(dict[str, tuple[bytes, int]]):
    """Text -> digest of its normal form, and flags; worked out when asked for, remembered for a while."""

    def __init__(self) -> None:
        self._size = 0

    def __missing__(self, text: str) -> tuple[bytes, int]:
        form = normal_form(text)
        look = hashlib.blake2b(form.encode("utf-8", "surrogatepass"), digest_size=8).digest(), _flags(text, form)
        self[text] = look
        self._size += len(text) + 100
        return look

    def settle(self) -> None:
        if self._size > REMEMBERED:
            self.clear()
            self._size = 0


def fingerprint(text: str) -> bytes:
    """Return 8 bytes that stand for a text's normal form."""
    return Looks()[text][0]


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
    """Say whether a positive and a negative, of about one length, are the same letters and digits."""
    for positive in positives:
        size, letters = len(positive), None
        for negative in negatives:
            if 10 * abs(len(negative) - size) <= size:
                letters = letters or _letters(positive)
                if _letters(negative) == letters and letters:
                    return True
    return False


def _letters(text: str) -> str:
    return text.lower().translate(_DROPPED) if text.isascii() else _NOT_WORD.sub("", normal_form(text))
