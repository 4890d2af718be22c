"""run: a recipe's verbs one after the other, each skipped while nothing that it depends on has changed."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finerank.core.errors import UsageError
from finerank.core.options import VerbOptions, option
from finerank.core.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finerank.core.recipes import Recipe, Step
    from finerank.data.chain import Record


@dataclass(kw_only=True)
class RunOptions(VerbOptions):
    """Options of ``finerank run``."""

    recipe: list[str] = option(
        help="the recipe (YAML), then values for it: rows=train.jsonl model=M; STEP.OPTION=VALUE sets an option of "
        "one step",
        positional=True,
        metavar="RECIPE.yaml [NAME=VALUE]",
    )
    start: str | None = option(
        None, "first step to run, also written --from; those before it must stand", metavar="STEP"
    )
    until: str | None = option(None, "last step to run", metavar="STEP")
    dry_run: bool = option(False, "show the plan, and why each step would run; run nothing")


def run(options: RunOptions) -> Outcome:
    """Run what has to be run, in order; the table says what stands where.

    Raises:
        UsageError: for whatever is wrong with the recipe or an option of any step, before anything runs.
        UserError: if a step ends with an error (it has said which).
    """
    from finerank.core.recipes import FOLDER, chosen, steps_of
    from finerank.data.chain import Record
    from finerank.data.console import say

    path, given = _words(options.recipe)
    recipe = _read(path)
    every = steps_of(recipe, given)
    steps = chosen(every, options.start, options.until)
    _check_before(every, steps)
    _check(steps)
    record = Record(given.get(FOLDER) or str(recipe.values.get(FOLDER) or "."))
    if options.dry_run:
        return _plan(steps, record)
    if recipe.about:
        say(f"{path}: {recipe.about}")
    rows = [_done(step, number, len(steps), record) for number, step in enumerate(steps, start=1)]
    return _outcome(["step", "verb", "", "output"], rows)


def _words(words: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Split the positional words into the recipe's path and the values by name."""
    paths = [word for word in words if "=" not in word]
    if len(paths) != 1:
        raise UsageError(f"run needs one recipe, got {len(paths)}", hint="finerank run RECIPE.yaml rows=train.jsonl")
    pairs = [word.split("=", 1) for word in words if "=" in word]
    return paths[0], {name: value for name, value in pairs}


def _read(path: str) -> Recipe:
    import yaml

    from finerank.core.recipes import recipe_of

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        hint = "a recipe is a YAML file, such as recipes/domain_embedder.yaml"
        raise UsageError(f"{path}: {error.strerror or error}", hint=hint) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return recipe_of(content, path)


def _check_before(every: Sequence[Step], steps: Sequence[Step]) -> None:
    """Raise UsageError if a step reads what one before ``--from`` has not made yet."""
    for before in every[: every.index(steps[0])]:
        readers = [step.name for step in steps if _reads(step, before.output)]
        if readers and not Path(before.output).exists():
            raise UsageError(
                f"--from {steps[0].name}: {readers[0]} reads {before.output}, not made yet by step {before.name}",
                hint=f"--from {before.name}",
            )


def _reads(step: Step, output: str) -> bool:
    return any(Path(output) in (Path(text), *Path(text).parents) for text in step.reads)


def _check(steps: Sequence[Step]) -> None:
    """Let every verb read its options, so that a misspelt one is known before hours of work."""
    begun = [
        (
            step,
            subprocess.Popen(
                [sys.executable, "-m", "finerank", *step.words, "--dump_config"], stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True,
            ),
        )
        for step in steps
    ]  # fmt: skip
    wrong = [(step, process.communicate()[1].strip()) for step, process in begun if process.wait() != 0]
    if wrong:
        sentences = [f"step {step.name}: {text.removeprefix('error: ').splitlines()[0]}" for step, text in wrong]
        raise UsageError("; ".join(sentences), hint=f"finerank {wrong[0][0].verb} --help")


def _plan(steps: Sequence[Step], record: Record) -> Outcome:
    from finerank.data.console import table

    waiting: list[str] = []
    plan = []
    for step in steps:
        reason = record.state(step)[1]
        behind = [output for output in waiting if _reads(step, output)]
        if behind:
            reason = reason or f"{', '.join(behind)} will change"
        if reason:
            waiting.append(step.output)
        plan.append({"step": step.name, "verb": step.verb, "why": reason, "output": step.output, "words": step.words})
    rows = [
        [each["step"], each["verb"], f"run: {each['why']}" if each["why"] else "done", each["output"]] for each in plan
    ]
    return Outcome(table(["step", "verb", "plan", "output"], rows), {"plan": plan})


def _done(step: Step, number: int, total: int, record: Record) -> dict[str, Any]:
    """Run a step unless it is done; return what the table says of it."""
    from finerank.data.chain import run_stage
    from finerank.data.console import clock, say

    key, reason = record.state(step)
    told = {"step": step.name, "verb": step.verb, "output": step.output}
    if not reason:
        say(f"── stage {number} of {total}: {step.name} is done: nothing that it depends on has changed")
        return told | {"state": "done before", "seconds": 0.0}
    words = (*step.words, "--overwrite") if record.replaces_own(step) else step.words
    record.begin(step, key)
    begun = time.monotonic()
    run_stage(step.name, words, number, total, reason)
    seconds = time.monotonic() - begun
    record.finish(step, seconds)
    return told | {"state": f"took {clock(seconds)}", "seconds": round(seconds, 1)}


def _outcome(headers: Sequence[str], rows: Sequence[dict[str, Any]]) -> Outcome:
    from finerank.data.console import table

    text = table(headers, [[row["step"], row["verb"], row["state"], row["output"]] for row in rows])
    return Outcome(text, {"steps": rows})
