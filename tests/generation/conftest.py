"""Indexes over the made-up corpora, built once."""

from __future__ import annotations

import pytest

from finerank.data.documents import open_documents
from finerank.generation.entities import EntityIndex, build_index

from .corpus import chinese, illnesses, world, write


@pytest.fixture(scope="session")
def ill(tmp_path_factory: pytest.TempPathFactory) -> EntityIndex:
    """Index of illnesses: no titles, one facet a document."""
    return build_index(open_documents(write(tmp_path_factory.mktemp("ill") / "pool.jsonl", illnesses())), "en")


@pytest.fixture(scope="session")
def lands(tmp_path_factory: pytest.TempPathFactory) -> EntityIndex:
    """Index of towns, rivers and painters: titles, names that lead from one to another."""
    return build_index(open_documents(write(tmp_path_factory.mktemp("lands") / "wiki.jsonl", world())), "en")


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> EntityIndex:
    """Index of Chinese places."""
    return build_index(open_documents(write(tmp_path_factory.mktemp("zh") / "pool.jsonl", chinese())), "zh")


def number_of(index: EntityIndex, name: str) -> int:
    """Return a document's number by its id or title."""
    found = index.documents.number_of(name)
    if found is None:
        found = next(number for number, each in enumerate(index.documents) if each.title == name)
    return found
