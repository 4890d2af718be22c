"""Where a model gains and where it loses: the judged queries cut by length, by script, by what their data says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from finerank.core.seeding import DEFAULT_SEED
from finerank.evaluation.significance import Interval, aligned, bootstrap_intervals, holm, paired_randomisations

SCRIPTS = {
    "Chinese": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
    "Japanese": "\u3040-\u30ff",
    "Korean": "\uac00-\ud7af",
    "Cyrillic": "\u0400-\u04ff",
    "Arabic": "\u0600-\u06ff",
    "Devanagari": "\u0900-\u097f",
    "Greek": "\u0370-\u03ff",
}
LATIN = "Latin"
LETTERS = re.compile(r"[^\W\d_]")
WORD = re.compile(rf"[{SCRIPTS['Chinese']}{SCRIPTS['Japanese']}{SCRIPTS['Korean']}]|\w+")
FEWEST = 10
"""Queries of a slice that is shown."""


class Slice(NamedTuple):
    """One part of the queries; ``p`` is Holm-corrected over the slices of one kind."""

    kind: str
    name: str
    queries: int
    value: Interval
    baseline: Interval
    difference: Interval
    p: float


def length_of(text: str) -> int:
    """Return the words of a query; a character of Chinese, Japanese or Korean counts as one.

    >>> length_of("how do I split a path?"), length_of("检索模型")
    (6, 4)
    """
    return len(WORD.findall(text))


def script_of(text: str) -> str:
    """Return the script that most letters of a text are of; Japanese if any kana are among Chinese characters.

    >>> script_of("split a path"), script_of("分割路径"), script_of("パスを分割"), script_of("разделить путь")
    ('Latin', 'Chinese', 'Japanese', 'Cyrillic')
    """
    counts = {name: len(re.findall(f"[{letters}]", text)) for name, letters in SCRIPTS.items()}
    if counts["Japanese"]:
        return "Japanese"
    name, most = max(counts.items(), key=lambda item: item[1])
    return name if most * 2 > len(LETTERS.findall(text)) else LATIN


def parts_of(queries: Mapping[str, str], types: Mapping[str, str]) -> dict[str, dict[str, list[str]]]:
    """Return kind -> name -> query ids: thirds by length, scripts, types; kinds with one part only are left out.

    Args:
        types: query id -> the type that its data gives it, for those that have one.
    """
    found = {
        "length": _thirds(queries),
        "script": _grouped({query: script_of(text) for query, text in queries.items()}),
    }
    found["type"] = _grouped({query: types[query] for query in queries if query in types})
    kept = {kind: {name: ids for name, ids in parts.items() if len(ids) >= FEWEST} for kind, parts in found.items()}
    return {kind: parts for kind, parts in kept.items() if len(parts) > 1}


def sliced(
    parts: Mapping[str, Mapping[str, Sequence[str]]],
    values: Mapping[str, float],
    baseline: Mapping[str, float],
    seed: int = DEFAULT_SEED,
) -> list[Slice]:
    """Compare an arm with the baseline on each part.

    Args:
        parts: as ``parts_of`` gives them.
        values, baseline: query id -> the metric's value.
    """
    found = []
    for kind, named in parts.items():
        pairs = [(aligned(dict(values), ids), aligned(dict(baseline), ids)) for ids in named.values()]
        corrected = holm(paired_randomisations(pairs, seed))
        for (name, ids), (own, other), p in zip(named.items(), pairs, corrected):
            value, base, difference = bootstrap_intervals([own, other, own - other], seed)
            found.append(Slice(kind, name, len(ids), value, base, difference, p))
    return found


def _thirds(queries: Mapping[str, str]) -> dict[str, list[str]]:
    """Cut queries into short, middle and long ones of about equal numbers; equal lengths stay together."""
    lengths = {query: length_of(text) for query, text in queries.items()}
    if not lengths:
        return {}
    low, high = (int(bound) for bound in np.quantile(list(lengths.values()), [1 / 3, 2 / 3]))
    bounds = {f"up to {low} words": (0, low), f"{low + 1} to {high} words": (low + 1, high)}
    bounds[f"over {high} words"] = (high + 1, max(lengths.values()))
    return {
        name: [query for query, length in lengths.items() if start <= length <= stop]
        for name, (start, stop) in bounds.items()
        if start <= stop
    }


def _grouped(names: Mapping[str, Any]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for query, name in names.items():
        groups.setdefault(str(name), []).append(query)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))
