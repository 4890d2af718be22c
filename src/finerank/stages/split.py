"""split: rows by length, one file per range, so that a batch can be made of rows of about one length.

A row is as long as its longest text in tokens, special tokens included. Shards of rows are measured and land one by
one; then each file is read again and its lines go, as they stand, to the files of their ranges.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from finerank.core.errors import DataError, Problem, UsageError, UserError
from finerank.core.options import VerbOptions, option, semantic
from finerank.core.outcomes import Outcome
from finerank.core.row_options import split_option, sub_data_name_option
from finerank.data import console
from finerank.data.atomic import writing
from finerank.data.blocks import Block, blocks_of
from finerank.data.files import kind_of
from finerank.data.lengths import RowLengths, load_tokenizer
from finerank.data.origins import Origin, find_origins, inputs_of
from finerank.data.outputs import Folder, write_atomic
from finerank.data.workers import Workers, processes_for

SHARD_ROWS = 8192
SHARD_BYTES = 2**20
"""A shard ends at whichever comes first; a kill costs the one that each process was measuring."""
MAX_PROBLEMS = 10_000
CLOCK = "%Y-%m-%d %H:%M:%S"


@dataclass(kw_only=True)
class SplitOptions(VerbOptions):
    """Options of ``finerank split``."""

    input_path: list[str] = option(
        help="row files, folders of them or data sets of the hub; other files of a folder are named and skipped",
        positional=True,
    )
    output_dir: str = option(help="folder of the split files, STEM_len-FROM-TO.jsonl; ranges without rows have none")
    sub_data_name: list[str] | None = sub_data_name_option()
    split: str = split_option()
    cache_dir: str | None = option(None, "where models of the hub are kept", semantic=False)
    log_name: str = option(
        ".split_log", "file in --output_dir with a line of JSON per input file: rows, mean length, rows per range"
    )
    length_list: list[int] = option(
        [0, 500, 1000, 2000, 3000, 4000, 5000, 6000, 7000],
        "bounds in tokens: a range holds rows from one bound up to, not including, the next, the last has no end; "
        "rows below the first are counted and left out",
        ge=0,
    )
    model_name_or_path: str = option("BAAI/bge-m3", "model whose tokenizer measures", metavar="M", semantic=False)
    num_proc: int = option(16, "processes at most; never more than the machine has cores", ge=1, semantic=False)
    overwrite: bool = option(False, "replace an --output_dir that another run made", semantic=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.length_list = sorted(self.length_list)
        if len(set(self.length_list)) < len(self.length_list):
            raise UsageError("--length_list has the same bound twice", hint="--length_list 0 500 1000")
        if Path(self.log_name).name != self.log_name:
            raise UsageError(f'--log_name is a name in --output_dir, not a path, got "{self.log_name}"')


def run(options: SplitOptions) -> Outcome:
    """Measure all rows, then write the files and the log."""
    origins = find_origins(options.input_path, sub_data_name=options.sub_data_name, split=options.split)
    stems = _stems(origins)
    _check_apart(origins, Path(options.output_dir))
    description = load_tokenizer(options.model_name_or_path, options.cache_dir).to_str()
    with Folder.open(
        options.output_dir,
        command="split",
        options=semantic(options) | {"stems": stems},
        inputs=inputs_of(options.input_path, sub_data_name=options.sub_data_name, split=options.split),
        models={"tokenizer": hashlib.sha256(description.encode()).hexdigest()},
        overwrite=options.overwrite,
    ) as folder:
        if folder.done:
            console.say(f"{options.output_dir}: already split with these options and inputs, nothing to do")
            return _outcome(folder.manifest["counts"], options)
        processes = processes_for(origins, options.num_proc, SHARD_BYTES)
        _banner(options, origins, processes)
        shards = _measure(origins, description, processes, folder)
        logged = [_write(options, number, stem, origins, shards, folder) for number, stem in enumerate(stems)]
        lines = b"".join(json.dumps(entry, ensure_ascii=False).encode() + b"\n" for entry, _ in logged)
        write_atomic(folder.path / options.log_name, lines)
        counts = {
            "rows": sum(shard["rows"] for shard in shards),
            "below": sum(below for _, below in logged),
            "files": [entry for entry, _ in logged],
        }
        return _outcome(folder.finish(counts)["counts"], options)


def _measure(origins: Sequence[Origin], description: str, processes: int, folder: Folder) -> list[dict[str, Any]]:
    """Land the lengths of every block's rows as a shard; return the shards' counts in order."""
    problems: list[Problem] = []
    shards = folder.shards

    def land(item: tuple[int, Block]) -> dict[str, Any]:
        index, block = item
        landed = shards.counts(index)
        if landed is not None:
            return landed
        began = time.time()
        lengths, found = workers.call(block)
        if found:
            return {"problems": found, "rows": 0}
        counts = {"origin": block.origin, "rows": len(lengths), "tokens": sum(lengths)}
        return shards.land(index, lengths.tobytes(), counts | {"began": began, "ended": time.time()})

    done = []
    with (
        Workers(RowLengths, (description,), processes) as workers,
        console.progress(0, "measuring", "rows") as update,
    ):
        for counts in workers.map(land, enumerate(_blocks(origins))):
            problems += counts.pop("problems", [])
            done.append(counts)
            update(counts["rows"])
            if len(problems) >= MAX_PROBLEMS:
                break
    if problems:
        raise DataError(problems, hint="finerank check lists every bad line")
    return done


def _blocks(origins: Sequence[Origin]) -> Iterator[Block]:
    return blocks_of(origins, max_bytes=SHARD_BYTES, max_lines=SHARD_ROWS)


def _write(
    options: SplitOptions,
    number: int,
    stem: str,
    origins: Sequence[Origin],
    shards: list[dict[str, Any]],
    folder: Folder,
) -> tuple[dict[str, Any], int]:
    """Write the files of one origin; return its line of the log and the rows below the first bound."""
    own = [index for index, shard in enumerate(shards) if shard["origin"] == number]
    names = _range_names(options.length_list)
    blocks = blocks_of([origins[number]], max_bytes=SHARD_BYTES, max_lines=SHARD_ROWS)
    rows: Counter[int] = Counter()
    files: dict[int, BinaryIO] = {}
    with ExitStack() as stack, writing(folder.path):
        for index, block in zip(own, blocks, strict=True):
            lengths = array("I", folder.shards.body(index))
            places = [bisect_right(options.length_list, length) - 1 for length in lengths]
            for place, lines in _by_place(places, block, str(origins[number])):
                rows[place] += len(lines)
                if place >= 0:
                    if place not in files:
                        files[place] = stack.enter_context(open(folder.work / f".{place}.tmp", "wb"))
                    files[place].write(b"\n".join(lines) + b"\n")
    for place in sorted(files):
        with writing(folder.path):
            os.replace(folder.work / f".{place}.tmp", folder.path / f"{stem}_{names[place]}.jsonl")
    below = rows.pop(-1, 0)
    size = sum(shards[index]["rows"] for index in own)
    entry = {
        "file_name": Path(str(origins[number])).name,
        "size": size,
        "avg_length": sum(shards[index]["tokens"] for index in own) / size,
        "file_path": str(origins[number]),
        "start_time": time.strftime(CLOCK, time.localtime(min(shards[index]["began"] for index in own))),
        "end_time": time.strftime(CLOCK, time.localtime(max(shards[index]["ended"] for index in own))),
        "split_info": {name: rows[place] for place, name in enumerate(names)},
    }
    return entry, below


def _by_place(places: list[int], block: Block, name: str) -> Iterator[tuple[int, list[bytes]]]:
    """Yield each range with the lines of a block that belong to it."""
    lines = block.lines()
    if len(lines) != len(places):
        raise UserError("the file was changed while it was being split", where=name, hint="run it again")
    ordered = sorted(range(len(lines)), key=places.__getitem__)
    for place, group in groupby(ordered, key=places.__getitem__):
        yield place, [lines[index] for index in group]


def _range_names(bounds: Sequence[int]) -> list[str]:
    """Name the half-open ranges.

    >>> _range_names([0, 500])
    ['len-0-500', 'len-500-inf']
    """
    return [f"len-{low}-{high}" for low, high in zip(bounds, [*bounds[1:], "inf"])]


def _stems(origins: Sequence[Origin]) -> list[str]:
    """Return how each origin's files begin; two that would write the same files are an error."""
    stems: dict[str, Origin] = {}
    for origin in origins:
        name = Path(str(origin)).name.replace("/", "-")
        stem = name
        if isinstance(origin, Path):
            stem = name[: name.lower().rindex(kind_of(origin))] if kind_of(origin) else name
        if stem in stems:
            raise UserError(
                f"{stems[stem]} and {origin} would both be written to {stem}_len-….jsonl",
                hint="split them into two folders, or rename one",
            )
        stems[stem] = origin
    return list(stems)


def _check_apart(origins: Sequence[Origin], output: Path) -> None:
    place = output.resolve()
    for origin in origins:
        if isinstance(origin, Path) and place in origin.resolve().parents:
            raise UsageError(f"the input {origin} lies in --output_dir {output}", hint="name another --output_dir")


def _banner(options: SplitOptions, origins: Sequence[Origin], processes: int) -> None:
    console.banner(
        "split",
        {
            "tokenizer": options.model_name_or_path,
            "inputs": len(origins),
            "ranges": " ".join(_range_names(options.length_list)),
            "processes": processes,
        },
    )


def _outcome(counts: dict[str, Any], options: SplitOptions) -> Outcome:
    headers = ["range", *(entry["file_name"] for entry in counts["files"])]
    names = _range_names(options.length_list)
    rows: list[list[object]] = [[name, *(entry["split_info"][name] for entry in counts["files"])] for name in names]
    rows.append(["rows", *(entry["size"] for entry in counts["files"])])
    text = console.table(headers, rows)
    if counts["below"]:
        first = options.length_list[0]
        note = f"{counts['below']:,} of {counts['rows']:,} rows are shorter than {first} tokens and were left out"
        console.warn(f"{note}; --length_list 0 … keeps them")
        text += f"\n{note}"
    return Outcome(text, counts | {"output_dir": options.output_dir})
