"""From functions to a search data set: train, dev and test by module, as a BEIR folder and as rows.

All passages of all splits form one corpus, so a held-out query competes against everything. A module's functions
stay together: what is judged comes from modules that training never saw, not even as negatives.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finerank.core.errors import UserError
from finerank.data.functions import Function, Harvest

SPLITS = ("train", "dev", "test")
TEST_SHARE = 0.22
DEV_SHARE = 0.08
LARGEST_MODULE = 0.2
"""A module with more than this share of a held-out split's queries goes to train: none may decide a figure alone."""
MIN_QUERIES = 30
MIN_MODULES = 3


@dataclass(frozen=True)
class FunctionSearch:
    """A data set for finding functions by what they do.

    Attributes:
        corpus: every function; its passage is what is searched.
        queries: split -> functions whose query is asked in that split.
    """

    corpus: list[Function]
    queries: dict[str, list[Function]]

    def counts(self) -> dict[str, int]:
        """Return the numbers of passages, of queries and of modules asked about per split."""
        modules = {split: len({item.module for item in items}) for split, items in self.queries.items()}
        return (
            {"passages": len(self.corpus)}
            | {f"{split}_queries": len(items) for split, items in self.queries.items()}
            | {f"{split}_modules": modules[split] for split in SPLITS}
        )


def build(harvest: Harvest, *, max_functions: int | None = None) -> FunctionSearch:
    """Split the harvest by module; with ``max_functions``, of a fixed sample of that many functions.

    Raises:
        UserError: if there is too little to train on and to judge by.
    """
    corpus = sample(harvest.functions, max_functions)
    asked = [function for function in corpus if function.id in harvest.askable]
    sizes = Counter(function.module for function in asked)
    if len(asked) < MIN_QUERIES or len(sizes) < MIN_MODULES:
        raise UserError(
            f"{len(asked)} documented functions in {len(sizes)} modules are too few: at least {MIN_QUERIES} functions "
            f"in {MIN_MODULES} modules are needed",
            where="--package",
            hint="name several packages, or a larger one, or leave --package out to read the standard library",
        )
    split_of = split_modules(sizes)
    return FunctionSearch(
        corpus, {split: [item for item in asked if split_of[item.module] == split] for split in SPLITS}
    )


def sample(functions: list[Function], size: int | None) -> list[Function]:
    """Return ``size`` of the functions in their order, chosen by the hash of their ids."""
    if size is None or size >= len(functions):
        return functions
    chosen = {function.id for function in sorted(functions, key=lambda item: rank(item.id))[:size]}
    return [function for function in functions if function.id in chosen]


def split_modules(sizes: Mapping[str, int]) -> dict[str, str]:
    """Assign each module (name -> number of queries) to train, dev or test.

    Modules are walked in the order of their names' hashes; one goes to test while test has room for all of it, then
    to dev likewise, else to train. So the shares are met, and nearly the same modules are held out whatever the
    version of the package.
    """
    total = sum(sizes.values())
    room = {"test": round(total * TEST_SHARE), "dev": round(total * DEV_SHARE)}
    limit = {split: max(1, int(size * LARGEST_MODULE)) for split, size in room.items()}
    walk = sorted(sizes, key=rank)
    chosen: dict[str, str] = {}
    for module in walk:
        for split in ("test", "dev"):
            if sizes[module] <= min(limit[split], room[split]):
                room[split] -= sizes[module]
                chosen[module] = split
                break
    for split in ("test", "dev"):  # of few or large modules, the smallest one
        if split not in chosen.values():
            chosen[min((module for module in walk if module not in chosen), key=lambda name: sizes[name])] = split
    return {module: chosen.get(module, "train") for module in sizes}


def rank(name: str) -> str:
    """Return a name's place in an order that has nothing to do with the alphabet and never changes."""
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def query_id(function: Function) -> str:
    """Return the id of the query that asks for a function."""
    return f"q-{function.id}"


def row(function: Function) -> dict[str, Any]:
    """Return the training row of one function; its negatives are still to be mined."""
    return {
        "query": function.query,
        "pos": [function.passage],
        "neg": [],
        "id": query_id(function),
        "pos_id": [function.id],
    }


def files(data: FunctionSearch) -> dict[str, bytes]:
    """Return the data set's files, relative path -> content.

    ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv`` are a BEIR folder; ``train.jsonl`` and
    ``dev.jsonl`` hold the rows.
    """
    corpus = (
        {"_id": item.id, "title": "", "text": item.passage, "metadata": {"module": item.module, "where": item.where}}
        for item in data.corpus
    )
    queries = ({"_id": query_id(item), "text": item.query} for split in SPLITS for item in data.queries[split])
    content = {"corpus.jsonl": _lines(corpus), "queries.jsonl": _lines(queries)}
    for split in SPLITS:
        judged = "".join(f"{query_id(item)}\t{item.id}\t1\n" for item in data.queries[split])
        content[f"qrels/{split}.tsv"] = f"query-id\tcorpus-id\tscore\n{judged}".encode()
    content |= {f"{split}.jsonl": _lines(map(row, data.queries[split])) for split in ("train", "dev")}
    return content


def _lines(items: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()
