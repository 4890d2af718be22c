"""From tries to kept rows: shards of tries land on disk, filters go over them in order, until there are enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from finerank.data.shards import Shards
from finerank.generation.assembly import keys_of
from finerank.generation.filters import Keeper
from finerank.generation.making import Workshop
from finerank.generation.partition import Keys

SHARD = 64
"""Tries that land together; a killed run makes at most these again."""
REACHED, ATTEMPTS, EXHAUSTED = "reached", "attempts", "exhausted"


@dataclass
class Collected:
    """What a run has got.

    Attributes:
        kept: places of the kept rows: (shard, place in it).
        keys: of the kept rows.
        reasons: why tries gave no row.
        verdicts: why -> judgements.
        modes: of the kept rows.
        end: ``reached`` the number wanted, spent its ``attempts``, or ``exhausted`` the documents.
    """

    kept: list[tuple[int, int]] = field(default_factory=list)
    keys: list[Keys] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    end: str = ATTEMPTS


def collect(
    workshop: Workshop, shards: Shards, wanted: int, attempts: int, per_entity: int, report: Callable[[int], None]
) -> Collected:
    """Make tries until enough rows are kept, the tries are spent, or a whole round over the documents gave nothing.

    Args:
        report: told of every kept row.
    """
    found, keeper = Collected(), Keeper(per_entity)
    once = workshop.judged
    attempts = min(attempts, len(once)) if once else attempts
    barren = 0
    index = 0
    while found.attempts < attempts:
        start = index * SHARD
        counts = _land(workshop, shards, index, start, min(start + SHARD, attempts))
        found.verdicts.update(counts["verdicts"])
        for place, outcome in enumerate(orjson.loads(line) for line in shards.body(index).splitlines()):
            found.attempts += 1
            barren += 1
            why = outcome.get("why") or keeper.refuses(outcome["query"], outcome["entity"])
            if why:
                found.reasons[why] += 1
                continue
            barren = 0
            found.kept.append((index, place))
            found.keys.append(keys_of(outcome))
            found.modes[outcome["mode"]] += 1
            report(1)
            if len(found.kept) >= wanted:
                found.end = REACHED
                return found
        if barren >= max(workshop.round, SHARD):
            found.end = EXHAUSTED
            return found
        index += 1
    found.end = EXHAUSTED if once else ATTEMPTS
    return found


def made_rows(shards: Shards, kept: list[tuple[int, int]], places: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (place among the kept rows, row by numbers) for some of them, in order; one shard is held at a time."""
    index, lines = -1, list[bytes]()
    for place in places:
        shard, line = kept[place]
        if shard != index:
            index, lines = shard, shards.body(shard).splitlines()
        yield place, orjson.loads(lines[line])


def _land(workshop: Workshop, shards: Shards, index: int, start: int, stop: int) -> dict[str, Any]:
    """Make a shard of tries unless it has landed; return its counts."""
    client = workshop.client
    landed = shards.counts(index)
    if landed is not None:
        if client is not None:
            client.used += landed["llm_calls"]
        return landed
    used = client.used if client is not None else 0
    workshop.verdicts.clear()
    outcomes = workshop.make(start, stop)
    lines = [orjson.dumps({"why": each} if isinstance(each, str) else each) for each in outcomes]
    counts = {
        "verdicts": dict(sorted(workshop.verdicts.items())),
        "llm_calls": client.used - used if client is not None else 0,
    }
    return shards.land(index, b"".join(line + b"\n" for line in lines), counts)
