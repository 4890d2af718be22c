"""What can be wrong with rows that parse: contradictions, repeats, short groups, odd scores, leaks.

Blocks are looked at one by one (``examine``) and kept as 64-bit digests in flat arrays: about 110 bytes for a row of
eight passages. Rows are compared with each other at the end, with numpy.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finerank.core.errors import Problem
from finerank.data.examine import MAX_PROBLEMS, SIDES, Range, Seen
from finerank.data.findings import SHOWN_PLACES, UNUSABLE_HINT, WARNINGS, Finding, Places
from finerank.data.lengths import Histogram
from finerank.data.text_looks import fingerprint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

SHARED = 10
"""Different queries of one positive from which on it is remarkable."""


@dataclass(frozen=True)
class Judgements:
    """What must not be learnt from: normal-form digests of test queries and of their relevant passages."""

    queries: array[int]
    passages: array[int]


def judgements(pairs: Iterable[tuple[str, Iterable[str]]]) -> Judgements:
    """Return the digests of test queries with their relevant passages."""
    found = Judgements(array("Q"), array("Q"))
    for query, relevant in pairs:
        found.queries.frombytes(fingerprint(query))
        found.passages.frombytes(b"".join(map(fingerprint, relevant)))
    return found


class Lint:
    """Joins what was seen in blocks, in their order; ``findings`` and ``facts`` say what it amounts to.

    Args:
        tests: name -> what it judges; leakage is looked for if any is given.
    """

    def __init__(self, tests: Mapping[str, Judgements] | None = None) -> None:
        self.tests = dict(tests or {})
        self.problems: list[Problem] = []
        self.unusable = 0
        self.leaks: dict[str, dict[str, int]] = {}
        self.lengths = {side: Histogram() for side in SIDES}
        self.tokens = {side: [0, 0] for side in SIDES[:3]}
        self.keys: dict[str, int] = defaultdict(int)
        self._files = Places()
        self._messages: dict[str, str] = {}
        self._bad: dict[str, array[int]] = defaultdict(lambda: array("Q"))
        self._found: dict[str, array[int]] = defaultdict(lambda: array("Q"))
        self._all = Seen()
        self._id_rows, self._passage_places = array("Q"), array("Q")

    @property
    def rows(self) -> int:
        return len(self._all.queries)

    def add(self, seen: Seen) -> None:
        """Take the next block."""
        everything, before, passages = self._all, self.rows, len(self._all.passages)
        numbers = [self._files.names.setdefault(name, len(self._files.names)) for name in seen.names]
        line = (1 << Places.BITS) - 1
        everything.places.extend(numbers[place >> Places.BITS] << Places.BITS | place & line for place in seen.places)
        for name in ("queries", "passages", "positives", "negatives"):
            getattr(everything, name).frombytes(getattr(seen, name).tobytes())
        everything.scored += seen.scored
        for code, rows in seen.found.items():
            self._found[code].extend(before + row for row in rows)
        for code, places in seen.bad.items():
            self._bad[code].extend(numbers[place >> Places.BITS] << Places.BITS | place & line for place in places)
        self.unusable += seen.unusable
        for problem in seen.problems:
            self._messages.setdefault(problem.code, problem.message)
        self.problems += seen.problems[: MAX_PROBLEMS - len(self.problems)]
        for name, numbers_seen in seen.scores.items():
            everything.scores[name].join(numbers_seen)
        self._id_rows.extend(before + row for row in seen.ids[0])
        everything.ids[1].extend(seen.ids[1])
        self._passage_places.extend(passages + place for place in seen.passage_ids[0])
        everything.passage_ids[1].extend(seen.passage_ids[1])
        self._add_lengths(seen)

    def _add_lengths(self, seen: Seen) -> None:
        for side in SIDES:
            self.lengths[side].update(seen.lengths[side])
        for side, (tokens, unknown) in seen.tokens.items():
            self.tokens[side][0] += tokens
            self.tokens[side][1] += unknown
        for key, count in seen.keys.items():
            self.keys[key] += count

    def findings(self) -> list[Finding]:
        """Return all kinds of trouble: unusable rows first, then warnings in the order of ``WARNINGS``."""
        names = list(self._files.names)
        bad = [
            Finding(code, self._messages.get(code, code), UNUSABLE_HINT, True, len(places), lines=places)
            for code, places in sorted(self._bad.items(), key=lambda item: (-len(item[1]), item[0]))
        ]
        found = {code: array("Q", sorted(rows)) for code, rows in self._found.items()}
        found |= {code: array("Q", rows.tolist()) for code, rows in self._between_rows() if len(rows)}
        places = self._all.places
        soft = [
            Finding(
                code, *WARNINGS[code], False, len(found[code]), lines=array("Q", [places[row] for row in found[code]])
            )
            for code in WARNINGS
            if found.get(code)
        ]
        for finding in (*bad, *soft):
            finding.places = [self._files.text(place, names) for place in finding.lines[:SHOWN_PLACES]]
        return bad + soft

    def lines(self, finding: Finding) -> dict[str, list[int]]:
        """Return all lines of a finding, by file."""
        names, line = list(self._files.names), (1 << Places.BITS) - 1
        found: dict[str, list[int]] = defaultdict(list)
        for place in finding.lines:
            found[names[place >> Places.BITS]].append(place & line)
        return dict(found)

    def facts(self) -> dict[str, Any]:
        """Return counts of what is there."""
        import numpy as np

        everything = self._all
        scored = sum(everything.scored)
        facts: dict[str, Any] = {
            "rows": self.rows,
            "unusable": self.unusable,
            "distinct_queries": len(np.unique(_view(everything.queries))),
            "distinct_passages": len(np.unique(_view(everything.passages))),
            "passages": len(everything.passages),
            "negatives_per_row": round(sum(everything.negatives) / max(self.rows, 1), 2),
            "rows_with_teacher_scores": scored,
        }
        if any(seen.count for seen in everything.scores.values()):
            facts["teacher_scores"] = {name: seen.facts() for name, seen in everything.scores.items() if seen.count}
            facts["teacher_score_scale"] = scale_of(everything.scores.values())
        return facts

    def _between_rows(self) -> Iterator[tuple[str, Rows]]:
        """Yield what only shows between rows: code and rows, ascending."""
        import numpy as np

        everything = self._all
        scored = np.frombuffer(bytes(everything.scored), np.uint8)
        if scored.any():
            yield "mixed-scores", np.flatnonzero(scored == 0)
        queries, passages = _view(everything.queries), _view(everything.passages)
        positives = _view(everything.positives).astype(np.int64)
        sizes = positives + _view(everything.negatives).astype(np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        owners = np.repeat(np.arange(len(queries)), sizes)
        on_top = np.arange(len(passages)) < (starts[:-1] + positives)[owners]
        yield from self._same_queries(queries, passages, starts, positives)
        rows = _view(self._id_rows).astype(np.int64)
        yield "duplicate-id", np.unique(rows[_differs(_view(everything.ids[1]), queries[rows])])
        places = _view(self._passage_places).astype(np.int64)
        names, texts = _view(everything.passage_ids[1]), passages[places]
        yield "passage-id-reused", np.unique(owners[places[_differs(names, texts)]])
        yield "passage-with-two-ids", np.unique(owners[places[_differs(texts, names)]])
        yield "shared-positive", _shared(passages[on_top], queries[owners[on_top]], owners[on_top])
        leaked: dict[str, list[Rows]] = {"leaked-query": [], "leaked-passage": []}
        for name, test in self.tests.items():
            asked = np.flatnonzero(np.isin(queries, _view(test.queries)))
            answered = np.unique(owners[on_top][np.isin(passages[on_top], _view(test.passages))])
            self.leaks[name] = {"queries": len(asked), "passages": len(answered)}
            leaked["leaked-query"].append(asked)
            leaked["leaked-passage"].append(answered)
        for code, parts in leaked.items():
            if parts:
                yield code, np.unique(np.concatenate(parts))

    def _same_queries(self, queries: Any, passages: Any, starts: Any, positives: Any) -> Iterator[tuple[str, Rows]]:
        """Compare the rows of each query that has several."""
        import numpy as np

        order = np.argsort(queries, kind="stable")
        bounds = np.flatnonzero(np.diff(queries[order])) + 1
        begins, ends = np.concatenate([[0], bounds]), np.concatenate([bounds, [len(order)]])
        found: dict[str, list[int]] = {"sibling-positive": [], "duplicate-row": [], "duplicate-query": []}
        for group in np.flatnonzero(ends - begins > 1) if len(order) else ():
            rows = order[begins[group] : ends[group]].tolist()
            sides = [
                (
                    frozenset(passages[starts[row] : starts[row] + positives[row]].tolist()),
                    passages[starts[row] + positives[row] : starts[row + 1]].tolist(),
                )
                for row in rows
            ]
            every = frozenset().union(*(own for own, _ in sides))
            before: set[frozenset[int]] = set()
            for row, (own, others) in zip(rows, sides):
                if not (every - own).isdisjoint(others):
                    found["sibling-positive"].append(row)
                if before:
                    found["duplicate-row" if own in before else "duplicate-query"].append(row)
                before.add(own)
        for code, numbers in found.items():
            yield code, np.unique(np.array(numbers, np.int64))


def scale_of(ranges: Iterable[Range]) -> str:
    """Name the scale of teacher scores by their range: a guess that a person can check."""
    seen = [each for each in ranges if each.count]
    low, high = min(each.low for each in seen), max(each.high for each in seen)
    if low == high:
        return "constant"
    if low >= 0 and high <= 1:
        return "0 to 1 (probabilities)"
    return "-1 to 1 (similarities)" if low >= -1 and high <= 1 else "logits"


def _view(numbers: array[int]) -> Any:
    """Return an array's numbers for numpy, without a copy."""
    import numpy as np

    return np.frombuffer(numbers, np.dtype(f"u{numbers.itemsize}")) if numbers else np.zeros(0, f"u{numbers.itemsize}")


def _differs(names: Any, values: Any) -> Any:
    """Say for each of N entries whether its value is not that of the first entry of the same name: bool [N]."""
    import numpy as np

    if not len(names):
        return np.zeros(0, bool)
    _, first, which = np.unique(names, return_index=True, return_inverse=True)
    return values != values[first][which]


def _shared(passages: Any, queries: Any, rows: Any) -> Rows:
    """Return the rows with a positive that at least ``SHARED`` different queries have."""
    import numpy as np

    names, which, times = np.unique(passages, return_inverse=True, return_counts=True)
    often = times[which] >= SHARED  # only these can; the rest is left out of the larger sort
    pairs = np.unique(np.stack([which[often].astype(np.uint64), queries[often]]), axis=1)
    counts = np.bincount(pairs[0].astype(np.int64), minlength=len(names))
    return np.unique(rows[counts[which] >= SHARED])
