"""Other tools' records as rows: a record's keys tell its format, and one function makes a row of any of them.

rows          {query, pos: [], neg: []}                                 ours and FlagEmbedding's
pair          {anchor, positive}                                        sentence-transformers' columns
triplet       {anchor, positive, negative}
n-tuple       {anchor, positive, negative_1, …, negative_n}
labeled-pair  {query, passage, label}                                   one line per passage: rows once grouped
labeled-list  {query, docs: [], labels: []}
tevatron      {query_id, query, positive_passages: [{docid, title, text}], negative_passages: [...]}

A record is taken for a foreign one only where its keys leave no doubt; what could be read in two ways is a problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from finerank.core.errors import DataError, Problem
from finerank.core.records import CANDIDATE_KEYS, KEY_ALIASES, Row, is_number, kind, parse_row
from finerank.data.plain_rows import plain_row

GROUPED: frozenset[str] = frozenset({"pair", "triplet", "n-tuple", "labeled-pair"})
"""Formats whose lines hold a part of what is known of a query."""

QUERY_KEYS = KEY_ALIASES["query"]
POSITIVE_KEYS = ("positive", "pos", "answer", "passage", "document", "response")
PASSAGE_KEYS = ("passage", "document", "doc", "answer", "response", "text", "positive")
LIST_KEYS = ("docs", *CANDIDATE_KEYS, "positive", "answer", "passage", "document", "response")
LABEL_KEYS = ("label", "labels")
SCORE_KEYS = ("score", "scores")
ID_LISTS = ("positive_document_ids", "negative_document_ids")
POOL_KEYS = ("text", "contents", "content")
_NEGATIVE = re.compile(r"negative_(\d+)")


def format_of(record: Mapping[str, Any]) -> str:
    """Name the format that a record's keys and the types under them show; "rows" where nothing else is certain."""
    if "pos" in record or not record:
        return "rows"
    if "positive_passages" in record or "positive_document_ids" in record:
        return "tevatron"
    if isinstance(record.get("positive"), str):
        if "negative_1" in record:
            return "n-tuple"
        if "negative" in record:
            return "triplet"
        return "labeled-pair" if "label" in record or "score" in record else "pair"
    judged = _judgement(record)
    if _has(record, ("neg", "negative", "positives")) or ("positive" in record and not isinstance(judged, list)):
        return "rows"
    if isinstance(judged, list) and isinstance(_value(record, LIST_KEYS, list), list):
        return "labeled-list"
    if judged is not None and not isinstance(judged, list) and isinstance(_value(record, PASSAGE_KEYS, str), str):
        return "labeled-pair"
    return "rows"


def named_passages(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ids by which a record of Tevatron names passages that stand elsewhere."""
    for key in ID_LISTS:
        yield from _named(record, key)


def _named(record: Mapping[str, Any], key: str) -> list[str]:
    value = record.get(key)
    return [str(name) for name in value] if isinstance(value, list) else []


def parse_record(
    record: Mapping[str, Any],
    where: str,
    form: str = "auto",
    *,
    min_grade: float = 1,
    texts: Mapping[str, str] | None = None,
) -> tuple[str, Row]:
    """Return the format of a record and what it says as a Row.

    The row of a labeled pair has one passage, on the side that its label says, so it may be without a positive.

    Args:
        form: read it as this format; "auto" goes by the keys.
        min_grade: the least label of a positive.
        texts: of passages that the record names by id only.

    Raises:
        DataError: with every problem of the record, each carrying ``where``.
    """
    plain = plain_row(record) if form in ("auto", "rows") else None
    if plain is not None:
        return "rows", _sound(record, plain[0], plain[1], where)
    found = format_of(record) if form == "auto" else form
    if found == "rows":
        return found, _plain(record, where)
    if found == "labeled-pair":
        return found, _labeled_pair(record, where, min_grade)
    if found == "labeled-list":
        return found, parse_row(_labeled_list(record, where, min_grade), where)
    if found == "tevatron":
        return found, parse_row(_tevatron(record, where, texts), where)
    return found, parse_row(_tuple(record), where)


def _sound(record: Mapping[str, Any], texts: list[str], positives: int, where: str) -> Row:
    """Return the row of a record that was found sound at a glance; the same as ``parse_row``'s."""
    extra = {key: value for key, value in record.items() if key not in ("query", "pos", "neg")}
    return Row(texts[0], tuple(texts[1 : 1 + positives]), tuple(texts[1 + positives :]), where, extra=extra)


def _plain(record: Mapping[str, Any], where: str) -> Row:
    if "pos" not in record and "positive" not in record and "positives" not in record:
        if not _has(record, QUERY_KEYS) and _has(record, POOL_KEYS):
            raise _error(where, "a-pool", f"a passage of a pool, not a row with a query and positives{_keys(record)}")
        if _has(record, QUERY_KEYS) and isinstance(_value(record, CANDIDATE_KEYS, list), list):
            raise _error(
                where, "candidates", f"candidates of a query, which nobody has judged, not a row{_keys(record)}"
            )
    return parse_row(record, where)


def _tuple(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pair, triplet or n-tuple as a line of rows; a null negative is an absent one."""
    positive = _key(record, POSITIVE_KEYS)
    numbered = sorted((key for key in record if _NEGATIVE.fullmatch(key)), key=lambda key: int(key[9:]))
    keys = [key for key in ("negative", "neg") if key in record] + numbered
    listed = [item for key in keys for item in (record[key] if isinstance(record[key], list) else [record[key]])]
    kept = [index for index, item in enumerate(listed) if item is not None]
    line = {key: value for key, value in record.items() if key not in {positive, *keys}}
    if positive is not None:
        line["positive"] = record[positive] if isinstance(record[positive], list) else [record[positive]]
    line["negative"] = [listed[index] for index in kept]
    scores = record.get("scores")
    if isinstance(scores, list) and len(scores) == 1 + len(listed):
        line["pos_scores"], line["neg_scores"] = scores[:1], [scores[1 + index] for index in kept]
        del line["scores"]
    elif positive is not None and not keys and is_number(record.get("score")):
        line["pos_scores"] = [line.pop("score")]
    return _listed_ids(line)


def _listed_ids(line: dict[str, Any]) -> dict[str, Any]:
    for key in ("pos_id", "neg_id"):
        if key in line and isinstance(line[key], (str, int)):
            line[key] = [line[key]]
    return line


def _labeled_pair(record: Mapping[str, Any], where: str, min_grade: float) -> Row:
    passage = _key(record, PASSAGE_KEYS)
    if "label" not in record:
        every = " (or --from pair, if every line is a positive)" if passage == "positive" else ""
        raise _no_label(record, where, every)
    label, score = record["label"], record.get("score")
    if not _is_label(label):
        raise _error(where, "bad-label", f'"label" must be a number, got {kind(label)}')
    line = {key: value for key, value in record.items() if key not in {passage, "label", "score"}}
    if passage is not None:
        line["pos"] = [record[passage]]
    if score is not None:
        line["pos_scores"] = [score]
    row = parse_row(_listed_ids(line), where)
    if label >= min_grade:
        return row
    ids = {"neg_id" if key == "pos_id" else key: value for key, value in row.extra.items()}
    return Row(row.query, (), row.positives, where, None, row.pos_scores, ids)


def _labeled_list(record: Mapping[str, Any], where: str, min_grade: float) -> dict[str, Any]:
    key = _key({name: value for name, value in record.items() if isinstance(value, list)}, LIST_KEYS)
    labels_key = next((name for name in LABEL_KEYS if isinstance(record.get(name), list)), None)
    scores_key = next((name for name in SCORE_KEYS if isinstance(record.get(name), list)), None)
    if key is None:
        raise _error(where, "missing-passages", f'the record has no list of passages such as "docs"{_keys(record)}')
    if labels_key is None:
        raise _no_label(record, where, "")
    texts, labels = record[key], record[labels_key]
    scores = record[scores_key] if scores_key is not None else None
    for name, values in ((labels_key, labels), (scores_key, scores)):
        if values is not None and len(values) != len(texts):
            raise _error(where, f"length-{name}", f'{len(texts)} texts in "{key}" but {len(values)} in "{name}"')
    wrong = [label for label in labels if not _is_label(label)]
    if wrong:
        raise _error(where, "bad-label", f'"{labels_key}" must hold numbers, got {kind(wrong[0])}')
    if labels and max(labels) < min_grade:
        raise _error(where, "missing-pos", f'no label in "{labels_key}" is at least {min_grade:g}: no positive')
    sides = ([], []) if not labels else _sides(labels, min_grade)
    line = {name: value for name, value in record.items() if name not in {key, labels_key, scores_key}}
    for side, indices in zip(("pos", "neg"), sides):
        line[side] = [texts[index] for index in indices]
        if scores is not None:
            line[f"{side}_scores"] = [scores[index] for index in indices]
    return line


def _sides(labels: Sequence[float], min_grade: float) -> tuple[list[int], list[int]]:
    positive = [index for index, label in enumerate(labels) if label >= min_grade]
    return positive, [index for index, label in enumerate(labels) if label < min_grade]


def _tevatron(record: Mapping[str, Any], where: str, known: Mapping[str, str] | None) -> dict[str, Any]:
    used = {"query_id", "query", "query_text", "positive_passages", "negative_passages", *ID_LISTS}
    line = {key: value for key, value in record.items() if key not in used}
    if "positive_passages" not in record:
        record = {**record, **_looked_up(record, where, known)}
    query = _key(record, ("query", "query_text"))
    if query is not None:
        line["query"] = record[query]
    if record.get("query_id") is not None:
        line["id"] = record["query_id"]
    for side, key in (("pos", "positive_passages"), ("neg", "negative_passages")):
        line |= _passages(record.get(key), side, key, where)
    return line


def _looked_up(record: Mapping[str, Any], where: str, known: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the passages that a record names by id, with their texts."""
    if not any(key in record for key in ID_LISTS):
        return {}
    if known is None:
        message = "the passages are named by id, and their texts stand in another data set"
        raise _error(where, "ids-without-texts", message)
    lost = [name for name in named_passages(record) if name not in known]
    if lost:
        raise _error(where, "unknown-id", f'the corpus holds no passage "{lost[0][:80]}"')
    sides = zip(("positive_passages", "negative_passages"), ID_LISTS)
    return {key: [{"docid": name, "text": known[name]} for name in _named(record, ids)] for key, ids in sides}


def _passages(value: Any, side: str, key: str, where: str) -> dict[str, Any]:
    """Return one side's texts (title, a space, text), with ids and scores where all passages have them."""
    if isinstance(value, Mapping) and all(isinstance(column, list) for column in value.values()):
        value = [dict(zip(value, item)) for item in zip(*value.values())]  # a struct of lists, as datasets < 4 gave it
    if value is None and side == "neg":
        return {}
    if not isinstance(value, list):
        raise _error(where, f"bad-{side}", f'"{key}" must be a list of objects, got {kind(value)}')
    texts = []
    for index, item in enumerate(value):
        if not isinstance(item, Mapping) or not isinstance(item.get("text"), str):
            found = kind(item.get("text")) if isinstance(item, Mapping) else kind(item)
            raise _error(where, f"bad-{side}", f'"{key}[{index}]" must be an object with a "text", got {found}')
        title = item.get("title") or ""
        texts.append(f"{title} {item['text']}" if title else item["text"])
    line: dict[str, Any] = {side: texts}
    for name, other in ((f"{side}_id", "docid"), (f"{side}_scores", "score")):
        values = [item.get(other) for item in value]
        if values and None not in values:
            line[name] = values
    return line


def _is_label(value: Any) -> bool:
    return isinstance(value, bool) or is_number(value)


def _judgement(record: Mapping[str, Any]) -> Any:
    key = _key(record, (*LABEL_KEYS, *SCORE_KEYS))
    return None if key is None else record[key]


def _no_label(record: Mapping[str, Any], where: str, otherwise: str) -> DataError:
    return _error(
        where,
        "no-label",
        f"a score does not say which passages are positives: a label must stand beside it{otherwise}{_keys(record)}",
    )


def _value(record: Mapping[str, Any], keys: Iterable[str], wanted: type) -> Any:
    return next((record[key] for key in keys if isinstance(record.get(key), wanted)), None)


def _key(record: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    return next((key for key in keys if key in record), None)


def _has(record: Mapping[str, Any], keys: Iterable[str]) -> bool:
    return _key(record, keys) is not None


def _error(where: str, code: str, message: str) -> DataError:
    return DataError([Problem(where, code, message)])


def _keys(record: Mapping[str, Any]) -> str:
    return f" (its keys: {', '.join(f'{key!r}' for key in list(record)[:8])})".replace("'", '"')
