"""check: what it finds, where, and when it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finerank.core.command_line import parse
from finerank.core.errors import UserError
from finerank.core.outcomes import Outcome
from finerank.data.lengths import Histogram
from finerank.stages.check import CheckOptions, run


def write(path: Path, *lines: dict[str, Any] | str) -> str:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return str(path)


def row(query: str, pos: list[str], neg: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {"query": query, "pos": pos, "neg": neg or []} | more


def checked(*files: str, **options: Any) -> Outcome:
    return run(CheckOptions(files=list(files), **{"train_group_size": 2} | options))


def found(outcome: Outcome) -> dict[str, list[str]]:
    """Return code -> lines; that single letters are short passages is left out."""
    codes = {each["code"]: each["places"] for each in outcome.data["findings"] if each["code"] != "short-passage"}
    return {code: [place.rpartition(":")[2] for place in places] for code, places in codes.items()}


def test_clean_rows_pass(tmp_path: Path) -> None:
    positive, other, negative = "the first positive", "another positive", "no answer"
    path = write(tmp_path / "a.jsonl", row("q", [positive], [negative]), row("r", [other], [negative]))
    outcome = checked(path)
    assert outcome.exit_code == 0
    assert outcome.data["findings"] == []
    assert outcome.text == "2 rows, 0 unusable; 2 distinct queries, 3 distinct passages, 1 negatives per row"


def test_bad_lines_fail_with_place_and_code(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row("q", ["p"], ["n"]), "{bad", row("", []), row("r", ["p"], ["n"]))
    outcome = checked(path)
    assert outcome.exit_code == 1
    assert (outcome.data["rows"], outcome.data["unusable"]) == (2, 2)
    assert f"{path}:2: not JSON" in outcome.text
    assert f'{path}:3: "pos" must hold at least 1' in outcome.text
    assert [problem["code"] for problem in outcome.data["problems"]] == ["bad-json", "blank-query", "empty-pos"]
    json.dumps(outcome.data)


def test_many_bad_lines_are_cut_in_the_table_only(tmp_path: Path) -> None:
    outcome = checked(write(tmp_path / "a.jsonl", *["{"] * 70))
    assert "… and 20 more" in outcome.text
    assert len(outcome.data["problems"]) == 70


def test_contradictions_and_repeats(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        row("q1", ["p1"], ["n", "p1"]),
        row("q2", ["p2"], ["n", " P2 "]),
        row("q3", ["p3", "P3"], ["n"]),
        row("q4", ["p4"], ["n", "m"]),
        row("Q4", ["other"], ["p4"]),
        row("q4", ["P4"], ["n"]),
        row("q5", ["p5"]),
        row("q6", ["p6"], ["n"], id="x"),
        row("q7", ["p7"], ["n"], id="x"),
        row("q6", ["p8"], ["n"], id="x"),
    )
    outcome = checked(path)
    assert outcome.exit_code == 0
    assert found(outcome) == {
        "positive-in-negatives": ["1"],
        "positive-in-negatives-folded": ["2"],
        "repeated-passage": ["3"],
        "sibling-positive": ["5"],
        "duplicate-query": ["5", "10"],
        "duplicate-row": ["6"],
        "no-negatives": ["7"],
        "duplicate-id": ["9"],
    }
    assert list(found(outcome))[0] == "positive-in-negatives"


def test_own_positive_is_not_a_sibling(tmp_path: Path) -> None:
    outcome = checked(write(tmp_path / "a.jsonl", row("q", ["a"], ["a"]), row("q", ["a"], ["n"])))
    assert "sibling-positive" not in found(outcome)


def test_siblings_are_found_in_whatever_order_and_file(tmp_path: Path) -> None:
    one = write(tmp_path / "a.jsonl", row("q", ["a"], ["b"]))
    other = write(tmp_path / "b.jsonl", row("q", ["b"], ["n"]))
    outcome = checked(one, other)
    places = {each["code"]: each["places"] for each in outcome.data["findings"]}
    assert places["sibling-positive"] == [f"{one}:1"]
    assert places["duplicate-query"] == [f"{other}:1"]


def test_short_groups_count_distinct_negatives(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row("q", ["p"], ["a", "b"]), row("r", ["p"], ["a", "A", "p"]))
    assert found(checked(path, train_group_size=3))["short-group"] == ["2"]
    assert found(checked(path, train_group_size=4))["short-group"] == ["1", "2"]


@pytest.mark.parametrize(
    ("pos", "neg", "scale"),
    [
        (0.9, 0.1, "0 to 1 (probabilities)"),
        (0.9, -0.2, "-1 to 1 (similarities)"),
        (5.5, -3.0, "logits"),
        (1.0, 1.0, "constant"),
    ],
)
def test_scale_of_teacher_scores(tmp_path: Path, pos: float, neg: float, scale: str) -> None:
    path = write(tmp_path / "a.jsonl", row("q", ["p"], ["n"], pos_scores=[pos], neg_scores=[neg]))
    outcome = checked(path)
    assert outcome.data["teacher_score_scale"] == scale
    assert outcome.data["teacher_scores"]["pos_scores"] == {"min": pos, "mean": pos, "max": pos}
    assert scale in outcome.text


def test_odd_teacher_scores(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        row("q", ["p"], ["n"], pos_scores=[0.2], neg_scores=[0.8]),
        row("r", ["s"], ["n"]),
        row("t", ["u"], ["n"], pos_scores=[0.2]),
    )
    outcome = checked(path)
    assert found(outcome) == {"score-order": ["1"], "mixed-scores": ["2", "3"]}
    assert outcome.data["rows_with_teacher_scores"] == 1


def test_leakage_against_rows_and_judged_sets(tmp_path: Path) -> None:
    train = write(
        tmp_path / "a.jsonl", row("What is x", ["p"], ["n"]), row("r", ["T  Secret"], ["n"]), row("s", ["u"], ["n"])
    )
    test = write(tmp_path / "t.jsonl", row("what IS x", ["t secret"], ["u"]))
    assert found(checked(train, test_data=[test])) == {"leaked-query": ["1"], "leaked-passage": ["2"]}
    write(tmp_path / "j" / "corpus.jsonl", {"_id": "1", "title": "T", "text": "secret"}, {"_id": "2", "text": "u"})
    write(tmp_path / "j" / "queries.jsonl", {"_id": "a", "text": "what is x"})
    write(tmp_path / "j" / "qrels" / "test.tsv", "a\t1\t1", "a\t2\t0", "a\t9\t1")
    judged = str(tmp_path / "j")
    assert found(checked(train, test_data=[judged])) == {"leaked-query": ["1"], "leaked-passage": ["2"]}


def test_lengths(tmp_path: Path, tiny_tokenizer_file: Path) -> None:
    # [CLS] and [SEP] around each text; three special tokens in a pair.
    rows = [row("cat dog", ["cat"] if number else ["cat " * 20], ["dog dog dog", "tree"]) for number in range(10)]
    path = write(tmp_path / "a.jsonl", *rows)
    model = str(tiny_tokenizer_file.parent)
    outcome = checked(path, model_name_or_path=model, max_len=10, query_max_len=3)
    lengths = outcome.data["lengths"]
    assert lengths["query"] == {
        "texts": 10, "p50": 4, "p90": 4, "p95": 4, "p99": 4, "max": 4, "limit": 3, "truncated": 1.0, "unknown": 0.0,
    }  # fmt: skip
    assert lengths["positive"] | {"truncated": 0} == {
        "texts": 10, "p50": 3, "p90": 3, "p95": 22, "p99": 22, "max": 22, "limit": 10, "truncated": 0, "unknown": 0.0,
    }  # fmt: skip
    assert lengths["positive"]["truncated"] == pytest.approx(0.1)
    assert lengths["negative"]["max"] == 5
    assert lengths["pair"]["texts"] == 30
    assert lengths["pair"]["max"] == 25
    assert "10.0% of the positives are longer" in outcome.text
    assert outcome.exit_code == 0
    assert checked(path).data["lengths"] == {}


def test_a_missing_tokenizer(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row("q", ["p"], ["n"]))
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        checked(path, model_name_or_path=str(tmp_path))
    with pytest.raises(UserError, match='model "no/such-model" not found'):
        checked(path, model_name_or_path="no/such-model")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        checked(path, model_name_or_path=str(tmp_path))


def test_percentile_is_the_nearest_rank() -> None:
    found = Histogram([40, 10, 30, 20])
    assert [found.percentile(percent) for percent in (0, 25, 26, 50, 99, 100)] == [10, 10, 20, 20, 40, 40]
    assert Histogram([5, 5, 5]).percentile(99) == 5


def test_the_command_line(tmp_path: Path) -> None:
    options = parse(CheckOptions, ["a", "b", "--train_data", "c", "--test_data", "d"], "check").options
    assert options.files == ["a", "b", "c"]
    assert options.test_data == ["d"]
    assert (options.max_len, options.train_group_size) == (512, 8)


def test_copies_and_near_copies(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        row("what is a cat", ["What is a  cat"], ["no answer"]),
        row("what is a dog", ["an animal"], ["what is a dog"]),
        row("what is a tree", ["It is, of course, a plant."], ["it is of course a plant"]),
    )
    assert found(checked(path)) == {
        "positive-in-negatives-near": ["3"],
        "query-in-positives": ["1"],
        "query-in-negatives": ["2"],
    }


def test_a_positive_of_many_queries(tmp_path: Path) -> None:
    rows = [row(f"question {number}", ["Please see your doctor."], ["no answer"]) for number in range(10)]
    assert found(checked(write(tmp_path / "a.jsonl", *rows[:9]))) == {}
    assert found(checked(write(tmp_path / "b.jsonl", *rows)))["shared-positive"] == ["1", "2", "3", "4", "5"]
    same = [row("question", ["Please see your doctor."], [f"no answer {number}"]) for number in range(12)]
    assert "shared-positive" not in found(checked(write(tmp_path / "c.jsonl", *same)))


def test_ids_of_passages(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        row("q1", ["the first text"], ["the second text"], pos_id=["1"], neg_id=["2"]),
        row("q2", ["The  first text"], ["the third text"], pos_id=["9"], neg_id=["3"]),
        row("q3", ["the fourth text"], ["the fifth text"], pos_id=["2"], neg_id=["5"]),
        row("q4", ["the sixth text"], ["the fifth text"], pos_id=["6", "7"]),
        row("q5", ["the seventh text"], ["the fifth text"], pos_id="7", neg_id=5),
    )
    assert found(checked(path)) == {
        "id-count": ["4"],
        "passage-id-reused": ["3"],
        "passage-with-two-ids": ["2"],
    }


def test_keys_that_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row("q", ["a passage"], ["another"], neg_score=[1], category="x"))
    outcome = checked(path)
    assert found(outcome) == {"odd-key": ["1"]}
    assert outcome.data["odd_keys"] == {"neg_score": 1}
    assert '"neg_score" in 1' in outcome.text


def test_every_code_has_advice(tmp_path: Path) -> None:
    outcome = checked(write(tmp_path / "a.jsonl", row("q", ["a passage"]), "{"))
    assert [(each["code"], bool(each["hint"])) for each in outcome.data["findings"]] == [
        ("truncated", True), ("no-negatives", True),
    ]  # fmt: skip
    assert "finerank mine finds hard ones" in outcome.text


def test_strict_makes_warnings_fail(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row("q", ["a passage"]))
    assert checked(path).exit_code == 0
    assert checked(path, strict=True).exit_code == 1
    clean = write(tmp_path / "b.jsonl", row("q", ["a passage"], ["another one"]))
    assert checked(clean, strict=True).exit_code == 0


def test_unknown_tokens(tmp_path: Path, tiny_tokenizer_file: Path) -> None:
    path = write(tmp_path / "a.jsonl", row("cat", ["猫 dog"], ["dog cat tree as"]), row("dog", ["cat dog"], ["tree a"]))
    outcome = checked(path, model_name_or_path=str(tiny_tokenizer_file.parent))
    assert outcome.data["lengths"]["positive"]["unknown"] == 0.25
    assert outcome.data["lengths"]["negative"]["unknown"] == 0
    assert found(outcome) == {"unknown-tokens": ["1"]}


def test_leaks_are_told_by_test_set(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", row("one query", ["a passage"], ["n"]), row("two", ["b passage"], ["n"]))
    tests = [
        write(tmp_path / "t.jsonl", row("one query", ["x"])),
        write(tmp_path / "u.jsonl", row("One query", ["b passage"])),
    ]
    outcome = checked(train, test_data=tests)
    assert found(outcome) == {"leaked-query": ["1"], "leaked-passage": ["2"]}
    leaks = [{"queries": 1, "passages": 0}, {"queries": 1, "passages": 1}]
    assert outcome.data["leakage"] == dict(zip(tests, leaks))


def test_the_report_file_has_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finerank.data.lint.MAX_PROBLEMS", 20)
    path = write(tmp_path / "a.jsonl", row("q", ["a passage"]), *["{"] * 30)
    report = tmp_path / "report.json"
    outcome = checked(path, output_file=str(report))
    assert (len(outcome.data["problems"]), outcome.data["problems_left_out"]) == (20, 10)
    assert "--output_file has every line" not in outcome.text or "10" in outcome.text
    written = json.loads(report.read_text())
    assert written["lines"] == {"truncated": {path: list(range(2, 32))}, "no-negatives": {path: [1]}}
    again = checked(path, output_file=str(report))
    assert (again.text, again.data, again.exit_code) == (outcome.text, outcome.data, 1)
    assert (tmp_path / "report.json.manifest.json").exists()
    with pytest.raises(UserError, match="differs in"):
        checked(path, output_file=str(report), train_group_size=5)


def test_processes_do_not_change_the_report(
    tmp_path: Path, tiny_tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(f"q{at % 7}", [f"passage {at % 5}"], [f"passage {at % 3}", "Käse"], id=at % 11) for at in range(60)]
    path = write(tmp_path / "a.jsonl", *rows, "{", row("q", []))
    model = str(tiny_tokenizer_file.parent)
    whole = checked(path, model_name_or_path=model, num_proc=1)
    monkeypatch.setattr("finerank.stages.check.BLOCK_BYTES", 400)
    monkeypatch.setattr("finerank.stages.check.processes_for", lambda *_: 2)
    shared = checked(path, model_name_or_path=model, num_proc=2)
    assert shared == whole
    assert len(found(whole)) > 5


def test_labeled_pairs_are_gathered(tmp_path: Path) -> None:
    pairs = [("q", "a good one", 1), ("q", "a bad one", 0), ("r", "only a bad one", 0)]
    lines = [dict(zip(("query", "passage", "label"), pair)) for pair in pairs]
    outcome = checked(write(tmp_path / "a.jsonl", *lines))
    assert (outcome.data["rows"], outcome.data["unusable"]) == (1, 1)
