"""Recipes: verbs chained by name. Steps become command lines; ``{name}`` stands for a value or a step's output.

about: An embedder tuned on labelled queries.
needs: {rows: rows with query and pos, model: embedder to start from}
values: {folder: ./run, negatives: 8}
steps:
  mined:
    mine: {model_name_or_path: "{model}", input_file: "{rows}", negative_number: "{negatives}"}
  tuned:
    train embedder: {model_name_or_path: "{model}", train_data: "{mined}"}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finerank.core.errors import UsageError, did_you_mean

OUTPUT_OF = {
    "ablate": ("output_file", ".json"),
    "check": ("output_file", ".json"),
    "convert": ("output_file", ".jsonl"),
    "embed": ("output_file", ".npy"),
    "evaluate": ("output_file", ".json"),
    "generate": ("output_dir", ""),
    "merge": ("output_dir", ""),
    "mine": ("output_file", ".jsonl"),
    "rerank": ("output_file", ".jsonl"),
    "score": ("output_file", ".jsonl"),
    "split": ("output_dir", ""),
    "train embedder": ("output_dir", ""),
    "train reranker": ("output_dir", ""),
}
"""Verb -> its option that says where the output goes, and how a file's name ends."""
ALSO_WRITTEN = frozenset({"cache_dir", "embedding_cache", "logging_dir", "report", "run_dir"})
"""Options that name what a verb writes or keeps beside its output."""
KEYS = ("about", "needs", "values", "steps")
FOLDER = "folder"
PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")


@dataclass(frozen=True)
class Step:
    """One command of a recipe.

    Attributes:
        words: what stands behind ``finerank``.
        output: the path that it writes.
        reads: every text among its options that may be the path of an input, in order.
    """

    name: str
    verb: str
    words: tuple[str, ...]
    output: str
    reads: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """A recipe as it is written.

    Attributes:
        needs: name -> what it is, of values that must be given.
        values: name -> default; None leaves out the options that hold nothing else.
        steps: name -> (verb, options).
    """

    about: str
    needs: Mapping[str, str]
    values: Mapping[str, Any]
    steps: Mapping[str, tuple[str, Mapping[str, Any]]]


def recipe_of(content: Any, where: str) -> Recipe:
    """Check what a recipe file holds.

    Raises:
        UsageError: naming the key at fault.
    """
    if not isinstance(content, dict) or not isinstance(content.get("steps"), dict) or not content["steps"]:
        raise UsageError(f"{where} is no recipe: it has no steps", hint="steps: {mined: {mine: {input_file: …}}}")
    for key in content:
        if key not in KEYS:
            raise UsageError(f'{where}: unknown key "{key}"{did_you_mean(str(key), KEYS)}', hint=", ".join(KEYS))
    parts = {key: content.get(key) or {} for key in ("needs", "values")}
    for key, part in parts.items():
        if not isinstance(part, dict):
            raise UsageError(f"{where}: {key} must hold names and values, got {type(part).__name__}")
    steps = {str(name): _step(str(name), body, where) for name, body in content["steps"].items()}
    twice = sorted({*steps} & {*parts["needs"], *parts["values"], FOLDER})
    if twice:
        raise UsageError(f'{where}: "{twice[0]}" is the name of a step and of a value')
    needs = {str(name): str(text) for name, text in parts["needs"].items()}
    return Recipe(str(content.get("about") or ""), needs, parts["values"], steps)


def steps_of(recipe: Recipe, given: Mapping[str, str]) -> list[Step]:
    """Return the recipe's commands with all names filled in.

    Args:
        given: values by name; ``STEP.OPTION`` sets an option of one step.

    Raises:
        UsageError: if a value is missing or unknown, or a step reads what no earlier step makes.
    """
    _check_given(recipe, given)
    known: dict[str, Any] = {
        FOLDER: ".",
        **recipe.values,
        **{name: it for name, it in given.items() if "." not in name},
    }
    folder = str(known[FOLDER])
    steps = []
    for name, (verb, written) in recipe.steps.items():
        options = dict(written)
        options |= {key.split(".", 1)[1]: value for key, value in given.items() if key.split(".", 1)[0] == name}
        filled = {key: _filled(value, known, f"{name}.{key}", recipe) for key, value in options.items()}
        place, ending = OUTPUT_OF[verb]
        output = str(filled.setdefault(place, str(Path(folder) / f"{name}{ending}")))
        aside = ALSO_WRITTEN | {place}
        reads = tuple(text for key, value in filled.items() if key not in aside for text in _texts(value))
        steps.append(Step(name, verb, (*verb.split(), *_words(filled)), output, reads))
        known[name] = output
    return steps


def chosen(steps: Sequence[Step], start: str | None, until: str | None) -> list[Step]:
    """Return the steps from ``start`` to ``until``, both counted in.

    Raises:
        UsageError: if there is no such step, or they stand the other way round.
    """
    names = [step.name for step in steps]
    for flag, name in (("--from", start), ("--until", until)):
        if name is not None and name not in names:
            raise UsageError(f'{flag}: no step "{name}"{did_you_mean(name, names)}', hint=", ".join(names))
    first = names.index(start) if start else 0
    last = names.index(until) if until else len(names) - 1
    if first > last:
        raise UsageError(f"--from {start} stands behind --until {until}")
    return list(steps[first : last + 1])


def _step(name: str, body: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(body, dict) or len(body) != 1:
        raise UsageError(f"{where}: step {name} must be one verb with its options", hint=f"{name}: {{mine: {{…}}}}")
    ((verb, options),) = body.items()
    if verb not in OUTPUT_OF:
        raise UsageError(
            f'{where}: step {name}: no verb "{verb}" in recipes{did_you_mean(str(verb), OUTPUT_OF)}',
            hint=", ".join(OUTPUT_OF),
        )
    if not isinstance(options or {}, dict):
        raise UsageError(f"{where}: step {name}: {verb} needs options by name, got {type(options).__name__}")
    return str(verb), {str(key).replace("-", "_"): value for key, value in (options or {}).items()}


def _check_given(recipe: Recipe, given: Mapping[str, str]) -> None:
    missing = [name for name in recipe.needs if name not in given]
    if missing:
        what = "; ".join(f"{name}: {recipe.needs[name]}" for name in missing)
        raise UsageError(f"the recipe needs {what}", hint=" ".join(f"{name}=…" for name in missing))
    names = list(dict.fromkeys([*recipe.needs, *recipe.values, FOLDER]))
    for name in given:
        step, dot, _ = name.partition(".")
        if (step not in recipe.steps) if dot else (name not in names):
            raise UsageError(
                f'the recipe has no {"step" if dot else "value"} "{step}"'
                f"{did_you_mean(step, recipe.steps if dot else names)}",
                hint=f"values: {', '.join(names)}; steps: {', '.join(recipe.steps)}",
            )


def _filled(value: Any, known: Mapping[str, Any], where: str, recipe: Recipe) -> Any:
    """Return ``value`` with its names filled in; None if it is a name that stands for nothing."""
    if isinstance(value, list):
        return [part for part in (_filled(each, known, where, recipe) for each in value) if part is not None]
    if not isinstance(value, str):
        return value
    for name in PLACEHOLDER.findall(value):
        if name not in known:
            later = " is made later" if name in recipe.steps else did_you_mean(name, known)
            raise UsageError(f'{where}: nothing is called "{name}"{later}', hint=f"known here: {', '.join(known)}")
    whole = PLACEHOLDER.fullmatch(value)
    if whole:
        return known[whole[1]]
    return PLACEHOLDER.sub(lambda match: str(known[match[1]]), value)


def _words(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, list):
            if value:
                yield from (f"--{name}", *map(str, value))
        elif value is not None:
            yield f"--{name}={value}"


def _texts(value: Any) -> list[str]:
    return [str(part) for part in (value if isinstance(value, list) else [value]) if isinstance(part, str)]
