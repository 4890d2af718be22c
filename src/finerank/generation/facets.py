"""What a document says of its topic (its facet), told by cue words; and how people ask for it. English and Chinese."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from finerank.generation.language import CHINESE, ENGLISH, word_count

HEAD_WEIGHT = 3.0
"""A cue in the head counts so often."""
HEAD, BODY = 240, 2_000
"""Characters of a document that are its head, and that are looked at."""
LEAST_DEVIATIONS = 1.0


@dataclass(frozen=True)
class Facet:
    """One kind of thing to ask.

    Attributes:
        cues: words that give it away, in lower case.
        questions: forms with ``{x}`` for the topic.
    """

    name: str
    cues: re.Pattern[str]
    questions: tuple[str, ...]


def _facet(name: str, cues: str, *questions: str) -> Facet:
    bounds = r"\b(?:{})" if cues.isascii() else r"(?:{})"
    return Facet(name, re.compile(bounds.format("|".join(cues.split(" | ")))), questions)


FACETS: Mapping[str, tuple[Facet, ...]] = {
    ENGLISH: (
        _facet(
            "definition",
            r"is an? | are an? | was an? | refers? to | known as | defined as | means | is the | are the",
            "What is {x}?",
            "What is {x}?",
            "{x}",
            "What does {x} mean?",
            "Define {x}",
            "Overview of {x}",
        ),
        _facet(
            "symptoms",
            r"symptom | signs? of | signs and | feature | characteri[sz]ed | complain | appearance",
            "What are the symptoms of {x}?",
            "What are the signs of {x}?",
            "How do I recognize {x}?",
            "{x} symptoms",
        ),
        _facet(
            "causes",
            r"cause[sd]? | causing | due to | result(?:s|ed|ing)? (?:from|in) | because | triggered | reason",
            "What causes {x}?",
            "Why does {x} happen?",
            "What leads to {x}?",
            "causes of {x}",
        ),
        _facet(
            "genes",
            r"genes? | genetic | mutations? | chromosom | protein | dna",
            "Which genes are involved in {x}?",
            "What genetic changes are related to {x}?",
            "{x} gene mutations",
        ),
        _facet(
            "inheritance",
            r"inherit | autosomal | recessive | dominant | carriers? | passed (?:on|down) | runs in",
            "Is {x} inherited?",
            "How is {x} inherited?",
            "Does {x} run in families?",
        ),
        _facet(
            "frequency",
            r"prevalence | incidence | how many | per 100,000 | 1 in \d | people worldwide | frequency | "
            r"rare | individuals have been | percent",
            "How many people are affected by {x}?",
            "How common is {x}?",
            "How often does {x} occur?",
            "prevalence of {x}",
        ),
        _facet(
            "diagnosis",
            r"diagnos | tests? | testing | exam | biops | scan | detect | screen",
            "How is {x} diagnosed?",
            "How do I test for {x}?",
            "What tests are there for {x}?",
            "diagnosing {x}",
        ),
        _facet(
            "treatment",
            r"treat | therap | surgery | medication | medicine | drugs? | manage | cure",
            "What are the treatments for {x}?",
            "How is {x} treated?",
            "How do I treat {x}?",
            "{x} treatment",
        ),
        _facet(
            "prevention",
            r"prevent | avoid | protect | vaccin | reduce (?:the|your) risk | precaution",
            "How can {x} be prevented?",
            "How do I avoid {x}?",
            "{x} prevention",
        ),
        _facet(
            "risk",
            r"risk | at risk | likely to | susceptib | more common in",
            "Who is at risk for {x}?",
            "What increases the risk of {x}?",
            "{x} risk factors",
        ),
        _facet(
            "outlook",
            r"prognosis | outlook | surviv | recover | life expectancy | long-term | progress",
            "What is the outlook for {x}?",
            "How does {x} progress?",
            "prognosis of {x}",
        ),
        _facet(
            "complications",
            r"complication | lead to | side effect | damage | consequence",
            "What are the complications of {x}?",
            "What problems can {x} cause?",
        ),
        _facet(
            "research",
            r"research | clinical trials? | stud(?:y|ies) | scientists | investigat",
            "What research is being done on {x}?",
            "What is known about {x}?",
        ),
        _facet(
            "how-to",
            r"how to | steps? | click | install | run the | configure | set up | select | enable | open the",
            "How do I use {x}?",
            "How do I set up {x}?",
            "How does {x} work?",
            "{x} instructions",
        ),
        _facet(
            "requirements",
            r"require[sd]? | must have | needs? | depend(?:s|ing|ency|encies)? | prerequisite",
            "What does {x} need?",
            "What are the requirements for {x}?",
        ),
        _facet(
            "errors",
            r"errors? | fail(?:s|ed|ure)? | exception | troubleshoot | bugs? | crash | warning",
            "What goes wrong with {x}?",
            "How do I fix problems with {x}?",
            "{x} error",
        ),
        _facet(
            "choice",
            r"options? | default | parameter | setting | argument | flag",
            "What are the options of {x}?",
            "How do I configure {x}?",
            "{x} settings",
        ),
        _facet(
            "purpose",
            r"used (?:for|to|in) | purpose | aims? to | designed to | function | role",
            "What is {x} used for?",
            "What does {x} do?",
            "What is the role of {x}?",
        ),
        _facet(
            "effect",
            r"increase[sd]? | decrease[sd]? | reduce[sd]? | associated with | significant | effects? | improve",
            "What is the effect of {x}?",
            "What is {x} associated with?",
            "Does {x} have an effect?",
        ),
        _facet(
            "cost",
            r"cost | price | fees? | \$\d | paid | payment | bill",
            "How much does {x} cost?",
            "What do I pay for {x}?",
        ),
        _facet(
            "history",
            r"founded | established | century | origin | history | built in | 1[5-9]\d\d | first published",
            "When was {x} founded?",
            "What is the history of {x}?",
            "Where does {x} come from?",
        ),
        _facet(
            "place",
            r"located | city | town | village | county | region | province | north of | south of",
            "Where is {x}?",
            "Where is {x} located?",
        ),
        _facet(
            "person",
            r"born | actor | actress | politician | singer | writer | player | he was | she was | career",
            "Who is {x}?",
            "Who was {x}?",
            "What is {x} known for?",
        ),
    ),
    CHINESE: (
        _facet(
            "definition", "是一 | 是指 | 又称 | 简称 | 称为 | 属于", "{x}是什么？", "什么是{x}？", "{x}", "介绍一下{x}"
        ),
        _facet("place", "位于 | 地处 | 坐落 | 面积 | 省 | 县", "{x}位于哪里？", "{x}在什么地方？", "{x}的地理位置"),
        _facet(
            "history",
            "年 | 成立 | 创建 | 始建 | 历史 | 起源 | 朝",
            "{x}是什么时候成立的？",
            "{x}的历史",
            "{x}是哪一年的？",
        ),
        _facet(
            "person",
            "出生 | 生于 | 毕业 | 演员 | 球员 | 歌手 | 作家 | 政治家",
            "{x}是谁？",
            "{x}有哪些经历？",
            "{x}的生平",
        ),
        _facet("causes", "因为 | 由于 | 导致 | 引起 | 原因", "{x}的原因是什么？", "为什么会有{x}？", "什么导致了{x}？"),
        _facet("treatment", "治疗 | 药物 | 手术 | 疗法", "{x}怎么治疗？", "{x}的治疗方法有哪些？"),
        _facet(
            "symptoms", "症状 | 特征 | 表现为 | 特点", "{x}有哪些症状？", "{x}有什么特点？", "{x}的主要特征是什么？"
        ),
        _facet("how-to", "步骤 | 安装 | 点击 | 使用 | 设置 | 操作", "如何使用{x}？", "怎么设置{x}？"),
        _facet(
            "work",
            "作品 | 小说 | 电影 | 专辑 | 游戏 | 动画 | 播出",
            "{x}是谁的作品？",
            "{x}讲述了什么？",
            "{x}有哪些角色？",
        ),
        _facet("parts", "包括 | 分为 | 组成 | 由.{1,12}组成", "{x}包括哪些部分？", "{x}由什么组成？"),
        _facet("number", "人口 | 共有 | 公里 | 平方 | 万 | 约", "{x}有多少？", "{x}的数量是多少？"),
    ),
}
PLAIN: Mapping[str, tuple[str, ...]] = {
    ENGLISH: ("{x}", "What is known about {x}?", "Tell me about {x}", "information on {x}"),
    CHINESE: ("{x}", "关于{x}", "{x}的相关信息"),
}
"""Forms where no facet stands out."""


def cue_counts(text: str, language: str) -> dict[str, float]:
    """Count each facet's cues in a document's beginning; those in its very head ``HEAD_WEIGHT`` times."""
    head, body = text[:HEAD].lower(), text[HEAD:BODY].lower()
    counts = {}
    for facet in FACETS[language]:
        found = HEAD_WEIGHT * len(facet.cues.findall(head)) + len(facet.cues.findall(body))
        if found:
            counts[facet.name] = found
    return counts


def weighted_words(text: str) -> float:
    """Return the words that ``cue_counts`` looks at, those of the head ``HEAD_WEIGHT`` times."""
    return word_count(text[:BODY]) + (HEAD_WEIGHT - 1) * word_count(text[:HEAD])


def outstanding(text: str, language: str, rates: Mapping[str, float], most: int = 2) -> list[str]:
    """Return the facets of which a document says more than others do, most first.

    Args:
        rates: mean ``cue_counts`` per word in the corpus.
    """
    length, scores = weighted_words(text), {}
    for name, count in cue_counts(text, language).items():
        expected = rates.get(name, 0.0) * length
        if count >= HEAD_WEIGHT:
            scores[name] = (count - expected) / math.sqrt(expected + 1)  # deviations, as of Poisson's
    ranked = sorted(scores, key=lambda name: (-scores[name], name))
    return [name for name in ranked if scores[name] > LEAST_DEVIATIONS][:most]


def facet_of(text: str, language: str) -> str:
    """Return the facet that a question or heading names, or an empty string."""
    order = [facet for facet in FACETS[language] if facet.name != "definition"]
    found = next((facet.name for facet in order if facet.cues.search(text.lower())), "")
    if not found and re.match(r"(?:what|who) (?:is|are|was|were) \{x\}\?", text, re.IGNORECASE):
        return "definition"
    return found
