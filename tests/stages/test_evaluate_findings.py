"""``finerank evaluate``: what stands beside the figures: extremes, slices, calibration, forgetting, costs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finerank.cli import main

ACTIONS = ("find", "sort", "read", "remove", "open", "write", "search", "return")
THINGS = ("file", "list", "text", "word", "fish", "tree", "code")


def folder(place: Path, count: int = 40) -> Path:
    """Passages of two words and their queries: the first half in test, a quarter in dev; two types, two lengths."""
    texts = [f"{action} the {thing}" for action in ACTIONS for thing in THINGS][:count]
    (place / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{number}", "text": text} for number, text in enumerate(texts)]
    queries = [
        {
            "_id": f"q{number}", "text": text if number % 2 else f"{text} in a file by name",
            "metadata": {"type": "odd" if number % 2 else "even"},
        }
        for number, text in enumerate(texts)
    ]  # fmt: skip
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, numbers in (("test", range(30)), ("dev", range(20, count))):
        lines = ["query-id\tcorpus-id\tscore", *(f"q{number}\td{number}\t1" for number in numbers)]
        (place / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return place


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, tiny_reranker: str) -> tuple[dict[str, Any], Path, list[str]]:
    """One evaluation with everything asked for: its result, its file, its words."""
    place = tmp_path_factory.mktemp("findings")
    data, also, out = folder(place / "toy"), folder(place / "second", 56), place / "out.json"
    own = shutil.copytree(tiny_reranker, place / Path(tiny_reranker).name)  # a chosen weight is stored with the model
    words = [
        "evaluate", "-m", str(own), "-d", str(data), "--top_k", "20", "--depths", "5", "20", "--slices",
        "--calibration", "--dev_split", "dev", "--also", str(also), "--fusion", "rrf", "--dtype", "float32",
        "--output_file", str(out), "--report", str(place / "page.html"),
    ]  # fmt: skip
    assert main(words) == 0
    return json.loads(out.read_text()), out, words


def test_extremes_are_the_ends(found: tuple[dict[str, Any], Path, list[str]]) -> None:
    data = found[0]
    for entry in data["extremes"]:
        before, after = (data["per_query"][entry[side]]["nDCG@10"] for side in ("against", "arm"))
        changes = {query: after[query] - before[query] for query in before}
        for side, sign in (("gained", 1), ("lost", -1)):
            shown = [sign * (item["after"] - item["before"]) for item in entry[side]]
            assert all(change > 0 for change in shown)
            assert shown == sorted(shown, reverse=True)
            assert max((sign * change for change in changes.values()), default=0.0) <= max(shown, default=0.0) + 1e-12
        assert all(item["query"].split()[0] in ACTIONS for item in entry["gained"] + entry["lost"])
    assert any(entry["lost"] for entry in data["extremes"])


def test_the_deepest_point_of_a_curve_is_the_arm(found: tuple[dict[str, Any], Path, list[str]]) -> None:
    data = found[0]
    (curve,) = data["depth"]
    arm = next(arm for arm in data["arms"] if arm["name"] == curve["arm"])
    assert [point["depth"] for point in curve["curve"]] == [5, 20]
    assert curve["curve"][-1]["value"] == arm["metrics"]["nDCG@10"]
    assert all(point["value"]["mean"] <= point["ceiling"] <= 1.0 for point in curve["curve"])


def test_slices_add_up(found: tuple[dict[str, Any], Path, list[str]]) -> None:
    data = found[0]
    by_name = {arm["name"]: arm["metrics"]["nDCG@10"]["mean"] for arm in data["arms"]}
    assert {entry["arm"] for entry in data["slices"]} == by_name.keys() - {"bm25"}
    for entry in data["slices"]:
        kinds = {part["kind"] for part in entry["parts"]}
        assert {"length", "type"} <= kinds
        parts = [part for part in entry["parts"] if part["kind"] == "type"]
        assert sorted(part["name"] for part in parts) == ["even", "odd"]
        weighted = sum(part["queries"] * part["value"]["mean"] for part in parts) / 30
        assert weighted == pytest.approx(by_name[entry["arm"]])


def test_a_threshold_is_chosen_on_dev(found: tuple[dict[str, Any], Path, list[str]]) -> None:
    (entry,) = found[0]["calibration"]
    assert sum(part["pairs"] for part in entry["bins"]) == entry["pairs"]
    assert (entry["threshold"]["chosen_on"], entry["threshold"]["queries"]) == ("dev", 10)  # 20 to 29 are judged
    assert "10 development queries" in entry["threshold"]["sentence"]


def test_every_model_is_tried_on_the_second_set(found: tuple[dict[str, Any], Path, list[str]]) -> None:
    data = found[0]
    (also,) = data["also"]
    assert (also["data"], also["split"], also["baseline"]) == ("second", "test", "bm25")
    assert [arm["name"] for arm in also["arms"]] == [arm["name"] for arm in data["arms"]]
    test = next(item for item in also["comparisons"] if item["metric"] == "nDCG@10" and item["against"] == "bm25")
    assert also["verdicts"][0]["difference"] == test["difference"]
    assert {verdict["verdict"] for verdict in also["verdicts"]} <= {"forgets", "gains", "unclear"}


def test_times_stand_under_one_key(
    found: tuple[dict[str, Any], Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, words = found
    assert "times" not in data
    reranker = next(name for name in data["cost"] if name.endswith("over bm25"))
    assert data["cost"]["bm25"]["pairs"] == 0
    assert data["cost"][reranker]["pairs"] == data["depth"][0]["curve"][-1]["pairs"]
    assert main([*words, "--json"]) == 0  # done: the times are its manifest's
    stored = json.loads(capsys.readouterr().out)
    assert stored.pop("times").keys() == data["cost"].keys()
    assert stored == data
    again = [word if word != str(out) else str(tmp_path / "again.json") for word in words]
    again = [word if not word.endswith(".html") else str(tmp_path / "again.html") for word in again]
    assert main([*again, "--record_times"]) == 0
    timed = json.loads((tmp_path / "again.json").read_text())
    assert timed.pop("times")[reranker]["ms_per_query"] > 0
    assert timed == data
    shown = capsys.readouterr().out
    for words_shown in ("depth: ", "type: even", "calibration error", "also second, test", "ms a query", "lost"):
        assert words_shown in shown


def test_rows_are_calibrated_and_sliced(tmp_path: Path, tiny_reranker: str, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(name: str, actions: tuple[str, ...]) -> str:
        lines = [
            {
                "query": f"{action} {thing}",
                "pos": [f"{action} the {thing}"],
                "neg": [f"{thing} of fish"],
                "type": action,
            }
            for action in actions
            for thing in THINGS + ("name", "zero", "red")
        ]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(tmp_path / name)

    words = ["evaluate", "-m", tiny_reranker, "-d", rows("test.jsonl", ACTIONS[:2]), "--calibration", "--slices"]
    dev = rows("dev.jsonl", ACTIONS[1:4])  # the second action's rows are judged, and left out
    assert main([*words, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    (entry,) = data["calibration"]
    assert (entry["pairs"], entry["relevant"], entry["threshold"]["chosen_on"]) == (40, 20, "judged")
    assert "flattering" in entry["threshold"]["sentence"]
    assert {part["name"] for part in data["slices"][0]["parts"]} == {"find", "sort"}
    assert "difference" not in data["slices"][0]["parts"][0]
    assert main([*words, "--dev_data", dev, "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["calibration"]
    assert (entry["threshold"]["chosen_on"], entry["threshold"]["queries"]) == ("dev", 20)
