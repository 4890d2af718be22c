"""check: lint rows before any GPU time. Unusable rows fail the run; the rest is counted, with places and advice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finerank.core.options import VerbOptions, option, semantic
from finerank.core.outcomes import Outcome
from finerank.core.row_options import split_option, sub_data_name_option
from finerank.data import console
from finerank.data.blocks import blocks_of
from finerank.data.examine import SIDES, Examiner
from finerank.data.findings import Finding
from finerank.data.lengths import POSITIVES_CUT, load_tokenizer
from finerank.data.lint import Judgements, Lint, judgements
from finerank.data.origins import Origin, find_origins, inputs_of
from finerank.data.outputs import Output
from finerank.data.sources import is_judged, read_judged, scan_rows
from finerank.data.workers import Workers, cores, processes_for

BLOCK_BYTES = 2 * 2**20
BLOCK_ROWS = 8192
SHOWN_PROBLEMS = 50


@dataclass(kw_only=True)
class CheckOptions(VerbOptions):
    """Options of ``finerank check``."""

    files: list[str] = option(help="row files, folders of them or data sets of the hub", positional=True)
    sub_data_name: list[str] | None = sub_data_name_option()
    split: str = split_option()
    model_name_or_path: str | None = option(None, "model whose tokenizer measures lengths; without it none are shown")
    max_len: int = option(512, "tokens of a query-passage pair, and of each side that has no limit of its own", ge=1)
    query_max_len: int | None = option(None, "tokens of a query, special tokens included; longer ones are cut", ge=1)
    passage_max_len: int | None = option(
        None, "tokens of a passage, special tokens included; longer ones are cut", ge=1
    )
    test_data: list[str] | None = option(
        None, "rows or judged folders that training must not have seen; shared queries and positives are counted"
    )
    test_split: str = option("test", "the split of a judged --test_data folder")
    train_group_size: int = option(8, "passages per group in training; rows with fewer negatives are counted", ge=2)
    strict: bool = option(False, "warnings end with exit code 1 too")
    output_file: str | None = option(None, "the report as JSON, with every line of every finding", metavar="FILE.json")
    overwrite: bool = option(False, "replace an --output_file that another run made", semantic=False)
    num_proc: int | None = option(
        None, "processes at most; without it as many as there are cores", ge=1, semantic=False
    )
    cache_dir: str | None = option(None, "where models of the hub are kept", semantic=False)


def run(options: CheckOptions) -> Outcome:
    """Read every row once and report; exit code 1 if any is unusable."""
    if options.output_file is None:
        data, _ = _report(options)
        return _outcome(data)
    paths = inputs_of(options.files, sub_data_name=options.sub_data_name, split=options.split)
    with Output.open(
        options.output_file,
        command="check",
        options=semantic(options),
        inputs=[*paths, *(options.test_data or [])],
        overwrite=options.overwrite,
    ) as output:
        if output.done:
            console.say(f"{options.output_file}: already checked with these options and inputs")
            return _outcome(json.loads(output.path.read_bytes()))
        data, lines = _report(options)
        whole = data | {"lines": lines}
        output.write_whole(json.dumps(whole, ensure_ascii=False).encode() + b"\n", {"rows": data["rows"]})
    return _outcome(data)


def _report(options: CheckOptions) -> tuple[dict[str, Any], dict[str, dict[str, list[int]]]]:
    """Return what ``--json`` prints, and code -> file -> lines."""
    origins = find_origins(options.files, sub_data_name=options.sub_data_name, split=options.split)
    lint = Lint({path: _test_judgements(path, options.test_split) for path in options.test_data or []})
    _examine(options, origins, lint)
    findings = lint.findings()
    data = {
        **lint.facts(),
        "findings": [_plain(finding) for finding in findings],
        "problems": [{"where": each.where, "code": each.code, "message": each.message} for each in lint.problems],
        "problems_left_out": max(sum(each.count for each in findings if each.unusable) - len(lint.problems), 0),
        "lengths": _lengths(options, lint),
        "leakage": lint.leaks,
        "odd_keys": dict(lint.keys),
        "exit_code": 1 if lint.unusable or (options.strict and findings) else 0,
    }
    return data, {finding.code: lint.lines(finding) for finding in findings}


def _examine(options: CheckOptions, origins: Sequence[Origin], lint: Lint) -> None:
    name = options.model_name_or_path
    description = load_tokenizer(name, options.cache_dir).to_str() if name is not None else None
    processes = processes_for(origins, options.num_proc or cores(), BLOCK_BYTES)
    blocks = blocks_of(origins, max_bytes=BLOCK_BYTES, max_lines=BLOCK_ROWS, gather=True)
    with (
        Workers(Examiner, (options.train_group_size, description), processes) as workers,
        console.progress(0, "checking", "rows") as update,
    ):
        for seen in workers.map(workers.call, blocks):
            lint.add(seen)
            update(len(seen.queries) + seen.unusable)


def _plain(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in ("code", "message", "hint", "unusable", "count", "places")}


def _lengths(options: CheckOptions, lint: Lint) -> dict[str, dict[str, Any]]:
    """Return side -> count, percentiles, greatest length, limit, shares of texts cut and of unknown tokens."""
    passage = options.passage_max_len or options.max_len
    query = options.query_max_len or options.max_len
    limits = dict(zip(SIDES, (query, passage, passage, options.max_len)))
    facts = {side: lint.lengths[side].facts(limits[side]) for side in SIDES if lint.lengths[side]}
    for side, (tokens, unknown) in lint.tokens.items():
        if side in facts:
            facts[side]["unknown"] = unknown / max(tokens, 1)
    return facts


def _test_judgements(path: str, split: str) -> Judgements:
    return judgements(_test_pairs(path, split))


def _test_pairs(path: str, split: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each test query with its relevant passages; what is no row is for a check of that file."""
    if not is_judged(path):
        for row in scan_rows([path]):
            if isinstance(row, list):
                continue
            yield row.query, list(row.positives)
        return
    judged = read_judged(Path(path), split)
    passages = dict(zip(judged.passage_ids, judged.passages))
    for name, query in zip(judged.query_ids, judged.queries):
        grades = judged.qrels[name]
        yield query, [passages[passage] for passage, grade in grades.items() if grade > 0 and passage in passages]


def _outcome(data: dict[str, Any]) -> Outcome:
    shown = {name: value for name, value in data.items() if name not in ("lines", "exit_code")}
    return Outcome("\n\n".join(_sections(data)), shown, exit_code=data["exit_code"])


def _sections(data: dict[str, Any]) -> Iterator[str]:
    yield _headline(data)
    if data["problems"]:
        yield _bad_lines(data)
    if data["findings"]:
        yield _findings(data["findings"])
    measured = data["lengths"]
    if measured:
        headers = ["tokens", *max(measured.values(), key=len)]
        yield console.table(headers, [[side, *_shares(values, headers[1:])] for side, values in measured.items()])
        share = measured.get("positive", {}).get("truncated", 0)
        if share > POSITIVES_CUT:
            yield f"{share:.1%} of the positives are longer than the limit: what makes them relevant may be cut off"
    if data["leakage"]:
        yield "\n".join(
            f"{name}: {leak['queries']:,} rows with its queries, {leak['passages']:,} with passages relevant in it"
            for name, leak in data["leakage"].items()
        )


def _findings(findings: list[dict[str, Any]]) -> str:
    table = console.table(
        ["", "code", "rows", "what", "first seen at"],
        [
            [
                "unusable" if each["unusable"] else "warning",
                each["code"],
                each["count"],
                "see the lines above" if each["unusable"] else each["message"],
                each["places"][0],
            ]
            for each in findings
        ],
    )
    width = max(len(each["code"]) for each in findings)
    hints = [f"  {each['code']:<{width}}  {each['hint']}" for each in findings]
    return "\n".join([table, "", "what to do", *hints])


def _headline(data: dict[str, Any]) -> str:
    text = (
        f"{data['rows']:,} rows, {data['unusable']:,} unusable; {data['distinct_queries']:,} distinct queries, "
        f"{data['distinct_passages']:,} distinct passages, {data['negatives_per_row']:g} negatives per row"
    )
    if "teacher_score_scale" in data:
        sides = ", ".join(
            f"{name} {seen['min']:.3g} to {seen['max']:.3g}, mean {seen['mean']:.3g}"
            for name, seen in data["teacher_scores"].items()
        )
        scored = f"{data['rows_with_teacher_scores']:,} rows"
        text += f"\nteacher scores in {scored}: {data['teacher_score_scale']}; {sides}"
    if data["odd_keys"]:
        keys = ", ".join(f'"{key}" in {count:,}' for key, count in list(data["odd_keys"].items())[:20])
        text += f"\nkeys that nothing reads, in how many rows: {keys}"
    return text


def _bad_lines(data: dict[str, Any]) -> str:
    problems = data["problems"]
    shown = [f"{each['where']}: {each['message']} [{each['code']}]" for each in problems[:SHOWN_PROBLEMS]]
    hidden, beyond = len(problems) - len(shown), data["problems_left_out"]
    if hidden + beyond:
        where = "--output_file has every line" if beyond else "--json lists them"
        shown.append(f"… and {hidden + beyond:,} more ({where})")
    return "\n".join(shown)


def _shares(values: dict[str, Any], names: Sequence[str]) -> list[Any]:
    shares = ("truncated", "unknown")
    return ["" if name not in values else f"{values[name]:.1%}" if name in shares else values[name] for name in names]
