"""A dataclass is a command line: flags, YAML, bounds, near misses, help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from finerank.core.aliases import ALIASES, aliases_for
from finerank.core.command_line import Parsed, parse
from finerank.core.errors import UsageError
from finerank.core.help import verb_help
from finerank.core.options import VerbOptions, declared, effective, ignored, option, parse_range, semantic


@dataclass(kw_only=True)
class MineLike(VerbOptions):
    input_file: str = option(help="row file")
    words: list[str] = option([], "texts", positional=True)
    model_name_or_path: str | None = option(None, "the model")
    normalize_embeddings: bool = option(True, "unit length")
    negative_number: int = option(15, "negatives per row", ge=1, le=100)
    temperature: float = option(0.02, "divides the scores", gt=0)
    length_list: list[int] = option([0, 500], "bounds", ge=0)
    metrics: list[str] | None = option(None, "measures")
    sampling: Literal["random", "top"] = option("random", "how negatives are drawn")
    batch_size: int = option(64, "texts at once", semantic=False)
    output_file: str = option("", "where")
    corpus_weight: Any = ignored("only scoring has it")


def parsed(*words: str, **keywords: Any) -> Parsed:
    return parse(MineLike, ["--input_file", "a.jsonl", *words], "mine", **keywords)


def got(*words: str) -> MineLike:
    options: MineLike = parsed(*words).options
    return options


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("", True),
        ("--normalize_embeddings", True),
        ("--normalize-embeddings", True),
        ("--normalize_embeddings True", True),
        ("--normalize_embeddings False", False),
        ("--normalize_embeddings=false", False),
        ("--normalize_embeddings 0", False),
        ("--normalize_embeddings off", False),
        ("--no-normalize_embeddings", False),
        ("--no_normalize_embeddings", False),
        ("--no-normalize-embeddings", False),
        ("--normlized", True),
        ("--normlized no", False),
        ("--no-normlized", False),
        ("--normalize_embeddings False --normalize_embeddings", True),
    ],
)
def test_forms_of_a_bool(words: str, value: bool) -> None:
    assert got(*words.split()).normalize_embeddings is value


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--negative_number 7", "negative_number", 7),
        ("--negative-number=7", "negative_number", 7),
        ("--negative_number 7.0", "negative_number", 7),
        ("--negative_number 1e1", "negative_number", 10),
        ("--negative_number 7 --negative_number 8", "negative_number", 8),
        ("--temperature 1", "temperature", 1.0),
        ("--temperature 1e-3", "temperature", 0.001),
        ("--length_list 0 500 1000", "length_list", [0, 500, 1000]),
        ("--length_list 0 --length_list 500", "length_list", [0, 500]),
        ("--length_list=3", "length_list", [3]),
        ("--length-list 0 500 --negative_number 2", "length_list", [0, 500]),
        ("--metrics a b", "metrics", ["a", "b"]),
        ("--model_name_or_path None", "model_name_or_path", None),
        ("--embedder_name_or_path m", "model_name_or_path", "m"),
        ("-o out", "output_file", "out"),
        ("--output=out=1", "output_file", "out=1"),
        ("--output_file=", "output_file", ""),
        ("--output_file -", "output_file", "-"),
        ("--output_file=--strange", "output_file", "--strange"),
        ("one two", "words", ["one", "two"]),
        ("one --json two", "words", ["one", "two"]),
        ("--words one two", "words", ["one", "two"]),
        ("--sampling top", "sampling", "top"),
        ("--batch_size 9007199254740993", "batch_size", 9007199254740993),
    ],
)
def test_values(words: str, name: str, value: object) -> None:
    assert getattr(got(*words.split()), name) == value


def test_numbers_may_be_negative() -> None:
    @dataclass(kw_only=True)
    class Margins(VerbOptions):
        margin: float = option(0.0)
        bounds: list[float] = option([])

    options = parse(Margins, ["--margin", "-0.5", "--bounds", "-1", "-.5", "2"], "x").options
    assert (options.margin, options.bounds) == (-0.5, [-1.0, -0.5, 2.0])


@pytest.mark.parametrize("text", ["- first item", "-x y", "--- a rule", "-\tb = c", "-- a=b"])
def test_a_text_that_begins_with_a_dash_is_a_value(text: str) -> None:
    assert got("--words", text, "two").words == [text, "two"]
    assert got(text, "two").words == [text, "two"]
    assert got("--output_file", text).output_file == text
    assert parsed("--report_to", text, passthrough=True).extras == {"report_to": [text]}


def test_a_flag_may_carry_a_text_behind_its_equals_sign() -> None:
    assert got("--words", "a", "--output_file=one two = three").output_file == "one two = three"


@dataclass(kw_only=True)
class Resumable(VerbOptions):
    resume: str | None = option(None, "from where", bare="auto")


@pytest.mark.parametrize(
    ("words", "value"),
    [("", None), ("--resume", "auto"), ("--resume True", "auto"), ("--resume=true", "auto"), ("--resume False", None),
     ("--resume none", None), ("--resume path", "path"), ("--resume --json", "auto")],
)  # fmt: skip
def test_forms_of_a_flag_with_a_bare_value(words: str, value: str | None, tmp_path: Path) -> None:
    assert parse(Resumable, words.split(), "x").options.resume == value
    path = tmp_path / "c.yaml"
    path.write_text("resume: false")
    assert parse(Resumable, ["--config", str(path)], "x").options.resume is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--negative_numbr 3", 'unknown flag --negative_numbr for mine; did you mean "negative_number"?'),
        ("--negative 3", "unknown flag --negative for mine"),
        ("--normlised", 'did you mean "normlized"?'),
        ("--no-negative_number", "unknown flag --no-negative_number"),
        ("--zzz", "unknown flag --zzz for mine"),
        ("--", "unknown flag --"),
        ("--negative_number", "--negative_number needs a value"),
        ("--negative_number --json", "--negative_number needs a value"),
        ("--length_list", "--length_list needs at least one value"),
        ("--length_list --json", "--length_list needs at least one value"),
        ("--negative_number many", '--negative_number must be a whole number, got "many"'),
        ("--negative_number 1.5", '--negative_number must be a whole number, got "1.5"'),
        ("--negative_number inf", "must be a whole number"),
        ("--negative_number True", "must be a whole number"),
        ("--negative_number 0", "--negative_number must be at least 1, got 0"),
        ("--negative_number 101", "--negative_number must be at most 100, got 101"),
        ("--temperature 0", "--temperature must be more than 0, got 0.0"),
        ("--temperature nan", "--temperature must be a number"),
        ("--length_list 5 -1", "--length_list must be at least 0, got -1"),
        ("--normalize_embeddings=maybe", '--normalize_embeddings must be True or False, got "maybe"'),
        ("--sampling toop", 'unknown --sampling "toop"; did you mean "top"?'),
        ("--config", "--config needs a value"),
        ("--config nowhere.yaml", "--config nowhere.yaml: No such file"),
    ],
)
def test_errors_name_the_flag_and_the_nearest_one(words: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(*words.split())
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_missing_and_unexpected_words() -> None:
    with pytest.raises(UsageError, match="mine needs --input_file"):
        parse(MineLike, [], "mine")

    @dataclass(kw_only=True)
    class Single(VerbOptions):
        file: str = option(positional=True)
        other: str = option()

    with pytest.raises(UsageError, match="x needs --file and --other"):
        parse(Single, [], "x")
    with pytest.raises(UsageError, match='unexpected word "b"'):
        parse(Single, ["a", "b"], "x")
    with pytest.raises(UsageError, match='unexpected word "a"'):
        parse(VerbOptions, ["a"], "x")


def test_an_ignored_flag_is_accepted_and_said() -> None:
    found = parsed("--corpus_weight", "1", "2", "--json")
    assert found.notes == ["--corpus_weight has no effect on mine: only scoring has it"]
    assert "corpus_weight" not in effective(found.options)
    assert found.options.json is True
    assert parsed().notes == []


def test_unknown_flags_are_kept_where_somebody_else_judges_them() -> None:
    found = parsed("--adam_beta1", "0.9", "--tf32", "--report_to", "a", "b", "--x=1", passthrough=True)
    assert found.extras == {"adam_beta1": ["0.9"], "tf32": [], "report_to": ["a", "b"], "x": ["1"]}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(
        "input_file: from.yaml\nnegative-number: 3\nnormlized: false\nlength_list: [1, 2]\ntemperature: 1e-3\n"
        "model_name_or_path: null\n"
    )
    return path


def test_command_line_over_config_over_default(config: Path) -> None:
    options = parse(MineLike, ["--config", str(config), "--negative_number", "4"], "mine").options
    assert options.input_file == "from.yaml"
    assert options.negative_number == 4
    assert options.normalize_embeddings is False
    assert options.length_list == [1, 2]
    assert options.temperature == 0.001
    assert options.model_name_or_path is None
    assert options.batch_size == 64
    assert parse(MineLike, [f"--config={config}", "--normlized"], "mine").options.normalize_embeddings is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("negative_numbr: 3", 'unknown key "negative_numbr" in --config; did you mean "negative_number"?'),
        ("- a\n- b", "must hold option names and values, got list"),
        ("a: [1", "is not YAML"),
        ("a: \xff", "is not YAML"),
        ("negative_number: [1, 2]", "--negative_number takes one value, got 2"),
        ("negative_number:", "--negative_number needs a value"),
        ("negative_number: true", "must be a whole number"),
        ("sampling: best", 'unknown --sampling "best"'),
        ("negative_number: 0", "at least 1"),
    ],
)
def test_config_errors(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(f"input_file: x\n{text}".encode("latin-1") if not text.startswith("-") else text.encode())
    with pytest.raises(UsageError) as caught:
        parse(MineLike, ["--config", str(path)], "mine")
    assert said in str(caught.value)


def test_an_empty_config_and_one_with_foreign_keys(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("")
    assert got("--config", str(path)).negative_number == 15
    path.write_text("adam_beta1: 0.9\nreport_to: [a, b]\nweight_decay: 0.1\n")
    found = parsed("--config", str(path), "--weight_decay", "0.2", passthrough=True)
    assert found.extras == {"weight_decay": ["0.2"], "adam_beta1": ["0.9"], "report_to": ["a", "b"]}


def test_a_dumped_config_reads_back(tmp_path: Path) -> None:
    first = parsed("--dump_config", "--negative_number", "9", "a", "b")
    assert first.dump_config
    path = tmp_path / "dumped.yaml"
    path.write_text(yaml.safe_dump(effective(first.options)))
    assert parse(MineLike, ["--config", str(path)], "mine").options == first.options


def test_semantic_options_are_those_that_decide_the_bytes() -> None:
    assert "batch_size" in effective(got())
    assert {"batch_size", "json", "debug"}.isdisjoint(semantic(got()))
    assert semantic(got("--batch_size", "1")) == semantic(got("--json"))
    assert semantic(got("--negative_number", "1")) != semantic(got())


def test_python_callers_get_the_same_checks() -> None:
    assert MineLike(input_file="a", length_list=[7]).length_list == [7]
    with pytest.raises(UsageError, match="at least 1"):
        MineLike(input_file="a", negative_number=0)
    one, other = MineLike(input_file="a"), MineLike(input_file="a")
    one.length_list.append(9)
    assert other.length_list == [0, 500]


def test_help_shows_every_option_once_with_default_and_aliases() -> None:
    page = verb_help(MineLike, "mine", "Hard negatives.")
    for item in declared(MineLike).values():
        assert page.count(f"\n  {item.flag}") == 1
    assert "usage: finerank mine WORDS … [options]" in page
    assert "--normalize_embeddings, --normlized [True|False]" in page
    assert "--sampling random|top" in page
    assert "(required)" in page
    assert "(default: 0 500)" in page
    assert "-o" in page
    assert "no effect: only scoring has it" in page
    assert max(map(len, page.splitlines())) <= 120


@pytest.mark.parametrize(("text", "value"), [("10-210", (10, 210)), (" 0-1 ", (0, 1))])
def test_ranges(text: str, value: tuple[int, int]) -> None:
    assert parse_range(text, "--r") == value
    assert parse_range("0.5-0.9", "--r", float) == (0.5, 0.9)


@pytest.mark.parametrize(
    ("text", "value"),
    [("-0.2-0.8", (-0.2, 0.8)), ("-0.8--0.2", (-0.8, -0.2)), ("-1-1", (-1, 1)), ("1e-3-0.5", (0.001, 0.5)),
     ("-1e-3-1e-3", (-0.001, 0.001))],
)  # fmt: skip
def test_ranges_with_signs(text: str, value: tuple[float, float]) -> None:
    assert parse_range(text, "--r", float) == value

    @dataclass(kw_only=True)
    class Ranged(VerbOptions):
        similarity_range: str | None = option(None)

    assert parse(Ranged, ["--similarity_range", text], "x").options.similarity_range == text


@pytest.mark.parametrize("text", ["nan-1", "1-nan", "-0.5", "--5", "1-", "-"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(UsageError, match="joined by"):
        parse_range(text, "--r", float)


@pytest.mark.parametrize(
    ("text", "said"),
    [("200-2", "hint: 2-200"), ("5-5", "hint: 5-105"), ("5", "joined by"), ("a-b", "joined by"), ("", "joined by")],
)
def test_bad_ranges(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_range(text, "--range_for_sampling")
    assert said in str(caught.value)
    assert "--range_for_sampling" in str(caught.value)


def test_no_alias_hides_another() -> None:
    for verb in ALIASES:
        table = aliases_for(verb)
        assert all(name not in table or table[name] == name for name in table.values()), verb
        assert all(alias == alias.replace("-", "_") for alias in table)


@given(st.lists(st.text(max_size=12) | st.sampled_from([f"--{name}" for name in declared(MineLike)]), max_size=8))
def test_any_words_give_options_or_a_usage_error(words: list[str]) -> None:
    try:
        found = parse(MineLike, words, "mine")
    except UsageError:
        return
    assert isinstance(found.options, MineLike)


def test_help_begins_with_the_verbs_own_options() -> None:
    from finerank.core.model_options import ModelOptions

    @dataclass(kw_only=True)
    class Own(ModelOptions):
        rows: str = option(help="first")
        depth: int = option(3, "second")

    page = verb_help(Own, "mine", "Summary.")
    places = [page.index(flag) for flag in ("  --rows", "  --depth", "  --device", "  --json")]
    assert places == sorted(places)


def test_an_unknown_flag_is_named_beside_a_missing_one() -> None:
    @dataclass(kw_only=True)
    class Needy(VerbOptions):
        rows: str = option(help="needed")

    with pytest.raises(UsageError, match="needs --rows") as caught:
        parse(Needy, ["--rwos", "x"], "train reranker", passthrough=True)
    assert caught.value.hint == '--rwos is not known; did you mean "rows"?'
