"""Recipes run on tiny models: every step once, again only what has changed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from finerank import cli
from finerank.core.errors import UsageError, UserError
from finerank.core.recipes import Step
from finerank.data import chain
from finerank.stages import run as stage
from finerank.stages.run import RunOptions, run

RECIPES = Path(__file__).parents[2] / "recipes"
WORDS = [
    "cat",
    "code",
    "dog",
    "file",
    "fish",
    "list",
    "name",
    "path",
    "read",
    "search",
    "string",
    "tree",
    "word",
    "blue",
]
SMALL = ["ranks=1-12", "negatives=3"]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run steps in this process; return the verbs of those that were started."""
    started: list[str] = []

    def in_this_process(command: list[str], title: str) -> None:
        assert command[:3] == [sys.executable, "-m", "finerank"]
        started.append(command[3])
        if cli.main(command[3:]) != 0:
            raise UserError("the stage ended", where=title)

    def check_the_new(steps: Sequence[Step]) -> None:
        check([step for step in steps if tuple(step.words) not in checked])
        checked.update(tuple(step.words) for step in steps)

    # A process per step and run would be most of a test's time: each command line is checked once.
    check, checked = stage._check, set[tuple[str, ...]]()
    monkeypatch.setattr(stage, "_check", check_the_new)
    monkeypatch.setattr(chain, "run_command", in_this_process)
    return started


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    """Rows to train on, and a judged folder."""
    judged = tmp_path / "judged"
    (judged / "qrels").mkdir(parents=True)
    passages = [f"find the {one} in the {other}" for one in WORDS[:6] for other in WORDS[6:]]
    corpus = [{"_id": f"d{place}", "title": "", "text": text} for place, text in enumerate(passages)]
    queries = [{"_id": f"q{place}", "text": text.replace("find the", "which")} for place, text in enumerate(passages)]
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (judged / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, places in (("dev", range(12)), ("test", range(12, 24))):
        lines = ["query-id\tcorpus-id\tscore", *(f"q{place}\td{place}\t1" for place in places)]
        (judged / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    rows = [{"query": f"which {text[9:]}", "pos": [text]} for text in passages[24:]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"rows": str(tmp_path / "rows.jsonl"), "judged": str(judged), "folder": str(tmp_path / "out")}


def words(recipe: str, data: dict[str, str], **more: str) -> list[str]:
    return [str(RECIPES / f"{recipe}.yaml"), *(f"{name}={value}" for name, value in {**data, **more}.items()), *SMALL]


def test_an_embedder_then_only_what_changed(data: dict[str, str], begun: list[str], tiny_encoder: str) -> None:
    given = words("domain_embedder", data, model=tiny_encoder, passage_tokens="40")
    plan = run(RunOptions(recipe=given, dry_run=True)).data["plan"]
    assert [(step["step"], step["why"]) for step in plan] == [
        (name, "never run") for name in ("checked", "mined", "tuned_embedder", "results")
    ]
    assert begun == []
    run(RunOptions(recipe=given))
    assert begun == ["check", "mine", "train", "evaluate"]
    results = json.loads((Path(data["folder"]) / "results.json").read_text())
    assert results["baseline"]
    assert (Path(data["folder"]) / "report.html").is_file()

    begun.clear()
    again = run(RunOptions(recipe=given))
    assert begun == []
    assert {step["state"] for step in again.data["steps"]} == {"done before"}

    (Path(data["folder"]) / "mined.jsonl").unlink()
    run(RunOptions(recipe=given))
    assert begun == ["mine"]  # the same bytes come out, so nothing behind it changes

    begun.clear()
    changed = [*given, "tuned_embedder.seed=7"]
    plan = run(RunOptions(recipe=changed, dry_run=True)).data["plan"]
    assert [step["step"] for step in plan if step["why"]] == ["tuned_embedder", "results"]
    run(RunOptions(recipe=changed))
    assert begun == ["train", "evaluate"]

    begun.clear()
    with open(data["rows"], "a", encoding="utf-8") as file:
        file.write(json.dumps({"query": "which fish", "pos": ["find the fish"]}) + "\n")
    run(RunOptions(recipe=changed, until="mined"))
    assert begun == ["check", "mine"]


def test_a_reranker_behind_its_first_stage(
    data: dict[str, str], begun: list[str], tiny_encoder: str, tiny_reranker: str
) -> None:
    given = words("domain_reranker", data, model=tiny_reranker, first_stage=tiny_encoder, pair_tokens="48", depth="5")
    run(RunOptions(recipe=given))
    assert begun == ["check", "mine", "train", "evaluate"]
    arms = json.loads((Path(data["folder"]) / "results.json").read_text())["arms"]
    assert any("zscore" in str(arm) for arm in arms)
    begun.clear()
    run(RunOptions(recipe=given))  # evaluate has left the fusion's weight in the model's folder
    assert begun == []


def test_a_large_rerankers_judgement_in_a_small_one(
    data: dict[str, str], begun: list[str], tiny_encoder: str, tiny_reranker: str
) -> None:
    given = words(
        "distil_reranker", data, model=tiny_encoder, teacher=tiny_reranker, first_stage=tiny_encoder, pair_tokens="48",
        group_size="3", depth="5",
    )  # fmt: skip
    run(RunOptions(recipe=given))
    assert begun == ["mine", "score", "train", "evaluate"]


@pytest.mark.slow
def test_documents_alone(tmp_path: Path, begun: list[str], tiny_encoder: str) -> None:
    documents = tmp_path / "docs"
    documents.mkdir()
    for number, word in enumerate(WORDS * 3):
        other = WORDS[(number * 5 + 3) % len(WORDS)]
        text = f"# Reading the {word} {number}\n\nA {word} of kind {number} is found by its {other}. Open the {other}, "
        text += f"then read each {word} in it from first to last, and write what was found to file {number}.\n"
        (documents / f"{word}{number}.md").write_text(text * 2)
    given = [str(RECIPES / "documents_only.yaml"), f"documents={documents}", f"model={tiny_encoder}", "queries=30",
             "ranks=1-12", "negatives=2", "passage_tokens=40", f"folder={tmp_path / 'out'}"]  # fmt: skip
    plan = run(RunOptions(recipe=given, dry_run=True)).data["plan"]
    assert [step["why"] for step in plan] == ["never run"] * 4
    run(RunOptions(recipe=given))
    assert begun == ["generate", "mine", "train", "evaluate"]
    plan = run(RunOptions(recipe=[*given, "generated.seed=3"], dry_run=True)).data["plan"]
    assert "will change" in plan[1]["why"]
    pool = tmp_path / "pool.jsonl"
    pages = [{"id": path.name, "contents": path.read_text()} for path in sorted(documents.iterdir())]
    pool.write_text("".join(json.dumps(page) + "\n" for page in pages))
    begun.clear()
    given = [str(RECIPES / "documents_only_reranker.yaml"), f"documents={pool}", f"model={tiny_encoder}",
             f"first_stage={tiny_encoder}", "queries=30", "ranks=1-12", "negatives=2", "group_size=2", "pair_tokens=40",
             "generated.min_length=100", f"folder={tmp_path / 'out_of_a_pool'}"]  # fmt: skip
    run(RunOptions(recipe=given))
    assert begun == ["generate", "mine", "train", "evaluate"]
    assert (tmp_path / "out_of_a_pool" / "report.html").is_file()


def test_an_interrupted_step_goes_on(data: dict[str, str], begun: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Path(data["folder"]).parent / "r.yaml"
    recipe.write_text(
        f"values: {{folder: {data['folder']}}}\nsteps: {{checked: {{check: {{files: ['{data['rows']}']}}}}}}\n"
    )

    def killed(command: list[str], title: str) -> None:
        raise KeyboardInterrupt

    whole = chain.run_command
    monkeypatch.setattr(chain, "run_command", killed)
    with pytest.raises(KeyboardInterrupt):
        run(RunOptions(recipe=[str(recipe)]))
    monkeypatch.setattr(chain, "run_command", whole)
    assert run(RunOptions(recipe=[str(recipe)], dry_run=True)).data["plan"][0]["why"] == "not finished"
    run(RunOptions(recipe=[str(recipe)]))
    (Path(data["folder"]) / "checked.json").write_text("{}")
    plan = run(RunOptions(recipe=[str(recipe)], dry_run=True)).data["plan"]
    assert "was changed by hand" in plan[0]["why"]
    assert begun == ["check"]
    with pytest.raises(UserError):  # another's bytes are not overwritten
        run(RunOptions(recipe=[str(recipe)]))


def test_mistakes_in_any_step_are_named_before_the_first_runs(data: dict[str, str], begun: list[str]) -> None:
    recipe = Path(data["folder"]).parent / "r.yaml"
    recipe.write_text(
        f"steps:\n  checked: {{check: {{files: ['{data['rows']}'], max_length: 3}}}}\n"
        f"  mined: {{mine: {{model_name_or_path: m, input_file: '{data['rows']}', negative_number: many}}}}\n"
    )
    with pytest.raises(UsageError) as caught:
        run(RunOptions(recipe=[str(recipe)]))
    assert "step checked" in str(caught.value)
    assert "step mined: --negative_number must be a whole number" in str(caught.value)
    assert begun == []
    with pytest.raises(UsageError, match="tuned_embedder reads .*mined.jsonl, not made yet by step mined"):
        run(RunOptions(recipe=words("domain_embedder", data, model="m"), start="tuned_embedder", dry_run=True))
    with pytest.raises(UsageError) as caught:
        run(RunOptions(recipe=words("domain_embedder", data, model="m", nosuch="1")))
    assert str(caught.value.hint).count("folder") == 1
    for bad in ([], ["a.yaml", "b.yaml"], [str(recipe.parent / "missing.yaml")]):
        with pytest.raises(UsageError):
            run(RunOptions(recipe=bad))
