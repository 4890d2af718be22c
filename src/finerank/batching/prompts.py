"""Texts to tokens: one layout per family, the same for training, teaching, evaluation and serving.

A prompt is put in front of a text; ``{}{}``-style formats place an instruction and a text. Truncation happens in
tokens, special tokens included. The Rust tokenizer is used directly: it runs outside the GIL, and the truncation and
padding that some published ``tokenizer.json`` carry (all-MiniLM-L6-v2: 128 and 128) are taken off first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from finerank.core.errors import UserError
from finerank.core.protocols import Pair
from finerank.data.lengths import begins

ENCODED_AT_ONCE = 512
"""Inputs that the tokenizer's own records are held of at a time; they take some ten times the memory of their ids."""
TEXT_PLACE = "\ue000"
"""Stands in a prompt where the text does, if something follows the text; a prompt without it stands before."""


class Tokens(NamedTuple):
    """One model input.

    Attributes:
        ids: token ids.
        types: segment ids, where the model knows them.
        unpooled: leading tokens (the prompt) that the model's pooling leaves out.
        kept: leading and trailing tokens that a model which compresses its input leaves as they are.
    """

    ids: list[int]
    types: list[int] | None = None
    unpooled: int = 0
    kept: tuple[int, int] | None = None


def format_prompt(instruction: str | None, template: str = "{}{}", *, text_last: bool = False) -> str:
    """Turn an instruction and its ``{}{}`` template into what stands before the text.

    What stands behind the text, as bge-en-icl has it, comes after TEXT_PLACE.

    >>> format_prompt("find: ", "{}{}"), format_prompt("Find it", "Instruct: {}\\nQuery: {}")
    ('find: ', 'Instruct: Find it\\nQuery: ')

    Args:
        text_last: refuse templates with something behind the text.

    Raises:
        UserError: if the template does not have two places, or the text is not last where it must be.
    """
    if not instruction:
        return ""
    filled = template.replace("\\n", "\n").replace("{}", instruction, 1)
    if filled.count("{}") != 1 or text_last and not filled.endswith("{}"):
        order = ", the text last" if text_last else ""
        raise UserError(f'an instruction format needs two {{}}{order}, got "{template}"', hint='"{}{}"')
    before, after = filled.split("{}")
    return before + TEXT_PLACE + after if after else before


def parts_of(prompt: str) -> tuple[str, str]:
    """Return what of a prompt stands before a text and what behind it."""
    before, _, after = prompt.partition(TEXT_PLACE)
    return before, after


class Tokenizer:
    """Tokenises texts and pairs for one model.

    Args:
        hf_tokenizer: the model's transformers tokenizer; must be a fast one.
        with_types: whether the model takes segment ids.
    """

    def __init__(self, hf_tokenizer: Any, *, with_types: bool) -> None:
        from tokenizers import Tokenizer as Rust

        backend = getattr(hf_tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UserError(
                f"the tokenizer of this model ({type(hf_tokenizer).__name__}) has no fast version",
                hint="save it once with transformers' AutoTokenizer(use_fast=True)",
            )
        self._state: str = backend.to_str()
        self._rust = Rust.from_str(self._state)
        self._rust.no_padding()
        self._rust.no_truncation()
        self.with_types = with_types
        self.pad_id: int = hf_tokenizer.pad_token_id if hf_tokenizer.pad_token_id is not None else 0
        self.pad_left: bool = hf_tokenizer.padding_side == "left"
        bos = hf_tokenizer.bos_token_id
        self.bos_id: int | None = None if bos == hf_tokenizer.pad_token_id else bos

    @property
    def state(self) -> str:
        """The tokenizer's whole definition, for fingerprints."""
        return self._state

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_rust"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from tokenizers import Tokenizer as Rust

        self.__dict__.update(state)
        self._rust = Rust.from_str(self._state)
        self._rust.no_padding()
        self._rust.no_truncation()

    def texts(self, texts: Sequence[str], max_len: int) -> list[Tokens]:
        """Tokenise texts, cut to ``max_len`` tokens."""
        self._rust.enable_truncation(max_len)
        begin = self._begins(max_len)
        return self._encoded(texts, [begin(text) for text in texts] if begin else texts, max_len)

    def pairs(
        self, pairs: Sequence[Pair], max_len: int, query_max_len: int | None = None, passage_max_len: int | None = None
    ) -> list[Tokens]:
        """Tokenise (query, passage) pairs.

        The longer side is cut first until the pair fits ``max_len``; with ``query_max_len`` or ``passage_max_len``
        each side is cut to its own length (special tokens not counted) before that.
        """
        if query_max_len is None and passage_max_len is None:
            self._rust.enable_truncation(max_len, strategy="longest_first")
            begin = self._begins(max_len)
            # A query of up to half the tokens is kept whole whatever stands behind it; else both whole lengths count.
            cut = [
                (query, begin(passage))
                if begin and query.isascii() and 2 * len(query) + 8 <= max_len
                else (query, passage)
                for query, passage in pairs
            ]
            return self._encoded(pairs, cut, max_len)
        queries = self._sides([query for query, _ in pairs], query_max_len)
        passages = self._sides([passage for _, passage in pairs], passage_max_len)
        self._rust.enable_truncation(max_len, strategy="longest_first")
        return [self._tokens(self._rust.post_process(query, passage)) for query, passage in zip(queries, passages)]

    def plain(self, texts: Sequence[str], max_len: int | None = None) -> list[list[int]]:
        """Return the ids of texts without special tokens, each cut to ``max_len``."""
        starts = range(0, len(texts), ENCODED_AT_ONCE)
        parts = (self._sides(list(texts[start : start + ENCODED_AT_ONCE]), max_len) for start in starts)
        return [encoding.ids for part in parts for encoding in part]

    def shortened(self, texts: Sequence[str], max_len: int) -> list[str]:
        """Return texts without what stands behind their first ``max_len`` tokens; a character is kept whole or not."""
        starts = range(0, len(texts), ENCODED_AT_ONCE)
        parts = (self._sides(list(texts[start : start + ENCODED_AT_ONCE]), None) for start in starts)
        encodings = (encoding for part in parts for encoding in part)
        return [_shortened(text, encoding, max_len) for text, encoding in zip(texts, encodings)]

    def _begins(self, max_len: int) -> Callable[[str], str] | None:
        """Return what leaves of a long text its first words, as many as tokens are kept."""
        return begins(self._state, max_len)

    def _encoded(self, inputs: Sequence[Any], begun: Sequence[Any], max_len: int) -> list[Tokens]:
        """Tokenise what inputs begin with; where that fills less than ``max_len`` tokens, the whole input."""
        tokens: list[Tokens] = []
        for start in range(0, len(inputs), ENCODED_AT_ONCE):
            part = list(begun[start : start + ENCODED_AT_ONCE])
            for place, encoding in enumerate(self._rust.encode_batch_fast(part), start=start):
                short = len(encoding.ids) < max_len and begun[place] != inputs[place]
                tokens.append(self._tokens(self._whole(inputs[place]) if short else encoding))
        return tokens

    def _whole(self, given: Any) -> Any:
        return self._rust.encode_batch_fast([given])[0]

    def _sides(self, texts: list[str], max_len: int | None) -> list[Any]:
        self._rust.no_truncation()
        encodings = self._rust.encode_batch(texts, add_special_tokens=False)
        for encoding in encodings:
            if max_len is not None:
                encoding.truncate(max_len)
        return list(encodings)

    def _tokens(self, encoding: Any) -> Tokens:
        return Tokens(encoding.ids, encoding.type_ids if self.with_types else None)


def _shortened(text: str, encoding: Any, max_len: int) -> str:
    if len(encoding.ids) <= max_len:
        return text
    ends = [encoding.offsets[max_len][0], *(encoding.offsets[max_len - 1][1:] if max_len else ())]
    return text[: min(ends)]
