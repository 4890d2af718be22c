"""The rows that a training reads, by its options: data sets one after the other, in memory or on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import overload

from finerank import __version__
from finerank.core.data_sets import DataSet
from finerank.core.errors import DataError, Problem, UsageError
from finerank.core.records import Row, kind
from finerank.core.seeding import stream
from finerank.core.train_options import TrainOptions
from finerank.data import console, row_store
from finerank.data.files import COMPRESSED
from finerank.data.formats import format_of
from finerank.data.hub import HubSet
from finerank.data.manifest import digest_path
from finerank.data.origins import find_origins, inputs_of, records_of
from finerank.data.row_index import PROMPT_KEYS, RowIndex, index_of
from finerank.data.sources import MAX_PROBLEMS, row_hint, scan_rows

ALONE = "no_in_batch_neg"
"""End of a file's or folder's name whose queries take no negatives from each other (FlagEmbedding's)."""


@dataclass(frozen=True)
class Source:
    """What one data set is read from.

    Attributes:
        path: a file, a folder or a name of the hub.
        number: which of --train_data it is, or lies in.
        file: place among the files of that folder; None where the data set is all that --train_data names.
    """

    path: str | Path
    number: int
    file: int | None = None

    @property
    def name(self) -> str:
        """The file's or folder's name without its suffixes."""
        name = Path(self.path).name
        for suffix in (*COMPRESSED, ".jsonl", ".json", ".parquet"):
            name = name.removesuffix(suffix)
        return name or str(self.path)

    @property
    def in_batch(self) -> bool:
        """Whether other queries' passages are negatives: not where the file's or folder's name forbids it."""
        folder = Path(self.path).parent.name if self.file is not None else ""
        return not self.name.endswith(ALONE) and not folder.endswith(ALONE)


class TrainingRows(Sequence[Row]):
    """The rows of a training, data set after data set.

    Attributes:
        sets: the data sets, [start, stop) of each.
        index_of_rows: numbers of the rows' texts.
    """

    def __init__(self, rows: list[Row] | row_store.StoredRows, sets: Sequence[DataSet], index: RowIndex) -> None:
        self.rows = rows
        self.sets = tuple(sets)
        self.index_of_rows = index

    def __reduce__(self) -> tuple[object, ...]:
        return _made_again, (self.rows, self.sets, self.index_of_rows if isinstance(self.rows, list) else None)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        return self.rows[index]

    def take(self, chosen: Sequence[int]) -> TrainingRows:
        """Return some of the rows, data set after data set; one of which none is left is left out.

        Args:
            chosen: their places, in ascending order.
        """
        sets, done = list[DataSet](), 0
        places = iter(sorted(chosen))
        place = next(places, None)
        for each in self.sets:
            start = done
            while place is not None and place < each.stop:
                done, place = done + 1, next(places, None)
            if done > start:
                sets.append(DataSet(each.name, start, done, each.weight, each.in_batch))
        return self.arranged(sorted(chosen), sets)

    def arranged(self, order: Sequence[int], sets: Sequence[DataSet]) -> TrainingRows:
        """Return the rows at these places, as these data sets."""
        if isinstance(self.rows, row_store.StoredRows):
            stored = self.rows.take(order)
            return TrainingRows(stored, sets, stored.index_of_rows)
        return TrainingRows([self.rows[place] for place in order], sets, self.index_of_rows.take(order))


def _made_again(
    rows: list[Row] | row_store.StoredRows, sets: Sequence[DataSet], index: RowIndex | None
) -> TrainingRows:
    return TrainingRows(rows, sets, index or index_of(rows))


def training_rows(options: TrainOptions) -> TrainingRows:
    """Read each data set; draw from it no more rows than asked, in file order.

    Raises:
        DataError: for bad rows; for rows without teacher scores where they are learnt from.
        UsageError: unless there is one weight for each path.
    """
    paths, weights = options.train_data, options.data_weights
    if weights and len(weights) != len(paths):
        raise UsageError(f"--data_weights takes one number for each --train_data: {len(paths)}, got {len(weights)}")
    sources = [source for number, path in enumerate(paths) for source in _sources(str(path), number, options)]
    files = [path for source in sources for path in [Path(source.path)] if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    rows, counts = row_store.lay_out(_checked(sources, options), len(sources), partial(_key, options), size)
    found = TrainingRows(rows, _sets(sources, counts, weights), index_of(rows))
    found = _merged(_sampled(found, sources, options), sources, options)
    _say_sets(found)
    return found


def training_inputs(options: TrainOptions) -> list[str | Path | HubSet]:
    """Return what a manifest digests: the training data, then what the best weights are chosen by."""
    read = inputs_of(options.train_data, sub_data_name=options.sub_data_name, split=options.split)
    return [*read, *inputs_of(options.eval_data)]


def _sources(path: str, number: int, options: TrainOptions) -> list[Source]:
    """Return the data sets of a path: each file of a folder is one, unless they hold labeled pairs."""
    origins = find_origins(path, sub_data_name=options.sub_data_name, split=options.split)
    files = [origin for origin in origins if isinstance(origin, Path)]
    gathered = len(files) > 1 and any(map(_holds_labeled_pairs, files))
    if options.sub_data_name is not None or gathered or files in ([], [Path(path)]):
        return [Source(path, number)]
    return [Source(file, number, place) for place, file in enumerate(files)]


def _holds_labeled_pairs(file: Path) -> bool:
    """Say whether a file's lines have to be gathered by query, maybe with those of the files beside it."""
    first = next((value for _, value in records_of(file)), None)
    return isinstance(first, dict) and format_of(first) == "labeled-pair"


def _checked(sources: Sequence[Source], options: TrainOptions) -> Iterator[tuple[int, Row]]:
    """Yield the rows of all data sets, each with its data set's number.

    Raises:
        DataError: behind the last row, if any was bad; it holds all of them.
    """
    problems: list[Problem] = []
    for number, source in enumerate(sources):
        sub_data_name = options.sub_data_name if source.file is None else None
        for item in scan_rows([source.path], sub_data_name=sub_data_name, split=options.split):
            bad = _unfit(item, options.learns_from_teacher) if isinstance(item, Row) else item
            problems += bad
            if isinstance(item, Row) and not problems:
                yield number, item
            if len(problems) >= MAX_PROBLEMS:
                break
    if problems:
        unscored = all(problem.code == "no-teacher-score" for problem in problems)
        raise DataError(problems, hint=SCORING if unscored else row_hint(problems))


SCORING = "finerank score --input_file ROWS --output_file SCORED --reranker_name_or_path TEACHER"


def _unfit(row: Row, taught: bool) -> list[Problem]:
    """Return what keeps a sound row from being trained on."""
    found = []
    if taught and (row.pos_scores is None or (row.negatives and row.neg_scores is None)):
        message = "distillation needs pos_scores and neg_scores in every row"
        found.append(Problem(row.where, "no-teacher-score", message))
    if not row.extra:
        return found
    for key in (*PROMPT_KEYS, "type"):
        value = row.extra.get(key)
        if value is not None and not isinstance(value, str):
            found.append(Problem(row.where, f"bad-{key}", f'"{key}" must be a string, got {kind(value)}'))
    size = row.extra.get("batch_size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        message = f'"batch_size" must be a whole number from 1, got {kind(size)} {size}'
        found.append(Problem(row.where, "bad-batch_size", message))
    return found


def _key(options: TrainOptions) -> str:
    """Return the digest of all that decides which rows are read."""
    inputs = inputs_of(options.train_data, sub_data_name=options.sub_data_name, split=options.split)
    digests = [digest_path(item) if isinstance(item, (str, Path)) else item.digest() for item in inputs]
    names = [str(path) for path in options.train_data]  # of places, which the rows keep
    parts = [__version__, names, digests, options.sub_data_name, options.split, options.learns_from_teacher]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _sets(sources: Sequence[Source], counts: Sequence[int], weights: Sequence[float]) -> list[DataSet]:
    sets, start = list[DataSet](), 0
    for source, count in zip(sources, counts):
        weight = weights[source.number] if weights else 1.0
        sets.append(DataSet(source.name, start, start + count, weight, source.in_batch))
        start += count
    return sets


def _sampled(rows: TrainingRows, sources: Sequence[Source], options: TrainOptions) -> TrainingRows:
    """Draw from each data set no more rows than asked, in file order."""
    limit = options.max_example_num_per_dataset
    if limit is None or all(len(each) <= limit for each in rows.sets):
        return rows
    order, sets = list[int](), list[DataSet]()
    for each, source in zip(rows.sets, sources):
        chosen: Sequence[int] = range(each.start, each.stop)
        if len(each) > limit:
            name = (source.number,) if source.file is None else (source.number, source.file)
            chosen = sorted(stream(options.seed, "sample", *name).sample(chosen, limit))
        sets.append(DataSet(each.name, len(order), len(order) + len(chosen), each.weight, each.in_batch))
        order += chosen
    return rows.arranged(order, sets)


def _merged(rows: TrainingRows, sources: Sequence[Source], options: TrainOptions) -> TrainingRows:
    """Make one data set of the small files of each folder; leave it out where it is too small even so."""
    if not (options.small_threshold or options.drop_threshold):
        return rows
    if not options.same_dataset_within_batch:
        console.say("note: --small_threshold and --drop_threshold have no effect without --same_dataset_within_batch")
        return rows
    gathered: dict[tuple[int, int, bool], list[DataSet]] = {}
    for place, (each, source) in enumerate(zip(rows.sets, sources)):
        small = source.file is not None and len(each) < options.small_threshold
        gathered.setdefault((source.number, -1 if small else place, each.in_batch), []).append(each)
    order, sets = list[int](), list[DataSet]()
    for (_, place, in_batch), parts in gathered.items():
        count, start = sum(map(len, parts)), len(order)
        name = " + ".join(part.name for part in parts)
        if place == -1 and count < options.drop_threshold:
            console.warn(f"{name}: {count:,} rows, fewer than --drop_threshold {options.drop_threshold:,}: left out")
            continue
        order += [at for part in parts for at in range(part.start, part.stop)]
        sets.append(DataSet(name, start, len(order), parts[0].weight, in_batch))
    if not sets:
        raise UsageError("--drop_threshold leaves no row", hint="lower it, or --small_threshold")
    return rows.arranged(order, sets)


def _say_sets(rows: TrainingRows) -> None:
    if len(rows.sets) < 2 and all(each.weight == 1 and each.in_batch for each in rows.sets):
        return
    for each in rows.sets:
        weight = "" if each.weight == 1 else f", {each.weight:g} times an epoch"
        alone = "" if each.in_batch else ", no in-batch negatives"
        console.say(f"data set {each.name}: {len(each):,} rows{weight}{alone}")
