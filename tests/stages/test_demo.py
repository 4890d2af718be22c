"""The demo from end to end on a small package and a tiny model."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finerank import cli
from finerank.core.command_line import parse
from finerank.core.errors import UserError
from finerank.core.outcomes import Outcome
from finerank.data import chain
from finerank.stages import demo
from finerank.stages.demo import (
    DemoOptions,
    mining_range,
    next_commands,
    packaged_model,
    run,
    small_dev,
    stages,
    write_data,
)

VERBS_IN_ORDER = ["check", "mine", "train embedder", "mine", "train reranker", "evaluate"]
WORDS = ["cat", "code", "dog", "file", "find", "fish", "list", "name", "number", "path", "read", "remove", "search"]


def write_package(root: Path, modules: int = 12, functions: int = 8) -> None:
    root.mkdir()
    (root / "__init__.py").write_text("raise SystemExit('imported')\n")
    for module in range(modules):
        parts = []
        for number in range(functions):
            first, second = WORDS[module % len(WORDS)], WORDS[(module + number + 1) % len(WORDS)]
            parts.append(
                f"def {first}_{second}_{number}(value):\n"
                f'    """Find the {first} of a {second} in group {module} {number}."""\n'
                f"    {second} = value.{first}\n    return {second}[{number}], {module}\n"
            )
        (root / f"m{module:02}.py").write_text("\n\n".join(parts))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    write_package(tmp_path / "small_toolbox")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "small_toolbox"


@pytest.fixture
def options(package: str, tiny_encoder: str, tmp_path: Path) -> DemoOptions:
    return DemoOptions(
        package=[package], model_name_or_path=tiny_encoder, output_dir=str(tmp_path / "out"), device="cpu"
    )


def in_this_process(command: list[str], title: str) -> None:
    """Run a stage without paying for a new interpreter."""
    assert command[:3] == [sys.executable, "-m", "finerank"]
    if cli.main(command[3:]) != 0:
        raise UserError("the stage ended", where=title)


def test_the_whole_loop(
    options: DemoOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chain, "run_command", in_this_process)
    outcome = run(options)
    folder = Path(options.output_dir)
    shown = capsys.readouterr().err
    for number in range(1, 8):
        assert f"stage {number}" in shown
    made = ["mined_with_base.jsonl", "mined_with_tuned.jsonl", "tuned_embedder/modules.json", "report.html"]
    made += ["tuned_reranker/config.json", "results.json", "candidates.jsonl", "data/qrels/test.tsv"]
    assert [name for name in made if not (folder / name).exists()] == []
    for name in ("bm25", "tuned_embedder", "tuned_reranker over tuned_embedder", "zscore"):
        assert name in outcome.text
    assert "finerank rerank" in outcome.text
    assert outcome.data["peak_memory_bytes"] > 0
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    assert run(options).data["arms"] == outcome.data["arms"]
    assert {path: path.read_bytes() for path in before} == before


def test_an_overwriting_demo_that_was_killed_keeps_what_it_has_redone(
    options: DemoOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    overwriting: list[bool] = []
    limit = 3

    def stage(command: list[str], title: str) -> None:
        if len(overwriting) == limit:
            raise KeyboardInterrupt
        overwriting.append("--overwrite" in command)

    monkeypatch.setattr(chain, "run_command", stage)
    monkeypatch.setattr(demo, "outcome", lambda *parts: Outcome("", {}))
    options.overwrite = True
    with pytest.raises(KeyboardInterrupt):
        run(options)
    assert overwriting == [False, True, True]  # check writes nothing
    overwriting.clear()
    limit = 6
    run(options)
    assert overwriting == [False, False, False, True, True, True]
    for other in (options.seed, options.seed + 1):  # finished: --overwrite means all of it; other options too
        overwriting.clear()
        options.seed, limit = other, 4
        with pytest.raises(KeyboardInterrupt):
            run(options)
        assert overwriting == [False, True, True, True]


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on(options: DemoOptions, tmp_path: Path) -> None:
    words = ["--package", *options.package, "--model_name_or_path", str(options.model_name_or_path), "--output_dir"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "finerank", "demo", *words, options.output_dir]
    for proof in ("mined_with_base.jsonl", "tuned_embedder"):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while not (Path(options.output_dir) / proof).exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(1)  # its stage dies with it
    subprocess.run(command, env=environment, check=True)
    subprocess.run([*command[:4], *words, str(tmp_path / "other")], env=environment, check=True)
    for name in ("mined_with_tuned.jsonl", "tuned_reranker/model.safetensors"):
        assert (Path(options.output_dir) / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_every_stage_is_a_command_line_that_its_verb_takes(options: DemoOptions) -> None:
    found = []
    for stage in stages(options, Path("out"), "base", 3_000):
        name, rest = cli._verb_name(list(stage.words))
        verb = cli.VERBS[name]
        module = __import__(verb.module, fromlist=[verb.options])
        parsed = parse(getattr(module, verb.options), rest, name, passthrough=verb.passthrough)
        assert parsed.extras == {}
        assert parsed.notes == []
        found.append(name)
    assert found == VERBS_IN_ORDER


def test_what_is_printed_to_try_next_parses() -> None:
    commands = next_commands(Path("a folder"))
    assert len(commands) == 3
    for command in commands:
        program, verb, *rest = shlex.split(command)
        assert (program, verb) == ("finerank", "rerank")
        module = __import__("finerank.stages.rerank", fromlist=["RerankOptions"])
        assert parse(module.RerankOptions, rest, "rerank").extras == {}


def test_device_and_dtype_reach_every_stage_with_a_model(options: DemoOptions) -> None:
    options.dtype, options.overwrite = "float32", True
    for stage in stages(options, Path("out"), "base", 3_000):
        if stage.words[0] != "check":
            assert {"--device", "cpu", "--dtype", "float32", "--overwrite"} <= set(stage.words)


def test_test_modules_are_in_no_row(options: DemoOptions) -> None:
    data = write_data(options, Path(options.output_dir))
    held_out = {item.passage for item in data.queries["test"]}
    for name in ("train.jsonl", "dev.jsonl"):
        lines = (Path(options.output_dir) / "data" / name).read_text(encoding="utf-8").splitlines()
        assert lines
        assert not held_out & {json.loads(line)["pos"][0] for line in lines}


def test_the_small_dev_set_is_part_of_the_whole(options: DemoOptions) -> None:
    data = write_data(options, Path(options.output_dir))
    small = small_dev(data)
    assert {item.id for item in small.queries["dev"]} <= {item.id for item in small.corpus}
    assert set(small.queries["dev"]) <= set(data.queries["dev"])
    assert len(small.corpus) <= len(data.corpus)


def test_other_functions_over_a_finished_demo_are_refused(options: DemoOptions, package: str, tmp_path: Path) -> None:
    write_data(options, Path(options.output_dir))
    write_data(options, Path(options.output_dir))
    (tmp_path / package / "m00.py").unlink()
    with pytest.raises(UserError, match="--overwrite"):
        write_data(options, Path(options.output_dir))


def test_small_pools_get_a_window_inside_them() -> None:
    assert mining_range((10, 110), 3_000) == "10-110"
    assert mining_range((10, 110), 60) == "6-60"
    assert mining_range((0, 30), 20) == "0-20"


def test_the_packaged_model_is_a_folder_that_can_be_loaded_or_absent() -> None:
    found = packaged_model()
    assert found is None or (Path(found) / "modules.json").is_file()
