"""What an evaluation judges by: a judged folder, a file of qrels, or rows; and what it chooses on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finerank.core.errors import UsageError, UserError
from finerank.core.evaluate_options import EvaluateOptions
from finerank.core.fusion_weight import parse_weight
from finerank.core.records import Row
from finerank.data.console import warn
from finerank.data.files import ROW_SUFFIXES, check_file, kind_of
from finerank.data.hub import is_hub_name
from finerank.data.judged import Judged, is_judged, query_types, read_judged
from finerank.data.manifest import Input
from finerank.data.sources import inputs_of, read_rows
from finerank.data.trec import read_qrels
from finerank.evaluation.ranking import drawn, drawn_places, unseen
from finerank.evaluation.rows import RowSet, lay_out


@dataclass(frozen=True)
class Task:
    """What is judged: a judged set, or rows.

    Attributes:
        dev, dev_rows: what a weight or a threshold is chosen on.
        types: query id -> the type that the data gives it, for slices.
        also: further judged sets that the models are tried on.
        split: what the figures are called by, beside the data's name.
    """

    judged: Judged | None = None
    dev: Judged | None = None
    rows: RowSet | None = None
    dev_rows: RowSet | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    also: tuple[Judged, ...] = ()
    split: str = "test"

    @property
    def queries(self) -> list[str]:
        return self.judged.queries if self.judged is not None else list(self.rows.queries.values() if self.rows else [])

    @property
    def passages(self) -> int:
        """How many passages, or pairs of rows, there are."""
        return len(self.judged.passages) if self.judged is not None else len(self.rows.pairs() if self.rows else [])

    @property
    def texts(self) -> bool:
        """Whether there are texts that a model could read."""
        return self.judged is None or bool(self.judged.passages)


def read_task(options: EvaluateOptions) -> Task:
    """Read all that is judged.

    Raises:
        UsageError: for options that do not go with such data.
        UserError, DataError: for files that are missing or bad.
    """
    folders = [path for path in options.data if is_judged(path)]
    if folders and len(options.data) > 1:
        raise UsageError(f"one judged folder at a time, got {len(options.data)} inputs", hint=f"--data {folders[0]}")
    split = options.also_split or options.split
    also = tuple(_limited(_read_other(path, split, "--also_split"), options) for path in options.also)
    if folders:
        return _judged_task(options, also)
    runs = [*options.runs, *(path for path in options.first_stage if Path(path).is_file())]
    first = options.data[0]
    if kind_of(first) not in ROW_SUFFIXES and Path(first).is_file() and (runs or _looks_like_qrels(first)):
        return _qrels_task(options, also)
    return _rows_task(options, also)


def task_inputs(options: EvaluateOptions) -> list[Input]:
    """Return what the result's key digests beside the models and runs."""
    found = [*inputs_of(options.data, sub_data_name=options.sub_data_name, split=options.split), *options.also]
    found += [] if options.qrels is None else [options.qrels]
    return [*found, *inputs_of(options.dev_data, split=options.split)]


def _judged_task(options: EvaluateOptions, also: tuple[Judged, ...]) -> Task:
    _refuse(options, "a judged folder", strip_titles="rows", dev_data="rows")
    folder = options.data[0]
    judged = _limited(read_judged(folder, options.split, qrels_file=options.qrels), options)
    _check_relevant(judged, options.qrels or folder)
    types = query_types(folder, options.split) if options.slices else {}
    split = options.split if options.qrels is None else Path(options.qrels).name
    chooses_weight = options.fusion != "none" and parse_weight(options.fusion_weight) is None
    if options.dev_split is None or not (chooses_weight or options.calibration):
        return Task(judged, types=types, also=also, split=split)
    dev = unseen(_read_other(folder, options.dev_split, "--dev_split"), judged)
    if not dev.query_ids:
        raise UsageError(f"--dev_split {options.dev_split} holds no query that --split {split} does not judge")
    return Task(judged, dev, types=types, also=also, split=split)


def _qrels_task(options: EvaluateOptions, also: tuple[Judged, ...]) -> Task:
    """Judge runs by qrels alone: queries are known by their ids, passages not at all."""
    if len(options.data) > 1:
        raise UsageError(f"one file of qrels at a time, got {len(options.data)}", hint=f"--data {options.data[0]}")
    texts = "a judged folder, whose queries have texts"
    _refuse(
        options, "a qrels file", slices=texts, dev_split=texts, qrels=texts, calibration=texts, strip_titles="rows",
        dev_data="rows", also="models",
    )  # fmt: skip
    qrels = read_qrels(options.data[0])
    ids = list(qrels)
    judged = _limited(Judged([], [], ids, ids, qrels, Path(options.data[0]).stem), options)
    _check_relevant(judged, options.data[0])
    return Task(judged, also=also, split="qrels")


def _looks_like_qrels(path: str) -> bool:
    """Say whether a file begins as qrels do: three or four words, and no JSON."""
    with open(path, "rb") as stream:
        first = stream.readline()
    return len(first.split()) in (3, 4) and not first.lstrip().startswith((b"{", b"["))


def _check_relevant(judged: Judged, where: str) -> None:
    """Say how many queries no ranking can do well on; refuse if that is all of them."""
    without_any = sum(max(grades.values(), default=0) < 1 for grades in judged.qrels.values())
    if without_any == len(judged.qrels):
        raise UserError("no judged query has a relevant passage, one with grade 1 or more", where=where)
    if without_any:
        warn(f"{where}: {without_any:,} of {len(judged.qrels):,} judged queries have no relevant passage; they count 0")


def _rows_task(options: EvaluateOptions, also: tuple[Judged, ...]) -> Task:
    for path in options.data:
        if not is_hub_name(path) and not Path(path).exists():
            check_file(path)
    folder = "a judged folder"
    if options.dev_split is not None:
        raise UsageError(
            "--dev_split needs a judged folder, got rows",
            hint="--dev_data FILE" if options.calibration else "--fusion_weight 1.0",
        )
    _refuse(options, "rows", depths=folder, qrels=folder, runs=f"{folder} (corpus.jsonl, …) or a qrels file")
    if options.dev_data and not options.calibration:
        raise UsageError("--dev_data is what --calibration chooses a threshold on", hint="--calibration")
    rows = read_rows(options.data, sub_data_name=options.sub_data_name, split=options.split)
    rows = [rows[place] for place in drawn_places(len(rows), options.limit, options.seed)]
    dev = lay_out(_unseen_rows(options, rows)) if options.dev_data else None
    laid_out = lay_out(rows)
    types = {query: str(row.extra["type"]) for query, row in zip(laid_out.queries, rows) if row.extra.get("type")}
    return Task(rows=laid_out, dev_rows=dev, types=types, also=also, split=options.split)


def _read_other(folder: str, split: str, flag: str) -> Judged:
    """Read a judged set beside the first; a hint names the flag that its split was given by."""
    try:
        return read_judged(folder, split)
    except UserError as error:
        if error.hint is not None:
            error.hint = error.hint.replace("--split", flag)
        raise


def _unseen_rows(options: EvaluateOptions, rows: list[Row]) -> list[Row]:
    """Return the development rows whose queries are not judged."""
    known = {row.query for row in rows}
    found = [row for row in read_rows(options.dev_data, split=options.split) if row.query not in known]
    if not found:
        raise UsageError("--dev_data holds no query that --data does not judge")
    return found


def _limited(judged: Judged, options: EvaluateOptions) -> Judged:
    return drawn(judged, options.limit, options.seed)


def _refuse(options: EvaluateOptions, found: str, **wanted: str) -> None:
    """Raise UsageError for an option that is set and needs other data than was found."""
    for name, needs in wanted.items():
        if getattr(options, name):
            raise UsageError(f"--{name} needs {needs}, got {found}", hint=f"leave --{name} out")
