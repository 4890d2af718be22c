"""Several processes train what one process trains with a batch as large as theirs together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import several
import torch
from tiny import TinyEncoder, TinyScorer, train

BATCHES = {"per_device_train_batch_size": 3}
CASES: dict[str, dict[str, Any]] = {
    # 11 rows by 6: the last global batch has 5, shared 3 and 2.
    "reranker": {"family": TinyScorer},
    "embedder": {"family": TinyEncoder},
    # 9 rows by 8: one process has no row of the last batch.
    "idle": {"family": TinyEncoder, "rows": 9, "per_device_train_batch_size": 4},
    "accumulated": {"family": TinyEncoder, "gradient_accumulation_steps": 2},
    "cached": {"family": TinyEncoder, "texts_per_forward": 4, "cached": True},
    # The second batch has two rows and one: two micro-batches and one, of which neither alone would be cached.
    "uneven": {
        "family": TinyEncoder,
        "rows": 7,
        "per_device_train_batch_size": 2,
        "texts_per_forward": 4,
        "cached": True,
    },
    "both": {"family": TinyScorer, "texts_per_forward": 5, "cached": True, "gradient_accumulation_steps": 2},
    "clamped": {"family": TinyEncoder, "clip": "value", "max_grad_norm": 0.002},
    "evaluated": {"family": TinyScorer, "evaluate": True, "eval_steps": 1},
}


def test_two_processes_are_one_with_the_double_batch(tmp_path: Path) -> None:
    shared = {"dropout": 0.0, "rows": 11, "num_train_epochs": 2, "per_device_train_batch_size": 3}
    cases = {name: shared | case for name, case in CASES.items()}
    runs = [("tiny", case | {"output_dir": str(tmp_path / "two" / name)}) for name, case in cases.items()]
    log = tmp_path / "log"
    processes = several.start(log, runs)
    alone = {
        name: train(
            tmp_path / "one" / name, **case | {"per_device_train_batch_size": 2 * case["per_device_train_batch_size"]}
        )
        for name, case in cases.items()
    }
    several.finish(processes, log)
    for name, (result, model) in alone.items():
        weights = torch.load(tmp_path / "two" / name / "final" / "tiny.pt", weights_only=True)
        for key, tensor in model.module.state_dict().items():
            assert torch.allclose(weights[key], tensor, atol=1e-4), (name, key)
        journals = [(tmp_path / way / name / "metrics.jsonl").read_text().splitlines() for way in ("one", "two")]
        assert len(journals[0]) == len(journals[1]) >= result.steps, name
