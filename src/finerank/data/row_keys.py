"""Keys of a row that are nearly a known one, or a second spelling of one: what stands under them is not read."""

from __future__ import annotations

from collections.abc import Iterator

from finerank.core.records import KEY_ALIASES

OTHER_KEYS = ("prompt", "id", "pos_id", "neg_id", "type")
SPELLINGS = {alias: name for name, aliases in KEY_ALIASES.items() for alias in aliases} | dict(
    zip(OTHER_KEYS, OTHER_KEYS)
)


def odd_keys(keys: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield ``(code, key)`` for misspelt keys and for second spellings of one.

    >>> list(odd_keys(("query", "pos", "neg_score", "positive")))
    [('odd-key', 'neg_score'), ('key-twice', 'positive')]
    """
    for key in keys:
        name = SPELLINGS.get(key)
        if name is None:
            if any(_is_slip(key.lower(), known) for known in SPELLINGS):
                yield "odd-key", key
        elif name in KEY_ALIASES and key != next(alias for alias in KEY_ALIASES[name] if alias in keys):
            yield "key-twice", key


def _is_slip(key: str, known: str) -> bool:
    """Say whether two names are a letter apart: one more, one less, another one, or two that changed places."""
    short, long = sorted((key, known), key=len)
    if short == long:
        return True
    if len(short) < 3 or len(long) - len(short) > 1:
        return False
    if len(short) < len(long):
        return any(long[:cut] + long[cut + 1 :] == short for cut in range(len(long)))
    apart = sum(one != other for one, other in zip(short, long))
    return (apart == 1 and len(short) > 3) or (apart == 2 and sorted(short) == sorted(long))
