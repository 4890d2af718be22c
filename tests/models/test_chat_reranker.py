"""Rerankers that answer in a chat: the published code's probabilities, sentence-transformers' folders, errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from finerank.batching.chat_layout import INSTRUCTION, PUBLISHED, chat_text
from finerank.core.errors import UserError
from finerank.models.families import class_of
from finerank.models.load import load_scorer, trainable_scorer
from tests.models.test_families import groups, outputs_of
from tests.parity.cases import PAIRS
from tests.parity.tiny_base import qwen2

TOLERANCE = 1e-4
CHATS = (
    "{%- set asked = messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first | "
    "default('" + INSTRUCTION + "') -%}\n"
    "{%- set query = messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first -%}\n"
    "{%- set document = messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first -%}\n"
)
LIKE_PUBLISHED = CHATS + (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: {{ asked }}\n'
    "<Query>: {{ query }}\n<Document>: {{ document }}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n\n"
)
OTHERWISE = (
    CHATS + "{{ asked | trim }}: {{ document | trim }}\n\n{{ query | trim }} {{ query | trim }}\n"
    "no: was that relevant to the query "
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(qwen2(tmp_path_factory.mktemp("chat") / "tiny-reranker"))


def st_folder(bare: str, folder: Path, template: str, *, max_len: int = 512) -> str:
    """Write the model as sentence-transformers does."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    first = folder / "first"
    qwen2(first)
    (first / "chat_template.jinja").write_text(template, encoding="utf-8")
    transformer = Transformer(str(first), transformer_task="text-generation", max_seq_length=max_len)
    ids = transformer.tokenizer.convert_tokens_to_ids(["yes", "no"])
    CrossEncoder(modules=[transformer, LogitScore(*ids)], device="cpu").save_pretrained(
        str(folder / "st"), create_model_card=False
    )
    return str(folder / "st")


def published(
    folder: str, pairs: list[tuple[str, str]], *, max_length: int, instruction: str = INSTRUCTION
) -> np.ndarray:
    """Return the probability of yes by the arithmetic of the model card, pair by pair."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    head = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    before, after = (
        tokenizer.encode(text, add_special_tokens=False)
        for text in (head, "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    )
    answers = [tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes")]
    found = []
    for query, passage in pairs:
        content = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {passage}"
        room = max_length - len(before) - len(after)
        ids = [*before, *tokenizer.encode(content)[:room], *after]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1, answers]
        found.append(torch.softmax(logits, dim=0)[1].item())
    return np.array(found)


def probability(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@pytest.mark.parametrize(("max_len", "prompt"), [(None, None), (220, None), (512, "Find the code that does it")])
def test_the_sigmoid_is_the_published_probability(bare: str, max_len: int | None, prompt: str | None) -> None:
    scorer = load_scorer(bare, family="chat_reranker", dtype="float32", max_len=max_len, prompt=prompt)
    expected = published(bare, PAIRS, max_length=max_len or 8192, instruction=prompt or INSTRUCTION)
    assert np.log(expected / (1 - expected)).std() > 0.1
    assert np.abs(probability(scorer.score(PAIRS)) - expected).max() <= TOLERANCE
    lengths = [len(item.ids) for item in load_scorer(bare, family="chat_reranker").tokens(PAIRS)]
    assert scorer.truncated(PAIRS)[0] == sum(length > (max_len or 8192) for length in lengths)


def test_a_pairs_own_prompt_takes_the_instructions_place(bare: str) -> None:
    scorer = load_scorer(bare, family="chat_reranker", dtype="float32")
    asked = load_scorer(bare, family="chat_reranker", dtype="float32", prompt="Find the cat")
    mixed = scorer.score([(*PAIRS[0], "Find the cat"), PAIRS[1]])
    assert mixed == pytest.approx([asked.score(PAIRS[:1])[0], scorer.score(PAIRS[1:2])[0]], abs=1e-5)


@pytest.mark.parametrize("template", [LIKE_PUBLISHED, OTHERWISE], ids=["published", "other"])
@pytest.mark.parametrize("max_len", [512, 200])
def test_sentence_transformers_folders_score_as_there(bare: str, tmp_path: Path, template: str, max_len: int) -> None:
    from sentence_transformers import CrossEncoder

    folder = st_folder(bare, tmp_path, template, max_len=max_len)
    assert class_of(folder) == "decoder-only-chat"
    theirs = CrossEncoder(folder, device="cpu")
    scorer = load_scorer(folder, dtype="float32")
    identity = torch.nn.Identity()
    assert scorer.max_len == max_len
    assert np.abs(scorer.score(PAIRS) - theirs.predict(PAIRS, activation_fn=identity)).max() <= TOLERANCE
    asked = load_scorer(folder, dtype="float32", prompt="Find the code")
    expected = theirs.predict(PAIRS, activation_fn=identity, prompt="Find the code")
    assert np.abs(asked.score(PAIRS) - expected).max() <= TOLERANCE
    if template == LIKE_PUBLISHED:
        expected = published(folder, PAIRS, max_length=max_len)
        assert np.abs(probability(scorer.score(PAIRS)) - expected).max() <= TOLERANCE


@pytest.mark.parametrize("prompt", [None, 'Find the "code"\nthat does it'])
def test_a_saved_model_is_read_back_here_and_by_sentence_transformers(
    bare: str, tmp_path: Path, prompt: str | None
) -> None:
    from sentence_transformers import CrossEncoder

    scorer = load_scorer(bare, family="chat_reranker", dtype="float32", max_len=200, query_max_len=9, prompt=prompt)
    scorer.save(tmp_path / "model")
    again = load_scorer(str(tmp_path / "model"), dtype="float32")
    assert type(again) is type(scorer)
    assert (again.max_len, again.query_max_len, again.layout.prompt) == (200, 9, prompt or INSTRUCTION)
    assert (again.score(PAIRS) == scorer.score(PAIRS)).all()
    uncut = load_scorer(bare, family="chat_reranker", dtype="float32", max_len=200, prompt=prompt).score(PAIRS)
    theirs = CrossEncoder(str(tmp_path / "model"), device="cpu").predict(PAIRS, activation_fn=torch.nn.Identity())
    assert np.abs(uncut - theirs).max() <= TOLERANCE


def test_a_sentence_transformers_folder_is_saved_as_one(bare: str, tmp_path: Path) -> None:
    folder = st_folder(bare, tmp_path, OTHERWISE)
    scorer = load_scorer(folder, dtype="float32", prompt="Find")
    scorer.save(tmp_path / "again")
    again = load_scorer(str(tmp_path / "again"), dtype="float32")
    assert (again.score(PAIRS) == scorer.score(PAIRS)).all()


def test_queries_and_passages_are_cut_to_lengths_of_their_own(bare: str) -> None:
    scorer = load_scorer(bare, family="chat_reranker", dtype="float32", query_max_len=9, passage_max_len=12)
    short = load_scorer(bare, family="chat_reranker", dtype="float32")
    sides = [scorer.tokenizer.shortened([pair[side] for pair in PAIRS], most) for side, most in enumerate((9, 12))]
    for most, side, given in zip((9, 12), sides, zip(*PAIRS)):
        assert all(len(ids) <= most for ids in scorer.tokenizer.plain(side))
        assert all(text.startswith(cut) for text, cut in zip(given, side))
        assert 0 < sum(text != cut for text, cut in zip(given, side)) < len(PAIRS)
    assert scorer.tokens(PAIRS) == short.tokens(list(zip(*sides)))


@pytest.mark.parametrize("budget", [600, 100_000])
def test_a_training_step_scores_what_inference_scores(bare: str, budget: int) -> None:
    model = trainable_scorer(bare, family="chat_reranker", device="cpu", dropout=0.0)
    model.tokens_per_forward = budget
    batch = groups(3)
    pairs = [(group.query, passage) for group in batch for passage in group.passages]
    scores = outputs_of(model, batch)["scores"].detach().numpy().reshape(-1)
    expected = load_scorer(bare, family="chat_reranker", dtype="float32").score(pairs)
    assert np.abs(scores - expected).max() <= TOLERANCE


def test_one_answer_alone_is_its_logit(bare: str, tmp_path: Path) -> None:
    folder = Path(st_folder(bare, tmp_path, LIKE_PUBLISHED))
    said = json.loads((folder / "1_LogitScore" / "config.json").read_text(encoding="utf-8"))
    both = load_scorer(str(folder), dtype="float32").score(PAIRS)
    alone = []
    for key in ("true_token_id", "false_token_id"):
        only = {"true_token_id": said[key], "false_token_id": None}
        (folder / "1_LogitScore" / "config.json").write_text(json.dumps(only), encoding="utf-8")
        alone.append(load_scorer(str(folder), dtype="float32").score(PAIRS))
    assert np.abs(both - (alone[0] - alone[1])).max() <= TOLERANCE


def test_what_cannot_be_read_is_said(bare: str, tmp_path: Path, tiny_language_model: str) -> None:
    with pytest.raises(UserError, match='cannot answer "yes"'):
        load_scorer(tiny_language_model, family="chat_reranker")
    without = st_folder(bare, tmp_path, "{{ messages[0].content }}")
    with pytest.raises(UserError, match="roles query and document"):
        load_scorer(without)
    unasked = st_folder(bare, tmp_path / "unasked", CHATS + "{{ query }}: {{ document }}")
    with pytest.raises(UserError, match="no place for a prompt"):
        load_scorer(unasked, prompt="Find")
    changed = st_folder(bare, tmp_path / "changed", CHATS + "{{ query | replace('a', 'b') }}: {{ document }}")
    with pytest.raises(UserError, match="changes the texts"):
        load_scorer(changed)


def test_a_template_written_is_taken_apart_again() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = PUBLISHED.as_template('Say "it"\n\u732b')

    def render(messages: list[dict[str, str]]) -> str:
        return render_jinja_template(conversations=[messages], chat_template=template)[0][0]

    assert chat_text(render, instructed=True) == PUBLISHED
    assert 'Instruct>: Say "it"\n\u732b\n<Query>: a' in render(
        [{"role": "query", "content": "a"}, {"role": "document", "content": "b"}]
    )
