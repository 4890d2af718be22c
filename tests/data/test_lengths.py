"""Token counts: the tokenizer's own, whatever the text, and hand-made ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finerank.core.errors import UserError
from finerank.data.blocks import Block
from finerank.data.lengths import REMEMBERED, Histogram, RowLengths, Ruler, load_tokenizer
from finerank.data.lines import Record

TEXTS = st.lists(
    st.one_of(
        st.text(max_size=40),
        st.text("ab1 \n\t\x0b\x1c\x85.,_-[]SEPMK中文é\u0301\u2028\u3000İßΣσ", max_size=40),
        st.sampled_from(["[SEP]", "a[MASK]b", "[UNK] dog", "cat, dog.", "", " ", "  cat  dog ", "x" * 150, "中文cat"]),
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def bert(tiny_tokenizer_file: Path) -> tuple[object, Ruler]:
    tokenizer = load_tokenizer(str(tiny_tokenizer_file.parent))
    return tokenizer, Ruler(tokenizer.to_str())


@pytest.fixture(scope="module")
def unigram() -> tuple[object, Ruler]:
    """A tokenizer of XLM-R's build: white space, then sentence pieces."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁cat", -1.0), ("▁dog", -1.5), *((letter, -4.0) for letter in "acdgot.,")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return tokenizer, Ruler(tokenizer.to_str())


def counts(tokenizer: object, texts: list[str]) -> tuple[list[int], list[int]]:
    spec = json.loads(tokenizer.to_str())["model"]  # type: ignore[attr-defined]
    unknown = spec["unk_id"] if "unk_id" in spec else spec["vocab"][spec["unk_token"]]
    encodings = [tokenizer.encode(text, add_special_tokens=False) for text in texts]  # type: ignore[attr-defined]
    return [len(each.ids) for each in encodings], [each.ids.count(unknown) for each in encodings]


@pytest.mark.parametrize("build", ["bert", "unigram"])
@given(texts=TEXTS)
def test_words_add_up_to_what_the_tokenizer_makes_of_the_text(
    build: str, texts: list[str], request: pytest.FixtureRequest
) -> None:
    tokenizer, ruler = request.getfixturevalue(build)
    assert ruler._cut is not None
    assert ruler.measure(texts) == counts(tokenizer, texts)


def test_a_tokenizer_that_may_join_words_gets_whole_texts(tiny_tokenizer_file: Path) -> None:
    from tokenizers import pre_tokenizers

    tokenizer = load_tokenizer(str(tiny_tokenizer_file.parent))
    tokenizer.add_tokens(["cat dog"])
    ruler = Ruler(tokenizer.to_str())
    assert ruler._cut is None
    assert ruler.measure(["a cat dog", "cat  dog"])[0] == [2, 2]
    plain = load_tokenizer(str(tiny_tokenizer_file.parent))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    assert Ruler(plain.to_str())._cut is None


def test_truncation_and_padding_of_the_file_do_not_count(tiny_tokenizer_file: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_tokenizer_file))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    assert len(tokenizer.encode("cat").ids) == 9
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(str(tmp_path))
    assert Ruler(loaded.to_str()).measure(["cat " * 20, "cat"])[0] == [20, 1]
    assert Ruler((tmp_path / "tokenizer.json").read_text()).measure(["cat " * 20, "cat"])[0] == [20, 1]


def test_what_is_remembered_is_bounded(bert: tuple[object, Ruler], monkeypatch: pytest.MonkeyPatch) -> None:
    ruler = Ruler(bert[0].to_str())  # type: ignore[attr-defined]
    monkeypatch.setattr("finerank.data.lengths.REMEMBERED", 10)
    for number in range(5):
        assert ruler.measure([f"cat{number}x{other}" for other in range(8)])[0]
        assert len(ruler._words) <= 10 + 8 * 2
    assert ruler.measure(["y" * 60])[0]
    assert "y" * 60 not in ruler._words
    assert REMEMBERED > 1000


def test_a_row_is_as_long_as_its_longest_text(tiny_tokenizer_file: Path) -> None:
    lengths = RowLengths(load_tokenizer(str(tiny_tokenizer_file.parent)).to_str())
    records: list[Record] = [
        ("f:1", {"query": "cat", "pos": ["cat dog"], "neg": ["a", "an"]}),  # [CLS] cat dog [SEP]
        ("f:2", {"query": "red green blue tree", "pos": ["cat"]}),
        ("f:3", {"query": "cat", "pos": []}),
        ("f:4", {"anchor": "cat", "positive": "dog", "negative": "dog dog dog"}),
    ]
    found, problems = lengths(Block(0, "f", 0, records))
    assert found.tolist() == [4, 6, 5]
    assert [problem.where for problem in problems] == ["f:3"]


def test_histogram() -> None:
    found = Histogram({10: 90, 20: 9, 500: 1})
    assert found.facts(20) == {
        "texts": 100, "p50": 10, "p90": 10, "p95": 20, "p99": 20, "max": 500, "limit": 20, "truncated": 0.01,
    }  # fmt: skip
    with pytest.raises(ValueError, match="nothing"):
        Histogram().percentile(50)


def test_a_missing_tokenizer_is_named() -> None:
    with pytest.raises(UserError, match='model "no/such" not found'):
        load_tokenizer("no/such")
