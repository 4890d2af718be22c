"""What a resumed run must know beside weights, optimizer and log: so that its figures are those of an unbroken run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

LEDGER = "ledger.json"

Values = dict[str, list[float]]
"""Figure -> its value for each held-out query, always in the same order of queries."""


@dataclass
class Ledger:
    """Values per query of the evaluations that count, and what no line of the log holds yet.

    Attributes:
        values: step -> values; of the base model (0), the best evaluation and the latest one.
        loss: sum of the losses of the steps since the last logged one.
        steps: their number.
        flat: batches in a row of which the model said the same of everything.
        collapsed: whether that has ever gone on for too long.
    """

    values: dict[int, Values] = field(default_factory=dict)
    loss: float = 0.0
    steps: int = 0
    flat: int = 0
    collapsed: bool = False

    def evaluated(self, step: int, best: int | None, values: Mapping[str, Sequence[float]]) -> None:
        """Keep the values of an evaluation at ``step``; forget those that are neither first, best nor latest."""
        self.values = {kept: self.values[kept] for kept in (0, best) if kept in self.values and kept is not None}
        self.values[step] = {name: [float(value) for value in each] for name, each in values.items()}

    def mean_loss(self) -> float:
        """Return the mean loss of the steps since this was last asked."""
        mean = self.loss / max(self.steps, 1)
        self.loss, self.steps = 0.0, 0
        return mean

    def looked(self, flat: bool, patience: int) -> bool:
        """Note whether a batch was flat; return True, once, when ``patience`` of them came in a row."""
        self.flat = self.flat + 1 if flat else 0
        if self.collapsed or self.flat < patience:
            return False
        self.collapsed = True
        return True

    def save(self, folder: Path) -> None:
        """Write the ledger into a checkpoint that is being made."""
        (folder / LEDGER).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Ledger:
        """Read the ledger of a checkpoint; an empty one from a checkpoint of another program."""
        path = folder / LEDGER
        if not path.is_file():
            return cls()
        content = json.loads(path.read_text(encoding="utf-8"))
        values = {int(step): values for step, values in content.pop("values").items()}
        return cls(values, **content)
