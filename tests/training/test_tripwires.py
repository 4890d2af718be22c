"""Tripwires: when they are set off, that each is said once and kept, and that --strict ends a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finerank.core.errors import UserError
from finerank.training.ledger import Ledger
from finerank.training.tripwires import (
    Tripwires,
    beaten_by_first_stage,
    is_flat,
    truncated_positives,
    worse_than_base,
)


def test_said_once_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    tripwires = Tripwires()
    for sentence in ("something is wrong", None, "something is wrong"):
        tripwires.trip(sentence, "mend it")
    assert tripwires.tripped == ["something is wrong"]
    assert capsys.readouterr().err == "warning: something is wrong; mend it\n"


def test_strict_ends_the_run() -> None:
    tripwires = Tripwires(strict=True)
    tripwires.trip(None, "mend it")
    with pytest.raises(UserError, match=r"something is wrong \(--strict\)") as caught:
        tripwires.trip("something is wrong", "mend it")
    assert caught.value.hint == "mend it"
    assert caught.value.exit_code == 1


def test_flat_scores_and_vectors() -> None:
    assert is_flat({"scores": torch.full((4, 3), 0.7)})
    assert not is_flat({"scores": torch.tensor([[0.7, 0.7], [0.7, 0.8]])})
    assert not is_flat({"scores": torch.full((4, 1), 0.7)})
    assert is_flat({"queries": torch.eye(2), "passages": torch.ones(5, 2)})
    assert not is_flat({"queries": torch.eye(2), "passages": torch.eye(2)})


def test_collapse_is_noticed_once_and_survives_a_checkpoint(tmp_path: Path) -> None:
    ledger = Ledger()
    found = [ledger.looked(True, 3) for _ in range(2)]
    ledger.save(tmp_path)
    ledger = Ledger.load(tmp_path)
    found += [ledger.looked(True, 3) for _ in range(3)]
    assert found == [False, False, True, False, False]
    ledger.save(tmp_path)
    assert Ledger.load(tmp_path).collapsed
    fresh = Ledger()
    assert [fresh.looked(flat, 2) for flat in (True, False, True, False)] == [False] * 4


def test_worse_than_the_base_either_way_round() -> None:
    assert worse_than_base({"MRR": 0.5}, {"MRR": 0.4}, "MRR") is not None
    assert worse_than_base({"loss": 0.5}, {"loss": 0.4}, "loss") is None
    assert worse_than_base({"loss": 0.4}, {"loss": 0.5}, "loss") == (
        "the tuned model is worse than the base: loss 0.4000 -> 0.5000"
    )
    assert worse_than_base({}, {}, "loss") is None


def test_a_reranker_must_beat_what_it_reranks() -> None:
    first, tuned = {"nDCG@10": 0.6}, {"nDCG@10": 0.55}
    assert beaten_by_first_stage("bm25", first, {"nDCG@10": 0.61}, first) is None
    sentence = beaten_by_first_stage("bm25", first, tuned, {"nDCG@10": 0.65})
    assert sentence is not None
    assert "does not beat its own first stage bm25" in sentence
    assert sentence.endswith("nDCG@10 0.5500 against 0.6000, together 0.6500")
    level = beaten_by_first_stage("bm25", first, first, first)
    assert level is not None
    assert level.endswith("together no better")


def test_cut_positives() -> None:
    assert truncated_positives(5, 100, 64) is None
    assert truncated_positives(6, 100, 64) == "6 of 100 positives (6%) are longer than 64 tokens and get cut"
