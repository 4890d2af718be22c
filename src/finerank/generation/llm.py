"""A client for OpenAI-compatible chat APIs, on the standard library: answers cached on disk, retries, a budget.

A call that fails for good is a ``Failure``, never an empty answer: whoever asked must treat it as not known. The key
comes from the environment and goes nowhere but into the request's header.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from finerank.core.caches import cache_of
from finerank.core.errors import UserError
from finerank.core.llm_options import LlmOptions
from finerank.data.atomic import write_atomic

AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Status codes of failures that pass."""
FATAL = frozenset({401, 402, 403, 404, 405})
"""Those that no other prompt would escape."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the first retry, doubled each time, and at most."""
LARGEST_ANSWER = 4 * 2**20
IN_A_ROW = 20
"""Prompts that fail one after the other before the run stops: the API is gone, and a later run goes on here."""
BUDGET, CALL, REFUSED = "llm_budget", "llm_call_failed", "llm_prompt_refused"


@dataclass(frozen=True)
class Failure:
    """Why there is no answer."""

    why: str
    detail: str = ""


@dataclass
class LlmSettings:
    """Where and how to ask.

    Attributes:
        key: of the API; never written anywhere.
        timeout: seconds of one answer, from the request to its last byte.
        per_minute: calls started in a minute, at most; None for any number.
        budget: prompts that may be asked, answers from the cache counted; None for any number.
    """

    base_url: str
    model: str
    key: str | None = field(default=None, repr=False)
    max_tokens: int = 1024
    temperature: float = 0.0
    timeout: float = 60.0
    retries: int = 4
    per_minute: float | None = None
    concurrency: int = 4
    budget: int | None = None
    cache: Path | None = None


class LlmClient:
    """Asks a language model.

    Args:
        sleep, now: clock; tests have one of their own.

    Attributes:
        used: prompts asked so far, cached ones too; set it to go on from an earlier run.
        counts: answers by where they came from, failures by kind.
    """

    def __init__(
        self,
        settings: LlmSettings,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(settings.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(
                f'expected an address such as http://127.0.0.1:8000/v1, got "{settings.base_url}"',
                where="--llm_base_url",
            )
        self.settings = settings
        self.used = 0
        self.counts: Counter[str] = Counter()
        self._sleep, self._now = sleep, now
        self._lock = threading.Lock()
        self._next_start = 0.0
        self._failed_in_a_row = 0
        handlers: list[Any] = [_NoRedirects()]
        if parts.hostname in LOOPBACK:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def ask_all(self, prompts: Sequence[str]) -> list[str | Failure]:
        """Return an answer or a failure for each prompt, in order; equal prompts are asked once.

        Raises:
            UserError: if the API refuses the key, the model or the address, or fails again and again.
        """
        distinct = list(dict.fromkeys(prompts))
        room = len(distinct) if self.settings.budget is None else max(0, self.settings.budget - self.used)
        asked = distinct[:room]
        self.used += len(asked)
        answers: dict[str, str | Failure] = {prompt: Failure(BUDGET) for prompt in distinct[room:]}
        self.counts[BUDGET] += len(distinct) - len(asked)
        if len(asked) > 1 and self.settings.concurrency > 1:
            with ThreadPoolExecutor(self.settings.concurrency) as pool:
                answers |= dict(zip(asked, pool.map(self._answer, asked)))
        else:
            answers |= {prompt: self._answer(prompt) for prompt in asked}
        return [answers[prompt] for prompt in prompts]

    def _answer(self, prompt: str) -> str | Failure:
        body = self._body(prompt)
        place = self._place(body)
        known = _read(place)
        if known is not None:
            self._count("cached")
            return known
        found = self._call(json.dumps(body).encode())
        if isinstance(found, Failure):
            self._count(found.why)
            self._note_failure(found)
            return found
        with self._lock:
            self._failed_in_a_row = 0
        self._count("answered")
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(place, json.dumps({"request": body, "answer": found}, ensure_ascii=False).encode())
        return found

    def _body(self, prompt: str) -> dict[str, Any]:
        settings = self.settings
        return {
            "model": settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
        }

    def _place(self, body: Mapping[str, Any]) -> Path | None:
        """Return where an answer is kept: by what decides it, the address too."""
        if self.settings.cache is None:
            return None
        text = json.dumps([self.settings.base_url, body], sort_keys=True)
        name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return self.settings.cache / name[:2] / f"{name}.json"

    def _call(self, body: bytes) -> str | Failure:
        """Call until there is an answer or the tries are spent."""
        pause, last = FIRST_PAUSE, Failure(CALL)
        for attempt in range(self.settings.retries + 1):
            self._wait_for_turn()
            found, after = self._try(body)
            if isinstance(found, str):
                return found
            last = found
            if found.why == REFUSED:
                return found
            if attempt < self.settings.retries:
                self._sleep(min(LONGEST_PAUSE, max(after, pause * (0.75 + random.random() / 2))))
                pause = min(LONGEST_PAUSE, 2 * pause)
        return last

    def _try(self, body: bytes) -> tuple[str | Failure, float]:
        """Call once; return the answer or the failure, and the seconds that the server asks to wait."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "finerank"}
        if self.settings.key:
            headers["Authorization"] = f"Bearer {self.settings.key}"
        address = f"{self.settings.base_url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, data=body, headers=headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.settings.timeout) as response:
                return _content(_read_all(response, self._now() + self.settings.timeout, self._now)), 0.0
        except urllib.error.HTTPError as error:
            with error:
                if error.code in FATAL:
                    raise self._refused(error) from None
                if error.code not in AGAIN:  # of this prompt alone, such as one that is too long
                    return Failure(REFUSED, f"status {error.code}"), 0.0
                return Failure(CALL, f"status {error.code}"), _seconds(error.headers.get("Retry-After"))
        except (OSError, HTTPException, ValueError) as error:
            return Failure(CALL, f"{type(error).__name__}: {error}"[:200]), 0.0

    def _wait_for_turn(self) -> None:
        if self.settings.per_minute is None:
            return
        with self._lock:
            start = max(self._now(), self._next_start)
            self._next_start = start + 60.0 / self.settings.per_minute
        if start > self._now():
            self._sleep(start - self._now())

    def _note_failure(self, failure: Failure) -> None:
        with self._lock:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= IN_A_ROW:
                raise UserError(
                    f"{IN_A_ROW} calls failed one after the other, the last with {failure.detail or failure.why}",
                    where=self.settings.base_url,
                    hint="the same command goes on where this one stopped; answers so far are kept",
                )

    def _refused(self, error: urllib.error.HTTPError) -> UserError:
        hints = {
            401: "put a valid key into the environment (--llm_key_env names the variable)",
            404: "--llm_model NAME",
        }
        try:
            said = " ".join(error.read(2000).decode("utf-8", "replace").split())[:200]
        except (OSError, HTTPException):
            said = ""
        return UserError(
            f"the API refused the call with status {error.code}{': ' + said if said else ''}",
            where=self.settings.base_url,
            hint=hints.get(error.code, hints[401] if error.code == 403 else None),
        )

    def _count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follow nobody: the key is meant for one address."""

    def redirect_request(self, *words: Any, **more: Any) -> None:
        return None


def client_of(options: LlmOptions) -> LlmClient:
    """Return the client that a verb's options describe; its key comes from the environment."""
    assert options.llm_model is not None
    return LlmClient(
        LlmSettings(
            options.llm_base_url, options.llm_model, key_from(options.llm_key_env), options.llm_max_tokens,
            options.llm_temperature, options.llm_timeout, options.llm_retries, options.llm_requests_per_minute,
            options.llm_concurrency, options.max_llm_calls, cache_folder(options.llm_cache),
        )
    )  # fmt: skip


def key_from(name: str) -> str | None:
    """Return the API's key from the environment variable ``name``, or None."""
    return os.environ.get(name) or None


def default_cache() -> Path:
    """Return ``$FINERANK_CACHE/llm``, or ``~/.cache/finerank/llm``."""
    return cache_of("llm")


def cache_folder(word: str) -> Path | None:
    """Read ``--llm_cache``: ``auto`` is the default folder, ``none`` no cache, anything else a folder."""
    if word.lower() in ("none", "off", "false"):
        return None
    return default_cache() if word.lower() in ("auto", "default") else Path(word).expanduser()


def _read_all(response: Any, deadline: float, now: Callable[[], float]) -> bytes:
    """Read a response whole; a server that sends drop by drop does not hold the run up."""
    data = b""
    while chunk := response.read1(65536):
        data += chunk
        if len(data) > LARGEST_ANSWER or now() > deadline:
            raise ValueError("the answer is too long or too slow")
    return data


def _content(data: bytes) -> str:
    """Return the text of a chat completion; ValueError if this is none."""
    try:
        text = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise ValueError(f"not a chat completion: {type(error).__name__}") from None
    if not isinstance(text, str) or not text.strip():
        raise ValueError("a chat completion without text")
    return text


def _read(place: Path | None) -> str | None:
    try:
        answer = json.loads(place.read_bytes())["answer"] if place is not None else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return answer if isinstance(answer, str) else None


def _seconds(text: str | None) -> float:
    try:
        return min(LONGEST_PAUSE, max(0.0, float(text or 0)))
    except ValueError:
        return 0.0
