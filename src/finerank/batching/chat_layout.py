"""The text layout of rerankers that answer yes or no in a chat: pairs to tokens.

A chat's text is fixed but for its instruction, its query and its passage. It is read as one text and cut before what
stands last, the beginning of the answer, which is kept. Source: the code on the model card of Qwen3-Reranker, whose
fixed text stands here too; models in sentence-transformers' format bring their own as a chat template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from finerank.batching.prompts import Tokenizer, Tokens
from finerank.core.errors import UserError
from finerank.core.protocols import AnyPair

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""What Qwen3-Reranker is told where nothing else is asked."""
SLOTS = ("query", "document", "system")
"""Roles of messages whose texts vary; the last holds the instruction. sentence-transformers' names."""
MARKS = {slot: f"\ue000{place}\ue001" for place, slot in enumerate(SLOTS)}
MARK = re.compile("(" + "|".join(MARKS.values()) + ")")
Render = Callable[[list[dict[str, str]]], str]
"""Messages -> text, as a chat template does it."""


@dataclass(frozen=True)
class ChatText:
    """A chat's text with places for what varies.

    Attributes:
        pieces: fixed text before, between and after the places.
        slots: what stands in the places, one less than pieces.
        trimmed: whether spaces around the texts are taken off.
    """

    pieces: tuple[str, ...]
    slots: tuple[str, ...]
    trimmed: bool = False

    def filled(self, texts: Mapping[str, str]) -> str:
        """Return the text with ``texts`` (slot -> text) in their places."""
        inner = {slot: text.strip() if self.trimmed else text for slot, text in texts.items()}
        between = (inner[slot] + piece for slot, piece in zip(self.slots, self.pieces[1:]))
        return self.pieces[0] + "".join(between)

    def as_template(self, instruction: str) -> str:
        """Return a chat template (Jinja) that gives this text; ``instruction`` stands where no system message is."""
        said = "messages | selectattr('role', 'equalto', '{}') | map(attribute='content') | first"
        settings = [f"{{%- set {slot} = {said.format(slot)} -%}}" for slot in SLOTS[:2]]
        settings.append(f"{{%- set {SLOTS[2]} = {said.format(SLOTS[2])} | default({_quoted(instruction)}) -%}}")
        between = (f"{{{{- {slot} + {_quoted(piece)} -}}}}" for slot, piece in zip(self.slots, self.pieces[1:]))
        return "\n".join([*settings, f"{{{{- {_quoted(self.pieces[0])} -}}}}", *between])


PUBLISHED = ChatText(
    (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: ',
        "\n<Query>: ",
        "\n<Document>: ",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    ("system", "query", "document"),
)
"""Qwen3-Reranker's."""


def chat_text(render: Render, *, instructed: bool) -> ChatText | None:
    """Take a chat template apart; None if it has no places for query and passage or, ``instructed``, for a system text.

    Raises:
        ValueError: if the template does more with its texts than to put them somewhere.
    """
    roles = ("system", *SLOTS[:2]) if instructed else SLOTS[:2]
    marked = render([{"role": role, "content": MARKS[role]} for role in roles])
    parts = MARK.split(marked)
    slots = tuple(next(slot for slot, mark in MARKS.items() if mark == part) for part in parts[1::2])
    if set(slots) != set(roles):
        return None
    probe = {role: f" {role} of\na chat " for role in roles}
    rendered = render([{"role": role, "content": text} for role, text in probe.items()])
    for trimmed in (False, True):
        found = ChatText(tuple(parts[::2]), slots, trimmed)
        if found.filled(probe) == rendered:
            return found
    raise ValueError("its chat template changes the texts of query and passage")


@dataclass(frozen=True)
class ChatLayout:
    """How a pair is laid out.

    Attributes:
        query_prefix, passage_prefix: stand before the texts of raw pairs.
        prompt: the instruction for pairs that bring none of their own; None leaves it to ``plain``.
        plain: the text without an instruction of the user's; None if there must be one.
        instructed: the text with a place for one; None if there is none.
    """

    query_prefix: str = ""
    passage_prefix: str = ""
    prompt: str | None = INSTRUCTION
    plain: ChatText | None = None
    instructed: ChatText | None = PUBLISHED

    def prefixed(self, pairs: Sequence[AnyPair]) -> list[AnyPair]:
        """Put the prefixes before raw queries and passages."""
        before = self.query_prefix, self.passage_prefix
        return [(before[0] + query, before[1] + passage, *prompt) for query, passage, *prompt in pairs]  # type: ignore[misc]

    def tokens(
        self,
        tokenizer: Tokenizer,
        pairs: Sequence[AnyPair],
        max_len: int,
        query_max_len: int | None = None,
        passage_max_len: int | None = None,
    ) -> list[Tokens]:
        """Tokenise pairs that have their prefixes.

        Args:
            max_len: tokens of all; what varies is cut to it, the beginning of the answer is kept.
            query_max_len, passage_max_len: tokens that query and passage are cut to before that.
        """
        queries, passages = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        if query_max_len is not None:
            queries = tokenizer.shortened(queries, query_max_len)
        if passage_max_len is not None:
            passages = tokenizer.shortened(passages, passage_max_len)
        prompts = [pair[2] if len(pair) > 2 else self.prompt for pair in pairs]
        chats = [self.text(prompt) for prompt in prompts]
        whole = tokenizer.plain(
            [
                chat.filled({"query": query, "document": passage, "system": prompt or ""})
                for chat, query, passage, prompt in zip(chats, queries, passages, prompts)
            ]
        )
        ends = {chat: answer_start(tokenizer, chat) for chat in dict.fromkeys(chats)}
        return [Tokens(_cut(ids, ends[chat], max_len)) for ids, chat in zip(whole, chats)]

    def text(self, prompt: str | None) -> ChatText:
        """Return the text for pairs with an instruction, or with none.

        Raises:
            UserError: if there is an instruction and no place for it.
        """
        chosen = self.instructed if prompt is not None or self.plain is None else self.plain
        if chosen is None:
            raise UserError("the chat template of this reranker has no place for a prompt", hint="leave out --prompt")
        return chosen


def answer_start(tokenizer: Tokenizer, chat: ChatText) -> list[int]:
    """Return the tokens that stand last whatever the pair: those that two unlike texts end with."""
    fillings = ({slot: text for slot in SLOTS} for text in ("0", "one other text"))
    first, second = (ids[::-1] for ids in tokenizer.plain([chat.filled(texts) for texts in fillings]))
    return [left for left, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second))][::-1]


def _cut(ids: list[int], end: list[int], max_len: int) -> list[int]:
    return ids if len(ids) <= max_len else [*ids[: max(max_len - len(end), 0)], *end]


def _quoted(text: str) -> str:
    """Write a text as a Jinja string."""
    return json.dumps(text, ensure_ascii=False)
