"""Rows joined with a teacher's scores, as lines; and what there is to count on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from finerank.core.records import Row
from finerank.data.distinct import CHANGED, Distinct

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Tally:
    """Counts the rows as they are written; ``counts`` is whole when the last one is."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.counts: dict[str, Any] = {**counts, "rows_negative_above_positive": 0}
        self._sums, self._numbers = [0.0, 0.0], [0, 0]

    def add(self, positive: NDArray[np.float32], negative: NDArray[np.float32]) -> None:
        """Take in the logits of one row's positives and negatives."""
        for side, logits in enumerate((positive, negative)):
            self._sums[side] += float(logits.sum(dtype="float64"))
            self._numbers[side] += len(logits)
        if len(negative) and negative.max() > positive.min():
            self.counts["rows_negative_above_positive"] += 1

    def close(self) -> None:
        """Work the means out."""
        for side, name in enumerate(("logit_mean_positive", "logit_mean_negative")):
            number = self._numbers[side]
            self.counts[name] = round(self._sums[side] / number, 4) if number else None


def scored_lines(
    rows: Iterable[Row], distinct: Distinct, logits: NDArray[np.float32], tally: Tally, *, normalize: bool
) -> Iterator[bytes]:
    """Yield every row as a line, with ``pos_scores`` and ``neg_scores``.

    Args:
        rows: as they were when their pairs were numbered.
        distinct: the pairs of all rows, in order.
        logits: of the distinct pairs [D].
        normalize: write the sigmoid of the logits.

    Raises:
        UserError: if there are more or fewer pairs than were numbered.
    """
    import orjson

    places, at = distinct.places, 0
    for row in rows:
        middle, end = at + len(row.positives), at + len(row.positives) + len(row.negatives)
        if end > len(places):
            raise CHANGED
        found = logits[places[at:end]]
        positive, negative = found[: middle - at], found[middle - at :]
        tally.add(positive, negative)
        scores = [sigmoid(side) if normalize else side for side in (positive, negative)]
        line: dict[str, Any] = {"query": row.query, "pos": row.positives, "neg": row.negatives}
        line |= {"pos_scores": scores[0], "neg_scores": scores[1], **row.extra}
        # A float32 is written with the fewest digits that read back as the same float32.
        yield orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
        at = end
    if at != len(places):
        raise CHANGED
    tally.close()


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return probabilities in float64, where large logits stay apart."""
    import numpy as np

    probabilities: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))
    return probabilities
