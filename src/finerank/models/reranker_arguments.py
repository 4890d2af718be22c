"""From what a user asks of a reranker to what its family is loaded with: which family, which options it takes."""

from __future__ import annotations

from functools import partial
from typing import Any

from finerank.batching.prompts import format_prompt
from finerank.batching.row_pairs import PairLayout
from finerank.batching.row_prompts import Prompts, pair_prompts
from finerank.core.errors import UserError
from finerank.core.reranker_options import DECODER_READS, RERANKER_READS, PairOptions
from finerank.core.train_options import RerankerOptions
from finerank.data.console import say
from finerank.models.families import (
    CLASS_OF_FAMILY,
    FAMILY_OF_CLASS,
    FITTING,
    architecture_of,
    class_of,
    scoring_family,
)
from finerank.models.model_files import read_json

PREFIXES = {"query": "query_prefix", "passage": "passage_prefix"}
LAYERED = ("prompt", "cutoff_layers")
TAKEN: dict[str, tuple[str, ...]] = {
    "cross_encoder": (),
    "llm_reranker": ("prompt",),
    "chat_reranker": ("prompt",),
    "layerwise_reranker": LAYERED,
    "lightweight_reranker": DECODER_READS,
}
"""Family -> options that it takes beside lengths, instructions and adapters, under the names of its ``load``."""
RAW = "from_raw_model"
HEADS_BY_LAYER = ("decoder-only-layerwise", "decoder-only-lightweight")
TRAINED = {
    "layerwise_reranker": ("start_layer", "head_multi", "head_type"),
    "lightweight_reranker": ("start_layer",),
}
"""Family -> what it takes in training besides."""


def scorer_arguments(options: PairOptions, name: str, cache_dir: str | None, *, placed: bool = False) -> dict[str, Any]:
    """Return what ``load.load_scorer`` is given beside lengths, device and dtype; say which options have no effect.

    Args:
        placed: the instructions stand in the pairs already; the model must put nothing before them.

    Raises:
        UserError: if the model is not of the class asked for, or a format does not place its text last.
    """
    family = family_for(name, options.reranker_model_class, cache_dir)
    for option in without_effect(options, family):
        say(f"note: --{option} has no effect on {name}, {_named(family)}")
    if len(set(options.cutoff_layers)) > 1 and "cutoff_layers" in TAKEN[family]:
        say(f"note: of several --cutoff_layers the highest, {max(options.cutoff_layers)}, gives the scores")
    return {"family": family, **arguments_of(options, family, placed=placed)}


def training_arguments(options: RerankerOptions) -> dict[str, Any]:
    """Return what ``load.trainable_scorer`` is given beside lengths, device and seed.

    Raises:
        UserError: if the model is not of the class or type asked for.
    """
    family = training_family(options)
    heads = {name: getattr(options, name) for name in ("start_layer", "head_multi", "head_type")}
    given = {name: value for name, value in heads.items() if value is not None}
    taken = {name: value for name, value in given.items() if name in TRAINED.get(family, ())}
    for option in [*without_effect(options, family), *(name for name in given if name not in taken)]:
        say(f"note: --{option} has no effect on {options.model_name_or_path}, {_named(family)}")
    if options.model_type == RAW and family == "layerwise_reranker":
        taken["from_raw"] = True
    return {"family": family, **arguments_of(options, family), **taken}


def training_family(options: RerankerOptions) -> str:
    """Return the family that a model is tuned as.

    Raises:
        UserError: if the model is not of the class or type asked for.
    """
    name, cache_dir = options.model_name_or_path, options.cache_dir
    asked, kind = options.reranker_model_class, options.model_type
    if asked == "auto" and kind == RAW:
        gemma = read_json(name, "config.json", cache_dir).get("model_type") == "gemma2"
        asked = "decoder-only-lightweight" if gemma else "decoder-only-layerwise"
    family = family_for(name, asked, cache_dir, raw=True)
    if kind in ("encoder", "decoder") and (family == "cross_encoder") != (kind == "encoder"):
        raise UserError(f"--model_type {kind}: {name} is {_named(family)}", hint="--model_type auto")
    if kind == "from_finetuned_model" and class_of(name, cache_dir) not in HEADS_BY_LAYER:
        raise UserError(
            f"--model_type from_finetuned_model: {name} has no heads on its layers",
            hint="--model_type auto" if family == "cross_encoder" else f"--model_type {RAW} gives it such heads",
        )
    return family


def row_prompts(options: PairOptions, name: str, cache_dir: str | None) -> Prompts:
    """Return what the rows that a reranker is measured on put around their texts: what a training on them would read.

    Raises:
        UserError: if the model is not of the class asked for.
    """
    last = prompt_stands_last(family_for(name, options.reranker_model_class, cache_dir))
    return partial(pair_prompts, layout=PairLayout.of(options, prompt_last=last))


def say_unread(options: PairOptions, name: str) -> None:
    """Say which options for rerankers were given to what is none."""
    given = [option for option in RERANKER_READS if getattr(options, option) not in (None, [])]
    for option in given + (["reranker_peft_path"] if getattr(options, "reranker_peft_path", None) else []):
        say(f"note: --{option} has no effect on {name}, an embedder")


def family_for(name: str, asked: str = "auto", cache_dir: str | None = None, *, raw: bool = False) -> str:
    """Return the family that scores pairs with a model.

    Args:
        asked: ``--reranker_model_class``.
        raw: a bare language model may get heads on its layers, as it does in training.

    Raises:
        UserError: if the model cannot be of the class asked for.
    """
    if asked == "auto":
        return scoring_family(name, cache_dir)
    found = class_of(name, cache_dir)
    fitting = FITTING[found]
    if raw and "decoder-only-base" in fitting:
        fitting = (*fitting, *HEADS_BY_LAYER)
    if asked not in fitting and architecture_of(name, cache_dir):
        what = architecture_of(name, cache_dir)
        raise UserError(
            f"{name} cannot be read as {asked}: it is {'an' if what[0] in 'AEIOU' else 'a'} {what}",
            hint=f"--reranker_model_class {found or 'auto'}",
        )
    return FAMILY_OF_CLASS[asked]


def arguments_of(options: PairOptions, family: str, *, placed: bool = False) -> dict[str, Any]:
    """Return the options that a family takes, by the names of its ``load``; what is not asked for is the model's."""
    given = {name: value for name in TAKEN[family] if (value := getattr(options, name)) not in (None, [])}
    return {**given, **_prefixes(options, placed=placed)}


def without_effect(options: PairOptions, family: str) -> list[str]:
    """Return the options given that a family does not take."""
    given = [name for name in DECODER_READS if getattr(options, name) not in (None, [])]
    return [name for name in given if name not in TAKEN[family]]


def prompt_stands_last(family: str) -> bool:
    """Say whether a row's own ``prompt`` is what stands behind a pair, rather than its query's instruction."""
    return "prompt" in TAKEN[family]


def _prefixes(options: PairOptions, *, placed: bool) -> dict[str, str]:
    """Return what stands before the texts where an instruction was given, which takes the place of a family's own."""
    found: dict[str, str] = {}
    for side, keyword in PREFIXES.items():
        instruction = getattr(options, f"{side}_instruction_for_rerank")
        if instruction is not None:
            before = format_prompt(
                instruction, getattr(options, f"{side}_instruction_format_for_rerank"), text_last=True
            )
            found[keyword] = "" if placed else before
    return found


def _named(family: str) -> str:
    name = CLASS_OF_FAMILY[family]
    return "a reranker with an encoder" if name == "encoder-only-base" else f"a {name} reranker"
