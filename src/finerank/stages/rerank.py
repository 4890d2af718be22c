"""``finerank rerank``: score the candidate passages of queries, from a file or from the shell.

Scores come in input order, through the sigmoid, as seed 002's script prints them; ``--sort`` orders them. A first
stage's scores in the file can be fused with the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from finerank.core.errors import UsageError, UserError
from finerank.core.fusion_weight import parse_weight
from finerank.core.model_options import ModelOptions
from finerank.core.options import ignored, option, semantic
from finerank.core.outcomes import Outcome
from finerank.core.reranker_options import RerankerModelOptions

if TYPE_CHECKING:
    from finerank.evaluation.fusion_store import Fusion

SHOWN_QUERIES = 20
SHOWN_PASSAGES = 100
WIDTH = 100


@dataclass(kw_only=True)
class RerankOptions(RerankerModelOptions, ModelOptions):
    """Options of ``finerank rerank``."""

    model_name_or_path: str = option(
        help="reranker, or an embedder that scores by its vectors: a local folder or a hub name", metavar="M"
    )
    input_file: str | None = option(
        None, 'candidates: {"query", "passages": […]}, one object, an array or JSONL', metavar="F"
    )
    query: str | None = option(None, "one query from the shell, with --passages instead of --input_file")
    passages: list[str] = option(
        [], "passages of --query: texts, or files (a pool, or one passage per line)", metavar="TEXT|FILE"
    )
    output_file: str | None = option(
        None, "JSONL to write: one line per query with its passages and scores", metavar="OUT", semantic=False
    )
    max_length: int | None = option(
        None, "tokens of query and passage together; what is longer is cut (default: the model's, at most 512)", ge=4
    )
    query_max_len: int | None = option(None, "tokens that a query is cut to first (default: not cut)", ge=3)
    passage_max_len: int | None = option(None, "tokens that a passage is cut to first (default: not cut)", ge=3)
    top_k: int | None = option(None, "keep only the K best passages of each query", ge=1)
    sort: bool = option(False, "best passage first instead of input order")
    normalize: bool = option(True, "put a reranker's scores through a sigmoid; --no-normalize gives logits")
    fusion: Literal["none", "zscore", "rrf"] = option(
        "none", 'join the model with the first stage, whose scores stand in each object as "scores"'
    )
    fusion_weight: str = option(
        "auto",
        "weight of the model against 1 for the first stage; auto: the one stored with the model",
        metavar="W|auto",
    )
    first_stage: str | None = option(
        None, "whose scores those are, as evaluate names it: chooses among several stored weights", metavar="bm25|M"
    )
    batch_size: Any = ignored("batches are formed by tokens, to fit the machine, and do not change the result")
    overwrite: bool = option(False, "replace an output made with other options or inputs", semantic=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.input_file is None) == (self.query is None):
            raise UsageError("rerank needs --input_file or --query, one of them", hint="finerank rerank --help")
        if self.query is not None and not self.passages:
            raise UsageError("--query needs --passages", hint='--passages "first text" "second text"')
        if self.query is None and self.passages:
            raise UsageError("--passages goes with --query", hint='--query "what is asked"')
        parse_weight(self.fusion_weight)
        if self.fusion != "none" and self.query is not None:
            raise UsageError("--fusion needs --input_file with the first stage's scores")
        if self.fusion == "none" and self.first_stage is not None:
            raise UsageError("--first_stage goes with --fusion", hint="--fusion zscore")


class Candidates(NamedTuple):
    """A query, its passages and, for fusion, the first stage's scores."""

    query: str
    passages: list[str]
    first: list[float] | None = None


def run(options: RerankOptions) -> Outcome:
    """Score the candidates; return a table and, with ``--output_file``, write JSON lines."""
    from finerank.data.outputs import Output

    candidates = _read(options)
    fusion = _fusion(options)
    model, is_reranker = _model(options)
    if options.output_file is None:
        return _outcome(_score(options, candidates, fusion, model, is_reranker)[0])
    with Output.open(
        options.output_file,
        command="rerank",
        options=semantic(options),
        inputs=_input_files(options),
        models={options.model_name_or_path: _fingerprint(model, is_reranker), "fusion": repr(fusion)},
        overwrite=options.overwrite,
    ) as output:
        if output.done:
            return _stored(options.output_file)
        results, pairs = _score(options, candidates, fusion, model, is_reranker)
        output.write_whole(_lines(results), {"queries": len(results), "pairs": pairs})
    return _outcome(results)


def _read(options: RerankOptions) -> list[Candidates]:
    from finerank.data.sources import read_candidates

    if options.input_file is None:
        assert options.query is not None
        return [Candidates(options.query, _shell_passages(options.passages))]
    found = [Candidates(query, passages) for query, passages in read_candidates(options.input_file)]
    return _with_scores(options.input_file, found) if options.fusion != "none" else found


def _shell_passages(words: Sequence[str]) -> list[str]:
    """Return the passages of the command line; a word that names a file stands for what is in it."""
    from finerank.data.sources import read_pool

    passages: list[str] = []
    for word in words:
        path = Path(word)
        if not _is_file(word):
            passages.append(word)
        elif path.name.split(".", 1)[-1].startswith(("json", "parquet")):
            passages += read_pool(path)
        else:
            try:
                # Not splitlines: U+2028 and its like stand inside texts.
                lines = path.read_text(encoding="utf-8").split("\n")
            except UnicodeDecodeError:
                raise UserError("passages must be UTF-8 text, one per line, or JSONL", where=str(path)) from None
            passages += [line for line in lines if line.strip()]
    if not any(passage.strip() for passage in passages):
        raise UserError("there is no passage to score", where="--passages")
    return passages


def _input_files(options: RerankOptions) -> list[str]:
    """Return the files whose content decides the scores."""
    if options.input_file is not None:
        return [options.input_file]
    return [word for word in options.passages if _is_file(word)]


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # a passage may be longer than a path can be, or hold what no path can
        return False


def _with_scores(path: str, candidates: Sequence[Candidates]) -> list[Candidates]:
    """Add each object's ``scores``, in the order that ``read_candidates`` gave."""
    from finerank.core.errors import DataError, Problem
    from finerank.core.records import is_number
    from finerank.data.files import iter_records

    problems: list[Problem] = []
    found: list[Candidates] = []
    for (where, record), item in zip(iter_records(path, loose=True), candidates):
        scores = record.get("scores") if isinstance(record, dict) else None
        if not isinstance(scores, list) or len(scores) != len(item.passages) or not all(map(is_number, scores)):
            wanted = f'--fusion needs "scores": {len(item.passages)} finite numbers, one per passage'
            problems.append(Problem(where, "bad-scores", wanted))
            continue
        found.append(item._replace(first=[float(score) for score in scores]))
    if problems:
        raise DataError(problems, hint="--fusion none scores with the model alone")
    return found


def _fusion(options: RerankOptions) -> Fusion | None:
    if options.fusion == "none":
        return None
    from finerank.evaluation.fusion_store import stored_or_given

    weight = parse_weight(options.fusion_weight)
    return stored_or_given(options.model_name_or_path, options.fusion, weight, options.first_stage)


def _score(
    options: RerankOptions,
    candidates: Sequence[Candidates],
    fusion: Fusion | None,
    model: Any,
    is_reranker: bool,
) -> tuple[list[dict[str, Any]], int]:
    """Return one result per query and the number of pairs scored."""
    from finerank.data.console import banner, progress

    pairs = [(item.query, passage) for item in candidates for passage in item.passages]
    facts = {"model": options.model_name_or_path, **model.describe()}
    if fusion is not None:
        facts["fusion"] = _said(fusion)
    banner("rerank", facts | {"queries": len(candidates), "pairs": len(pairs)})
    with progress(len(set(pairs)), "rerank", "pairs") as update:
        flat = _raw_scores(model, is_reranker, pairs, update)
    results, place = [], 0
    for item in candidates:
        scores = flat[place : place + len(item.passages)]
        place += len(item.passages)
        results.append(_result(options, item, scores, fusion, is_reranker))
    return results, len(pairs)


def _said(fusion: Fusion) -> str:
    """Return a fusion in words: its weight, and whose scores it was chosen over."""
    chosen = f"chosen by {fusion.metric} on {fusion.queries:,} queries over {fusion.first_stage}"
    return f"{fusion.fusion}, weight {fusion.weight:g}, {chosen if fusion.metric else 'not chosen on any queries'}"


def _raw_scores(model: Any, is_reranker: bool, pairs: Sequence[tuple[str, str]], update: Any) -> list[float]:
    from finerank.evaluation.ranking import score_pairs, vector_pairs

    if is_reranker:
        return [float(score) for score in score_pairs(model, pairs, update)]
    return [float(score) for score in vector_pairs(model, pairs)]


def _result(
    options: RerankOptions, item: Candidates, scores: list[float], fusion: Fusion | None, is_reranker: bool
) -> dict[str, Any]:
    """Return a query's passages with their scores: input order or best first, cut to the best ``top_k``."""
    from finerank.evaluation.fusion import fuse_scores

    if fusion is not None and item.first is not None:
        scores = fuse_scores(item.first, scores, fusion.fusion, fusion.weight)
    elif options.normalize and is_reranker:
        # from the raw logit in float64: a sigmoid in float32 makes large logits equal
        shown = [sigmoid(score) for score in scores]
        return _listed(options, item, scores, shown)
    return _listed(options, item, scores, scores)


def _listed(options: RerankOptions, item: Candidates, scores: list[float], shown: list[float]) -> dict[str, Any]:
    best = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[: options.top_k]
    order = best if options.sort else sorted(best)
    results = [{"index": index, "score": shown[index], "passage": item.passages[index]} for index in order]
    return {"query": item.query, "scores": [shown[index] for index in order], "results": results}


def sigmoid(logit: float) -> float:
    """Return 1 / (1 + e^-x) without overflow.

    >>> sigmoid(0.0)
    0.5
    """
    import math

    if logit >= 0.0:
        return 1.0 / (1.0 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1.0 + power)


def _model(options: RerankOptions) -> tuple[Any, bool]:
    from finerank.models.families import is_reranker
    from finerank.models.load import load_encoder, load_scorer
    from finerank.models.reranker_arguments import say_unread, scorer_arguments

    name = options.model_name_or_path
    loading: dict[str, Any] = {
        key: getattr(options, key) for key in ("device", "dtype", "cache_dir", "trust_remote_code")
    }
    lengths: dict[str, Any] = {"query_max_len": options.query_max_len, "passage_max_len": options.passage_max_len}
    if is_reranker(name, options.cache_dir):
        asked = scorer_arguments(options, name, options.cache_dir) | {"peft_path": options.reranker_peft_path}
        return load_scorer(name, max_len=options.max_length, **asked, **lengths, **loading), True
    say_unread(options, name)
    lengths["passage_max_len"] = options.passage_max_len or options.max_length
    return load_encoder(name, **lengths, **loading), False


def _fingerprint(model: Any, is_reranker: bool) -> str:
    if is_reranker:
        return str(model.fingerprint())
    return f"{model.fingerprint('passage')}{model.fingerprint('query')} {'cosine' if model.cosine else 'dot'}"


def _outcome(results: list[dict[str, Any]]) -> Outcome:
    return Outcome(_text(results), {"results": results})


def _text(results: Sequence[dict[str, Any]]) -> str:
    """Return a table per query, the first ones only."""
    from finerank.data.console import table

    parts = []
    for result in results[:SHOWN_QUERIES]:
        rows = [
            [str(item["index"] + 1), f"{item['score']:.4f}", _one_line(item["passage"])]
            for item in result["results"][:SHOWN_PASSAGES]
        ]
        hidden = len(result["results"]) - len(rows)
        more = f"\n… and {hidden:,} more passages" if hidden else ""
        parts.append(f"{_one_line(result['query'])}\n{table(['passage', 'score', 'text'], rows)}{more}")
    hidden = len(results) - SHOWN_QUERIES
    return "\n\n".join([*parts, *([f"… and {hidden:,} more queries"] if hidden > 0 else [])])


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def _lines(results: Sequence[dict[str, Any]]) -> bytes:
    import orjson

    return b"".join(orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE) for result in results)


def _stored(path: str) -> Outcome:
    import orjson

    from finerank.data.console import say

    say(f"{path} is done already; --overwrite scores again")
    return _outcome([orjson.loads(line) for line in Path(path).read_bytes().splitlines()])
