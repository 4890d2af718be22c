"""Forms of questions that the documents themselves use: "How is X diagnosed?" in many of them, about many things."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from finerank.generation.facets import cue_counts, facet_of, weighted_words
from finerank.generation.language import ENGLISH, sentences, word_count
from finerank.generation.mentions import Mention

LAST_STOP = re.compile(r"\A.*[.!?。！？:\n] ?", re.DOTALL)
LONGEST = 200
"""Characters of a question."""
LEAST = 3
"""Different things that a form has been asked about before it counts."""
KEPT = 4
"""Forms of one facet."""
WORDS = (3, 24)
TRACKED = 5_000
COUNTED = 500
"""Documents whose cues are counted, spread evenly."""


class Frames:
    """Counts question forms and facets' cues while the documents pass by; ``settle`` keeps the forms that recur.

    Attributes:
        forms: facet -> questions with ``{x}`` in the topic's place, most used first.
        rates: facet -> mean cues per word.
    """

    def __init__(self, total: int = COUNTED) -> None:
        self._step = max(1, total // COUNTED)
        self.forms: dict[str, list[str]] = {}
        self.rates: dict[str, float] = {}
        self._asked: defaultdict[str, set[str]] = defaultdict(set)
        self._cues: Counter[str] = Counter()
        self._words = 0.0
        self._language = ENGLISH
        self._read = 0

    def read(self, text: str, found: Sequence[Mention], language: str) -> None:
        """Take note of one document."""
        self._language = language
        self._read += 1
        if self._read % self._step == 0:
            self._cues.update(cue_counts(text, language))
            self._words += weighted_words(text)
        if "?" not in text and "？" not in text:
            return
        for question in questions_in(text)[:3]:
            topic = longest(question, found)
            frame = question.replace(topic, "{x}") if topic else ""
            if frame.count("{x}") == 1 and (frame in self._asked or len(self._asked) < TRACKED):
                asked = self._asked[frame]
                if len(asked) < 10 * LEAST:
                    asked.add(topic)

    def settle(self) -> None:
        """Keep the forms asked about several things."""
        often = sorted((frame for frame, asked in self._asked.items() if len(asked) >= LEAST),
                       key=lambda frame: (-len(self._asked[frame]), frame))  # fmt: skip
        for frame in often:
            forms = self.forms.setdefault(facet_of(frame, self._language), [])
            if len(forms) < KEPT:
                forms.append(frame)
        self.rates = {name: count / max(1.0, self._words) for name, count in self._cues.items()}
        self._asked.clear()


def questions_in(text: str) -> list[str]:
    """Return the questions that a text asks, in order."""
    if "?" not in text and "？" not in text:
        return []
    found = []
    for part in sentences(text):
        if part[-1] in "?？" and len(part) <= LONGEST:
            question = LAST_STOP.sub("", part[:-1]) + part[-1]
            if WORDS[0] <= word_count(question) <= WORDS[1]:
                found.append(question.strip(" -*•#"))
    return found


def longest(text: str, found: Sequence[Mention]) -> str:
    """Return the longest mention that a text holds, spelt as there; else an empty string."""
    inside = [mention.name for mention in found if mention.name in text]
    return max(inside, key=len, default="")
