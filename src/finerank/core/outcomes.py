"""What a verb hands back: a table for people, data for programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """Result of a verb.

    Attributes:
        text: what stdout shows a person.
        data: what ``--json`` prints; plain JSON values only.
        exit_code: 0, or 1 when the verb ran but its verdict is negative (``check``).
    """

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0
