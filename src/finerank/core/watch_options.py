"""Options of ``finerank train`` that say how a run is watched: what is held out, when to slow down, when to stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from finerank.core.options import option

LOSS = "loss"
"""The figure that is better when lower: the run's own loss on held-out rows."""
HIDDEN = "_"
"""How the names of values begin that are kept beside the figures, for the page, and are none themselves."""
HELD_OUT = 0.3
"""Share of the queries held out where a plateau must be seen and no --eval_data is given (as seed 002 does)."""
PLATEAU = "reduce_lr_on_plateau"
DEFAULT_FACTOR = 0.3
DEFAULT_PATIENCE = 8
NORM, VALUE = "norm", "value"
CLAMP = 0.5
"""Greatest size of a gradient's element with --clip value alone, as in seed 002's tool."""


def sign_of(figure: str) -> int:
    """Return -1 for a figure that is better when lower, else 1."""
    return -1 if figure.removeprefix("eval_") == LOSS else 1


@dataclass(kw_only=True)
class WatchOptions:
    """What a run is measured by beside ``--eval_data``, and what ends it."""

    hold_out: float | None = option(
        None,
        "share of the training queries to measure on instead of --eval_data, rows with a common query or positive "
        "kept together; 0.3 where --factor or --patience is given without --eval_data",
        gt=0,
        le=0.9,
        metavar="SHARE",
    )
    factor: float | None = option(
        None,
        "multiply the learning rate by this where the held-out loss stands still (ReduceLROnPlateau; 0.3 where only "
        "--patience is given): measured after each epoch, no warm-up, best weights by that loss",
        gt=0,
        le=0.95,
    )
    patience: int | None = option(
        None, "epochs in which that loss may stand still before; 8 where only --factor is given", ge=0
    )
    plateau_stop: float = option(
        1e-3, "with --factor or --patience: stop when the learning rate is below this share of its start", ge=0, le=1
    )
    clip: Literal["norm", "value"] | None = option(
        None,
        "what --max_grad_norm bounds: norm, the length of all gradients together (1.0 where nothing is said; the "
        "default), or value, each element of them by itself (0.5)",
    )
    strict: bool = option(
        False,
        "stop with exit code 1, without a finished model folder, where training would only warn: constant scores, "
        "cut positives, a tuned model worse than its base or than its own first stage",
        semantic=False,
    )
