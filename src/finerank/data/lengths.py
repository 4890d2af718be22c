"""Lengths in tokens, by the model's own Rust tokenizer, with no truncation. One measuring part for check and split.

Most tokenizers cut a text at white space before anything else, so that its tokens are those of its words one after the
other. Where a tokenizer's own description shows that (``_cuts_at``), each word is tokenised once and remembered, and
the rest is adding up: several times faster than tokenising every text, and the same counts.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finerank.core.errors import DataError, Problem, UserError
from finerank.data.blocks import Block
from finerank.data.formats import parse_record
from finerank.data.plain_rows import plain_row

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

BATCH_CHARACTERS = 2**18
"""Characters tokenised at once: what the encodings of one batch hold is about fifty times as much."""
REMEMBERED = 200_000
"""Words remembered, about 30 MB; then the memory starts anew."""
LONG_WORD = 48
"""Longer words are not remembered."""
PERCENTILES = (50, 90, 95, 99)
POSITIVES_CUT = 0.05
"""Share of truncated positives above which check and train warn."""

_HAN_OR_WORD = re.compile("[\u4e00-\u9fff]|[^\u4e00-\u9fff ]+")
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]|[^!-/:-@\[-`{-~]+")
_UNKNOWN_SHIFT = 40
_TOKENS = (1 << _UNKNOWN_SHIFT) - 1


def load_tokenizer(name: str, cache_dir: str | None = None) -> Tokenizer:
    """Load ``tokenizer.json`` of a local folder or a hub model; its truncation and padding are switched off.

    Raises:
        UserError: if there is none; it says where it was looked for.
    """
    from tokenizers import Tokenizer

    path = Path(name) / "tokenizer.json"
    if not path.is_file():
        path = _from_hub(name, cache_dir)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise UserError(f"is not a tokenizer that can be loaded: {error}", where=str(path)) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_hub(name: str, cache_dir: str | None) -> Path:
    if Path(name).is_dir():
        raise UserError("the folder holds no tokenizer.json", where=name)
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(name, "tokenizer.json", cache_dir=cache_dir))
    except Exception as error:  # the hub client raises a dozen kinds
        reason = " ".join(str(error).split())[:160]
        message = f'model "{name}" not found: no folder of that name, and the hub gave no tokenizer.json ({reason})'
        raise UserError(message, hint="name a folder with a saved model") from None


class Ruler:
    """Measures texts in tokens, without the special ones.

    Args:
        description: a tokenizer's JSON (``Tokenizer.to_str``), which passes between processes.

    Attributes:
        single, paired: special tokens around one text, and around a pair.
    """

    def __init__(self, description: str) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_str(description)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.single = self.tokenizer.num_special_tokens_to_add(False)
        self.paired = self.tokenizer.num_special_tokens_to_add(True)
        spec = json.loads(description)
        self._unknown = _unknown_token(spec)
        self._cut = _cutter(spec)
        self._is_bert = self._cut in (_words, _words_and_han)
        self._lower = bool((spec.get("normalizer") or {}).get("lowercase"))
        self._added = [str(token["content"]) for token in spec.get("added_tokens") or []]
        self._words = _Words(self._count_word if self._is_bert else self._encode)

    def measure(self, texts: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return each text's tokens, and how many of them stand for something that the vocabulary lacks."""
        packed: list[int] = []
        for batch in _batches(texts):
            packed += self._packed(batch, self._cut) if self._cut else self._whole(batch)
        return [each & _TOKENS for each in packed], [each >> _UNKNOWN_SHIFT for each in packed]

    def _packed(self, texts: Sequence[str], cut: Callable[[str], list[str] | None]) -> list[int]:
        if len(self._words) > REMEMBERED:
            self._words.clear()
        count = self._words.__getitem__
        cuts = [cut(text) for text in texts]
        whole = iter(self._whole([text for text, words in zip(texts, cuts) if words is None]))
        return [next(whole) if words is None else sum(map(count, words)) for words in cuts]

    def _whole(self, texts: Sequence[str]) -> list[int]:
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False) if texts else []
        return [self._pack(encoding) for encoding in encodings]

    def _encode(self, word: str) -> int:
        return self._pack(self.tokenizer.encode(word, add_special_tokens=False))

    def _count_word(self, word: str) -> int:
        """Count what BERT's steps leave of a word: ASCII letters and digits as they are, punctuation mark by mark."""
        if word.isascii() and word.isprintable() and not any(token in word for token in self._added):
            if word.isalnum():
                tokens = self.tokenizer.model.tokenize(word.lower() if self._lower else word)
                unknown = sum(1 for token in tokens if token.id == self._unknown)
                return len(tokens) | unknown << _UNKNOWN_SHIFT
            parts = _PUNCTUATION.findall(word)
            if len(parts) > 1:
                return sum(map(self._words.__getitem__, parts))
        return self._encode(word)

    def _pack(self, encoding: Encoding) -> int:
        unknown = encoding.ids.count(self._unknown) if self._unknown is not None else 0
        return len(encoding) | unknown << _UNKNOWN_SHIFT


class _Words(dict[str, int]):
    """Words and their counts; a word that is not here is counted when it is asked for."""

    def __init__(self, count: Callable[[str], int]) -> None:
        self._count = count

    def __missing__(self, word: str) -> int:
        found = self._count(word)
        if len(word) <= LONG_WORD:
            self[word] = found
        return found


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start = total = 0
    for index, text in enumerate(texts):
        total += len(text)
        if total >= BATCH_CHARACTERS:
            yield texts[start : index + 1]
            start, total = index + 1, 0
    if start < len(texts):
        yield texts[start:]


def _cutter(spec: Mapping[str, Any]) -> Callable[[str], list[str] | None] | None:
    """Return what cuts a text into words whose tokens are the text's, or None where there is no such thing.

    A space or a line feed must part words before and behind the tokenizer's normalizer. BERT's two steps do that for
    any text, and part Han characters too; SentencePiece's tables may join a space with a mark behind it, so only
    ASCII is cut for tokenizers that begin with ``WhitespaceSplit``.
    """
    if any(re.search(r"\s", str(token.get("content", ""))) for token in spec.get("added_tokens") or []):
        return None
    parts = [step["type"] for step in _listed(spec.get("pre_tokenizer"), "pretokenizers")]
    if (spec.get("normalizer") or {}).get("type") == "BertNormalizer" and parts == ["BertPreTokenizer"]:
        return _words_and_han if spec["normalizer"].get("handle_chinese_chars") else _words
    if parts[:1] == ["WhitespaceSplit"] and all(map(_keeps_spaces, _listed(spec.get("normalizer"), "normalizers"))):
        return _words_of_ascii
    return None


@lru_cache(maxsize=8)
def begins(description: str, words: int) -> Callable[[str], str] | None:
    """Return what cuts a text behind its first ``words`` words, of whose tokens those of the whole text begin.

    Args:
        description: a tokenizer's JSON; without a cut into words of its own there is None.
    """
    cut = _cutter(json.loads(description))
    if cut is None:
        return None
    # each turn has one way to match, so that a text of fewer words is given up in time proportional to its length
    first = re.compile(rf"[ \n]*(?:[^ \n]+[ \n]+(?![ \n])){{{words}}}")

    def begin(text: str) -> str:
        if len(text) <= words or (cut is _words_of_ascii and not text.isascii()):
            return text
        found = first.match(text)
        return found[0] if found else text

    return begin


def _words(text: str) -> list[str]:
    return text.replace("\n", " ").split(" ")


def _words_and_han(text: str) -> list[str]:
    return _words(text) if text.isascii() else _HAN_OR_WORD.findall(text.replace("\n", " "))


def _words_of_ascii(text: str) -> list[str] | None:
    return _words(text) if text.isascii() else None


def _listed(step: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    """Return a step of a tokenizer as the list of its parts."""
    if step is None:
        return []
    return list(step[key]) if step["type"] == "Sequence" else [step]


def _keeps_spaces(step: Mapping[str, Any]) -> bool:
    """Say whether a normalizer leaves every word of an ASCII text to itself."""
    if step["type"] == "Replace":  # XLM-R's: several spaces become one
        return step.get("pattern") == {"Regex": " {2,}"} and step.get("content") == " "
    return step["type"] in ("Precompiled", "NFC", "NFKC", "Lowercase")


def _unknown_token(spec: Mapping[str, Any]) -> int | None:
    """Return the id of the unknown token, if the model has one."""
    model = spec["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    vocabulary = model.get("vocab")
    found = vocabulary.get(model.get("unk_token")) if isinstance(vocabulary, dict) else None
    return None if found is None else int(found)


class Histogram(Counter[int]):
    """How often each length was seen."""

    def percentile(self, percent: int) -> int:
        """Return the smallest length that at least ``percent`` % of all do not exceed (nearest rank).

        >>> Histogram([1, 2, 3, 4]).percentile(50)
        2
        """
        rank = max(-(-percent * self.total() // 100), 1)
        for length in sorted(self):
            rank -= self[length]
            if rank <= 0:
                return length
        raise ValueError("a percentile of nothing")

    def facts(self, limit: int) -> dict[str, Any]:
        """Return count, percentiles, greatest length, the limit and the share of texts that are cut at it."""
        total = self.total()
        cut = sum(count for length, count in self.items() if length > limit)
        points = {f"p{percent}": self.percentile(percent) for percent in PERCENTILES}
        return {"texts": total, **points, "max": max(self), "limit": limit, "truncated": cut / total}


class RowLengths:
    """Measures the rows of blocks: a row is as long as its longest text, special tokens included.

    Args:
        description: the tokenizer's JSON.
    """

    def __init__(self, description: str) -> None:
        self._ruler = Ruler(description)

    def __call__(self, block: Block) -> tuple[array[int], list[Problem]]:
        """Return the length of each row and what is wrong with the others; each distinct text is measured once."""
        rows: list[Sequence[str]] = []
        problems: list[Problem] = []
        for where, record in block.records():
            try:
                rows.append(_texts(where, record))
            except DataError as error:
                problems += error.problems
        texts = list(dict.fromkeys(text for row in rows for text in row))
        lengths = dict(zip(texts, self._ruler.measure(texts)[0]))
        single = self._ruler.single
        return array("I", [max(map(lengths.__getitem__, row)) + single for row in rows]), problems


def _texts(where: str, record: Mapping[str, Any] | Problem) -> Sequence[str]:
    if isinstance(record, Problem):
        raise DataError([record])
    found = plain_row(record)
    if found is not None:
        return found[0]
    row = parse_record(record, where)[1]
    return row.query, *row.positives, *row.negatives
