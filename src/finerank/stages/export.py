"""``finerank export``: a model as a graph for OpenVINO, in int8 if asked, measured beside the model it was made of.

The folder is an ordinary model folder with a graph beside the weights: every verb computes by the graph on a CPU, and
sentence-transformers and others load the weights as before. Where ranking quality on given data falls by more than a
stated bound, nothing is written.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from finerank.core.errors import UsageError, UserError
from finerank.core.model_options import ModelOptions
from finerank.core.options import option, semantic
from finerank.core.outcomes import Outcome
from finerank.core.seeding import DEFAULT_SEED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FIGURE = "nDCG@10"
SHOWN_ITEMS = [
    "A graph is compiled once for the processor, then run for every batch.",
    "Which model finds the passage that answers?",
    "The weights stay beside it, so that other tools load the folder as they did before.",
]
TIMED, ROUNDS = 48, 5
BATCH = 8
LEAST_COSINE, LARGEST_GAP = 0.999, 0.1
"""Between a model and its graph in float32 or bfloat16, beyond which something is wrong."""


@dataclass(kw_only=True)
class ExportOptions(ModelOptions):
    """Options of ``finerank export``."""

    model_name_or_path: str = option(help="embedder or cross-encoder: a local folder or a hub name", metavar="M")
    output_dir: str = option("./exported", "folder of the exported model", metavar="DIR", semantic=False)
    format: Literal["openvino"] = option("openvino", "kind of graph")
    int8: bool = option(False, "weights and activations in int8, their ranges taken from --data")
    data: list[str] = option(
        [],
        "rows, or one judged folder (corpus.jsonl, queries.jsonl, qrels/): ranking quality before and after is "
        "measured on it, and int8 takes its ranges from its texts",
        metavar="DATA",
    )
    split: str = option("dev", "split of a judged --data")
    max_loss: float = option(0.003, f"most {FIGURE} that may be lost on --data; at more, nothing is written", ge=0)
    calibration_texts: int = option(256, "texts that int8 takes its ranges from", ge=1)
    first_stage: str | None = option(
        None, "embedder whose best passages a reranker is measured on in a judged --data; without it BM25", metavar="M"
    )
    query_instruction_format: str = option(
        "{}{}", "rows of --data: how a row's own prompt (first {}) and query (second {}) are joined for an embedder"
    )
    rerank_depth: int = option(20, "passages per query reranked there", ge=2)
    seed: int = option(DEFAULT_SEED, "of the texts drawn, and of the interval", ge=0)
    overwrite: bool = option(False, "replace a model made with other options or data", semantic=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.int8 and not self.data:
            raise UsageError("--int8 needs --data: what it costs in ranking quality is measured, not hoped for",
                             hint="--data DEV.jsonl, or a judged folder")  # fmt: skip
        if self.device not in ("auto", "cpu"):
            raise UsageError(f"--device {self.device}: OpenVINO graphs are for CPUs", hint="--device cpu")
        self.device = "cpu"


def run(options: ExportOptions) -> Outcome:
    """Make the graph, measure it beside the model, write the folder.

    Raises:
        UserError: if the graph ranks worse than allowed, or the model cannot be exported.
    """
    from finerank.data import console
    from finerank.data.outputs import Folder
    from finerank.data.sources import inputs_of
    from finerank.models.openvino import graph_of

    if options.dtype == "int8":
        raise UsageError("--dtype int8 needs no export: embed, mine, score, rerank and evaluate take it", hint="--int8")
    if graph_of(options.model_name_or_path):
        raise UsageError(f"{options.model_name_or_path} is exported already", hint="export the model it was made of")
    model = _opened(options, "float32")
    console.banner("export", dict(model.describe()) | {"to": f"{options.format}{' int8' if options.int8 else ''}"})
    fingerprint = model.fingerprint("passage") if hasattr(model, "encode") else model.fingerprint()
    with Folder.open(
        options.output_dir, command="export", options=semantic(options), inputs=inputs_of(options.data),
        models={"model": fingerprint}, overwrite=options.overwrite,
    ) as folder:  # fmt: skip
        if folder.done:
            console.say(f"{options.output_dir}: exported already with these options, nothing to do")
            return _outcome(options, folder.manifest["counts"])
        with tempfile.TemporaryDirectory() as aside:
            counts = _export(options, model, Path(aside))
            model.save(folder.path)
            shutil.copytree(aside, folder.path, dirs_exist_ok=True)
        folder.finish(counts)
    return _outcome(options, counts)


def _opened(options: ExportOptions, dtype: str) -> Any:
    from finerank.models.families import family_of
    from finerank.models.load import load_encoder, load_scorer
    from finerank.models.model_files import base_of

    name = options.model_name_or_path
    family = family_of(name, options.cache_dir)
    if family not in ("bi_encoder", "cross_encoder"):
        raise UserError(f"{name} is a language model; embedders and cross-encoders can be exported")
    if base_of(name, options.cache_dir):
        raise UserError(f"{name} is an adapter", hint=f"finerank merge --model_name_or_path {name} --output_dir MERGED")
    load = load_encoder if family == "bi_encoder" else load_scorer
    return load(
        name,
        device=options.device,
        dtype=dtype,
        cache_dir=options.cache_dir,
        trust_remote_code=options.trust_remote_code,
    )


def _export(options: ExportOptions, model: Any, folder: Path) -> dict[str, Any]:
    """Write the graph into ``folder`` and return what was measured; ``model`` is left as it was."""
    from finerank.data.console import say
    from finerank.evaluation.held_out import measure_on
    from finerank.evaluation.significance import paired_interval
    from finerank.models.load import resolve_dtype
    from finerank.models.openvino import Compiled, convert
    from finerank.models.trainables import first_stage_of, own_prompts

    items = _items(options, hasattr(model, "encode"))
    measure = measure_on(
        model, options.data, options.split, lambda: first_stage_of(options), options.rerank_depth, "--data",
        own_prompts(model, options.query_instruction_format),
    ) if options.data else None  # fmt: skip
    own = model.transformer
    before = measure()[FIGURE] if measure else []
    path = convert(own, folder, _batches(model, items[: options.calibration_texts]), int8=options.int8)
    # In the number format that the verbs will use: what is promised is measured.
    dtype = resolve_dtype(model.device, options.dtype)
    graph = Compiled(own, path, dtype)
    name = str(dtype)[6:]
    running = model if name == "float32" else _opened(options, name)
    counts = _beside(model, running, graph, items[:TIMED]) | {"int8": options.int8, "dtype": name}
    if not options.int8:
        _check_near(options, counts)
    if measure:
        model.transformer = graph
        after = measure()[FIGURE]
        model.transformer = own
        change = paired_interval(after, before, options.seed)
        counts |= {"before": _mean(before), "after": _mean(after), "change": change._asdict(), "queries": len(before)}
        say(f"{FIGURE} {counts['before']:.4f} before, {counts['after']:.4f} after")
        if counts["before"] - counts["after"] > options.max_loss:
            raise UserError(
                f"the graph loses {counts['before'] - counts['after']:.4f} {FIGURE} ({counts['before']:.4f} to "
                f"{counts['after']:.4f}, {len(before):,} queries), more than --max_loss {options.max_loss:g}: nothing "
                "is written",
                hint="more --calibration_texts, or without --int8",
            )
    return counts


def _check_near(options: ExportOptions, counts: dict[str, Any]) -> None:
    """Refuse a graph that computes something else than the model, whatever it may do to a ranking.

    Raises:
        UserError: saying how far apart they are.
    """
    # Asked this way round, what is no number is refused, too.
    if not (counts.get("least_cosine", 1.0) >= LEAST_COSINE and counts.get("largest_gap", 0.0) <= LARGEST_GAP):
        apart = counts.get("least_cosine", counts.get("largest_gap"))
        what = "vectors with a cosine of" if "least_cosine" in counts else "scores that differ by"
        raise UserError(
            f"OpenVINO's graph of {options.model_name_or_path} gives {what} {apart:.4f}: nothing is written"
        )


def _beside(model: Any, running: Any, graph: Any, items: Sequence[Any]) -> dict[str, Any]:
    """Compute the same items by torch and by the graph, in turn.

    Args:
        model: in float32; returned is how far the graph is from it.
        running: the model as verbs would run it without a graph; returned is how much faster the graph is.
    """
    own, first = model.transformer, _computed(model, items)
    seconds: dict[str, list[float]] = {"torch": [], "graph": []}
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        _computed(running, items)
        seconds["torch"].append(time.perf_counter() - start)
        model.transformer = graph
        start = time.perf_counter()
        other = _computed(model, items)
        seconds["graph"].append(time.perf_counter() - start)
        model.transformer = own
    if first.ndim == 2:
        import numpy as np

        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(other, axis=1)
        apart = {"least_cosine": float(((first * other).sum(1) / lengths).min())}
    else:
        apart = {"largest_gap": float(abs(first - other).max())}
    rounds = list(zip(seconds["torch"][1:], seconds["graph"][1:]))  # the first one sets up
    return apart | {
        "items_per_second": {name: len(items) / median(each[1:]) for name, each in seconds.items()},
        "times_as_fast": median(torch / graph for torch, graph in rounds),
    }


def _computed(model: Any, items: Sequence[Any]) -> NDArray[np.float32]:
    values: NDArray[np.float32]
    values = model.encode_passages(items) if hasattr(model, "encode") else model.score(items)
    return values


def _items(options: ExportOptions, embeds: bool) -> list[Any]:
    """Return texts, or pairs for a reranker: drawn from --data, or a few sentences of ours."""
    from finerank.core.seeding import stream
    from finerank.data.sources import is_judged, read_judged, read_rows

    wanted = max(options.calibration_texts, TIMED)
    draw = stream(options.seed, "export")
    if not options.data:
        return SHOWN_ITEMS if embeds else [(SHOWN_ITEMS[1], text) for text in SHOWN_ITEMS]
    if is_judged(options.data[0]):
        judged = read_judged(options.data[0], options.split)
        texts, queries = list(judged.passages), list(judged.queries)
    else:
        rows = list(read_rows(options.data))
        texts = list(dict.fromkeys(text for row in rows for text in [*row.positives, *row.negatives]))
        queries = [row.query for row in rows]
    texts = draw.sample(texts, min(wanted, len(texts)))
    return texts if embeds else [(draw.choice(queries), text) for text in texts]


def _batches(model: Any, items: Sequence[Any]) -> list[dict[str, Any]]:
    """Return padded batches of inputs of like length."""
    from finerank.models.engine import batch_on

    tokens = model.tokens(items, "passage") if hasattr(model, "encode") else model.tokens(model.prefixed(items))
    tokens = sorted(tokens, key=lambda item: -len(item.ids))
    starts = range(0, len(tokens), BATCH)
    return [batch_on(tokens[start : start + BATCH], model.device, model.tokenizer) for start in starts]


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / max(len(values), 1)


def _outcome(options: ExportOptions, counts: dict[str, Any]) -> Outcome:
    from finerank.data.console import table

    rates = counts["items_per_second"]
    rows = [[f"items/s in {counts['dtype']}", rates["torch"], rates["graph"], f"{counts['times_as_fast']:.2f} times"]]
    if "least_cosine" in counts:
        rows.append(["least cosine", 1.0, counts["least_cosine"], ""])
    else:
        rows.append(["largest gap of scores", 0.0, counts["largest_gap"], ""])
    if "change" in counts:
        change = counts["change"]
        interval = f"{change['mean']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]"
        rows.insert(0, [FIGURE, counts["before"], counts["after"], interval])
    text = f"{options.output_dir}: verbs compute by its graph on a CPU\n"
    text += table(["", "model", f"{options.format}{' int8' if counts['int8'] else ''}", ""], rows)
    return Outcome(text, {"output_dir": options.output_dir, **counts})
