"""Chinese into terms: by jieba where it is installed, else pairs; which of them, and why."""

from __future__ import annotations

from importlib import metadata

import pytest

from finerank.core.errors import UserError
from finerank.retrieval import segment
from finerank.retrieval.bm25 import Bm25Retriever
from finerank.retrieval.segment import bigrams, described, is_chinese, jieba_words, resolve, segment_by

try:
    metadata.version("jieba")
    INSTALLED = True
except metadata.PackageNotFoundError:
    INSTALLED = False
needs_jieba = pytest.mark.skipif(not INSTALLED, reason="jieba is not installed")

CHINESE = ["检索模型用于搜索", "北京是中国的首都", "今天天气很好", "神经网络需要训练数据"]
ENGLISH = ["a model for search", "the capital of a country", "weather"]
JAPANESE = ["東京は日本の首都です", "検索モデルを使う", "今日は天気がいい"]
KOREAN = ["서울은 한국의 수도", "검색 모델"]


def best(pool: list[str], query: str, name: str) -> int:
    positions, scores = next(iter(Bm25Retriever(pool, segment=segment_by(name)).search([query], 1)))
    assert scores[0] > 0
    return int(positions[0])


@pytest.mark.parametrize(("text", "found"), [("检", ["检"]), ("检索", ["检索"]), ("检索模", ["检索", "索模"])])
def test_bigrams(text: str, found: list[str]) -> None:
    assert bigrams(text) == found


@pytest.mark.parametrize(
    ("pool", "chinese"),
    [(CHINESE, True), (ENGLISH, False), (JAPANESE, False), (KOREAN, False), (CHINESE + ENGLISH[:1], True),
     (ENGLISH + CHINESE[:1], False), (["?!", ""], False)],
)  # fmt: skip
def test_script_of_the_pool(pool: list[str], chinese: bool) -> None:
    assert is_chinese(pool) is chinese


def test_a_large_pool_is_sampled_evenly() -> None:
    class Counted(list[str]):
        read = 0

        def __getitem__(self, place):  # type: ignore[no-untyped-def]
            self.read += 1
            return super().__getitem__(place)

    pool = Counted(CHINESE[:1] * 50_000 + ENGLISH[:1] * 10_000)
    assert is_chinese(pool)
    assert pool.read < 2 * segment.SAMPLE


def test_auto_without_jieba_takes_pairs_and_a_wish_for_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "jieba_version", lambda: None)
    assert resolve("auto", CHINESE) == "bigrams"
    with pytest.raises(UserError, match="needs jieba"):
        resolve("jieba", CHINESE)
    assert described("bigrams", "auto") == "pairs of characters"


def test_the_resolved_name_holds_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "jieba_version", lambda: "9.9")
    assert resolve("auto", CHINESE) == resolve("jieba", ENGLISH) == "jieba 9.9"
    assert resolve("auto", ENGLISH) == resolve("auto", JAPANESE) == resolve("bigrams", CHINESE) == "bigrams"
    assert "jieba 9.9" in described("jieba 9.9", "auto")


@pytest.mark.parametrize("name", ["bigrams", pytest.param("jieba", marks=needs_jieba)])
def test_a_chinese_pool_in_both_segmenters(name: str) -> None:
    assert best(CHINESE, "哪里是首都", name) == 1
    assert best(CHINESE, "训练神经网络", name) == 3
    assert best(CHINESE, "天气", name) == 2


@needs_jieba
def test_words_are_words_and_long_ones_come_in_parts_too() -> None:
    assert jieba_words("北京大学需要训练") == ["北京", "大学", "北京大学", "需要", "训练"]


@needs_jieba
def test_pairs_match_across_words_where_words_do_not() -> None:
    pool = ["研究生命起源", "大学生生活"]
    # 生生 is a pair in 学生生活 and no word
    assert Bm25Retriever(pool, segment=bigrams).scores("生生")[1] > 0
    assert Bm25Retriever(pool, segment=jieba_words).scores("研究")[0] > 0


@needs_jieba
def test_japanese_and_korean_stay_pairs() -> None:
    assert jieba_words("検索モデル") == bigrams("検索モデル")
    assert jieba_words("서울은") == bigrams("서울은")
