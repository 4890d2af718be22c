"""Three verdicts: what cannot be told is never a label."""

from __future__ import annotations

from finerank.generation.entities import Entity, EntityIndex
from finerank.generation.oracle import GoldOracle, RuleOracle
from finerank.generation.queries import GeneratedQuery

from .conftest import number_of


def bridge(index: EntityIndex, source: str, name: str) -> GeneratedQuery:
    return GeneratedQuery(f"{name} more", "bridge", Entity(name, "name"), number_of(index, source))


def test_a_document_that_tells_more_of_the_entity_is_positive(lands: EntityIndex) -> None:
    oracle = RuleOracle(lands, lands.documents)
    query = bridge(lands, "Una River", "Torvik")
    assert oracle.judge(query, number_of(lands, "Torvik")) == "positive"
    assert oracle.judge(query, number_of(lands, "Marsund")) == "negative"
    assert oracle.judge(query, query.source) == "unknown"


def test_part_of_a_name_leaves_it_open(lands: EntityIndex) -> None:
    found = RuleOracle(lands, lands.documents).explain(
        bridge(lands, "Torvik", "Velm Academy of Science"), number_of(lands, "Stanhaven")
    )
    assert found.verdict in ("unknown", "negative")
    painter = next(n for n, each in enumerate(lands.documents) if "Velm Academy of Marsund" in each.text)
    whole = RuleOracle(lands, lands.documents).connects(number_of(lands, "Marsund"), "Velm Academy Museum", painter)
    assert (whole.verdict, whole.why) == ("unknown", "entity in part")


def test_answers_are_judged_by_the_source(ill: EntityIndex) -> None:
    oracle = RuleOracle(ill, ill.documents)
    name = "Harlow syndrome"
    source = number_of(ill, "harlow-treatment")
    query = GeneratedQuery(f"How is {name} treated?", "template", Entity(name, "topic"), source, "treatment")
    assert oracle.judge(query, source) == "positive"
    assert oracle.judge(query, number_of(ill, "harlow-what")) == "negative"  # same illness, another facet
    assert oracle.judge(query, number_of(ill, "lunde-treatment")) == "negative"
    other = GeneratedQuery(
        f"What is {name}?", "template", Entity(name, "topic"), number_of(ill, "harlow-what"), "definition"
    )
    assert oracle.judge(other, source) == "unknown"  # may say what it is


def test_words_of_the_query_make_a_candidate_unsure(ill: EntityIndex) -> None:
    oracle = RuleOracle(ill, ill.documents)
    query = GeneratedQuery("Families are advised to keep notes", "ict", None, 0)
    assert oracle.judge(query, 17) == "unknown"  # the sentence stands there too


def test_gold(lands: EntityIndex) -> None:
    oracle = GoldOracle([(3, 7), (7, 9)])
    bridging = GeneratedQuery("q", "bridge", Entity("e", "name"), 7)
    assert [oracle.judge(bridging, number) for number in (3, 9, 5, 7)] == [
        "positive",
        "positive",
        "negative",
        "unknown",
    ]
    assert oracle.judge(GeneratedQuery("q", "bridge", Entity("e", "name"), 1), 3) == "unknown"
    judged = GeneratedQuery("q", "judged", None, 3, relevant=(3, 7))
    assert [oracle.judge(judged, number) for number in (3, 7, 9)] == ["positive", "positive", "negative"]
    assert oracle.judge(GeneratedQuery("q", "ict", None, 3), 9) == "unknown"
