"""What mining did, in numbers: one row's output line, a shard's tally, the whole's counts, the printed table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from heapq import nsmallest
from statistics import median
from typing import Any

from finerank.core.records import Row
from finerank.data.console import table
from finerank.retrieval import mining_shapes
from finerank.retrieval.false_negatives import RERANKER_RULES
from finerank.retrieval.mining import Mined
from finerank.retrieval.negatives import RULES

CLOSE_RATIO = 0.95
"""Negatives above this share of the row's lowest positive cosine are counted: many of them are unlabelled positives
(NV-Retriever's positive-aware bound, arXiv 2407.15831)."""
COUNTED = (
    "rows", "rows_written", "rows_dropped", "rows_short", "rows_still_short", "rows_without_negatives",
    "rows_relabelled", "positives", "relabelled", "negatives", "kept", "padded", "in_range", *RULES, *RERANKER_RULES,
    "survivors", "close_to_positive",
)  # fmt: skip
OWN_KEYS = ("pos_similarities", "neg_similarities", "neg_ranks", "relabelled")
"""Keys that mining writes; what an earlier mining wrote under them goes."""
SCORE_KEYS = frozenset({"pos_scores", "neg_scores", "neg_id", "neg_ids"})
"""Keys that go when the negatives change: teacher scores are of use in pairs only."""
STALE = "stale "
MOST_SUSPECTS = 100
SHOWN_SUSPECTS = 3
SHOWN_CHARACTERS = 96


@dataclass(frozen=True)
class Suspect:
    """A mined negative that may be an unlabelled positive, beside its row's positive of the lowest similarity.

    Attributes:
        gap: the negative's similarity less the positive's; of reranker scores where there are any. Above 0: the
            negative looks more relevant.
        where: ``file:line`` of the row.
        pos_score, neg_score: the reranker's, or None.
    """

    gap: float
    where: str
    query: str
    positive: str
    negative: str
    pos_similarity: float | None
    neg_similarity: float | None
    pos_score: float | None
    neg_score: float | None

    def to_mapping(self) -> dict[str, Any]:
        return asdict(self)


class Tally:
    """Counts of one shard; ``to_mapping`` is what its file keeps."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.positive: list[float] = []
        self.negative: list[float] = []
        self.gaps: list[float] = []
        self.suspects: list[dict[str, Any]] = []
        self.shapes = mining_shapes.Shapes()

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
            "positive": math.fsum(self.positive) if self.positive else None,
            "negative": math.fsum(self.negative) if self.negative else None,
            "gaps": self.gaps,
            "suspects": _closest(self.suspects),
            "shapes": self.shapes.to_mapping(),
        }

    def _measure(self, mined: Mined) -> None:
        negatives, positives = mined.neg_similarities, mined.pos_similarities
        close = CLOSE_RATIO * min(positives, default=math.inf)
        self.counts.update(
            rows_written=1,
            rows_still_short=int(mined.selection.missing > 0),
            rows_without_negatives=int(not mined.negatives),
            rows_relabelled=int(bool(mined.relabelled)),
            positives=len(mined.positives),
            relabelled=len(mined.relabelled),
            negatives=len(mined.negatives),
            kept=len(mined.kept),
            padded=mined.selection.padded,
            close_to_positive=sum(similarity > close for similarity in negatives),
        )
        self.positive += positives
        self.negative += negatives
        self.suspects += suspects_of(mined)
        self.shapes.add(mined)
        if negatives:
            gap = math.fsum(positives) / len(positives) - math.fsum(negatives) / len(negatives)
            self.gaps.append(round(gap, 6))


def output_line(mined: Mined) -> tuple[dict[str, Any], list[str]]:
    """Return a row's output line, and the keys that no longer fitted and were left out."""
    line = mined.row.to_mapping() | {"pos": mined.positives, "neg": mined.negatives}
    stale = _stale_keys(mined, line)
    for key in (*stale, *OWN_KEYS):
        line.pop(key, None)
    if mined.pos_similarities:
        line |= {"pos_similarities": mined.pos_similarities, "neg_similarities": mined.neg_similarities}
    if mined.ranks:
        line["neg_ranks"] = {side: [None] * len(mined.kept) + ranks for side, ranks in mined.ranks.items()}
    if mined.neg_scores is not None:
        line |= {"pos_scores": mined.pos_scores, "neg_scores": mined.neg_scores}
    if mined.relabelled:
        line["relabelled"] = list(range(len(mined.row.positives), len(mined.positives)))
    return line, stale


def suspects_of(mined: Mined) -> list[dict[str, Any]]:
    """Return a row's mined negatives as suspects, by number: the texts are looked up when they are shown.

    Measured against the row's own positive of the lowest reranker score, or of the lowest cosine; without either there
    is nothing to go by.
    """
    own = len(mined.row.positives)
    by_score = mined.pos_scores is not None and mined.neg_scores is not None
    positive = list(mined.pos_scores or () if by_score else mined.pos_similarities)[:own]
    negative = list(mined.neg_scores or () if by_score else mined.neg_similarities)
    if not positive or not negative:
        return []
    lowest = min(range(own), key=positive.__getitem__)
    return [
        {
            "gap": round(negative[place] - positive[lowest], 6),
            "row": mined.index,
            "positive": lowest,
            "passage": position,
            "pos_similarity": _at(mined.pos_similarities, lowest), "neg_similarity": _at(mined.neg_similarities, place),
            "pos_score": _at(mined.pos_scores, lowest), "neg_score": _at(mined.neg_scores, place),
        }
        for place, position in enumerate(mined.selection.positions, start=len(mined.kept))
    ]  # fmt: skip


def suspects(counts: Mapping[str, Any], rows: Sequence[Row], pool: Sequence[str], number: int) -> list[Suspect]:
    """Return the ``number`` suspected false negatives that are closest to their positive, or furthest above it."""
    return [
        Suspect(
            gap=found["gap"],
            where=rows[found["row"]].where,
            query=rows[found["row"]].query,
            positive=rows[found["row"]].positives[found["positive"]],
            negative=pool[found["passage"]],
            pos_similarity=found["pos_similarity"],
            neg_similarity=found["neg_similarity"],
            pos_score=found["pos_score"],
            neg_score=found["neg_score"],
        )
        for found in counts["suspects"][:number]
    ]


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
        "positive_similarity_mean": _mean(_known(shards, "positive"), added["positives"]),
        "negative_similarity_mean": _mean(_known(shards, "negative"), added["negatives"]),
        "gap_mean": _mean(gaps, len(gaps)),
        "gap_median": round(median(gaps), 6) if gaps else None,
        "suspects": _closest([suspect for shard in shards for suspect in shard["suspects"]]),
        "shapes": mining_shapes.total([shard["shapes"] for shard in shards if "shapes" in shard]),
    }


def funnel(counts: Mapping[str, Any], sampled_range: str) -> list[tuple[str, int]]:
    """Return where every candidate went, in order, with names for people."""
    rules = [*RULES, *(rule for rule in RERANKER_RULES if counts[rule])]
    return [
        (f"candidates in the range {sampled_range}", counts["in_range"]),
        *((f"- {rule.replace('_', ' ')}", counts[rule]) for rule in rules),
        ("= survivors", counts["survivors"]),
        ("taken from them", counts["negatives"] - counts["padded"] - counts["kept"]),
        ("padded from below the range", counts["padded"]),
        ("kept, the rows' own", counts["kept"]),
        ("negatives written", counts["negatives"]),
    ]


def facts(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what else there is to know, with names for people."""
    found = [
        ("pool (passages)", f"{counts['pool']:,}"),
        ("rows", f"{counts['rows']:,}"),
        ("rows short before padding", f"{counts['rows_short']:,}"),
        ("rows dropped", f"{counts['rows_dropped']:,}"),
        ("rows still short", f"{counts['rows_still_short']:,}"),
    ]
    if counts["relabelled"]:
        found.append(("false negatives relabelled", f"{counts['relabelled']:,} in {counts['rows_relabelled']:,} rows"))
    if counts["positive_similarity_mean"] is None:
        return [*found, ("similarities", "none: there is no embedder")]
    return [
        *found,
        ("mean cosine of positives", _figure(counts["positive_similarity_mean"])),
        ("mean cosine of negatives", _figure(counts["negative_similarity_mean"])),
        ("gap of a row, mean / median", f"{_figure(counts['gap_mean'])} / {_figure(counts['gap_median'])}"),
        (f"negatives above {CLOSE_RATIO} x lowest positive", _share(counts["close_to_positive"], counts["negatives"])),
    ]


def text(counts: Mapping[str, Any], sampled_range: str, output_file: str, suspected: Sequence[Suspect] = ()) -> str:
    """Return what a person reads: where every candidate went, and how far negatives are from positives."""
    rows = counts["rows"]
    went = [[name, count, f"{count / rows:.1f}"] for name, count in funnel(counts, sampled_range)]
    parts = [
        table(["candidates", "count", "per row"], went),
        table(["rows and similarities", "value"], [list(fact) for fact in facts(counts)]),
    ]
    if suspected:
        shown = suspected[:SHOWN_SUSPECTS]
        more = f"; --report and --json have {len(suspected)}" if len(suspected) > len(shown) else ""
        title = f"false negatives, perhaps: the {len(shown)} closest to their positive, or above it{more}"
        parts.append("\n".join([title, *map(_beside, shown)]))
    return "\n\n".join([*parts, f"{output_file}: {counts['rows_written']:,} rows"])


def measures(cosine: float | None, score: float | None) -> str:
    """Write the cosine, and the reranker's score in brackets, where they are known.

    >>> measures(0.5, None), measures(0.5, -1.25)
    ('0.5000', '0.5000 [-1.25]')
    """
    known = [f"{cosine:.4f}"] if cosine is not None else []
    return " ".join([*known, *([f"[{score:+.2f}]"] if score is not None else [])])


def _beside(suspect: Suspect) -> str:
    """Show one suspect in four short lines."""
    positive = measures(suspect.pos_similarity, suspect.pos_score)
    negative = measures(suspect.neg_similarity, suspect.neg_score)
    width = max(len(positive), len(negative))
    return "\n".join(
        [
            f"{suspect.gap:+.4f}  {suspect.where}",
            f"  query     {'':<{width}}  {_short(suspect.query)}",
            f"  positive  {positive:<{width}}  {_short(suspect.positive)}",
            f"  negative  {negative:<{width}}  {_short(suspect.negative)}",
        ]
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"


def _closest(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the suspects of the largest gap; equal ones by row and passage."""
    return nsmallest(MOST_SUSPECTS, found, key=lambda one: (-one["gap"], one["row"], one["passage"]))


def _at(values: Sequence[float] | None, place: int) -> float | None:
    return values[place] if values else None


def _stale_keys(mined: Mined, line: Mapping[str, Any]) -> list[str]:
    """Name the keys that described the old texts: scores, ids, and any list of a side as long as that side was."""
    row, stale = mined.row, []
    changed = {"neg": mined.negatives != list(row.negatives), "pos": bool(mined.relabelled)}
    lengths = {"neg": len(row.negatives), "pos": len(row.positives)}
    for key, value in line.items():
        side = key.partition("_")[0]
        if key in OWN_KEYS or (mined.neg_scores is not None and key in ("pos_scores", "neg_scores")):
            continue
        of_side = "_" in key and side in lengths and isinstance(value, list) and len(value) == lengths[side]
        if (changed["neg"] and key in SCORE_KEYS) or (of_side and changed[side]):
            stale.append(key)
    return stale


def _known(shards: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [shard[name] for shard in shards if shard[name] is not None]


def _mean(values: Sequence[float], count: int) -> float | None:
    return round(math.fsum(values) / count, 6) if count and values else None


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if whole else "-"
