"""The miner on vectors without a model: what a row gets depends on the row and the pool, nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from finerank.core.protocols import Progress, Side
from finerank.core.records import Row
from finerank.retrieval.mining import Mined, Miner, Setup
from finerank.retrieval.mining_report import Tally, output_line, text, total
from finerank.retrieval.negatives import Rules, Selection
from tests.retrieval.hash_encoder import HashEncoder

POOL = [f"passage {number}" for number in range(60)]
ROWS = [Row(f"query {number}", (POOL[number],), (POOL[number + 20], POOL[number])) for number in range(12)]


@contextmanager
def silent(total: int, label: str) -> Iterator[Progress]:
    yield lambda count: None


def mine(rows: Sequence[Row], setup: Setup, encoder: HashEncoder | None = None, block: int = 5) -> list[Mined]:
    miner = Miner(rows, POOL, encoder or HashEncoder(), setup, silent)
    return [mined for start in range(0, len(rows), block) for mined in miner.mine(start, start + block)]


def test_blocks_change_nothing() -> None:
    setup = Setup(Rules(0, 8, 9), seed=3)
    assert mine(ROWS, setup, block=1) == mine(ROWS, setup, block=5) == mine(ROWS, setup, block=100)


def test_a_row_does_not_depend_on_the_rows_after_it() -> None:
    setup = Setup(Rules(2, 30, 5), seed=3)
    assert mine(ROWS[:4], setup) == mine(ROWS, setup)[:4]


def test_hand_computed_top() -> None:
    encoder = HashEncoder()
    pool = np.stack([encoder.vector(passage) for passage in POOL])
    for mined in mine(ROWS, Setup(Rules(1, 9, 3, sampling="top"), seed=0)):
        order = np.argsort(-(pool @ encoder.vector(mined.row.query)), kind="stable")[1:9]
        wanted = [POOL[index] for index in order if POOL[index] not in mined.row.positives][:3]
        assert mined.negatives == wanted
        cosines = [float(encoder.vector(passage) @ encoder.vector(mined.row.query)) for passage in wanted]
        assert mined.neg_similarities == pytest.approx(cosines, abs=1e-6)


class Long(HashEncoder):
    """Vectors of many lengths, as a model without normalisation gives."""

    def encode(self, texts: Sequence[str], side: Side, progress: Progress | None = None) -> np.ndarray:
        return super().encode(texts, side, progress) * np.array([[len(part) ** 2] for part in texts], dtype=np.float32)


def test_inner_product_ranks_but_the_rules_see_cosines() -> None:
    by_cosine = mine(ROWS, Setup(Rules(0, 5, 5, sampling="top"), seed=0), Long())
    by_product = mine(ROWS, Setup(Rules(0, 5, 5, sampling="top"), seed=0, cosine=False), Long())
    unit = mine(ROWS, Setup(Rules(0, 5, 5, sampling="top"), seed=0))
    assert [mined.negatives for mined in by_cosine] == [mined.negatives for mined in unit]
    assert [mined.negatives for mined in by_product] != [mined.negatives for mined in by_cosine]
    assert all(-1 <= cosine <= 1 for mined in by_product for cosine in mined.neg_similarities)


def test_kept_negatives_come_first_without_the_rows_positives() -> None:
    for index, mined in enumerate(mine(ROWS, Setup(Rules(0, 40, 4), seed=0, keep_negatives=True))):
        assert mined.negatives[0] == POOL[index + 20]
        assert POOL[index] not in mined.negatives
        assert len(set(mined.negatives)) == 4


def test_each_text_is_encoded_once_per_side_and_the_cache_serves_the_next_run(tmp_path: Path) -> None:
    first, second = HashEncoder(), HashEncoder()
    setup = Setup(Rules(0, 20, 5), seed=0, cache=tmp_path)
    one = mine(ROWS, setup, first)
    assert first.encoded == len(POOL) + len(ROWS)
    assert mine(ROWS, setup, second) == one
    assert second.encoded == 0


def row_result(positive: float, negatives: list[float], short: bool = False) -> Mined:
    chosen = Selection(list(range(len(negatives))), negatives, in_range=9, survivors=4, padded=1, short=short)
    chosen.dropped["own_positive"] = 5
    row = Row("q", ("p",), ("old",), extra={"neg_id": ["x"], "neg_note": "text", "pos_id": ["y"]})
    return Mined(row, [], [], [f"n{index}" for index in range(len(negatives))], chosen, [positive])


def test_counts_by_hand() -> None:
    one, two = Tally(), Tally()
    assert one.add(row_result(0.8, [0.77, 0.5]), dropped=False) is not None
    assert two.add(row_result(0.6, [0.1]), dropped=False) is not None
    assert two.add(row_result(0.6, [0.1], short=True), dropped=True) is None
    counts = total([one.to_mapping(), two.to_mapping()], pool=100)
    assert (counts["rows"], counts["rows_written"], counts["rows_dropped"], counts["rows_short"]) == (3, 2, 1, 1)
    assert (counts["in_range"], counts["own_positive"], counts["survivors"]) == (27, 15, 12)
    assert (counts["negatives"], counts["padded"]) == (3, 2)
    assert counts["close_to_positive"] == 1  # 0.77 > 0.95 x 0.8 = 0.76
    assert counts["positive_similarity_mean"] == pytest.approx(0.7)
    assert counts["negative_similarity_mean"] == pytest.approx((0.77 + 0.5 + 0.1) / 3, abs=1e-6)
    assert counts["gap_mean"] == pytest.approx(((0.8 - 0.635) + 0.5) / 2)
    assert counts["gap_median"] == pytest.approx(0.3325)
    assert counts["stale_keys_removed"] == {"neg_id": 2}
    shown = text(counts, "0-9", "out.jsonl")
    assert "1 (33.3%)" in shown
    assert "out.jsonl: 2 rows" in shown


def test_the_line_keeps_what_still_fits() -> None:
    line, stale = output_line(row_result(0.8, [0.5]))
    assert stale == ["neg_id"]
    assert line == {"query": "q", "pos": ["p"], "neg": ["n0"], "neg_note": "text", "pos_id": ["y"],
                    "pos_similarities": [0.8], "neg_similarities": [0.5]}  # fmt: skip
