"""Lanes keep the order, the modes of the caller and its number of threads; errors come through."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Barrier, Thread, current_thread, main_thread
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BigBirdConfig, BigBirdModel, LlamaConfig, LlamaModel

from finerank.models import lanes
from finerank.models.load import load_encoder, load_scorer
from tests.models.test_families import PAIRS, TEXTS

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_several_threads_at_once() -> None:
    together = Barrier(2, timeout=30)

    def work(item: int) -> tuple[int, int]:
        together.wait()  # would break if items were computed one after the other
        return item, torch.get_num_threads()

    with lanes.opened(2) as opened:
        assert list(opened.map(work, range(6))) == [(item, 2) for item in range(6)]
        assert torch.get_num_threads() == 4
    assert torch.get_num_threads() == 4


def test_modes_of_the_caller_hold_in_the_lanes() -> None:
    def modes(_: int) -> tuple[bool, bool, torch.dtype]:
        own = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        return torch.is_inference_mode_enabled(), *own

    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.float16), lanes.opened(2) as opened:
        assert set(opened.map(modes, range(4))) == {(True, True, torch.float16)}
    with lanes.opened(2) as opened:
        assert {found[:2] for found in opened.map(modes, range(4))} == {(False, False)}


def test_a_single_item_takes_all_threads() -> None:
    with lanes.opened(3) as opened:
        assert list(opened.map(lambda _: current_thread() is main_thread(), range(1))) == [True]
        assert not any(opened.map(lambda _: current_thread() is main_thread(), range(2)))


def test_an_error_ends_the_work() -> None:
    def fails(item: int) -> int:
        if item == 1:
            raise MemoryError("too long")
        return item

    with lanes.opened(2) as opened, pytest.raises(MemoryError, match="too long"):
        list(opened.map(fails, range(4)))
    assert torch.get_num_threads() == 4


def test_an_error_of_the_caller_leaves_the_rest_undone() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.02)
        return item

    def stopped() -> None:
        with lanes.opened(2) as opened:
            for _ in opened.map(work, range(1000)):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert len(begun) < 100
    assert torch.get_num_threads() == 4


def test_threads_that_cannot_be_had_are_an_error_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    own, started = Thread.start, []

    def start(self: Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(self)
        own(self)

    monkeypatch.setattr(Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"), lanes.opened(3):
        pass
    assert torch.get_num_threads() == 4


def test_one_lane_for_each_thread_up_to_the_most() -> None:
    assert lanes.count_on(CPU) == 4
    torch.set_num_threads(16)
    assert lanes.count_on(CPU) == lanes.MOST
    torch.set_num_threads(1)
    assert lanes.count_on(CPU) == 1
    assert lanes.count_on(torch.device("meta")) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_give_the_same_in_lanes(
    tiny_encoder: str, tiny_reranker: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finerank.models.engine.CPU_TOKENS", 24)
    encoder, scorer = load_encoder(tiny_encoder, dtype=dtype), load_scorer(tiny_reranker, dtype=dtype)
    computed: list[bool] = []
    encoder.model[0].register_forward_pre_hook(lambda *_: computed.append(current_thread() is main_thread()))
    found = encoder.encode(TEXTS * 2, "passage"), scorer.score(PAIRS)
    assert not any(computed)
    torch.set_num_threads(1)
    computed.clear()
    alone = encoder.encode(TEXTS * 2, "passage"), scorer.score(PAIRS)
    assert all(computed)
    for ours, theirs in zip(found, alone):
        np.testing.assert_allclose(ours, theirs, atol=1e-6 if dtype == "float32" else 2e-2)


def test_what_keeps_something_between_two_calls_is_run_alone() -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    }  # fmt: skip
    assert lanes.fit(BertModel(BertConfig(**sizes)))
    assert lanes.fit(LlamaModel(LlamaConfig(**sizes)))
    stretching = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    assert not lanes.fit(LlamaModel(LlamaConfig(**sizes, rope_parameters=stretching)))
    remote = type("RemoteModel", (BertModel,), {"__module__": "transformers_modules.somebody.model"})
    assert not lanes.fit(remote(BertConfig(**sizes)))
    # It changes its attention in the middle of a call.
    assert not lanes.fit(BigBirdModel(BigBirdConfig(**sizes)))


def test_modules_behind_the_transformer_must_be_known_too(tiny_encoder: str) -> None:
    transformer, *behind = load_encoder(tiny_encoder, dtype="float32").model
    assert lanes.fit(transformer.model, *behind)
    remote = type("RemotePooling", (torch.nn.Module,), {"__module__": "transformers_modules.somebody.pooling"})
    assert not lanes.fit(transformer.model, *behind, remote())
