"""Names and phrases, who mentions whom, what a document is about; English and Chinese."""

from __future__ import annotations

import pytest

from finerank.generation.entities import EntityIndex, bare_title, segment
from finerank.generation.facets import cue_counts, facet_of, outstanding
from finerank.generation.language import language_of, sentences, word_count
from finerank.generation.mentions import ACRONYM, EVENT, NAME, QUOTED, TERM, find, key_of, mentions, shows
from finerank.generation.topics import topic_of

from .conftest import number_of
from .corpus import ILLNESSES, illnesses


def kinds(text: str, language: str = "en") -> dict[str, str]:
    return {mention.name: mention.kind for mention in mentions(text, language)}


def test_mentions_of_each_kind() -> None:
    found = kinds(
        'She joined the University of Torvik and NASA. The 1936 Summer Olympics, "Blue Danube" and chronic kidney '
        "disease came later. Chronic kidney disease again."
    )
    assert found["University of Torvik"] == NAME
    assert found["NASA"] == ACRONYM
    assert found["1936 Summer Olympics"] == EVENT
    assert found["Blue Danube"] == QUOTED
    assert found["chronic kidney disease"] == TERM
    assert "She" not in found


def test_a_capital_where_a_sentence_begins_says_nothing() -> None:
    found = {mention.name: mention.weak for mention in mentions("Granite is hard. They quarry Basalt here.", "en")}
    assert found["Granite"]
    assert not found["Basalt"]


def test_chinese_mentions() -> None:
    found = kinds("《红楼梦》是一部小说。青云山位于南方，青云山的茶叶很有名。", "zh")
    assert found["红楼梦"] == QUOTED
    assert "青云山" in found


@pytest.mark.parametrize(
    ("text", "name", "there"),
    [("The Una River flows.", "una river", True), ("Unabated River", "Una", False), ("Una's bank", "Una", True),
     ("青云山很高", "青云", True), ("C++ is old", "C++", True), ("a.b", "a*b", False)],
)  # fmt: skip
def test_shows(text: str, name: str, there: bool) -> None:
    assert shows(text, name) is there
    assert (find(text, name) is not None) is there


def test_keys_fold_articles_and_case() -> None:
    assert key_of("The Beatles") == key_of("beatles")
    assert bare_title("Mercury (planet)") == "Mercury"
    assert bare_title("2. Install it") == "Install it"
    assert bare_title("1984") == "1984"


def test_language(ill: EntityIndex, places: EntityIndex) -> None:
    assert language_of(ill.documents.passages()) == "en"
    assert language_of(places.documents.passages()) == "zh"


def test_sentences_and_words() -> None:
    assert sentences("One e.g. this. Two! - item\n\nThree") == ["One e.g. this.", "Two! - item", "Three"]
    assert word_count("two words 检索模型检") == 5


def test_documents_with_a_name(lands: EntityIndex) -> None:
    town = lands.documents_with("Torvik")
    assert {lands.documents[number].title for number in town} >= {"Torvik", "Una River"}
    assert town == sorted(town)
    assert lands.often("Torvik") == len(town)
    assert lands.documents_with("Nowhere At All") == []


def test_the_best_entity_leads_elsewhere_and_is_not_the_title(lands: EntityIndex) -> None:
    number = number_of(lands, "Una River")
    entities = lands.of(number)
    assert entities[0].name == "Torvik"
    assert all(key_of(entity.name) != "una river" for entity in entities)
    assert lands.titled("Torvik") == number_of(lands, "Torvik")


def test_a_segment_is_a_window_with_the_name_in_it(lands: EntityIndex) -> None:
    document = lands.documents[number_of(lands, "Una River")]
    part = segment(document, "Torvik")
    assert "Torvik" in part
    assert "Una River" in part  # so that "it" stands for something
    assert 20 <= word_count(part) <= 210


def test_topics_of_untitled_documents(ill: EntityIndex) -> None:
    right = sum(key_of(topic_of(ill, n)) == key_of(ILLNESSES[n // 4]) for n in range(len(ill.documents)))
    assert right >= 44  # of 48


def test_topics_of_titled_ones_are_their_titles(lands: EntityIndex) -> None:
    assert topic_of(lands, number_of(lands, "Una River")) == "Una River"


def test_topics_of_chinese_documents(places: EntityIndex) -> None:
    topics = [topic_of(places, number) for number in range(len(places.documents))]
    assert sum(topic in places.documents[n].text[:12] for n, topic in enumerate(topics) if topic) >= 12


def test_forms_that_the_corpus_uses_are_learned(ill: EntityIndex) -> None:
    assert "How might {x} be treated?" in ill.frames.forms["treatment"]
    assert "What are the signs and symptoms of {x}?" in ill.frames.forms["symptoms"]


def test_facets_stand_out(ill: EntityIndex) -> None:
    found = {
        line["_id"].split("-")[1]: outstanding(line["text"], "en", ill.frames.rates) for line in illnesses()[:4]
    }  # fmt: skip
    assert "symptoms" in found["signs"]
    assert found["treatment"][0] == "treatment"
    assert {"causes", "genes"} & set(found["causes"])
    assert facet_of("How is {x} diagnosed?", "en") == "diagnosis"
    assert facet_of("What is {x}?", "en") == "definition"
    assert cue_counts("青云山位于南方", "zh")["place"] > 0


def test_idf_and_vectors(ill: EntityIndex) -> None:
    assert ill.idf("lorvatin") > ill.idf("specialists")
    vector = ill.vector("lorvatin therapy therapy")
    assert sum(weight * weight for weight in vector.values()) == pytest.approx(1)
