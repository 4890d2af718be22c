"""What is compared with FlagEmbedding: classes, tiny models, options, pairs. Read in both environments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

BUILDERS = {
    "base": "tests.parity.tiny_base",
    "layerwise": "tests.parity.tiny_minicpm",
    "lightweight": "tests.parity.tiny_gemma",
}
"""Class -> module whose ``MODELS`` maps names to functions that write a tiny model into a folder."""
LONG = "sort the list of numbers in each file and return what was not read from the tree " * 6
PAIRS = [
    ("how to sort a list", "to sort a list use the sort of the language and return the new list"),
    ("how to sort a list", "a cat and a dog are not fish"),
    ("how to sort a list", LONG),
    ("find the file", "open the path, then read each file\nand find the text in it\n\nwrite one line"),
    ("find the file", ""),
    ("", "a passage that has no query"),
    (LONG, "yes"),
    (LONG, LONG),
    ("red", "blue"),
    ("red green blue", "green is a value of the tree, red is not, blue is two"),
    ("where is the cat?", "  a space before, and two behind  "),
    (
        "\u732b\u306f\u3069\u3053",
        "\u732b\u306f\u7bb1\u306e\u4e2d\u306b\u3044\u307e\u3059\u3002 caf\u00e9 na\u00efve \U0001f408",
    ),
    ("Yes or No", "Yes No Yes No yes no"),
    ("what is zero", "zero is the number that adds nothing: x + 0 = x"),
    ("name of the new tree", "the tree was given a new name " * 9),
    ("A: a prefix of its own", "B: a prefix of its own"),
    ("search", "\nsearch\n"),
]


@dataclass(frozen=True)
class Case:
    """One comparison: a model under some options.

    Attributes:
        kind: class of the reranker.
        model: name of a tiny model of that class.
        options: what FlagEmbedding's constructor and ours take, under its names.
        batch_size: of FlagEmbedding.
    """

    kind: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 16

    @property
    def name(self) -> str:
        said = [f"{key}={value!r}" for key, value in self.options.items()]
        return " ".join([self.kind, self.model, *said, f"batch={self.batch_size}"])

    def write(self, folder: Path) -> Path:
        """Write the tiny model."""
        build: Callable[[Path], Path] = import_module(BUILDERS[self.kind]).MODELS[self.model]
        return build(folder / self.kind / self.model)


READINGS: list[dict[str, Any]] = [
    {},
    {"max_length": 96},
    {"max_length": 40, "query_max_length": 12},
    {"prompt": "Predict whether passage B contains an answer to query A."},
    {"query_instruction_for_rerank": None, "passage_instruction_for_rerank": None},
    {"query_instruction_for_rerank": "Query: find\n", "passage_instruction_for_rerank": "Document: ", "max_length": 64},
]
"""Lengths, prompts and prefixes."""


def base_cases() -> Iterator[Case]:
    """Every reading with the two tokenizers of published rerankers; some with the others."""
    for model in ("gemma", "llama"):
        yield from (Case("base", model, options) for options in READINGS)
        yield Case("base", model, {"max_length": 96}, batch_size=1)
    for model in ("llama3", "qwen2"):
        yield from (Case("base", model, options) for options in READINGS[1:3])
    yield Case("base", "qwen2", {}, batch_size=1)


def layerwise_cases() -> Iterator[Case]:
    """Every reading of one layer; several layers, heads of both kinds, grouped attention, stretched positions."""
    yield from (Case("layerwise", "simple", options | {"cutoff_layers": [4]}) for options in READINGS)
    yield Case("layerwise", "simple", {"cutoff_layers": [2, 3, 5]})
    yield Case("layerwise", "simple", {"cutoff_layers": [2, 3, 5], "max_length": 96}, batch_size=1)
    yield Case("layerwise", "simple", {"cutoff_layers": [5]})
    yield Case("layerwise", "simple", {"cutoff_layers": [2]})
    for model in ("simple_shared", "simple_grouped", "linear"):
        yield Case("layerwise", model, {"cutoff_layers": [3, 5], "max_length": 96})


def lightweight_cases() -> Iterator[Case]:
    """Every reading, every ratio; one layer and several; blocks that compress once and again; a short window."""
    usual = {"cutoff_layers": [4], "compress_ratio": 2, "compress_layers": [2]}
    yield from (Case("lightweight", "published", options | usual) for options in READINGS)
    for ratio in (1, 4, 8):
        yield Case("lightweight", "published", usual | {"compress_ratio": ratio})
        yield Case("lightweight", "published", usual | {"compress_ratio": ratio, "max_length": 96}, batch_size=1)
    yield Case("lightweight", "published", {"cutoff_layers": [6], "compress_ratio": 2, "compress_layers": [1, 3, 4]})
    yield Case("lightweight", "published", {"cutoff_layers": [2, 4, 6], "compress_ratio": 4, "compress_layers": [3]})
    yield Case("lightweight", "published", {"cutoff_layers": [2], "compress_ratio": 1, "compress_layers": [3]})
    for model in ("sliding", "every_other", "uncapped"):
        yield Case("lightweight", model, {"cutoff_layers": [4], "compress_ratio": 2, "compress_layers": [2]})


CASES = {"base": list(base_cases()), "layerwise": list(layerwise_cases()), "lightweight": list(lightweight_cases())}
