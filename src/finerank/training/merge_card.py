"""The model card of a merged model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finerank import __version__
from finerank.training.card import NAMES, Kind, opening


def merged_card(folder: str, counts: Mapping[str, Any], *, kind: Kind) -> str:
    """Return the card as Markdown: what was merged, how to use it, what each weight measured.

    Args:
        counts: ``models`` (the tuned one first), ``weight``, ``figure`` and ``points`` of the merge.
    """
    first, *others = counts["models"]
    what = (
        f"{counts['weight']:g} of the weights of `{first}`, the rest of {', '.join(f'`{name}`' for name in others)} "
        "(weighted mean, Xiao et al. 2023, LM-Cocktail)"
        if others
        else f"The adapter `{first}` merged into its base"
    )
    parts = [
        *opening(
            folder,
            first,
            f"# A merged {NAMES[kind]}",
            f"{what}. Made by finerank {__version__}.",
            kind=kind,
        ),
        f"## Measured on held-out data\n\n{_figures(counts)}\n",
    ]
    return "\n".join(parts)


def _figures(counts: Mapping[str, Any]) -> str:
    if not counts["points"]:
        return "Nothing was measured: merging ran without `--eval_data`. `finerank evaluate` does it, with intervals."
    figure = counts["figure"]
    lines = [f"| weight | {figure} | against the tuned model | 95 % interval |", "|---|---|---|---|"]
    for point in counts["points"]:
        change = point["change"]
        interval = f"{change['low']:+.4f} to {change['high']:+.4f}"
        lines.append(f"| {point['weight']:g} | {point[figure]:.4f} | {change['mean']:+.4f} | {interval} |")
    lines.append(
        f"\nPaired bootstrap over {counts['points'][0]['queries']:,} held-out queries. The weight was chosen by these "
        "figures, so they flatter; `finerank evaluate` measures on data that chose nothing."
    )
    return "\n".join(lines)
