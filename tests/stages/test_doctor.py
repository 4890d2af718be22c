"""The doctor's findings, and the advice that follows from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finerank.cli import main
from finerank.models import machine
from finerank.models.machine import Device
from finerank.stages import doctor
from finerank.stages.doctor import DoctorOptions


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu avx2 avx512f amx_bf16\n\nprocessor\t: 1\n")
    monkeypatch.setattr(machine, "CPUINFO", path)
    return path


def test_the_system_is_read(cpuinfo: Path) -> None:
    assert machine.processor() == "Some Xeon"
    assert machine.flags() == ["avx2", "avx512f", "amx_bf16"]
    cpuinfo.unlink()
    assert machine.flags() == []
    assert machine.processor()


def test_rates_are_of_the_work_that_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: float(next(ticks)))  # each round takes one second
    assert machine.product_rate(torch.device("cpu"), torch.float32) == 2 * 4096 * 384 * 1536
    assert machine.copy_rate(torch.device("cpu"), size=1000) == 2000


def test_what_is_found_is_said_and_is_json(cpuinfo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["devices"][-1]["kind"] == "Some Xeon"
    assert found["versions"]["torch"] == torch.__version__
    assert found["rates"] == {}
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "Some Xeon" in shown
    assert "avx2 avx512f amx_bf16" in shown
    assert torch.__version__ in shown


def test_advice_follows_from_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = Device("cpu", "old", 0, False), Device("cpu", "new", 0, True)
    found: dict[str, Any] = {
        "threads": 8,
        "cores": 2,
        "cache": {"free": 0},
        "extras": dict.fromkeys(doctor.EXTRAS, False),
    }
    advice = "\n".join(doctor._advice(found, [slow]))
    for part in ("bfloat16", "no accelerator", "OMP_NUM_THREADS=2", "FINERANK_CACHE", "pip install 'finerank[lora]'"):
        assert part in advice
    well: dict[str, Any] = {
        "threads": 2,
        "cores": 2,
        "cache": {"free": 2**40},
        "extras": dict.fromkeys(doctor.EXTRAS, True),
    }
    assert doctor._advice(well, [Device("cuda:0", "GPU", 2**37, True), fast]) == ["nothing is missing"]


def test_measuring_shows_a_rate_for_each_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "product_rate", lambda *_: 2.5e12)
    monkeypatch.setattr(machine, "copy_rate", lambda *_: 1e10)
    outcome = doctor.run(DoctorOptions(measure=True))
    assert outcome.data["rates"]["cpu"] == {"float32": 2.5e12, "bfloat16": 2.5e12, "copy": 1e10}
    assert "float32 2.50 TFLOP/s" in outcome.text
    assert "copies 10 GB/s" in outcome.text
