"""How a language model behind an OpenAI-compatible API is asked; shared by the verbs that have it write or judge."""

from __future__ import annotations

from dataclasses import dataclass

from finerank.core.errors import UsageError
from finerank.core.options import option


@dataclass(kw_only=True)
class LlmOptions:
    """Options of a verb that may ask a language model."""

    llm_base_url: str = option(
        "http://127.0.0.1:8000/v1", "address of an OpenAI-compatible API, for a language model's queries and verdicts"
    )
    llm_model: str | None = option(None, "the language model's name there", metavar="NAME")
    llm_key_env: str = option(
        "OPENAI_API_KEY", "environment variable that holds the API's key; it is read from nowhere else", semantic=False
    )
    llm_max_tokens: int = option(1024, "tokens of an answer, at most", ge=1)
    llm_temperature: float = option(0.0, "temperature of the answers", ge=0)
    llm_timeout: float = option(60.0, "seconds that one answer may take", gt=0, semantic=False)
    llm_retries: int = option(4, "further tries after a failed call, with growing pauses", ge=0, semantic=False)
    llm_requests_per_minute: float | None = option(None, "calls started in a minute, at most", gt=0, semantic=False)
    llm_concurrency: int = option(4, "calls under way at once", ge=1, semantic=False)
    llm_cache: str = option(
        "auto",
        "folder of answers kept between runs, by prompt; auto is $FINERANK_CACHE/llm or ~/.cache/finerank/llm; none is "
        "no cache",
        metavar="DIR|auto|none",
        semantic=False,
    )
    max_llm_calls: int | None = option(
        None, "answers that the run may use, those from the cache counted; what comes after is unknown", ge=0
    )

    def check_llm(self) -> None:
        """Refuse to ask a language model that has no name.

        Raises:
            UsageError: without ``--llm_model``.
        """
        if self.llm_model is None:
            raise UsageError("a language model needs --llm_model", hint="--llm_model NAME --llm_base_url URL")
