"""A family that is no family: bags of hashed characters, a dropout and two linear layers; trains in milliseconds.

:mod:`several` runs it in processes that a test can kill.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finerank.batching.groups import GroupMaker
from finerank.core.records import Group, Row
from finerank.training import distributed
from finerank.training.arguments import training_arguments
from finerank.training.fit import Fit, choose_checkpoint, fit
from finerank.training.objectives import embedder_objective, reranker_objective

BUCKETS = 64


def bag(text: str) -> Tensor:
    """Count character bigrams in hashed buckets: [BUCKETS]."""
    counts = torch.zeros(BUCKETS)
    for at in range(len(text) - 1):
        counts[zlib.crc32(text[at : at + 2].encode()) % BUCKETS] += 1.0
    return counts


class ScorerModule(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * BUCKETS, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 1, bias=False)
        )

    def forward(self, micro: list[dict[str, Tensor]]) -> Tensor:
        return torch.cat([self.layers(features["bags"]).squeeze(-1) for features in micro])


class TinyScorer:
    def __init__(self, dropout: float = 0.1, seed: int = 0, texts_per_forward: int = 1000) -> None:
        torch.manual_seed(seed)
        self.module = ScorerModule(dropout)
        self.texts_per_forward = texts_per_forward

    def step(self, bags: list[Tensor], groups: Sequence[Group]) -> dict[str, Any]:
        """Return a batch whose micro-batches are in reverse, so that ``order`` has something to do."""
        backwards = torch.stack(bags[::-1])
        return {
            "micro": [{"bags": part} for part in backwards.split(self.texts_per_forward)],
            "order": torch.arange(len(bags)).flip(0),
            "size": len(groups),
            "group_size": len(groups[0].passages),
        }

    def collate(self, groups: Sequence[Group]) -> dict[str, Any]:
        return self.step(
            [torch.cat([bag(group.query), bag(text)]) for group in groups for text in group.passages], groups
        )

    def outputs(self, results: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"scores": results[batch["order"]].view(-1, batch["group_size"])}

    def run(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return self.outputs(self.module(batch["micro"]), batch)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.module.state_dict(), folder / "tiny.pt")


class TowerModule(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(BUCKETS, 16), nn.Dropout(dropout))

    def forward(self, micro: list[dict[str, Tensor]]) -> Tensor:
        return torch.cat([nn.functional.normalize(self.layers(features["bags"]), dim=-1) for features in micro])


class TinyEncoder(TinyScorer):
    def __init__(self, dropout: float = 0.1, seed: int = 0, texts_per_forward: int = 1000) -> None:
        super().__init__(dropout, seed, texts_per_forward)
        torch.manual_seed(seed)
        self.module = TowerModule(dropout)  # type: ignore[assignment]

    def collate(self, groups: Sequence[Group]) -> dict[str, Any]:
        passages = [bag(text) for group in groups for text in group.passages]
        return self.step([*(bag(group.query) for group in groups), *passages], groups)

    def outputs(self, results: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        vectors = results[batch["order"]]
        return {"queries": vectors[: batch["size"]], "passages": vectors[batch["size"] :]}


def make_rows(count: int, negatives: int = 3) -> list[Row]:
    return [
        Row(
            f"query number {index}",
            (f"passage {index} answers",),
            tuple(f"text {index * 7 + other} other" for other in range(negatives)),
        )
        for index in range(count)
    ]


def train(
    output_dir: Path | str,
    *,
    rows: int = 10,
    family: type[TinyScorer] = TinyScorer,
    evaluate: bool = False,
    patience: int | None = None,
    resume: bool = True,
    dropout: float = 0.1,
    sign: float = 1.0,
    texts_per_forward: int = 1000,
    cached: bool = False,
    clip: str = "norm",
    keep_best: bool = True,
    **values: Any,
) -> tuple[Fit, TinyScorer]:
    """Train a tiny model; ``values`` are TrainingArguments; with ``sign=-1`` it is measured worse as it learns."""
    groups = GroupMaker(make_rows(rows), 3, seed=0)
    model = family(dropout, texts_per_forward=texts_per_forward)
    args = training_arguments(
        {
            "output_dir": str(output_dir),
            "per_device_train_batch_size": 4,
            "num_train_epochs": 3,
            "learning_rate": 0.01,
            "save_steps": 2,
            "logging_steps": 1,
            "seed": 0,
            "use_cpu": True,
            "report_to": "none",
            "dataloader_pin_memory": False,
            "ddp_find_unused_parameters": False,
            **({"eval_strategy": "steps", "metric_for_best_model": "margin"} if evaluate else {}),
            **values,
        },
        {},
    )
    batch = model.collate([groups.group(0, index) for index in range(rows)])

    def margin() -> dict[str, list[float]]:
        outputs = model.run(batch)
        if "scores" not in outputs:
            return {"margin": (outputs["queries"] * outputs["passages"][::3]).sum(dim=1).tolist()}
        return {"margin": (sign * (outputs["scores"][:, 0] - outputs["scores"][:, 1:].mean(dim=1))).tolist()}

    folder = Path(output_dir)
    result = fit(
        model,
        groups,
        reranker_objective() if family is TinyScorer else embedder_objective(temperature=0.05, across_devices=True),
        args,
        evaluator=margin if evaluate else None,
        patience=patience,
        cached=cached,
        clip=clip,
        keep_best=keep_best,
        resume_from=distributed.from_first(lambda: choose_checkpoint(folder, None)) if resume else None,
    )
    return result, model
