"""The language model's path against a server of the test's own, which also fails, stalls and talks rubbish."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from finerank.core.errors import UserError
from finerank.generation import llm
from finerank.generation.entities import Entity, EntityIndex
from finerank.generation.llm import BUDGET, CALL, REFUSED, Failure, LlmClient, LlmSettings, key_from
from finerank.generation.llm_oracle import UNPARSED, LlmOracle, llm_queries, read_verdict
from finerank.generation.queries import GeneratedQuery

from ..llm_server import Reply, Server, chat
from .conftest import number_of


def client(server: Server, slept: list[float] | None = None, **more: Any) -> LlmClient:
    settings = LlmSettings(server.url, "tiny", timeout=5.0, **({"concurrency": 1} | more))
    return LlmClient(settings, sleep=(slept if slept is not None else []).append)


def test_an_answer_is_cached_by_its_prompt(serve: Any, tmp_path: Path) -> None:
    server = serve(lambda prompt, before: chat(f"re: {prompt}"))
    first = client(server, key="secret", cache=tmp_path)
    assert first.ask_all(["a", "b", "a"]) == ["re: a", "re: b", "re: a"]
    assert len(server.calls) == 2
    assert server.calls[0]["path"] == "/v1/chat/completions"
    assert server.calls[0]["model"] == "tiny"
    assert server.headers[0]["Authorization"] == "Bearer secret"
    again = client(server, cache=tmp_path)
    assert again.ask_all(["b"]) == ["re: b"]
    assert len(server.calls) == 2
    assert again.counts["cached"] == 1
    assert "secret" not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "secret" not in repr(first.settings)


def test_rate_limits_and_outages_back_off(serve: Any) -> None:
    replies: list[Reply] = [(429, b"slow down", {"Retry-After": "7"}), (503, b"", {}), chat("fine")]
    slept: list[float] = []
    server = serve(lambda prompt, before: replies[min(before, 2)])
    assert client(server, slept).ask_all(["q"]) == ["fine"]
    assert slept[0] == 7
    assert 1 <= slept[1] <= 3


def test_what_never_answers_is_a_failure_and_is_not_cached(serve: Any, tmp_path: Path) -> None:
    server = serve(lambda prompt, before: (500, b"", {}))
    asked = client(server, retries=2, cache=tmp_path)
    assert asked.ask_all(["q"]) == [Failure(CALL, "status 500")]
    assert len(server.calls) == 3
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}', b"\xff", b"[" * 9000],
)  # fmt: skip
def test_rubbish_is_a_failure(serve: Any, data: bytes) -> None:
    server = serve(lambda prompt, before: (200, data, {}))
    (found,) = client(server, retries=0).ask_all(["q"])
    assert isinstance(found, Failure)


def test_a_stalling_server_holds_nobody_up(serve: Any) -> None:
    server = serve(lambda prompt, before: 3.0)
    settings = LlmSettings(server.url, "tiny", timeout=0.2, retries=1, concurrency=1)
    begun = time.monotonic()
    (found,) = LlmClient(settings, sleep=lambda seconds: None).ask_all(["q"])
    assert isinstance(found, Failure)
    assert time.monotonic() - begun < 2.5


def test_a_closed_port_is_a_failure() -> None:
    settings = LlmSettings("http://127.0.0.1:9", "tiny", retries=0)
    (found,) = LlmClient(settings).ask_all(["q"])
    assert isinstance(found, Failure)


def test_a_refused_key_ends_the_run(serve: Any) -> None:
    server = serve(lambda prompt, before: (401, b"bad key", {}))
    with pytest.raises(UserError, match="status 401: bad key"):
        client(server).ask_all(["q"])
    assert len(server.calls) == 1


def test_a_refused_prompt_is_one_failure(serve: Any) -> None:
    server = serve(lambda prompt, before: (400, b"too long", {}) if prompt == "long" else chat("ok"))
    assert client(server).ask_all(["long", "short"]) == [Failure(REFUSED, "status 400"), "ok"]
    assert len(server.calls) == 2


def test_redirects_are_not_followed_with_the_key(serve: Any) -> None:
    other = serve(lambda prompt, before: chat("stolen"))
    server = serve(lambda prompt, before: (307, b"", {"Location": f"{other.url}/chat/completions"}))
    (found,) = client(server, key="secret", retries=0).ask_all(["q"])
    assert isinstance(found, Failure)
    assert not other.calls


def test_the_budget_counts_cached_answers_too(serve: Any, tmp_path: Path) -> None:
    server = serve(lambda prompt, before: chat("ok"))
    for _ in range(2):
        asked = client(server, budget=2, cache=tmp_path)
        assert asked.ask_all(["a", "b", "c"]) == ["ok", "ok", Failure(BUDGET)]
        assert asked.ask_all(["d"]) == [Failure(BUDGET)]
    assert len(server.calls) == 2


def test_calls_are_spread_over_the_minute(serve: Any) -> None:
    slept: list[float] = []
    settings = LlmSettings(serve(lambda prompt, before: chat("ok")).url, "tiny", per_minute=60, concurrency=1)
    LlmClient(settings, sleep=slept.append, now=lambda: 100.0).ask_all(["a", "b", "c"])
    assert slept == [1.0, 2.0]


def test_an_api_that_is_gone_ends_the_run(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "IN_A_ROW", 3)
    server = serve(lambda prompt, before: (503, b"", {}))
    with pytest.raises(UserError, match="3 calls failed one after the other"):
        client(server, retries=0).ask_all([str(n) for n in range(9)])


def test_many_at_once_keep_their_order(serve: Any) -> None:
    server = serve(lambda prompt, before: chat(prompt * 2))
    prompts = [str(n) for n in range(20)]
    assert client(server, concurrency=5).ask_all(prompts) == [prompt * 2 for prompt in prompts]


def test_an_address_that_is_none() -> None:
    with pytest.raises(UserError, match="http://127"):
        LlmClient(LlmSettings("ftp://x", "tiny"))


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "k")
    monkeypatch.delenv("NO_KEY", raising=False)
    assert key_from("MY_KEY") == "k"
    assert key_from("NO_KEY") is None


WORDS = " ".join(["word"] * 20)
LINK = '{"verdict": "yes", "sub_questions": ["a", "b"], "excerpt": "EXCERPT"}'


@pytest.mark.parametrize(
    ("answer", "bridge", "verdict"),
    [
        ('{"verdict": "yes"}', False, "positive"),
        ('Well: {"verdict": "NO"} indeed', False, "negative"),
        ('{"verdict": "unsure"}', True, "unknown"),
        (LINK.replace("EXCERPT", WORDS), True, "positive"),
        (LINK.replace("EXCERPT", WORDS).replace(', "b"', ""), True, "unknown"),
        (LINK, True, "unknown"),
        ("INVALID_BRIDGE_CONNECTION", True, "negative"),
        ("no", False, None), ('{"verdict": "perhaps"}', False, None), ('{"verdict": ["yes"]}', False, None),
        ('{"verdict": "ye', False, None), ("", False, None),
    ],
)  # fmt: skip
def test_reading_verdicts(answer: str, bridge: bool, verdict: str | None) -> None:
    assert read_verdict(answer, bridge) == verdict


def test_failures_and_rubbish_become_unknown_never_negative(serve: Any, lands: EntityIndex) -> None:
    replies = {0: chat("I think so?"), 1: (500, b"", {}), 2: chat('{"verdict": "no"}')}
    server = serve(lambda prompt, before: replies[before])
    oracle = LlmOracle(client(server, retries=0), lands.documents)
    query = GeneratedQuery("q", "bridge", Entity("Torvik", "name"), number_of(lands, "Una River"))
    found = oracle.judge_all([(query, 0), (query, 2), (query, 4)])
    assert [each.verdict for each in found] == ["unknown", "unknown", "negative"]
    assert oracle.counts == {UNPARSED: 1, CALL: 1}


def test_queries_of_a_language_model(serve: Any, lands: EntityIndex) -> None:
    bridge_answer = {"name": "Torvik", "type": "Place", "segment": "short", "query": "Torvik trade", "avoid": "river"}
    replies = [
        chat('{"query": "Where does the Una River end?"}'),
        chat(json.dumps(bridge_answer)),
        chat("no json"),
    ]  # fmt: skip
    server = serve(lambda prompt, before: replies[before])
    number = number_of(lands, "Una River")
    plain, bridge, none = llm_queries(
        client(server), lands, [(number, "llm"), (number, "llm_bridge"), (number + 1, "llm")]
    )
    assert isinstance(plain, GeneratedQuery)
    assert plain.text == "Where does the Una River end?"
    assert isinstance(bridge, GeneratedQuery)
    assert bridge.entity is not None
    assert (bridge.entity.name, bridge.entity.kind, bridge.avoid) == ("Torvik", "Place", "river")
    assert "Torvik" in bridge.entity.segment
    assert none == UNPARSED
