"""What a finished training says on stdout: figures beside those of base and first stage, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finerank.data.console import table


def summary(output_dir: str, counts: Mapping[str, Any]) -> str:
    """Return the lines for a person.

    Args:
        counts: as in the manifest.
    """
    text = f"{output_dir}: {counts['steps']:,} steps over {counts['rows']:,} rows"
    if counts["rows_per_second"]:
        text += f" in {counts['train_seconds']:,.0f} s ({counts['rows_per_second']:,.1f} rows/s)"
    if counts["best"]:
        text += f"; weights of step {counts['best_step']:,}\n{_figures(counts)}"
    return "\n".join([text, *(f"warning: {sentence}" for sentence in counts.get("tripwires", []))])


def _figures(counts: Mapping[str, Any]) -> str:
    first, fused = counts.get("first_stage"), counts.get("fused")
    head = ["", "base", "tuned", "change", "95 %"]
    head += [f"first stage {first['name']}"] if first else []
    head += [f"fused w={fused['weight']:g}"] if fused else []
    lines = [
        [
            name,
            counts["base"].get(name, ""),
            value,
            *_change(counts, name),
            *(each["figures"].get(name, "") for each in (first, fused) if each),
        ]
        for name, value in counts["best"].items()
    ]
    return table(head, lines)


def _change(counts: Mapping[str, Any], name: str) -> list[Any]:
    change = counts.get("changes", {}).get(name)
    return [change["mean"], f"{change['low']:+.4f} to {change['high']:+.4f}"] if change else ["", ""]
