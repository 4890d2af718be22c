"""check: lint rows before any GPU time. Unusable rows fail the run; the rest is counted, with places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finerank.core.options import VerbOptions, option
from finerank.core.outcomes import Outcome
from finerank.core.records import Row
from finerank.data import console
from finerank.data.lengths import POSITIVES_CUT, Lengths, load_tokenizer
from finerank.data.lint import Finding, Judgements, Lint, judgements
from finerank.data.sources import is_judged, read_judged, read_rows, scan_rows

SHOWN_PROBLEMS = 50


@dataclass(kw_only=True)
class CheckOptions(VerbOptions):
    """Options of ``finerank check``."""

    files: list[str] = option(help="row files or folders of them", positional=True)
    sub_data_name: list[str] | None = option(None, "read FOLDER/NAME/SPLIT.jsonl of each folder")
    split: str = option("train", "the split that --sub_data_name reads")
    model_name_or_path: str | None = option(None, "model whose tokenizer measures lengths; without it none are shown")
    max_len: int = option(512, "tokens of a query-passage pair, and of each side that has no limit of its own", ge=1)
    query_max_len: int | None = option(None, "tokens of a query, special tokens included; longer ones are cut", ge=1)
    passage_max_len: int | None = option(
        None, "tokens of a passage, special tokens included; longer ones are cut", ge=1
    )
    test_data: list[str] | None = option(
        None, "rows or a judged folder that training must not have seen; shared queries and positives are counted"
    )
    test_split: str = option("test", "the split of a judged --test_data folder")
    train_group_size: int = option(8, "passages per group in training; rows with fewer negatives are counted", ge=2)
    cache_dir: str | None = option(None, "where models of the hub are kept", semantic=False)


def run(options: CheckOptions) -> Outcome:
    """Read every row once and report; exit code 1 if any is unusable."""
    lengths = _lengths(options)
    lint = Lint(options.train_group_size, _test_judgements(options))
    with console.progress(0, "checking", "rows") as update:
        for item in scan_rows(options.files, sub_data_name=options.sub_data_name, split=options.split):
            lint.add(item)
            if lengths is not None and isinstance(item, Row):
                lengths.add(item)
            update(1)
    findings, facts = lint.findings(), lint.facts()
    measured = lengths.facts() if lengths is not None else {}
    text = "\n\n".join(_sections(lint, findings, facts, measured))
    data = {
        **facts,
        "findings": [asdict(finding) for finding in findings],
        "problems": [asdict(problem) for problem in lint.problems],
        "lengths": measured,
    }
    return Outcome(text, data, exit_code=1 if lint.unusable else 0)


def _lengths(options: CheckOptions) -> Lengths | None:
    if options.model_name_or_path is None:
        return None
    passage = options.passage_max_len or options.max_len
    limits = {
        "query": options.query_max_len or options.max_len,
        "positive": passage,
        "negative": passage,
        "pair": options.max_len,
    }
    return Lengths(load_tokenizer(options.model_name_or_path, options.cache_dir), limits)


def _test_judgements(options: CheckOptions) -> Judgements | None:
    if not options.test_data:
        return None
    return judgements(pair for path in options.test_data for pair in _test_pairs(path, options.test_split))


def _test_pairs(path: str, split: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each test query with its relevant passages."""
    if not is_judged(path):
        for row in read_rows([path]):
            yield row.query, list(row.positives)
        return
    judged = read_judged(Path(path), split)
    passages = dict(zip(judged.passage_ids, judged.passages))
    for name, query in zip(judged.query_ids, judged.queries):
        grades = judged.qrels[name]
        yield query, [passages[passage] for passage, grade in grades.items() if grade > 0 and passage in passages]


def _sections(
    lint: Lint, findings: list[Finding], facts: dict[str, Any], measured: dict[str, dict[str, Any]]
) -> Iterator[str]:
    yield _headline(facts)
    if lint.problems:
        yield _bad_lines(lint)
    if findings:
        yield console.table(
            ["", "code", "rows", "what", "first seen at"],
            [
                ["unusable" if each.unusable else "warning", each.code, each.count, _what(each), each.places[0]]
                for each in findings
            ],
        )
    if measured:
        headers = ["tokens", *next(iter(measured.values()))]
        yield console.table(headers, [[side, *_shares(values)] for side, values in measured.items()])
    if measured and measured.get("positive", {}).get("truncated", 0) > POSITIVES_CUT:
        share = measured["positive"]["truncated"]
        yield f"{share:.1%} of the positives are longer than the limit: what makes them relevant may be cut off"


def _headline(facts: dict[str, Any]) -> str:
    text = (
        f"{facts['rows']:,} rows, {facts['unusable']:,} unusable; {facts['distinct_queries']:,} distinct queries, "
        f"{facts['distinct_passages']:,} distinct passages, {facts['negatives_per_row']:g} negatives per row"
    )
    if "teacher_score_scale" not in facts:
        return text
    sides = ", ".join(
        f"{name} {seen['min']:.3g} to {seen['max']:.3g}, mean {seen['mean']:.3g}"
        for name, seen in facts["teacher_scores"].items()
    )
    return (
        f"{text}\nteacher scores in {facts['rows_with_teacher_scores']:,} rows: {facts['teacher_score_scale']}; {sides}"
    )


def _bad_lines(lint: Lint) -> str:
    shown = [str(problem) for problem in lint.problems[:SHOWN_PROBLEMS]]
    hidden = len(lint.problems) - len(shown)
    return "\n".join([*shown, *([f"… and {hidden:,} more (--json lists them)"] if hidden else [])])


def _what(finding: Finding) -> str:
    return "see the lines above" if finding.unusable else finding.message


def _shares(values: dict[str, Any]) -> list[Any]:
    return [f"{value:.1%}" if name == "truncated" else value for name, value in values.items()]
