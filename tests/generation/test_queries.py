"""Each mode's query says what it was made from; weights draw modes; nothing is drawn from the global state."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from finerank.core.seeding import stream
from finerank.data.documents import open_documents
from finerank.generation.entities import EntityIndex, build_index
from finerank.generation.mentions import shows
from finerank.generation.queries import GAP, MAKERS, defines, queries_for, resolved

from .conftest import number_of
from .corpus import ILLNESSES


def made(index: EntityIndex, mode: str, count: int = 0) -> list:  # type: ignore[type-arg]
    numbers = range(count or len(index.documents))
    return [q for n in numbers for q in queries_for(index, index.documents, n, [mode], stream(1, mode, n))]


def test_templates_ask_what_the_document_tells(ill: EntityIndex) -> None:
    found = made(ill, "template")
    assert len(found) >= 44
    named = sum(any(shows(query.text, illness) for illness in ILLNESSES) for query in found)
    assert named >= 0.9 * len(found)
    treatment = [query for query in found if ill.documents[query.source].id.endswith("treatment")]
    assert sum(query.facet == "treatment" for query in treatment) >= 10
    definition = [query for query in found if ill.documents[query.source].id.endswith("what")]
    assert sum(query.facet == "definition" for query in definition) >= 8


def test_the_documents_own_question_is_cut_out_of_its_positive(ill: EntityIndex) -> None:
    own = [query for query in made(ill, "template") if query.removed]
    assert own
    assert all(query.text == query.removed and query.text in ill.documents[query.source].text for query in own)


def test_titles(lands: EntityIndex, ill: EntityIndex) -> None:
    found = made(lands, "title")
    assert [query.text for query in found[:2]] == ["Torvik", "Una River"]
    assert found[0].removed == lands.documents[0].head
    assert made(ill, "title") == []


def test_keyphrases_are_words_of_the_document(ill: EntityIndex) -> None:
    for query in made(ill, "keyphrase"):
        text = ill.documents[query.source].passage.lower()
        assert all(word in text for word in query.facet.split())


def test_sentences_come_out_of_the_document(ill: EntityIndex) -> None:
    found = made(ill, "ict")
    assert len(found) == len(ill.documents)
    kept = sum(not query.removed for query in found)
    assert 0 < kept < 15  # a tenth
    for query in found:
        assert not query.removed or query.removed in " ".join(ill.documents[query.source].text.split())


def test_gaps(lands: EntityIndex) -> None:
    found = made(lands, "cloze")
    assert found
    for query in found:
        assert query.text.count(GAP) == 1
        assert query.entity is not None
        assert query.text.replace(GAP, query.entity.name).lower() == query.removed.lower()


def test_bridges_ask_for_what_others_tell(lands: EntityIndex) -> None:
    found = made(lands, "bridge")
    assert len(found) >= 15
    for query in found:
        assert query.entity is not None
        assert query.text.startswith(query.entity.name)
        assert any(pivot in query.text for pivot in ("instead of", "beyond", "rather than", "outside of"))
        source = lands.documents[query.source].passage.lower()
        assert not any(word in source.split() for word in query.facet.split())
        assert any(word in source for word in query.avoid.split())


def test_chinese_modes(places: EntityIndex) -> None:
    for mode in ("template", "ict", "keyphrase", "bridge"):
        assert made(places, mode), mode
    assert any("？" in query.text for query in made(places, "template"))


def test_modes_are_drawn_by_weight_and_pass_their_turn_on(ill: EntityIndex) -> None:
    drawn = Counter(
        query.mode
        for n in range(48)
        for query in queries_for(ill, ill.documents, n, {"ict": 9.0, "keyphrase": 1.0, "title": 5.0}, stream(0, n))
    )
    assert drawn["ict"] > drawn["keyphrase"] > 0
    assert sum(drawn.values()) == 48  # there are no titles here
    several = queries_for(ill, ill.documents, 0, ["ict", "keyphrase"], stream(0), most=5)
    assert sorted(query.mode for query in several) == ["ict", "keyphrase"]


def test_auto_is_a_mix_and_explicit_weights_add_to_it() -> None:
    mix = resolved(["auto"], "en")
    assert set(mix) == {"template", "title", "ict", "keyphrase"}
    assert sum(mix.values()) == pytest.approx(1)
    assert resolved({"auto": 1.0, "cloze": 2.0}, "en")["cloze"] == 2
    assert set(resolved(["auto"], "zh")) <= set(MAKERS)


def test_the_global_state_does_not_matter(lands: EntityIndex) -> None:
    number = number_of(lands, "Torvik")
    texts = set()
    for seed in (1, 2, 3):
        random.seed(seed)
        texts.add(queries_for(lands, lands.documents, number, ["auto"], stream(5, "x"))[0].text)
    assert len(texts) == 1


def test_what_defines() -> None:
    assert defines("Brandt disease is a disorder of joints.", "Brandt disease")
    assert not defines("Treatment of Brandt disease is hard.", "treatment of nothing")
    assert defines("青云山是南方的一座山。", "青云山")


def test_a_paper_is_not_asked_what_its_title_is(tmp_path: Path) -> None:
    """A statement is no name: what the paper claims is asked instead, and it is not typed whole into a search box."""
    papers = [
        {"_id": f"p{n}", "title": f"Vesicle {n} transport regulates the growth of axons in adult zebrafish larvae.",
         "text": f"Kinesin-{n} carries vesicles along axons. Loss of Kinesin-{n} shortens axons by half in larvae. "
         f"We conclude that Kinesin-{n} and its cargo limit how far axons of the larvae grow."}
        for n in range(6)
    ]  # fmt: skip
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(paper) + "\n" for paper in papers))
    index = build_index(open_documents(path), "en")
    claims = [f"Kinesin-{n} and its cargo limit how far axons of the larvae grow" for n in range(6)]
    for mode in ("template", "claim"):
        assert [(query.text, query.mode, query.removed) for query in made(index, mode)] == [
            (claim, "claim", f"We conclude that {claim}.") for claim in claims
        ]
    assert [query.text for query in made(index, "title")] == [paper["title"] for paper in papers]
    phrases = made(index, "keyphrase")
    assert phrases
    assert not any("adult zebrafish larvae" in query.text for query in phrases)
