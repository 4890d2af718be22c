"""What a run of generate says: the summary with the original's keys, the table, what to type next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from finerank.data.console import table
from finerank.data.documents import Documents
from finerank.generation.collecting import Collected
from finerank.generation.partition import Partition

MEANINGS = {
    "no_query_from_document": "the document gives no query of the modes asked for",
    "no_candidate_found": "no other document shares a word with the query",
    "no_positive": "no candidate was judged to answer the query",
    "no_negative": "no document was judged not to answer it",
    "source_not_found_again": "its source is not among the best for the query (--round_trip)",
    "source_not_confirmed": "the language model did not confirm its source",
    "query_too_short_or_long": "the query is too short or too long",
    "copy_of_its_positive": "the query stands in its positive word by word",
    "query_repeated": "the same query was made before",
    "near_duplicate_query": "nearly the same query was made before",
    "entity_too_often": "enough rows about its entity (--max_per_entity)",
    "llm_budget": "--max_llm_calls is spent",
    "llm_call_failed": "the language model did not answer",
    "llm_prompt_refused": "the language model's API refused the prompt",
    "llm_answer_unreadable": "the language model's answer could not be read",
    "left_out_by_split": "would have tied train and test together",
    "no_negative_left_by_split": "test rows whose negatives all belong to train rows",
}
"""Why a try gave no row, in words."""
ENDS = {
    "reached": "",
    "attempts": "the tries were spent (--max_attempts)",
    "exhausted": "a whole round over the documents gave no new row",
}


def counts_of(
    documents: Documents, sources: int, found: Collected, parts: Partition, lost: Counter[str]
) -> dict[str, Any]:  # fmt: skip
    """Return the counts of a run, as the manifest and ``--json`` have them."""
    return {
        "documents": len(documents),
        "sources": sources,
        "attempts": found.attempts,
        "made": len(found.kept),
        "rows": len(parts.train) + len(parts.test),
        "train": len(parts.train),
        "test": len(parts.test),
        "components": parts.components,
        "end": found.end,
        "reasons": dict(sorted((found.reasons + lost).items())),
        "modes": dict(sorted(found.modes.items())),
        "verdicts": dict(sorted(found.verdicts.items())),
        "skipped": dict(documents.skipped),
    }


def summary_of(counts: Mapping[str, Any], config: Mapping[str, Any], seconds: float, stamp: str) -> dict[str, Any]:
    """Return the summary: the keys of seed 003's script, and ours beside them."""
    made, attempts = counts["rows"], counts["attempts"]
    return {
        "summary": {
            "total_attempts": attempts,
            "successful_examples": made,
            "failed_attempts": attempts - made,
            "success_rate": made / attempts if attempts else 0.0,
            "execution_time": round(seconds, 3),
            "output_path": config["output_path"],
        },
        "timestamp": stamp,
        "config": {key: value for key, value in config.items() if key != "output_path"},
        "counts": dict(counts),
    }


def text_of(counts: Mapping[str, Any], wanted: int, places: Mapping[str, str], following: Sequence[str]) -> str:
    """Return what stdout shows."""
    rows = counts["rows"]
    modes = ", ".join(f"{count:,} {mode}" for mode, count in sorted(counts["modes"].items(), key=lambda it: -it[1]))
    lines = [
        f"{counts['attempts']:,} tries → {rows:,} of {wanted:,} rows: {counts['train']:,} train, "
        f"{counts['test']:,} test" + (f" ({modes})" if modes else "")
    ]
    gone = [(count, reason) for reason, count in counts["reasons"].items() if count]
    if gone:
        body = [[MEANINGS.get(reason, reason), count] for count, reason in sorted(gone, key=lambda it: (-it[0], it[1]))]
        lines += ["", table(["tries without a row, and why", "tries"], body)]
    if counts["verdicts"]:
        body = [[why, count] for why, count in sorted(counts["verdicts"].items(), key=lambda it: (-it[1], it[0]))]
        lines += ["", table(["verdicts on candidates", "pairs"], body)]
    if places:
        lines += ["", *(f"{name:<6} {place}" for name, place in places.items())]
    if following:
        lines += ["", "next:", *(f"  {line}" for line in following)]
    return "\n".join(lines)


def shortfall(counts: Mapping[str, Any], wanted: int, min_length: int) -> str:
    """Say why there are fewer rows than wanted, and what may help; empty where there are enough."""
    if counts["made"] >= wanted:
        return ""
    why = ENDS[counts["end"]]
    most = max(counts["reasons"].items(), key=lambda it: it[1], default=("", 0))[0]
    said = f"{counts['made']:,} of {wanted:,} rows: {why}"
    if most:
        said += f"; most often, {MEANINGS.get(most, most)}"
    short = counts["documents"] - counts["sources"]
    if short > counts["documents"] // 4:
        said += f"; {short:,} of {counts['documents']:,} documents are shorter than --min_length {min_length}"
    return said
