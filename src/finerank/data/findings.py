"""What check can say of a row: a code, a sentence, and what to do about it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import NamedTuple


class Advice(NamedTuple):
    """What a code says of one row, and what can be done."""

    message: str
    hint: str


MINE_AGAIN = "finerank mine never takes a positive of the query: mine the negatives again, or delete these"
WARNINGS: dict[str, Advice] = {
    "positive-in-negatives": Advice("a positive stands among the row's own negatives", MINE_AGAIN),
    "positive-in-negatives-folded": Advice(
        "a positive stands among the negatives, but for case, width or white space", MINE_AGAIN
    ),
    "positive-in-negatives-near": Advice("a positive stands among the negatives, but for punctuation", MINE_AGAIN),
    "sibling-positive": Advice("a negative is a positive of the same query in another row", MINE_AGAIN),
    "query-in-positives": Advice(
        "a positive is the query itself: copying is what it teaches", "delete the copy, or write a real answer"
    ),
    "query-in-negatives": Advice("a negative is the query itself", "delete the copy"),
    "duplicate-row": Advice("query and positives stand in an earlier row", "delete one of the rows"),
    "duplicate-query": Advice(
        "the query stands in an earlier row, with other positives", "put all positives of a query into one row"
    ),
    "duplicate-id": Advice('the "id" stands in an earlier row with another query', "make the ids unique"),
    "repeated-passage": Advice(
        "a passage stands twice in the row's positives or twice in its negatives", "delete the copies"
    ),
    "shared-positive": Advice(
        "a positive is one of ten or more different queries",
        "a passage that answers everything teaches little; is it a page header or a refusal?",
    ),
    "no-negatives": Advice(
        "the row has no negative: in-batch and random ones will be used", "finerank mine finds hard ones"
    ),
    "short-group": Advice(
        "fewer distinct negatives than the group size asks for: others will be filled in",
        "finerank mine --negative_number N, or a smaller --train_group_size",
    ),
    "mixed-scores": Advice(
        "the row has no teacher scores while other rows have them", "finerank score gives every row its scores"
    ),
    "score-order": Advice(
        "a negative's teacher score is above the row's lowest positive's: a false negative, maybe",
        "finerank mine --reranker_name_or_path R drops such negatives or makes them positives",
    ),
    "id-count": Advice(
        '"pos_id" or "neg_id" is not as long as its list of texts', "write one id for each text, in the same order"
    ),
    "passage-id-reused": Advice(
        "the id of a passage stands elsewhere for another text", "make the ids unique, or mend the text"
    ),
    "passage-with-two-ids": Advice(
        "the text of a passage stands elsewhere under another id", "keep one of the copies in the corpus"
    ),
    "odd-key": Advice("a key looks like a misspelt one and is not read", "rename the key"),
    "key-twice": Advice("two keys mean the same; the second is not read", "join their values under one key"),
    "damaged-text": Advice(
        "characters of a wrong decoding (U+FFFD, “Ã©”, “â€™”)", "read the source again as the encoding that it has"
    ),
    "control-characters": Advice("control characters in a text", "delete them: tr -d '\\000-\\010\\013\\016-\\037'"),
    "no-words": Advice("a text without a letter or a digit", "delete it"),
    "short-passage": Advice("a passage of fewer than 8 bytes", "is it a passage, or a label or a page number?"),
    "long-text": Advice(
        "a text of more than 20,000 characters",
        "what stands behind the model's limit is not read: cut it into pieces",
    ),
    "unknown-tokens": Advice(
        "the tokenizer does not know a fifth or more of a text's tokens",
        "the model cannot tell such texts apart: take one whose vocabulary has this language",
    ),
    "leaked-query": Advice("the query is in the test data", "delete the row, or the measured gain is partly memory"),
    "leaked-passage": Advice("a positive is relevant in the test data", "delete the row, unless that is meant"),
}
"""In the order of the report."""
UNUSABLE_HINT = "mend or delete the line: no command that trains or measures takes it"
SHOWN_PLACES = 5


@dataclass
class Finding:
    """A kind of trouble: its code, what it says, how many rows have it, where they stand.

    Attributes:
        places: the first ones.
        lines: all of them, ``file number << 40 | line``.
    """

    code: str
    message: str
    hint: str
    unusable: bool
    count: int = 0
    places: list[str] = field(default_factory=list)
    lines: array[int] = field(default_factory=lambda: array("Q"))


class Places:
    """``file:line`` as one number each, and back."""

    BITS = 40

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def pack(self, where: str) -> int:
        """Return the number of a place; a place without a line is line 0."""
        name, _, line = where.rpartition(":")
        if not name or not line.isdecimal():
            name, line = where, "0"
        return self.names.setdefault(name, len(self.names)) << self.BITS | int(line)

    def text(self, place: int, names: list[str]) -> str:
        """Return the place as it is written; ``names`` are the keys of ``names``, in order."""
        name, line = names[place >> self.BITS], place & (1 << self.BITS) - 1
        return f"{name}:{line}" if line else name
