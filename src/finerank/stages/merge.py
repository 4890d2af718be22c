"""``finerank merge``: a weighted mean of a tuned model and its base, or an adapter merged into its base.

A mean keeps most of what tuning taught and takes back some of what it cost on other data. With ``--weights`` and
``--eval_data`` each weight is measured, against the tuned model on the same queries, and the best one is written.
Source: Xiao et al. 2023, LM-Cocktail.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING, Any

from finerank.core.errors import UsageError
from finerank.core.model_options import ModelOptions
from finerank.core.options import option, semantic
from finerank.core.outcomes import Outcome
from finerank.core.seeding import DEFAULT_SEED

if TYPE_CHECKING:
    from finerank.data.outputs import Folder

FIGURE = "nDCG@10"
DEFAULT_WEIGHT = 0.5
TUNED = 1.0
Values = dict[str, list[float]]


@dataclass(kw_only=True)
class MergeOptions(ModelOptions):
    """Options of ``finerank merge``."""

    model_name_or_path: str = option(
        help="tuned model, or an adapter folder, which is merged with its base; prompts and lengths are taken from it",
        metavar="M",
    )
    merge_with: list[str] = option(
        [], "models of the same architecture and tokenizer: the base that it was tuned from, or others", metavar="M"
    )
    weight: float | None = option(
        None, "share of --model_name_or_path, 0.5 without it; the others have equal parts of the rest", ge=0, le=1
    )
    weights: list[float] = option(
        [], "shares to measure on --eval_data; the one with the best nDCG@10 is written", ge=0, le=1, metavar="W"
    )
    eval_data: list[str] = option(
        [],
        "held-out rows, or one judged folder, that the weight is chosen by; not what a result is reported on",
        metavar="DATA",
    )
    eval_split: str = option("dev", "split of a judged --eval_data")
    first_stage: str | None = option(
        None, "embedder whose best passages a reranker is measured on in a judged --eval_data; without it BM25",
        metavar="M",
    )  # fmt: skip
    query_instruction_format: str = option(
        "{}{}",
        "rows of --eval_data: how a row's own prompt (first {}) and query (second {}) are joined for an embedder",
    )
    rerank_depth: int = option(50, "passages per query reranked there", ge=2)
    output_dir: str = option("./merged", "folder of the merged model", metavar="DIR", semantic=False)
    seed: int = option(DEFAULT_SEED, "of the intervals' resamples", ge=0)
    overwrite: bool = option(False, "replace a model made with other options or data", semantic=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and self.weight is not None:
            raise UsageError("--weight and --weights are two ways to say one thing", hint="give one of them")
        if (self.weights or self.weight is not None) and not self.merge_with:
            raise UsageError("a weight needs a model to merge with", hint="--with BASE")
        if len(set(self.weights)) > 1 and not self.eval_data:
            raise UsageError(
                "--weights needs --eval_data to choose by", hint="--eval_data DEV.jsonl, or one --weight 0.5"
            )

    @property
    def grid(self) -> list[float]:
        """Return the shares to choose from, each once, in the order given."""
        if not self.merge_with:
            return [TUNED]
        return list(dict.fromkeys(self.weights)) or [DEFAULT_WEIGHT if self.weight is None else self.weight]


def run(options: MergeOptions) -> Outcome:
    """Merge, measure where there is something to measure by, and write the model folder.

    Raises:
        UserError: if a model cannot be had, or the models are not alike.
        UsageError: if there is nothing to merge.
    """
    from finerank.data import console
    from finerank.data.outputs import Folder
    from finerank.data.sources import inputs_of
    from finerank.models.merging import check_alike, is_adapter, open_model, state_of

    if not options.merge_with and not is_adapter(options.model_name_or_path, options.cache_dir):
        raise UsageError(
            f"{options.model_name_or_path} is no adapter, so a model to merge it with is needed", hint="--with BASE"
        )
    if options.dtype not in ("auto", "float32"):
        console.say(f"note: --dtype {options.dtype} has no effect on merge: means and measures are in float32")
    loading = {"cache_dir": options.cache_dir, "trust_remote_code": options.trust_remote_code}
    model = open_model(options.model_name_or_path, device=options.device, **loading)
    states, fingerprints = [state_of(model)], {"tuned": _fingerprint(model)}
    for number, name in enumerate(options.merge_with, start=1):
        other = open_model(name, device="cpu", **loading)
        check_alike(model, other)
        states.append(state_of(other))
        fingerprints[f"with {number}"] = _fingerprint(other)
    console.banner(
        "merge",
        dict(model.describe()) | {"with": ", ".join(options.merge_with) or "its base", "weights": _listed(options)},
    )
    with Folder.open(
        options.output_dir, command="merge", options=semantic(options), inputs=inputs_of(options.eval_data),
        models=fingerprints, overwrite=options.overwrite,
    ) as folder:  # fmt: skip
        if folder.done:
            console.say(f"{options.output_dir}: already merged with these options and models, nothing to do")
            return _outcome(options, folder.manifest["counts"])
        counts = _merge(options, model, states, folder)
    return _outcome(options, counts)


def _listed(options: MergeOptions) -> str:
    return " ".join(f"{weight:g}" for weight in options.grid)


def _fingerprint(model: Any) -> str:
    if hasattr(model, "encode"):
        return f"{model.fingerprint('query')} {model.fingerprint('passage')}"
    return str(model.fingerprint())


def _merge(options: MergeOptions, model: Any, states: Sequence[Mapping[str, Any]], folder: Folder) -> dict[str, Any]:
    """Measure the points of the grid, put the chosen mean into ``model`` and write it; return the counts."""
    from finerank.models.merging import mean_of, put, shares_of

    def set_weight(weight: float) -> None:
        shares = shares_of(weight, len(states) - 1) if len(states) > 1 else [TUNED]
        put(model, mean_of(states, shares))

    points = _points(options, model, folder, set_weight) if options.eval_data else []
    offered = [point for point in points if point["weight"] in options.grid]
    # Of equal ones the nearest to the tuned model.
    chosen = max(offered, key=lambda point: (point[FIGURE], point["weight"]))["weight"] if offered else options.grid[0]
    set_weight(chosen)
    counts: dict[str, Any] = {
        "models": [options.model_name_or_path, *options.merge_with],
        "weight": chosen,
        "figure": FIGURE,
        "points": points,
    }
    _write_model(options, model, folder, counts)
    folder.finish(counts)
    return counts


def _points(
    options: MergeOptions, model: Any, folder: Folder, set_weight: Callable[[float], None]
) -> list[dict[str, Any]]:
    """Measure the tuned model and each weight; a point that has landed before is not measured again."""
    from finerank.data.console import say
    from finerank.evaluation.held_out import measure_on
    from finerank.evaluation.significance import paired_interval
    from finerank.models.trainables import first_stage_of, own_prompts

    measure: Callable[[], Values] | None = None
    measured: dict[float, Values] = {}
    for number, weight in enumerate(dict.fromkeys([TUNED, *options.grid])):
        if folder.shards.counts(number) is None:
            measure = measure or measure_on(
                model, options.eval_data, options.eval_split, lambda: first_stage_of(options), options.rerank_depth,
                "--eval_data", own_prompts(model, options.query_instruction_format),
            )  # fmt: skip
            set_weight(weight)
            folder.shards.land(number, json.dumps(measure()).encode(), {"weight": weight})
        measured[weight] = json.loads(folder.shards.body(number))
        say(f"weight {weight:g}: " + ", ".join(f"{name} {_mean(each):.4f}" for name, each in measured[weight].items()))
    tuned = measured[TUNED][FIGURE]
    return [
        {
            "weight": weight,
            **{name: _mean(each) for name, each in values.items()},
            "change": paired_interval(values[FIGURE], tuned, options.seed)._asdict(),
            "queries": len(tuned),
        }
        for weight, values in sorted(measured.items(), reverse=True)
    ]


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / max(len(values), 1)


def _write_model(options: MergeOptions, model: Any, folder: Folder, counts: Mapping[str, Any]) -> None:
    from finerank.data.outputs import write_atomic
    from finerank.training.card import kind_of
    from finerank.training.merge_card import merged_card

    model.save(folder.path)
    card = merged_card(options.output_dir, counts, kind=kind_of(model))
    write_atomic(folder.path / "README.md", card.encode())


def _outcome(options: MergeOptions, counts: Mapping[str, Any]) -> Outcome:
    from finerank.data.console import table

    if len(counts["models"]) == 1:
        text = f"{options.output_dir}: {counts['models'][0]} merged into its base"
    else:
        text = f"{options.output_dir}: {counts['weight']:g} of {counts['models'][0]}, the rest of the others"
    if counts["points"]:
        lines = [
            [
                f"{point['weight']:g}" + (" *" if point["weight"] == counts["weight"] else ""),
                point[FIGURE], point["change"]["mean"],
                f"{point['change']['low']:+.4f} to {point['change']['high']:+.4f}",
            ]
            for point in counts["points"]
        ]  # fmt: skip
        text += "\n" + table(["weight", FIGURE, "against tuned", "95 %"], lines)
    return Outcome(text, {"output_dir": options.output_dir, **counts})
