"""Tiny seeded models, built once per session: two layers, words of a small vocabulary, no download."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from .llm_server import Reply, Server

# A machine under load must not turn a green commit red: the same examples every time, no clock.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Modules that tests run in processes of their own. Python's fork server imports them before it learns of sys.path.
PROCESSES = str(Path(__file__).parent / "processes")
sys.path.insert(0, PROCESSES)
os.environ["PYTHONPATH"] = os.pathsep.join([PROCESSES, *filter(None, [os.environ.get("PYTHONPATH")])])

TEXT_OF_WORDS = (
    "a an and are as at be by can cat code dog each file find fish for from get give given has have how in is it list "
    "make name new not number of on one open or path read remove return right search sort string text that the them "
    "this to tree two up use value was what when where which with word write zero red blue green"
)
WORDS = TEXT_OF_WORDS.split()


_frozen = 0
"""Modules that were loaded when all objects were last frozen."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Take what imports have made out of the garbage collector's sight.

    A training ends with two full collections; each would spend half a second on objects that never die.
    """
    global _frozen
    if len(sys.modules) > _frozen + 50:
        gc.collect()
        gc.freeze()
        _frozen = len(sys.modules)


@pytest.fixture(scope="session", autouse=True)
def _no_shared_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["FINERANK_CACHE"] = str(tmp_path_factory.mktemp("finerank_cache"))


@pytest.fixture(scope="session", autouse=True)
def _no_power_cut() -> Iterator[None]:
    """No test can cut the power, so waiting for the disk only takes time; test_outputs sees that it is asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def tiny_tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WordPiece tokenizer over WORDS and single characters, with BERT's special tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = [chr(code) for code in range(33, 127)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *WORDS]
    vocabulary = {token: place for place, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def build_bert(folder: Path, tokenizer_file: Path, *, labels: int | None = None, seed: int = 0) -> Path:
    """Write a tiny BERT: a plain encoder, or a sequence-classification model with ``labels``."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, num_labels=labels or 2, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config) if labels is None else BertForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_file: Path) -> str:
    """Folder of a tiny embedder in sentence-transformers' format: mean pooling, normalised."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    plain = build_bert(tmp_path_factory.mktemp("plain"), tiny_tokenizer_file)
    transformer = Transformer(str(plain))
    model = SentenceTransformer(modules=[transformer, Pooling(32, "mean"), Normalize()], device="cpu")
    model.max_seq_length = 48
    folder = tmp_path_factory.mktemp("tiny_encoder")
    model.save_pretrained(str(folder), create_model_card=False)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_reranker(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_file: Path) -> str:
    """Folder of a tiny sequence-classification reranker with one label."""
    return str(build_bert(tmp_path_factory.mktemp("tiny_reranker"), tiny_tokenizer_file, labels=1, seed=1))


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_file: Path) -> str:
    """Folder of a tiny causal language model as an embedder: padded left, pooled at the last token, normalised."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    rust = Tokenizer.from_file(str(tiny_tokenizer_file))
    end = ("[SEP]", rust.token_to_id("[SEP]"))
    rust.post_processor = processors.TemplateProcessing(single="$A [SEP]", pair="$A $B:1 [SEP]:1", special_tokens=[end])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=rust, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]", model_max_length=64,
        padding_side="left", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=64, initializer_range=0.2, pad_token_id=0,
    )  # fmt: skip
    plain = tmp_path_factory.mktemp("plain_decoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        Qwen2ForCausalLM(config).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    modules = [Transformer(str(plain)), Pooling(32, "lasttoken"), Normalize()]
    folder = tmp_path_factory.mktemp("tiny_decoder")
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder), create_model_card=False)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_language_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_file: Path) -> str:
    """Folder of a tiny bare causal language model (Qwen2) with a begin-of-sequence token."""
    import torch
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    rust = Tokenizer.from_file(str(tiny_tokenizer_file))
    begin = ("[CLS]", rust.token_to_id("[CLS]"))
    rust.post_processor = processors.TemplateProcessing(single="[CLS] $A", pair="[CLS] $A $B", special_tokens=[begin])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=rust, pad_token="[PAD]", unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]",
        model_max_length=512, padding_side="left", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=512, initializer_range=0.2, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("language_model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str, int], Reply | float]], Server]]:
    """Start servers, and end them behind the test."""
    servers: list[Server] = []

    def start(reply: Callable[[str, int], Reply | float]) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()
