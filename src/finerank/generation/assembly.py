"""A query, its candidates and their verdicts to a row: by numbers of documents, which become texts at last."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finerank.data.documents import Document, Documents
from finerank.generation.candidates import Found
from finerank.generation.filters import COPY, is_copy
from finerank.generation.language import word_count
from finerank.generation.mentions import shows
from finerank.generation.oracle import BRIDGES, NEGATIVE, POSITIVE, Judgement
from finerank.generation.partition import Keys
from finerank.generation.queries import GeneratedQuery, entity_key

SPARE = 8
"""Negatives beyond those wanted: some fall to the other side of the split."""
JUDGED, MINED = "judged", "mined"
SHORTEST_QUERY, LONGEST_QUERY = 3, 64
"""Characters, and words, of a query."""
About = Literal["auto", "topic", "any"]
"""Negatives of a row: those about its own topic where there are any, those alone, or any."""
NO_CANDIDATE, NO_POSITIVE, NO_NEGATIVE = "no_candidate_found", "no_positive", "no_negative"
ROUND_TRIP, LENGTH = "source_not_found_again", "query_too_short_or_long"


@dataclass(frozen=True)
class Wanted:
    """What a row should hold.

    Attributes:
        negatives: of one row; 0 writes none.
        round_trip: ranks among which the source must be found again; 0 looks nowhere.
        about: which negatives a row is written with.
    """

    negatives: int
    round_trip: int
    about: About = "auto"


def assemble(
    query: GeneratedQuery, found: Found, judgements: Mapping[int, Judgement], documents: Documents, wanted: Wanted,
    further: Callable[[Sequence[int]], Sequence[Judgement]], rng: random.Random,
) -> dict[str, Any] | str:  # fmt: skip
    """Return a row by numbers, or why there is none.

    Args:
        judgements: candidate -> verdict.
        further: judges documents from further down the ranking, which must be negative to top a row up.
    """
    if len(query.text) < SHORTEST_QUERY or word_count(query.text) > LONGEST_QUERY:
        return LENGTH
    bridging, known = query.mode in BRIDGES, bool(query.relevant)
    if bridging and not found.positions:
        return NO_CANDIDATE
    positives = [number for number in found.positions if _is(judgements, number, POSITIVE)]
    if known:
        positives = list(query.relevant)
    elif not bridging:
        rank = found.rank_of(query.source)
        if wanted.round_trip and (rank is None or rank >= wanted.round_trip):
            return ROUND_TRIP
        positives = [query.source, *positives]
    if not positives:
        return NO_POSITIVE
    if not known and is_copy(query.text, first_positive(query, documents[positives[0]])):
        return COPY
    negatives = [(number, JUDGED) for number in found.positions if _is(judgements, number, NEGATIVE)]
    if wanted.negatives:
        most = wanted.negatives + SPARE
        negatives += _topped_up(query, found, {*positives, *judgements}, most - len(negatives), further, rng)
        if not negatives:
            return NO_NEGATIVE
        negatives = negatives[:most]
    named = query.entity
    similar = {n: found.similarities[n] for n in (*positives, *(n for n, _ in negatives)) if n in found.similarities}
    return {
        "query": query.text,
        "mode": query.mode,
        "entity": named.name if named is not None else "",
        "key": entity_key(query),
        "source": query.source,
        "facet": query.facet,
        "avoid": query.avoid,
        "removed": query.removed,
        "pos": positives,
        "neg": [number for number, _ in negatives] if wanted.negatives else [],
        "neg_source": [origin for _, origin in negatives] if wanted.negatives else [],
        "near": [_is_near(query, documents[number]) for number, _ in negatives] if wanted.negatives else [],
        "similarities": {str(number): round(float(value), 6) for number, value in similar.items()},
    }


def _is(judgements: Mapping[int, Judgement], number: int, verdict: str) -> bool:
    return number in judgements and judgements[number].verdict == verdict


def _is_near(query: GeneratedQuery, document: Document) -> bool:
    """Say whether a document is about the query's own topic, or speaks of it at least."""
    named = query.entity.name if query.entity is not None else ""
    return bool(named) and query.mode not in BRIDGES and shows(document.passage, named)


def _topped_up(
    query: GeneratedQuery, found: Found, known: Collection[int], missing: int,
    further: Callable[[Sequence[int]], Sequence[Judgement]], rng: random.Random,
) -> list[tuple[int, str]]:  # fmt: skip
    """Take documents from the plain ranking, below the candidates, that are judged negative."""
    if missing <= 0:
        return []
    lowest = max((found.ranking.index(number) for number in found.positions if number in found.ranking), default=-1)
    below = [n for n in found.ranking[lowest + 1 :] if n not in known and n != query.source]
    drawn = rng.sample(below, min(len(below), 2 * missing))
    chosen = [number for number, it in zip(drawn, further(drawn)) if it.verdict == NEGATIVE][:missing]
    return [(number, MINED) for number in chosen]


def first_positive(query: GeneratedQuery, document: Document) -> str:
    """Return the text of a row's first positive: its source without what gives the query away."""
    return without(document, query.removed)


def without(document: Document, removed: str) -> str:
    """Return a passage without a part of it; the whole where hardly anything would be left."""
    passage = document.passage
    if not removed or removed == document.head:
        return document.text if removed and len(document.text) > 40 else passage
    at = passage.find(removed)
    if at < 0:  # the sentence was read with its white space folded
        folded = " ".join(passage.split())
        at, passage = folded.find(removed), folded
    if at < 0:
        return document.passage
    rest = f"{passage[:at].rstrip()} {passage[at + len(removed) :].lstrip()}".strip()
    return rest if len(rest) > max(40, len(removed) // 2) else document.passage


def keys_of(made: Mapping[str, Any]) -> Keys:
    """Return what of a row may not stand on both sides of the split."""
    return Keys(made["key"], tuple(dict.fromkeys((made["source"], *made["pos"]))), tuple(made["neg"]))


def negatives_of(made: Mapping[str, Any], barred: Collection[int], wanted: Wanted) -> list[tuple[int, str]]:
    """Return (document, where it comes from) of the negatives that a row is written with.

    Those about its own topic teach what sets one answer from another; others beside them would be drawn in their place.

    Args:
        barred: documents that may not be its negatives.
    """
    usable = [it for it in zip(made["neg"], made["neg_source"], made["near"]) if it[0] not in barred]
    near = [it for it in usable if it[2]]
    chosen = near if wanted.about == "topic" or (wanted.about == "auto" and near) else usable
    return [(number, origin) for number, origin, _ in chosen[: wanted.negatives]]


def row_of(made: Mapping[str, Any], documents: Documents, barred: Collection[int], wanted: Wanted) -> dict[str, Any]:
    """Return a row as it is written.

    The first positive lacks what gives the query away; then the whole document follows, so that no miner takes it for
    a negative.

    Args:
        barred: documents that may not be its negatives.
        wanted: how many negatives it has, at most, and which.
    """
    positives = [documents[number] for number in made["pos"]]
    pos, pos_id = [it.passage for it in positives], [it.id for it in positives]
    if made["removed"] and made["pos"][0] == made["source"]:
        cut = without(positives[0], made["removed"])
        if cut != positives[0].passage:
            pos, pos_id = [cut, *pos], [f"{positives[0].id}#cut", *pos_id]
    kept = negatives_of(made, barred, wanted)
    chosen = [documents[number] for number, _ in kept]
    row = {
        "query": made["query"], "pos": pos, "neg": [it.passage for it in chosen], "id": made["id"],
        "pos_id": pos_id, "neg_id": [it.id for it in chosen], "neg_source": [origin for _, origin in kept],
        "mode": made["mode"], "entity": made["entity"], "source_id": documents[made["source"]].id,
        "facet": made["facet"], "avoid": made["avoid"],
    }  # fmt: skip
    similar = made["similarities"]
    if kept and all(str(number) in similar for number, _ in kept):
        row["neg_similarities"] = [similar[str(number)] for number, _ in kept]
    return row
