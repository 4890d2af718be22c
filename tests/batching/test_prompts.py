"""A long text's tokens are those of its first words: the tokenizer need not read the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finerank.batching.prompts import Tokenizer
from tests.data.test_lengths import unigram as unigram_fixture

unigram = unigram_fixture
TEXT = st.one_of(
    st.text(max_size=60),
    st.text("ab1 \n\t\x0b\x1c\x85.,_-[]SEP中é\u0301\u2028\u3000İΣ", max_size=60),
    st.sampled_from(
        ["cat dog " * 20, "\x00 \x00 \x00 \x00 \x00 \x00 \x00 \x00 \x00 \x00 \x00 \x00 dog", "[SEP] " * 12, "x" * 90]
    ),
)


class Given:
    """What a transformers tokenizer has that ours looks at."""

    def __init__(self, backend: Any) -> None:
        self.backend_tokenizer = backend
        self.pad_token_id, self.bos_token_id, self.padding_side = 0, None, "right"


@pytest.fixture(scope="module")
def bert(tiny_tokenizer_file: Path) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(tiny_tokenizer_file)), None


def ids(tokenizer: Tokenizer, given: list[Any], max_len: int) -> list[list[int]]:
    found = tokenizer.pairs(given, max_len) if isinstance(given[0], tuple) else tokenizer.texts(given, max_len)
    return [tokens.ids for tokens in found]


@pytest.mark.parametrize("build", ["bert", "unigram"])
@given(texts=st.lists(TEXT, min_size=2, max_size=4), max_len=st.integers(4, 24))
def test_the_same_tokens_as_of_whole_texts(
    build: str, texts: list[str], max_len: int, request: pytest.FixtureRequest
) -> None:
    backend, _ = request.getfixturevalue(build)
    ours, whole = (Tokenizer(Given(backend), with_types=True) for _ in range(2))
    whole._begins = lambda max_len: None  # type: ignore[method-assign]
    assert ids(ours, texts, max_len) == ids(whole, texts, max_len)
    pairs = [(texts[0][:8], text) for text in texts] + [(texts[0], texts[1])]
    assert ids(ours, pairs, max_len) == ids(whole, pairs, max_len)


def test_the_rest_is_not_read(bert: Any) -> None:
    ours = Tokenizer(Given(bert[0]), with_types=True)
    begin = ours._begins(3)
    assert begin is not None
    assert begin("cat dog\ncat dog cat") == "cat dog\ncat "
    assert begin("cat dog") == "cat dog"
    assert [tokens.ids for tokens in ours.texts(["cat dog " * 10000], 5)] == ids(ours, ["cat dog cat dog"], 5)


@pytest.mark.parametrize("text", ["cat  " * 60, "cat" + " \n" * 60, " " * 5000 + "cat" * 5000, "x\n        " * 100])
def test_a_text_of_fewer_words_with_long_gaps_is_given_back(bert: Any, text: str) -> None:
    """Where a gap could be cut in more than one way, giving such a text up took time without end."""
    begin = Tokenizer(Given(bert[0]), with_types=True)._begins(128)
    assert begin is not None
    assert begin(text) == text


def test_a_gap_is_cut_in_one_piece(bert: Any) -> None:
    begin = Tokenizer(Given(bert[0]), with_types=True)._begins(3)
    assert begin is not None
    assert begin("\n  cat   dog \n cat  \n  dog") == "\n  cat   dog \n cat  \n  "
