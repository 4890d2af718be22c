"""Recipes: names filled in, mistakes named before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from finerank.core.errors import UsageError
from finerank.core.recipes import Recipe, chosen, recipe_of, steps_of

CONTENT: dict[str, Any] = {
    "about": "a test",
    "needs": {"rows": "training rows"},
    "values": {"folder": "out", "negatives": 8, "pool": None, "template": "{}{}"},
    "steps": {
        "mined": {
            "mine": {
                "input_file": "{rows}",
                "negative_number": "{negatives}",
                "candidate_pool": "{pool}",
                "query-instruction-format-for-retrieval": "{template}",
            }
        },
        "tuned": {"train embedder": {"train_data": ["{mined}", "extra.jsonl", "{pool}"], "fp16": True}},
    },
}


def recipe(**changes: Any) -> Recipe:
    return recipe_of(CONTENT | changes, "r.yaml")


def test_names_become_values_and_outputs() -> None:
    mined, tuned = steps_of(recipe(), {"rows": "a.jsonl"})
    assert mined.words == (
        "mine", "--input_file=a.jsonl", "--negative_number=8", "--query_instruction_format_for_retrieval={}{}",
        "--output_file=out/mined.jsonl",
    )  # fmt: skip
    assert tuned.words == (
        "train", "embedder", "--train_data", "out/mined.jsonl", "extra.jsonl", "--fp16=True", "--output_dir=out/tuned",
    )  # fmt: skip
    assert (mined.reads, tuned.reads) == (("a.jsonl", "{}{}"), ("out/mined.jsonl", "extra.jsonl"))
    assert (mined.output, tuned.output) == ("out/mined.jsonl", "out/tuned")


def test_what_is_given_wins() -> None:
    given = {"rows": "a", "folder": "there", "pool": "p.jsonl", "mined.negative_number": "3", "tuned.output_dir": "m"}
    mined, tuned = steps_of(recipe(), given)
    assert "--negative_number=3" in mined.words
    assert "--candidate_pool=p.jsonl" in mined.words
    assert mined.output == "there/mined.jsonl"
    assert tuned.words[-1] == "--output_dir=m"


@pytest.mark.parametrize(
    ("changes", "given", "said"),
    [
        ({"steps": {}}, {}, "no steps"),
        ({"stages": {}}, {}, 'unknown key "stages"'),
        ({"steps": {"a": {"mien": {}}}}, {}, 'no verb "mien" in recipes; did you mean "mine"'),
        ({"steps": {"a": {"mine": {}, "score": {}}}}, {}, "must be one verb"),
        ({"steps": {"a": {"mine": ["x"]}}}, {}, "needs options by name"),
        ({"steps": {"rows": {"mine": {}}}}, {}, "of a step and of a value"),
        ({"values": ["x"]}, {}, "values must hold names"),
        ({}, {}, "the recipe needs rows: training rows"),
        ({}, {"rows": "a", "negative": "3"}, 'no value "negative"; did you mean "negatives"'),
        ({}, {"rows": "a", "mind.top": "3"}, 'no step "mind"; did you mean "mined"'),
        ({"steps": {"a": {"mine": {"input_file": "{b}"}}, "b": {"score": {}}}}, {"rows": "a"}, '"b" is made later'),
        ({"steps": {"a": {"mine": {"input_file": "{row}"}}}}, {"rows": "a"}, 'nothing is called "row"; did you mean'),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], given: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        steps_of(recipe(**changes), given)
    assert said in str(caught.value)


def test_a_part_of_the_steps() -> None:
    steps = steps_of(recipe(), {"rows": "a"})
    assert [step.name for step in chosen(steps, None, None)] == ["mined", "tuned"]
    assert [step.name for step in chosen(steps, "tuned", None)] == ["tuned"]
    assert [step.name for step in chosen(steps, None, "mined")] == ["mined"]
    with pytest.raises(UsageError, match='no step "mind"; did you mean'):
        chosen(steps, "mind", None)
    with pytest.raises(UsageError, match="stands behind"):
        chosen(steps, "tuned", "mined")
