"""``finerank embed``: texts in, their vectors out, as ``.npy`` or parquet, in the order of the input.

The texts are read twice, or a third time for their ids, and never held: once to check them and to number the distinct
ones, once to encode those, in resumable shards on one or several devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finerank.core.errors import UsageError, UserError
from finerank.core.model_options import EncoderOptions
from finerank.core.options import ignored, option, semantic
from finerank.core.outcomes import Outcome

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from finerank.data.distinct import Distinct
    from finerank.data.outputs import Output
    from finerank.models.fleet import Fleet
    from finerank.models.recipes import EncoderRecipe

SHARD_TEXTS = 4096
SUFFIXES = (".npy", ".parquet")
IDS_SUFFIX = ".ids.jsonl"


@dataclass(kw_only=True)
class EmbedOptions(EncoderOptions):
    """Options of ``finerank embed``."""

    several_devices: ClassVar[bool] = True

    model_name_or_path: str = option(help="embedder: a local folder or a hub name", metavar="M")
    input_file: list[str] = option(
        help="texts: pools, judged folders, .txt files with one text per line; files or folders", metavar="F"
    )
    output_file: str = option(
        help="file to write: a matrix OUT.npy, with the ids, if there are any, in OUT.npy.ids.jsonl, or OUT.parquet",
        metavar="OUT",
        semantic=False,
    )
    side: Literal["query", "passage"] = option(
        "passage", "which prompt and length of the model are used; of a judged folder, queries or corpus"
    )
    text_key: str | None = option(
        None, "read this key of every record, e.g. query of rows; without it, text or contents, behind a title"
    )
    passage_instruction_for_retrieval: str | None = option(
        None, "instruction put before each passage; without it, the model's own prompt"
    )
    passage_instruction_format_for_retrieval: str = option("{}{}", "how that instruction and the passage are joined")
    output_dtype: Literal["float32", "float16"] = option(
        "float32", "number format of the vectors in the file; float16 is half the size, with 3 digits"
    )
    batch_size: Any = ignored("batches are formed by tokens, to fit the machine, and do not change the result")
    overwrite: bool = option(False, "replace an output made with other options or inputs", semantic=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output_file.endswith(SUFFIXES):
            raise UsageError(
                f"--output_file must end in {' or '.join(SUFFIXES)}, got {self.output_file}",
                hint=f"--output_file {self.output_file}.npy",
            )

    @property
    def is_parquet(self) -> bool:
        """Whether the output is parquet; its ids are a column then."""
        return self.output_file.endswith(".parquet")


@dataclass
class Survey:
    """What the first reading finds: the texts, numbered, and how many of them have an id."""

    distinct: Distinct
    named: int


def run(options: EmbedOptions) -> Outcome:
    """Encode every text.

    Raises:
        UserError: for bad input, a model that cannot be had, a vector without numbers, a worker that died.
    """
    from finerank.data import console

    with console.once():
        return _run(options)


def _run(options: EmbedOptions) -> Outcome:
    from finerank.data import console
    from finerank.data.distinct import Unchanged
    from finerank.data.outputs import Output
    from finerank.data.sources import inputs_of
    from finerank.data.texts import files_of
    from finerank.data.vector_files import import_pyarrow
    from finerank.models.fleet import open_fleet

    if options.is_parquet:
        import_pyarrow()
    recipe = _recipe(options)
    files = files_of(options.input_file, options.side)
    unchanged = Unchanged(files)
    survey = _survey(options)
    with (
        open_fleet(recipe, options.devices) as fleet,
        Output.open(
            options.output_file, command="embed", options=semantic(options), inputs=inputs_of(files),
            models={"embedder": fleet.facts["fingerprint"]}, overwrite=options.overwrite,
        ) as output,
    ):  # fmt: skip
        counts = {
            "texts": len(survey.distinct),
            "texts_distinct": survey.distinct.count,
            "ids": survey.named,
            "dimension": fleet.facts["dimension"],
        }
        if output.done:
            _check_ids(options, output)
            console.say(f"{options.output_file}: already embedded with these options and inputs, nothing to do")
            return _outcome(options, counts)
        _refuse_other_ids(options, output, survey)
        _banner(options, fleet, survey)
        _encode(options, survey.distinct, fleet, output)
        extra = {"embedder": _facts(options, fleet), **_write_ids(options, survey)}
        output.finish(counts, extra, unchanged.guard(_chunks(options, survey, fleet, output)))
    return _outcome(options, counts)


def _recipe(options: EmbedOptions) -> EncoderRecipe:
    """Return how the embedder is opened; None leaves a setting to the model's own configuration."""
    from finerank.batching.prompts import format_prompt
    from finerank.data.console import say
    from finerank.models.encoder_arguments import encoder_arguments
    from finerank.models.recipes import EncoderRecipe

    other = "passage" if options.side == "query" else "query"
    if getattr(options, f"{other}_instruction_for_retrieval") is not None:
        say(f"note: --{other}_instruction_for_retrieval has no effect with --side {options.side}")
    instruction = options.passage_instruction_for_retrieval
    template = options.passage_instruction_format_for_retrieval
    prompt = None if instruction is None else format_prompt(instruction, template)
    return EncoderRecipe(
        options.model_name_or_path, options.side, encoder_arguments(options) | {"passage_prompt": prompt}
    )


def _survey(options: EmbedOptions) -> Survey:
    """Check every text and number the distinct ones."""
    from finerank.data.console import progress
    from finerank.data.distinct import Distinct, key_of
    from finerank.data.texts import iter_texts

    digests, named = bytearray(), 0
    with progress(0, "reading") as update:
        for name, text in iter_texts(options.input_file, options.side, options.text_key):
            digests += key_of(text)
            named += name is not None
            update(1)
    return Survey(Distinct(digests), named)


def _encode(options: EmbedOptions, distinct: Distinct, fleet: Fleet, output: Output) -> None:
    """Encode the distinct texts that have not been encoded before, shard by shard."""
    from finerank.data.texts import iter_texts
    from finerank.models.pieces import land_missing

    texts = (text for _, text in iter_texts(options.input_file, options.side, options.text_key))

    def pack(vectors: NDArray[np.float32]) -> bytes:
        return _packed(vectors, options.output_dtype)

    land_missing(fleet, output.shards, distinct, texts, size=SHARD_TEXTS, pack=pack, label="encoding", unit="texts")


def _packed(vectors: NDArray[np.float32], dtype: str) -> bytes:
    """Return the vectors' numbers as they stand in the file.

    Raises:
        UserError: if one is too large for float16.
    """
    import numpy as np

    from finerank.data.vector_files import DTYPES

    with np.errstate(over="ignore"):
        numbers = vectors.astype(DTYPES[dtype])
    if not np.isfinite(numbers).all():
        raise UserError("the vectors hold numbers too large for float16", hint="--output_dtype float32")
    return numbers.tobytes()


def _ids(options: EmbedOptions) -> Iterator[str | None]:
    from finerank.data.texts import iter_texts

    return (name for name, _ in iter_texts(options.input_file, options.side, options.text_key))


def _chunks(options: EmbedOptions, survey: Survey, fleet: Fleet, output: Output) -> Iterator[bytes]:
    """Yield the bytes of the output file."""
    from finerank.data.vector_files import blocks, npy_chunks, parquet_chunks

    dimension, dtype = fleet.facts["dimension"], options.output_dtype
    vectors = blocks(output.shards, survey.distinct, SHARD_TEXTS, dimension, dtype)
    if options.is_parquet:
        return parquet_chunks(vectors, _ids(options) if survey.named else None, dimension, dtype)
    return npy_chunks(vectors, len(survey.distinct), dimension, dtype)


def _ids_file(options: EmbedOptions) -> Path:
    return Path(options.output_file + IDS_SUFFIX).expanduser()


def _write_ids(options: EmbedOptions, survey: Survey) -> dict[str, Any]:
    """Write the ids of a matrix beside it, one object a line; return what the manifest says of them."""
    import orjson

    from finerank.data.atomic import land, writing
    from finerank.data.manifest import digest_file

    if options.is_parquet or not survey.named:
        return {}
    target = _ids_file(options)
    lines = (orjson.dumps({"id": name}, option=orjson.OPT_APPEND_NEWLINE) for name in _ids(options))
    with writing(target):
        land(target.with_name(f".{target.name}.tmp"), target, lines)
    return {"ids_file": {"name": target.name, "sha256": digest_file(target)}}


def _check_ids(options: EmbedOptions, output: Output) -> None:
    """Refuse to call a matrix done whose ids are gone or were edited."""
    from finerank.data.manifest import digest_file

    told = output.manifest.get("ids_file")
    target = _ids_file(options)
    if told and (not target.is_file() or digest_file(target) != told["sha256"]):
        raise UserError(
            "is gone, or was changed after it was written", where=str(target), hint="add --overwrite to write it again"
        )


def _refuse_other_ids(options: EmbedOptions, output: Output, survey: Survey) -> None:
    """Leave alone a file of ids that this run has not made."""
    target = _ids_file(options)
    writes = survey.named and not options.is_parquet
    if writes and target.exists() and not (options.overwrite or output.resumed):
        raise UserError(
            "already exists, and no manifest says what made it",
            where=str(target),
            hint="add --overwrite to replace it, or name another output",
        )


def _facts(options: EmbedOptions, fleet: Fleet) -> dict[str, Any]:
    """Return what the manifest says of the model and of the text that it read."""
    known = {name: value for name, value in fleet.facts.items() if name != "describe"}
    return {"name": options.model_name_or_path, "side": options.side, **known}


def _banner(options: EmbedOptions, fleet: Fleet, survey: Survey) -> None:
    from finerank.data import console

    distinct = survey.distinct
    console.banner(
        f"embed {options.output_file}",
        {
            **fleet.facts["describe"],
            "side": f"{options.side}, prompt {fleet.facts['prompt']!r}",
            "texts": f"{len(distinct):,}, of them {distinct.count:,} distinct ones to encode",
            "vectors": f"{fleet.facts['dimension']:,} numbers each, {options.output_dtype}",
        },
    )


def _outcome(options: EmbedOptions, counts: dict[str, int]) -> Outcome:
    from finerank.data.console import table

    ids = "none" if not counts["ids"] else "column id" if options.is_parquet else str(_ids_file(options))
    rows: list[list[object]] = [
        ["texts", counts["texts"]],
        ["distinct texts, encoded once each", counts["texts_distinct"]],
        ["numbers in a vector", counts["dimension"]],
    ]
    text = f"{table(['vectors', 'count'], rows)}\n\nwritten to {options.output_file}; ids: {ids}"
    return Outcome(text, {"output_file": options.output_file, **counts})
