"""The normal form in which texts are compared, and their digest. Texts are stored byte-exact; only comparisons fold."""

from __future__ import annotations

import hashlib
import unicodedata

DIGEST_BYTES = 16


def normal_form(text: str) -> str:
    """Fold what a reader would not see as a difference: NFKC, letter case, runs of white space.

    >>> normal_form("  Ｈello\\u00a0 WORLD\\n")
    'hello world'
    """
    if text.isascii():  # the same result at a tenth of the price
        return " ".join(text.lower().split())
    # Case folding can undo a composition (and NFKC can uncover a capital), so the pair is applied until it is stable.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(unicodedata.normalize("NFKC", folded.casefold()).split())


def digest(text: str) -> str:
    """Return 32 hex digits that stand for the exact text (blake2b of its UTF-8 bytes)."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).hexdigest()
