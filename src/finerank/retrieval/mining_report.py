"""What mining did, in numbers: one row's output line, a shard's tally, the whole's counts, the printed table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from finerank.core.records import Row
from finerank.data.console import table
from finerank.retrieval.mining import Mined
from finerank.retrieval.negatives import RULES

CLOSE_RATIO = 0.95
"""Negatives above this share of the row's lowest positive cosine are counted: many of them are unlabelled positives
(NV-Retriever's positive-aware bound, arXiv 2407.15831)."""
COUNTED = (
    "rows", "rows_written", "rows_dropped", "rows_short", "rows_still_short", "rows_without_negatives",
    "positives", "negatives", "kept", "padded", "in_range", *RULES, "survivors", "close_to_positive",
)  # fmt: skip
SIMILARITY_KEYS = ("pos_similarities", "neg_similarities")
SCORE_KEYS = frozenset({"pos_scores", "neg_scores", "neg_id", "neg_ids"})
"""Keys that go when the negatives change: teacher scores are of use in pairs only."""
STALE = "stale "


class Tally:
    """Counts of one shard; ``to_mapping`` is what its file keeps."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.positive: list[float] = []
        self.negative: list[float] = []
        self.gaps: list[float] = []

    def add(self, mined: Mined, *, dropped: bool) -> dict[str, Any] | None:
        """Count one row; return its output line, or None for a dropped row."""
        chosen = mined.selection
        self.counts.update(rows=1, in_range=chosen.in_range, survivors=chosen.survivors, rows_short=int(chosen.short))
        self.counts.update(chosen.dropped)
        if dropped:
            self.counts["rows_dropped"] += 1
            return None
        self._measure(mined)
        line, stale = output_line(mined)
        self.counts.update(STALE + key for key in stale)
        return line

    def to_mapping(self) -> dict[str, Any]:
        """Return plain JSON values; equal rows give equal values."""
        return {
            "counts": dict(sorted(self.counts.items())),
            "positive": math.fsum(self.positive),
            "negative": math.fsum(self.negative),
            "gaps": self.gaps,
        }

    def _measure(self, mined: Mined) -> None:
        negatives, positives = mined.neg_similarities, mined.pos_similarities
        close = CLOSE_RATIO * min(positives)
        self.counts.update(
            rows_written=1,
            rows_still_short=int(mined.selection.missing > 0),
            rows_without_negatives=int(not negatives),
            positives=len(positives),
            negatives=len(negatives),
            kept=len(mined.kept),
            padded=mined.selection.padded,
            close_to_positive=sum(similarity > close for similarity in negatives),
        )
        self.positive += positives
        self.negative += negatives
        if negatives:
            gap = math.fsum(positives) / len(positives) - math.fsum(negatives) / len(negatives)
            self.gaps.append(round(gap, 6))


def output_line(mined: Mined) -> tuple[dict[str, Any], list[str]]:
    """Return a row's output line, and the keys that no longer fitted and were left out."""
    line = mined.row.to_mapping() | {"neg": mined.negatives}
    stale = _stale_keys(mined.row, line) if mined.negatives != list(mined.row.negatives) else []
    for key in (*stale, *SIMILARITY_KEYS):
        line.pop(key, None)
    return line | {"pos_similarities": mined.pos_similarities, "neg_similarities": mined.neg_similarities}, stale


def total(shards: Sequence[Mapping[str, Any]], pool: int) -> dict[str, Any]:
    """Add shards up: counts, mean cosines, and per row mean positive minus mean negative as mean and median gap."""
    added: Counter[str] = Counter()
    for shard in shards:
        added.update(shard["counts"])
    gaps = [gap for shard in shards for gap in shard["gaps"]]
    return {
        "pool": pool,
        **{name: added[name] for name in COUNTED},
        "stale_keys_removed": {
            name[len(STALE) :]: count for name, count in sorted(added.items()) if name.startswith(STALE)
        },
        "positive_similarity_mean": _mean([shard["positive"] for shard in shards], added["positives"]),
        "negative_similarity_mean": _mean([shard["negative"] for shard in shards], added["negatives"]),
        "gap_mean": _mean(gaps, len(gaps)),
        "gap_median": round(median(gaps), 6) if gaps else None,
    }


def text(counts: Mapping[str, Any], sampled_range: str, output_file: str) -> str:
    """Return what a person reads: where every candidate went, and how far negatives are from positives."""
    rows = counts["rows"]
    per_row = [
        (f"candidates in the range {sampled_range}", counts["in_range"]),
        *((f"- {rule.replace('_', ' ')}", counts[rule]) for rule in RULES),
        ("= survivors", counts["survivors"]),
        ("taken from them", counts["negatives"] - counts["padded"] - counts["kept"]),
        ("padded from below the range", counts["padded"]),
        ("kept, the rows' own", counts["kept"]),
        ("negatives written", counts["negatives"]),
    ]
    funnel = table(
        ["candidates", "count", "per row"], [[name, count, f"{count / rows:.1f}"] for name, count in per_row]
    )
    facts = table(
        ["rows and similarities", "value"],
        [
            ["pool (passages)", f"{counts['pool']:,}"],
            ["rows", f"{rows:,}"],
            ["rows short before padding", f"{counts['rows_short']:,}"],
            ["rows dropped", f"{counts['rows_dropped']:,}"],
            ["rows still short", f"{counts['rows_still_short']:,}"],
            ["mean cosine of positives", _figure(counts["positive_similarity_mean"])],
            ["mean cosine of negatives", _figure(counts["negative_similarity_mean"])],
            ["gap of a row, mean / median", f"{_figure(counts['gap_mean'])} / {_figure(counts['gap_median'])}"],
            [
                f"negatives above {CLOSE_RATIO} x lowest positive",
                _share(counts["close_to_positive"], counts["negatives"]),
            ],
        ],
    )
    return f"{funnel}\n\n{facts}\n\n{output_file}: {counts['rows_written']:,} rows"


def _stale_keys(row: Row, line: Mapping[str, Any]) -> list[str]:
    """Name the keys that described the old negatives: scores, ids, and any ``neg_…`` list as long as they were."""
    return [
        key
        for key, value in line.items()
        if key in SCORE_KEYS
        or (
            key.startswith("neg_")
            and key not in SIMILARITY_KEYS
            and isinstance(value, list)
            and len(value) == len(row.negatives)
        )
    ]


def _mean(values: Sequence[float], count: int) -> float | None:
    return round(math.fsum(values) / count, 6) if count else None


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if whole else "-"
