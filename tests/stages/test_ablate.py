"""``finerank ablate`` from documents: six retrievers on the same queries, the original's keys, its defects mended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finerank.cli import main

from ..llm_server import chat

CITIES = ["Aldenport", "Brackwater", "Corvane", "Dunmarrow", "Eastvale", "Fenwick Bay", "Garrowmere", "Hollin Ridge"]
PEOPLE = ["Ada Marsh", "Boris Quill", "Clara Voss", "Dorian Pike", "Elsa Thorne", "Felix Grange"]
CRAFTS = ["lighthouse", "observatory", "printing press", "cathedral organ", "tidal mill", "glass works"]
TYPES = ["standard", "standard_zs", "standard_ft", "diverse", "diverse_zs", "diverse_ft"]


def documents() -> list[dict[str, str]]:
    """Towns and people that mention one another, each with facts of its own."""
    found = []
    for place, city in enumerate(CITIES):
        person, craft = PEOPLE[place % len(PEOPLE)], CRAFTS[place % len(CRAFTS)]
        neighbour = CITIES[(place + 3) % len(CITIES)]
        text = (
            f"The town of {city} lies on the coast, a day by boat from {neighbour}. Its {craft} was planned by "
            f"{person} and opened in {1820 + place}. Merchants traded amber, wool and copper in the {craft} quarter. "
            f"Every autumn a regatta is sailed between {city} and {neighbour}, and the winners ring the harbour bell."
        )
        found.append({"id": f"c{place}", "contents": f"{city}\n{text}"})
    for place, person in enumerate(PEOPLE):
        craft, home = CRAFTS[(place + 2) % len(CRAFTS)], CITIES[(place + 5) % len(CITIES)]
        text = (
            f"{person} was an engineer born in {home}, trained at the naval academy and known for his optics. "
            f"After quarrels with the guild, {person} moved abroad and drew the plans of a {craft}. Letters to the "
            f"brothers of {PEOPLE[(place + 1) % len(PEOPLE)]} survive in the library of {home} and speak of debts."
        )
        found.append({"id": f"p{place}", "contents": f"{person}\n{text}"})
    for place in range(30):
        words = " ".join(f"{CRAFTS[(place + step) % 6]} keeper {place * 7 + step}" for step in range(8))
        found.append({"id": f"n{place}", "contents": f"Ledger {place}\nAccounts of the year: {words}."})
    return found


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in documents()))
    return path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ablated(corpus: Path, *words: str, out: str = "out.json") -> dict[str, Any]:
    asked = ["ablate", "--corpus", str(corpus), "--num", "12", "--candidates", "4", "--output_file", out]
    assert main([*asked, "--dtype", "float32", "--device", "cpu", *words]) == 0
    found: dict[str, Any] = json.loads(Path(out).read_text())
    return found


def rerankers(model: str) -> tuple[str, ...]:
    return "--reranker_path", model, "--finetuned_path", model


def lists(data: dict[str, Any], kind: str) -> list[list[str]]:
    return [trial["lists"][kind]["documents"] for trial in data["trials"]]


def test_all_six_with_the_originals_keys(corpus: Path, tiny_reranker: str, tiny_encoder: str) -> None:
    data = ablated(corpus, *rerankers(tiny_reranker), "--embedder", tiny_encoder)
    settings = ("config_path", "num_examples", "min_length", "max_doc_candidates", "doc_ids_file")
    assert [data[key] for key in settings] == [None, 12, 300, 4, None]
    assert list(data["results"]) == TYPES
    for kind, found in data["results"].items():
        ranks = [len(trial["lists"][kind]["verdicts"]) for trial in data["trials"]
                 if trial["lists"][kind]["verdicts"][-1:] == ["positive"]]  # fmt: skip
        assert found["retriever_type"] == kind
        assert found["total_attempts"] == 12 == len(data["trials"])
        assert found["successful_examples"] == len(ranks) == 12 - found["failed_attempts"]
        assert found["success_rate"] == len(ranks) / 12 == found["success@4"]
        assert found["avg_attempts_per_success"] == (sum(ranks) / len(ranks) if ranks else 0)
        assert found["first_success_mrr"] == pytest.approx(sum(1 / rank for rank in ranks) / 12)
        assert "execution_time" in found
        arm = next(arm for arm in data["arms"] if arm["name"] == kind)
        assert arm["metrics"]["Success@4"]["mean"] == pytest.approx(found["success_rate"])
        assert arm["metrics"]["MRR@4"]["mean"] == pytest.approx(found["first_success_mrr"])
        assert arm["metrics"]["cosine within the list"]["mean"] == pytest.approx(found["intra_list_cosine"])
    assert data["summary_table"]["success_rates"] == [data["results"][kind]["success_rate"] for kind in TYPES]
    assert {"mcnemar_p", "mcnemar_p_holm", "only_this", "only_standard"} == set(
        data["results"]["diverse"]["against_standard"]
    )
    page = Path("out.html").read_text()
    assert "<svg" in page
    assert "diverse_ft" in page


def test_the_queries_are_answered_at_all(corpus: Path) -> None:
    data = ablated(corpus, "--single", "standard")
    assert data["retriever_type"] == "standard"
    assert data["successful_examples"] >= 2  # the rules would rather not know than be wrong
    assert "results" not in data
    assert "trials" in data


def test_only_the_first_lambda_is_the_standard_order(corpus: Path, tiny_encoder: str, tiny_reranker: str) -> None:
    for more in ((), ("--embedder", tiny_encoder)):
        data = ablated(
            corpus,
            *rerankers(tiny_reranker),
            "--lambda1",
            "1",
            "--lambda2",
            "0",
            "--lambda3",
            "0",
            "--overwrite",
            *more,
        )
        assert lists(data, "diverse") == lists(data, "standard")
        assert lists(data, "diverse_zs") == lists(data, "standard_zs")


def test_a_pool_factor_of_one_cannot_change_the_success_rate(corpus: Path, tiny_reranker: str) -> None:
    """The original's first defect: its rerankers only re-order the list."""
    data = ablated(corpus, *rerankers(tiny_reranker), "--rerank_pool_factor", "1")
    results = data["results"]
    for base in ("standard", "diverse"):
        for name in ("zs", "ft"):
            assert results[f"{base}_{name}"]["success_rate"] == results[base]["success_rate"]
            for plain, reranked in zip(lists(data, base), lists(data, f"{base}_{name}")):
                assert set(plain) == set(reranked)
    wider = ablated(corpus, *rerankers(tiny_reranker), out="wider.json")
    assert any(
        set(plain) != set(reranked) for plain, reranked in zip(lists(wider, "diverse"), lists(wider, "diverse_zs"))
    )


def test_a_reranker_that_cannot_tell_keeps_the_order(
    corpus: Path, tiny_reranker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from finerank.models.cross_encoder import CrossEncoder

    monkeypatch.setattr(CrossEncoder, "score", lambda self, pairs, progress=None: np.zeros(len(pairs), np.float32))
    data = ablated(corpus, *rerankers(tiny_reranker), "--rerank_pool_factor", "1")
    assert lists(data, "diverse_zs") == lists(data, "diverse")
    wider = ablated(corpus, *rerankers(tiny_reranker), out="wider.json")
    twelve = ablated(corpus, "--candidates", "12", "--single", "diverse", out="twelve.json")
    assert lists(wider, "diverse_zs") == [found[:4] for found in lists(twelve, "diverse")]


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_sources(corpus: Path, tiny_reranker: str) -> None:
    first = ablated(corpus, *rerankers(tiny_reranker))
    ablated(corpus, *rerankers(tiny_reranker), out="again.json")
    assert Path("out.json").read_bytes() == Path("again.json").read_bytes()
    assert Path("out.html").read_bytes() == Path("again.html").read_bytes()
    other = ablated(corpus, "--seed", "7", "--single", "standard", out="other.json")
    assert [trial["source"] for trial in other["trials"]] != [trial["source"] for trial in first["trials"]]


def test_all_types_have_the_same_sources_and_alone_the_same_lists(corpus: Path, tiny_reranker: str) -> None:
    together = ablated(corpus, *rerankers(tiny_reranker))
    for kind in ("standard", "diverse", "diverse_ft"):
        alone = ablated(corpus, *rerankers(tiny_reranker), "--single", kind, out=f"{kind}.json")
        assert lists(alone, kind) == lists(together, kind)
        for key in ("success_rate", "avg_attempts_per_success", "first_success_mrr", "intra_list_cosine"):
            assert alone[key] == together["results"][kind][key]


def test_each_verdict_and_each_score_is_computed_once(
    corpus: Path, tiny_reranker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finerank.generation.oracle import RuleOracle
    from finerank.models.cross_encoder import CrossEncoder

    judged: list[tuple[int, int]] = []
    scored: list[tuple[str, str]] = []
    judge, score = RuleOracle.judge_all, CrossEncoder.score

    def judge_all(self: Any, pairs: Any) -> Any:
        judged.extend((query.source, candidate) for query, candidate in pairs)
        return judge(self, pairs)

    def scores(self: Any, pairs: Any, progress: Any = None) -> Any:
        scored.extend(pairs)
        return score(self, pairs, progress)

    monkeypatch.setattr(RuleOracle, "judge_all", judge_all)
    monkeypatch.setattr(CrossEncoder, "score", scores)
    data = ablated(corpus, "--reranker_path", tiny_reranker)
    assert len(judged) == len(set(judged))
    assert len(scored) == len(set(scored))
    needed = {
        (trial["source"], name)
        for trial in data["trials"]
        for found in trial["lists"].values()
        for name in found["documents"][: len(found["verdicts"])]
    }
    assert len(judged) == len(needed)


def test_a_default_reranker_that_is_not_there_is_skipped_aloud(
    corpus: Path, tiny_reranker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ablated(corpus, "--reranker_path", tiny_reranker)
    assert "output_new" in data["results"]["diverse_ft"]["skipped"]
    assert "success_rate" not in data["results"]["diverse_ft"]
    assert "success_rate" in data["results"]["diverse_zs"]
    assert len(data["summary_table"]["retrievers"]) == 4
    assert "diverse_ft skipped" in capsys.readouterr().err
    assert any("diverse_ft was skipped" in note for note in data["notes"])


@pytest.mark.parametrize(
    ("more", "says"), [(("--finetuned_path", "./nowhere"), "nowhere"), (("--single", "diverse_ft"), "output_new")]
)
def test_a_reranker_that_was_asked_for_must_be_there(
    corpus: Path, tiny_reranker: str, more: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ablate", "--corpus", str(corpus), "--reranker_path", tiny_reranker, *more, "--output_file", "out.json"]
    assert main(words) == 1
    assert says in capsys.readouterr().err
    assert not Path("out.json").exists()


def test_listed_documents_come_first(corpus: Path) -> None:
    Path("ids.txt").write_text("p3\n\nc2\np3\nc5\n")
    data = ablated(corpus, "--single", "standard", "--doc_ids", "ids.txt", "--num", "6")
    assert [trial["source"] for trial in data["trials"]][:3] == ["p3", "c2", "c5"]


def test_unknown_ids_are_named_with_their_lines(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ids.txt").write_text("p3\nnobody\n")
    words = ["ablate", "--corpus", str(corpus), "--single", "standard", "--doc_ids_file", "ids.txt"]
    assert main(words) == 1
    assert 'ids.txt:2: no document has the id "nobody"' in capsys.readouterr().err


def test_fewer_queries_than_wanted_end_with_what_there_is(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ablated(corpus, "--single", "standard", "--num", "500")
    assert 0 < data["total_attempts"] < 50
    assert "instead of 500" in capsys.readouterr().err


def test_no_query_at_all_is_an_error(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "--corpus", str(corpus), "--min_length", "100000"]) == 1
    assert "--min_length" in capsys.readouterr().err


def test_a_done_run_is_shown_again_and_other_options_are_refused(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ablated(corpus, "--single", "diverse")
    first = capsys.readouterr().out
    ablated(corpus, "--single", "diverse")
    assert capsys.readouterr().out == first
    words = ["ablate", "--corpus", str(corpus), "--num", "12", "--candidates", "4", "--output_file", "out.json"]
    assert main([*words, "--dtype", "float32", "--device", "cpu", "--single", "diverse", "--lambda3", "0.5"]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_a_lost_page_is_made_again_from_the_result(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finerank.stages import ablate

    ablated(corpus, "--single", "diverse")
    page = Path("out.html").read_bytes()
    for name in ("out.html", "out.html.manifest.json"):
        Path(name).unlink()
    monkeypatch.setattr(ablate, "_shard", None)
    ablated(corpus, "--single", "diverse")
    assert Path("out.html").read_bytes() == page


def test_a_run_that_died_goes_on_where_it_was(
    corpus: Path, tiny_reranker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finerank.stages import ablate

    shard, calls = ablate._shard, []

    def dies(*words: Any) -> Any:
        calls.append(words)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return shard(*words)

    monkeypatch.setattr(ablate, "SHARD_TRIALS", 4)
    whole = ablated(corpus, *rerankers(tiny_reranker), out="whole.json")
    monkeypatch.setattr(ablate, "_shard", dies)
    words = ["ablate", "--corpus", str(corpus), "--num", "12", "--candidates", "4", "--output_file", "out.json"]
    assert main([*words, "--dtype", "float32", "--device", "cpu", *rerankers(tiny_reranker)]) == 130
    assert ablated(corpus, *rerankers(tiny_reranker)) == whole
    assert len(calls) == 4


def test_times_are_in_the_manifest_and_in_the_result_where_asked_for(corpus: Path) -> None:
    data = ablated(corpus, "--single", "diverse")
    assert data["execution_time"] is None
    manifest = json.loads(Path("out.json.manifest.json").read_text())
    assert manifest["seconds"]["diverse"] > 0 or "diverse" in json.dumps(manifest)
    data = ablated(corpus, "--single", "diverse", "--record_times", out="times.json")
    assert data["execution_time"] > 0


def test_gold_verdicts_are_the_corpus_own(tmp_path: Path) -> None:
    folder = tmp_path / "gold"
    (folder / "qrels").mkdir(parents=True)
    lines = []
    for document in documents():
        title, text = document["contents"].split("\n")
        lines.append({"_id": document["id"], "title": title, "text": text})
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{n}", "text": f"question {n}"}) + "\n" for n in range(8))
    )
    pairs = [f"q{n}\tc{n}\t1\nq{n}\tp{n % 6}\t1" for n in range(8)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *pairs]) + "\n")
    data = ablated(folder, "--single", "standard", "--oracle", "gold", "--candidates", "10")
    assert data["verdicts"]["positive"] > 0
    for trial in data["trials"]:
        found = trial["lists"]["standard"]
        for name, verdict in zip(found["documents"], found["verdicts"]):
            partner = {trial["source"][0], name[0]} == {"c", "p"}
            if verdict == "positive":
                assert partner


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--depth", "10"), "--dataset"),
        (("--diverse", "none"), "--dataset"),
        (("--lambda1", "0", "--lambda2", "0", "--lambda3", "0"), "all 0"),
        (("--single", "diverze"), "did you mean"),
        (("--dataset", "x"), "one of them"),
    ],
)
def test_what_cannot_be_is_refused(
    corpus: Path, words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ablate", "--corpus", str(corpus), *words]) == 2
    assert says in capsys.readouterr().err


def test_a_language_models_verdicts(
    corpus: Path, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the model says decides; a call that fails or an answer that cannot be read is no success and is told."""
    monkeypatch.setenv("FINERANK_CACHE", str(tmp_path / "cache"))

    def answer(prompt: str, before: int) -> Any:
        if before % 6 == 5:
            return 500, b"", {}
        words = "who knows" if before % 6 == 3 else json.dumps({"verdict": "yes" if "engineer" in prompt else "no"})
        return chat(words)

    server = serve(answer)
    asked = ("--oracle", "llm", "--llm_base_url", server.url, "--llm_model", "tiny", "--query_mode", "title",
             "--llm_retries", "0", "--llm_concurrency", "1", "--single", "standard")  # fmt: skip
    data = ablated(corpus, *asked)
    found = [trial["lists"]["standard"] for trial in data["trials"]]
    said = [pair for each in found for pair in zip(each["documents"], each["verdicts"])]
    assert {name[0] for name, verdict in said if verdict == "positive"} == {"p"}  # the engineers
    failed = data["verdict_failures"]
    assert failed["llm_call_failed"] > 0
    assert failed["llm_answer_unreadable"] > 0
    assert "count as no success" in capsys.readouterr().err
    calls = len(server.calls)
    again = ablated(corpus, *asked, "--max_llm_calls", "3", out="few.json")
    assert again["verdict_failures"]["llm_budget"] > 0
    assert len(server.calls) <= calls + 1
    assert main(["ablate", "--corpus", str(corpus), "--oracle", "llm"]) == 2
    assert "--llm_model" in capsys.readouterr().err
