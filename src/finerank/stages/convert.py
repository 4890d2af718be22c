"""convert: rows from one format to another: ours, sentence-transformers' columns, Tevatron's, BEIR folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finerank.core.errors import DataError, Problem, UsageError, UserError
from finerank.core.options import VerbOptions, option, semantic
from finerank.core.outcomes import Outcome
from finerank.core.records import Row
from finerank.core.row_options import split_option, sub_data_name_option

if TYPE_CHECKING:
    from finerank.data.layouts import Layout
    from finerank.data.outputs import Folder, Output

MAX_PROBLEMS = 10_000


@dataclass(kw_only=True)
class ConvertOptions(VerbOptions):
    """Options of ``finerank convert``."""

    files: list[str] = option(
        help="rows in any format that can be read: files, folders, judged folders, data sets of the hub",
        positional=True,
    )
    to_format: Literal["rows", "pair", "triplet", "n-tuple", "labeled-pair", "labeled-list", "tevatron", "beir"] = (
        option(
            help="rows: query, pos, neg; pair, triplet, n-tuple, labeled-pair, labeled-list: sentence-transformers' "
            "columns; tevatron: passages with docid and text; beir: a folder of corpus, queries and qrels",
            metavar="FORMAT",
        )
    )
    output_file: str | None = option(
        None,
        "file to write; its ending says how: .jsonl or .json (either with .gz or .zst), or .parquet",
        metavar="OUT",
        semantic=False,
    )
    output_dir: str | None = option(None, "folder to write, for --to beir", metavar="DIR", semantic=False)
    from_format: Literal[
        "auto", "rows", "pair", "triplet", "n-tuple", "labeled-pair", "labeled-list", "tevatron", "beir"
    ] = option(
        "auto",
        "format of the records; auto goes by the keys of each one and by the files of a folder",
        metavar="FORMAT",
    )
    sub_data_name: list[str] | None = sub_data_name_option()
    split: str = split_option()
    output_split: str = option("test", "name of the split that --to beir writes: qrels/NAME.tsv", metavar="NAME")
    group: bool = option(
        True,
        "gather the lines of a query from pairs, triplets and n-tuples into one row, in first-seen order (labeled "
        "pairs always are); texts wait on disk, some 150 bytes a query in memory",
    )
    min_grade: float = option(1.0, "least label or grade of a positive; in a judged folder, negatives have 0 or less")
    corpus: str | None = option(
        None, "pool with ids, for Tevatron's records that name their passages by id only", metavar="POOL"
    )
    teacher_scores: Literal["auto", "list", "margin", "none"] = option(
        "auto",
        "in sentence-transformers' columns: list writes a score per passage (in place of labels, if there are any), "
        "margin the positive's minus the negative's, none nothing; auto is list, but keeps labels",
    )
    negative_number: int | None = option(
        None,
        "negatives of an n-tuple: rows with fewer give no line, further ones are cut; without it all rows must have "
        "equally many",
        ge=1,
    )
    write_negatives: bool = option(False, "--to beir: judge negatives with grade 0, not only list them in the corpus")
    overwrite: bool = option(False, "replace an output made with other options or inputs", semantic=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted, other = ("output_dir", "output_file") if self.to_format == "beir" else ("output_file", "output_dir")
        if getattr(self, wanted) is None:
            raise UsageError(f"--to {self.to_format} needs --{wanted}")
        if getattr(self, other) is not None:
            raise UsageError(f"--to {self.to_format} writes to --{wanted}, so --{other} has no place")
        if self.teacher_scores == "margin" and self.to_format not in ("triplet", "n-tuple"):
            raise UsageError(f"--teacher_scores margin is for triplet and n-tuple, not for {self.to_format}")
        if not self.output_split or "/" in self.output_split:
            raise UsageError(f'--output_split must be a name, got "{self.output_split}"')


def run(options: ConvertOptions) -> Outcome:
    """Read every row and write it in the format asked for.

    Raises:
        DataError: for lines that are no rows, all of them.
        UserError: for an output that stands, or rows that the format cannot hold.
    """
    from finerank.data.containers import check_ending
    from finerank.data.outputs import Folder, Output
    from finerank.data.sources import inputs_of

    if options.from_format == "beir":
        _check_judged(options.files)
    inputs = inputs_of(options.files, sub_data_name=options.sub_data_name, split=options.split)
    claimed: dict[str, Any] = {
        "command": "convert", "options": semantic(options), "overwrite": options.overwrite,
        "inputs": [*inputs, *([options.corpus] if options.corpus is not None else [])],
    }  # fmt: skip
    if options.output_file is not None:
        check_ending(options.output_file, "--output_file")
        with Output.open(options.output_file, **claimed) as output:
            return _outcome(options, output.manifest["counts"] if output.done else _to_file(options, output))
    assert options.output_dir is not None
    with Folder.open(options.output_dir, **claimed) as folder:
        return _outcome(options, folder.manifest["counts"] if folder.done else _to_folder(options, folder))


class _Source:
    """The rows of the inputs, from the first one each time that they are asked for."""

    def __init__(self, options: ConvertOptions, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self._texts = _texts_by_id(options)

    def rows(self) -> Iterator[Row]:
        """Yield each row.

        Raises:
            DataError: behind the last line, for all lines that are none.
        """
        from finerank.data import console
        from finerank.data.sources import row_hint, scan_rows

        options, problems = self.options, list[Problem]()
        self.counts.clear()
        with console.progress(0, "converting", "rows") as update:
            for item in scan_rows(
                options.files, sub_data_name=options.sub_data_name, split=options.split, form=_form(options),
                min_grade=options.min_grade, group=options.group, folder=self.folder, texts=self._texts,
            ):  # fmt: skip
                if isinstance(item, Row):
                    self.counts["rows"] += 1
                    yield item
                else:
                    problems += item
                update(1)
                if len(problems) >= MAX_PROBLEMS:
                    break
        if problems:
            raise DataError(problems, hint=row_hint(problems))


def _form(options: ConvertOptions) -> str:
    return "auto" if options.from_format == "beir" else options.from_format  # such a folder is told by its files


def _check_judged(paths: Iterable[str]) -> None:
    from finerank.data.sources import is_judged

    for path in paths:
        if not is_judged(path):
            raise UserError("expected a folder with corpus.jsonl, queries.jsonl and qrels/", where=path)


def _to_file(options: ConvertOptions, output: Output) -> dict[str, Any]:
    from finerank.data.containers import file_bytes
    from finerank.data.layouts import Layout

    assert options.output_file is not None
    source = _Source(options, output.work)
    width = _width(options, source) if options.to_format == "n-tuple" else 1
    layout = Layout(options.to_format, options.teacher_scores, width)
    counts: dict[str, Any] = {}

    def lines() -> Iterator[Mapping[str, Any]]:
        number = 0
        layout.lost.clear()
        layout.keys_lost.clear()
        for row in source.rows():
            for line in layout.lines(row):
                number += 1
                yield line
        counts.update(_counts(source, layout), lines=number)

    return dict(output.finish(counts, chunks=_some(file_bytes(lines, options.output_file), counts, options))["counts"])


def _some(chunks: Iterable[bytes], counts: Mapping[str, Any], options: ConvertOptions) -> Iterator[bytes]:
    """Pass the bytes on; refuse to end if they hold no line."""
    yield from chunks
    if not counts.get("lines"):
        raise UserError(
            f"none of the {counts.get('rows', 0):,} rows gives a line in the format {options.to_format}: "
            f"{'; '.join(_said(counts)) or 'there is no row'}",
            where=" ".join(options.files),
        )


def _to_folder(options: ConvertOptions, folder: Folder) -> dict[str, Any]:
    from finerank.data.beir import write_beir
    from finerank.data.layouts import Layout

    source = _Source(options, folder.work)
    layout = Layout("beir", negatives=int(options.write_negatives))
    written = write_beir(
        source.rows, folder.path, options.output_split, write_negatives=options.write_negatives, layout=layout
    )
    return dict(folder.finish(_counts(source, layout) | dict(written))["counts"])


def _width(options: ConvertOptions, source: _Source) -> int:
    """Return how many negatives an n-tuple has."""
    if options.negative_number is not None:
        return options.negative_number
    widths = Counter(len(row.negatives) for row in source.rows() if row.negatives)
    if len(widths) < 2:
        return next(iter(widths), 1)
    least, most = min(widths), max(widths)
    kept = sum(count for width, count in widths.items() if width >= most) / widths.total()
    raise UserError(
        f"the rows have {least} to {most} negatives, but all n-tuples must have equally many",
        where=" ".join(options.files),
        hint=f"--negative_number {least} keeps all rows that have one, {most} keeps {kept:.0%} of them",
    )


def _texts_by_id(options: ConvertOptions) -> dict[str, str] | None:
    """Return the texts of the passages that the records name by id, from ``--corpus``."""
    if options.corpus is None:
        return None
    from finerank.data.sources import ids_named, iter_pool_records

    wanted = ids_named(options.files, sub_data_name=options.sub_data_name, split=options.split)
    return {name: text for name, text in iter_pool_records(options.corpus) if name in wanted and name is not None}


def _counts(source: _Source, layout: Layout) -> dict[str, Any]:
    lost = {name: count for name, count in layout.lost.items() if count}
    keys = {"keys_lost": dict(sorted(layout.keys_lost.items()))} if layout.keys_lost else {}
    return {"rows": source.counts["rows"], **lost, **keys}


def _outcome(options: ConvertOptions, counts: Mapping[str, Any]) -> Outcome:
    place = options.output_file or options.output_dir
    written = (
        f"{counts['lines']:,} lines"
        if "lines" in counts
        else f"{counts['queries']:,} queries, {counts['passages']:,} passages, {counts['judgements']:,} judgements"
    )
    text = "\n".join([f"{counts['rows']:,} rows → {written} ({options.to_format}) in {place}", *_said(counts)])
    return Outcome(text, {"output": place, "format": options.to_format, **counts})


def _said(counts: Mapping[str, Any]) -> list[str]:
    from finerank.data.layouts import LOST

    lines = [f"{counts[name]:,} {sentence}" for name, sentence in LOST.items() if counts.get(name)]
    keys = ", ".join(f"{key} ({count:,})" for key, count in dict(counts.get("keys_lost") or {}).items())
    return [*lines, *([f"keys that the format cannot hold, with the rows that lose them: {keys}"] if keys else [])]
