"""Copies, repeats, near-duplicates, entities too often; and the split that shares nothing."""

from __future__ import annotations

import random

from finerank.generation.filters import ENTITY, NEAR, REPEATED, Keeper, is_copy
from finerank.generation.partition import Keys, Partition, components_of, parted, partition


def test_copies() -> None:
    positive = "It rains.  The Quick brown fox jumps over the dog."
    assert is_copy("the quick brown fox jumps over", positive)
    assert not is_copy("quick brown fox", positive)  # a phrase is a fair query
    assert not is_copy("the quick brown fox jumped over", positive)


def test_repeats_and_near_duplicates() -> None:
    keeper = Keeper(10)
    text = "signs of liver damage after long treatment with lorvatin tablets in adults and children"
    assert keeper.refuses(text, "") == ""
    assert keeper.refuses(text.upper(), "") == REPEATED
    assert keeper.refuses(f"the {text}", "") == NEAR
    assert keeper.refuses(text.replace("signs", "sign"), "") in (NEAR, "")
    assert keeper.refuses("What is Brandt disease?", "") == ""
    assert keeper.refuses("Define Brandt disease", "") == ""  # short ones differ by a word
    assert keeper.refuses("bones of the hand break in falls on ice every winter", "") == ""


def test_an_entity_has_its_share() -> None:
    keeper = Keeper(2)
    found = [keeper.refuses(f"question number {n} about it", "The Una River") for n in range(4)]
    assert found == ["", "", ENTITY, ENTITY]
    assert keeper.refuses("another", "una river") == ENTITY
    assert keeper.refuses("no entity at all", "") == ""


def random_keys(seed: int, rows: int = 200, entities: int = 60, documents: int = 300) -> list[Keys]:
    rng = random.Random(seed)
    return [
        Keys(f"e{rng.randrange(entities)}", *(tuple(rng.sample(range(documents), many)) for many in (2, 3)))
        for _ in range(rows)
    ]  # fmt: skip


def shares(keys: list[Keys], found: Partition) -> bool:
    def sides(places: list[int], barred: frozenset[int]) -> tuple[set[str], set[int]]:
        entities = {keys[place].entity for place in places} - {""}
        documents = {number for place in places for number in keys[place].documents}
        documents |= {number for place in places for number in keys[place].negatives if number not in barred}
        return entities, documents

    (one, ones), (other, others) = (
        sides(found.train, found.barred_from_train),
        sides(found.test, found.barred_from_test),
    )
    return bool(one & other or ones & others)


def test_the_split_shares_no_entity_and_no_document() -> None:
    for seed, entities, documents in ((0, 2000, 4000), (1, 60, 300), (2, 5, 40), (3, 500, 700)):
        keys = random_keys(seed, entities=entities, documents=documents)
        found, _ = parted(keys, 0.1, seed, True)
        assert not shares(keys, found)
        assert len(found.test) <= 20
        assert not set(found.train) & set(found.test)
        assert len(found.train) + len(found.test) + len(found.left_out) <= 200


def test_the_split_reaches_its_share_where_it_can() -> None:
    keys = [Keys(f"e{n // 2}", (n,)) for n in range(100)]
    found = partition(keys, 0.2, seed=1)
    assert len(found.test) == 20
    assert found.components == 50
    assert not found.left_out
    assert partition(keys, 0.0, seed=1).test == []


def test_one_large_component_is_cut() -> None:
    keys = [Keys("hub" if n % 5 else "", (n, n + 1)) for n in range(100)]
    found = partition(keys, 0.1, seed=2)
    assert found.components < 10
    assert not shares(keys, found)
    assert len(found.left_out) <= 15


def test_components() -> None:
    assert components_of([("a", 1), ("b", 2), ("c", 2), ("d",), ("a", "d")]) == [[0, 3, 4], [1, 2]]
    assert components_of([(), ()]) == [[0], [1]]
