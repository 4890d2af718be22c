"""The text layout of rerankers that are prompted language models: pairs to tokens.

``[bos]<query>⏎<passage>⏎<prompt>``, each part tokenised by itself, prefixes ("A: ", "B: ") being part of query and
passage. The query is cut first, then the passage, so that the pair keeps to its length; separator and prompt come on
top. Source: FlagEmbedding's decoder-only rerankers, at inference; training reads the same here. (Where the query alone
fills the length, FlagEmbedding keeps the passage whole, longer than asked for; here none of it is left.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finerank.batching.prompts import Tokenizer, Tokens
from finerank.core.protocols import AnyPair

QUERY_PREFIX, PASSAGE_PREFIX = "A: ", "B: "
SEPARATOR = "\n"
ANSWER_PROMPT = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
"""What FlagEmbedding's base and layerwise models were trained with."""


@dataclass(frozen=True)
class LlmLayout:
    """How a pair is laid out.

    Attributes:
        query_prefix, passage_prefix: stand before the texts of raw pairs.
        prompt: stands at the end of pairs that bring none of their own.
    """

    query_prefix: str = QUERY_PREFIX
    passage_prefix: str = PASSAGE_PREFIX
    prompt: str = ANSWER_PROMPT

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
            max_len: tokens of bos, query, separator and passage together, plus those of separator and prompt; the
                passage is cut to it. What follows the passage is never cut.
            query_max_len: tokens of a query; without it three quarters of ``max_len``.
            passage_max_len: tokens of a passage; without it ``max_len``.

        Returns:
            inputs whose ``kept`` says how many tokens stand before the passage and after it, separators included.
        """
        (separator,) = tokenizer.plain([SEPARATOR])
        begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        ends = self._ends(tokenizer, pairs, separator)
        queries = tokenizer.plain([pair[0] for pair in pairs], query_max_len or max_len * 3 // 4)
        passages = tokenizer.plain([pair[1] for pair in pairs], passage_max_len or max_len)
        found = []
        for query, passage, end in zip(queries, passages, ends):
            head = begin + query
            room = max(max_len + len(end) - len(head), 0)
            kept = len(head) + min(len(separator), room), len(end)
            found.append(Tokens([*head, *(separator + passage)[:room], *end], kept=kept))
        return found

    def _ends(self, tokenizer: Tokenizer, pairs: Sequence[AnyPair], separator: list[int]) -> list[list[int]]:
        """Return what follows each passage; few prompts are read for many pairs."""
        prompts = [pair[2] if len(pair) > 2 else self.prompt for pair in pairs]
        distinct = list(dict.fromkeys(prompts))
        ends = {prompt: separator + ids for prompt, ids in zip(distinct, tokenizer.plain(distinct))}
        return [ends[prompt] for prompt in prompts]
