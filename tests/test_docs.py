"""The documentation builds without a warning, and every command it shows is a command."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finerank.cli import VERBS, main
from tests.conftest import WORDS

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def commands(page: str) -> Iterator[list[str]]:
    """Yield the words of every finerank command in a page's shell blocks."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["finerank"] or words[:3] == ["python", "-m", "finerank"]:
                yield words[1:] if words[0] == "finerank" else words[3:]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_shown_is_read(
    page: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        assert main([*words, "--dump_config"]) == 0, words
    capsys.readouterr()


def test_the_pages_show_commands() -> None:
    shown = {words[0] for page in PAGES for words in commands(page)}
    assert {name.split()[0] for name in VERBS} - shown <= {"demo"}


def test_ten_minutes_from_the_first_line_to_the_last(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [f"find the {one} in the {other} file" for one in WORDS[20:28] for other in WORDS[30:36]]
    rows = [json.dumps({"query": text[9:-5], "pos": [text]}) + "\n" for text in texts]
    Path("rows.jsonl").write_text("".join(rows[:36]))
    Path("dev.jsonl").write_text("".join(json.dumps({**json.loads(row), "neg": texts[:4]}) + "\n" for row in rows[36:]))
    Path("passages.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    Path("M").symlink_to(tiny_encoder)
    for words in commands("docs/tutorial.md"):
        assert main(words) == 0, words
    for block in blocks("docs/tutorial.md", "python"):
        exec(compile(block, "tutorial", "exec"), {})
    assert json.loads(Path("results.json").read_text())["num_queries"] == 12
    assert Path("report.html").is_file()
    capsys.readouterr()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in VERBS:
        page = (tmp_path / "site" / "commands" / name.replace(" ", "_") / "index.html").read_text(encoding="utf-8")
        assert f"finerank {name}" in page
    assert "normlized" in (tmp_path / "site" / "migration" / "index.html").read_text(encoding="utf-8")
