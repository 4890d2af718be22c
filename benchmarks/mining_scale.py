"""Memory of mining as the pool grows: synthetic short passages, a tiny model, ``finerank mine`` as a child process.

    python benchmarks/mining_scale.py --work DIR [--sizes 250000 1000000 2000000] [--rows 1000] [--out FILE.json]

Reported per size, in MiB: the highest resident set (``peak``, pages of mapped files included), the highest anonymous
part (``anonymous``: what no file backs), and ``growth``, the peak's change against the size before it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from memory import measured

WORDS, WORDS_PER_PASSAGE, WORDS_PER_QUERY = 5000, 8, 4


def words() -> list[str]:
    """Return made-up words, all different."""
    heads, tails = [*"bcdfgklmnprstvz", "st"], "aeiou"
    syllables = [head + tail for head in heads for tail in tails]
    rng = random.Random(0)
    found: dict[str, None] = {}
    while len(found) < WORDS:
        found["".join(rng.choices(syllables, k=rng.randrange(2, 5)))] = None
    return list(found)


def write_pool(path: Path, size: int) -> None:
    """Write ``size`` passages; a smaller pool is the head of a larger one."""
    vocabulary, rng = words(), random.Random(1)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for _ in range(size):
            file.write(json.dumps({"text": " ".join(rng.choices(vocabulary, k=WORDS_PER_PASSAGE))}) + "\n")
    temporary.rename(path)


def write_rows(path: Path, count: int) -> None:
    """Write rows whose query is some words of their positive, a passage at the head of every pool."""
    vocabulary, rng, draw = words(), random.Random(1), random.Random(2)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            passage = rng.choices(vocabulary, k=WORDS_PER_PASSAGE)
            query = " ".join(draw.sample(passage, WORDS_PER_QUERY))
            file.write(json.dumps({"query": query, "pos": [" ".join(passage)]}) + "\n")


def write_model(folder: Path, hidden: int, layers: int) -> None:
    """Write a seeded BERT over whole words, in sentence-transformers' format: mean pooling, normalised."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {token: place for place, token in enumerate([*special, *words()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(fast), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=2 * hidden, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    plain = folder.with_name(folder.name + "-plain")
    BertModel(config).save_pretrained(plain)
    fast.save_pretrained(plain)
    parts = [Transformer(str(plain)), Pooling(hidden, "mean"), Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(folder), create_model_card=False)


def one_size(size: int, work: Path, keep: bool) -> dict[str, Any]:
    """Mine over a pool of ``size``, with an empty vector cache; the pool file and the vectors go afterwards."""
    pool, cache, out = work / f"pool-{size}.jsonl", work / f"vectors-{size}", work / f"out-{size}.jsonl"
    if not pool.exists():
        write_pool(pool, size)
    shutil.rmtree(cache, ignore_errors=True)
    result = measured(
        [
            sys.executable, "-m", "finerank", "mine", "--model_name_or_path", str(work / "model"), "--input_file",
            str(work / "rows.jsonl"), "--candidate_pool", str(pool), "--output_file", str(out), "--embedding_cache",
            str(cache), "--overwrite", "--device", "cpu", "--dtype", "float32",
        ],
        work / f"log-{size}.txt",
    )  # fmt: skip
    result |= {"pool": size, "vectors": round(sum(file.stat().st_size for file in cache.rglob("*.vec")) / 2**20, 1)}
    if not keep:
        shutil.rmtree(cache, ignore_errors=True)
        pool.unlink()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the pools, the model and the vectors")
    parser.add_argument("--sizes", type=int, nargs="+", default=[250_000, 1_000_000, 2_000_000])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--hidden", type=int, default=32, help="the model's width, the length of a vector")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep pools and vectors")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    write_rows(options.work / "rows.jsonl", options.rows)
    if not (options.work / "model" / "modules.json").exists():
        write_model(options.work / "model", options.hidden, options.layers)
    results: list[dict[str, Any]] = []
    for size in options.sizes:
        result = one_size(size, options.work, options.keep)
        if results:
            result["growth"] = round(result["peak"] / results[-1]["peak"] - 1, 4)
        results.append(result)
        print(json.dumps(result), flush=True)
        if options.out:
            shape = {"rows": options.rows, "hidden": options.hidden, "layers": options.layers}
            options.out.write_text(json.dumps(shape | {"sizes": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
