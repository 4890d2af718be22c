"""The command: a table of verbs, imported when asked for; errors as sentences; exit codes.

finerank VERB [options]        python -m finerank VERB [options]
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from finerank import __version__
from finerank.core.errors import ProcessError, UsageError, UserError, did_you_mean


@dataclass(frozen=True)
class Verb:
    """Where a verb lives; ``passthrough`` verbs hand unknown flags to transformers.TrainingArguments."""

    module: str
    options: str
    summary: str
    passthrough: bool = False


VERBS: dict[str, Verb] = {
    "demo": Verb("finerank.stages.demo", "DemoOptions", "The whole loop on text that is on every machine."),
    "run": Verb("finerank.stages.run", "RunOptions", "A recipe: verbs chained, each skipped when nothing has changed."),
    "check": Verb("finerank.stages.check", "CheckOptions", "Lint rows before any GPU time."),
    "convert": Verb("finerank.stages.convert", "ConvertOptions", "Rows from one format to another, either way."),
    "generate": Verb("finerank.stages.generate", "GenerateOptions", "Training rows out of documents alone."),
    "mine": Verb("finerank.stages.mine", "MineOptions", "Hard negatives from a ranked pool."),
    "score": Verb("finerank.stages.score", "ScoreOptions", "A teacher's scores for the passages of rows."),
    "embed": Verb("finerank.stages.embed", "EmbedOptions", "Texts to vectors, as .npy or parquet."),
    "split": Verb("finerank.stages.split", "SplitOptions", "Rows by length in tokens, one file per range."),
    "train embedder": Verb(
        "finerank.stages.train", "EmbedderOptions", "Fine-tune an embedder on rows with hard negatives.", True
    ),
    "train reranker": Verb(
        "finerank.stages.train", "RerankerOptions", "Fine-tune a cross-encoder on groups of passages.", True
    ),
    "merge": Verb("finerank.stages.merge", "MergeOptions", "A tuned model and its base averaged; an adapter merged."),
    "evaluate": Verb("finerank.stages.evaluate", "EvaluateOptions", "Compare models, with intervals and tests."),
    "ablate": Verb(
        "finerank.stages.ablate", "AblateOptions", "Pipelines against each other: retrievers, rerankers, λ."
    ),
    "rerank": Verb("finerank.stages.rerank", "RerankOptions", "Score the candidates of a query."),
    "export": Verb("finerank.stages.export", "ExportOptions", "A model as a graph for OpenVINO, int8 if that holds."),
    "doctor": Verb("finerank.stages.doctor", "DoctorOptions", "What this machine and this installation can do."),
}
OVERVIEW = """usage: finerank VERB [options]

From your documents to an embedder and a reranker proven better on your own data.

verbs:
{verbs}

finerank VERB --help shows a verb's options; --version the version.
"""
INTERRUPTED = 130
SILENCE = 15.0
"""Seconds that a launcher has to end the other processes of a run after the first one's error."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    _wait_without_spinning()
    return _ended(_attempt(words, debug="--debug" in words))


def _wait_without_spinning() -> None:
    """Have OpenMP's threads sleep while they wait, unless the user has said how; read when torch is loaded.

    Spinning wins nothing that could be measured, and two trainings on one machine take three times as long by it.
    """
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def _attempt(words: list[str], *, debug: bool) -> int:
    try:
        return _dispatch(words)
    except UserError as error:
        if debug:
            raise
        if not isinstance(error, ProcessError):
            _let_the_first_speak()
        print(_render(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if _is_first():
            print("interrupted; the same command goes on from what has landed", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as left:
        _let_the_first_speak()
        return int(left.code or 0)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        if debug:
            raise
        print(f"error: {type(error).__name__}: {error}\nhint: run it again with --debug to see where", file=sys.stderr)
        return 1


def _is_first() -> bool:
    return int(os.environ.get("RANK") or 0) == 0


def _let_the_first_speak() -> None:
    """Leave a word that all processes of a launcher have to the first: it ends them all by its own end.

    A process that outlives that had something to say by itself.
    """
    if not _is_first():
        time.sleep(SILENCE)


def _ended(code: int) -> int:
    """End a process of a launcher's at once: gloo's threads may abort it at a normal exit, and all is on disk."""
    from finerank.data.console import launched

    if launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        print(_overview(), end="")
        return 0
    if words[0] == "--version":
        print(f"finerank {__version__}")
        return 0
    if words[0] not in VERBS and words[1:] in (["--help"], ["-h"]) and _parts(words[0]):
        print("\n".join(f"finerank {words[0]} {part} --help" for part in _parts(words[0])))
        return 0
    name, rest = _verb_name(words)
    verb = VERBS[name]
    module = import_module(verb.module)
    options_class = getattr(module, verb.options)
    if "--help" in rest or "-h" in rest:
        from finerank.core.help import verb_help

        print(verb_help(options_class, name, verb.summary), end="")
        return 0
    return _run(name, verb, module, options_class, rest)


def _run(name: str, verb: Verb, module: Any, options_class: type, rest: list[str]) -> int:
    from finerank.core.command_line import parse
    from finerank.core.options import effective
    from finerank.data.console import is_main_process, say, show, show_json

    parsed = parse(options_class, rest, name, passthrough=verb.passthrough)
    for note in parsed.notes:
        say(f"note: {note}")
    if parsed.dump_config:
        import yaml

        print(yaml.safe_dump(effective(parsed.options) | parsed.extras, sort_keys=False, allow_unicode=True), end="")
        return 0
    outcome = module.run(parsed.options, parsed.extras) if verb.passthrough else module.run(parsed.options)
    if not is_main_process():
        return int(outcome.exit_code)
    if parsed.options.json:
        import orjson

        show_json(orjson.dumps(outcome.data, option=orjson.OPT_INDENT_2).decode())
    elif outcome.text:
        show(outcome.text)
    return int(outcome.exit_code)


def _verb_name(words: list[str]) -> tuple[str, list[str]]:
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in VERBS:
            return name, words[length:]
    parts = _parts(words[0])
    if parts:
        raise UsageError(f"{words[0]} needs one of: {', '.join(parts)}", hint=f"finerank {words[0]} {parts[0]} --help")
    raise UsageError(f'unknown verb "{words[0]}"{did_you_mean(words[0], VERBS)}', hint="finerank --help")


def _parts(word: str) -> list[str]:
    """Return the second words of the verbs that begin with ``word``."""
    return sorted(verb.split()[1] for verb in VERBS if verb.startswith(f"{word} "))


def _overview() -> str:
    width = max(map(len, VERBS))
    return OVERVIEW.format(verbs="\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()))


def _render(error: UserError) -> str:
    label, _, hint = str(error).partition("\nhint: ")
    return f"error: {label}" + (f"\nhint: {hint}" if hint else "")


if __name__ == "__main__":
    sys.exit(main())
