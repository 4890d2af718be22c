"""Claims: what a paper says that it has found, told by how it introduces it ("these results suggest that …")."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finerank.generation.language import sentences, word_count

WORDS = (4, 30)
_WORK = (
    r"results?|data|findings?|observations?|stud(?:y|ies)|work|analys[ei]s|experiments?|evidence|report|trial|review|"
    r"paper|research"
)
_WHO = rf"(?:we|i|the authors|(?:(?:these|our|the|this|all|present|current)\s+)+(?:\w+\s+){{0,2}}?(?:{_WORK}))"
_HOW = r"also|further|thus|therefore|here|now|clearly|strongly|together|have|has|can|first|next|previously|recently"
_SAYS = (
    r"show(?:s|ed|n)?|f(?:i|ou)nds?|demonstrate[sd]?|suggest(?:s|ed)?|indicate[sd]?|report(?:s|ed)?|conclude[sd]?|"
    r"reveal(?:s|ed)?|propose[sd]?|provides? evidence|identif(?:y|ied)|observed?|confirm(?:s|ed)?|"
    r"establish(?:es|ed)?|impl(?:y|ies)|discovered|support the (?:hypothesis|idea|notion|view)"
)
LEAD = re.compile(rf"^.{{0,120}}?\b{_WHO}\s+(?:(?:{_HOW})\s+)*(?:{_SAYS}),?\s+(?:\w+\s+){{0,2}}?that,?\s+", re.I)
OPENING = re.compile(
    r"^(?:in (?:conclusion|summary)|conclusions?|taken together|together|overall|collectively|thus|therefore|hence|"
    r"finally|moreover|furthermore|additionally|importantly|notably|consequently|accordingly)\s*[:,]\s*",
    re.I,
)
ASIDE = re.compile(r"\s\([^)]*\)")
TAIL = re.compile(
    r"(?:,\s+(?:which|suggesting|indicating|thus|thereby|whereas|while|with|and (?:that|thus|suggest|may|we|this))\b|"
    r";\s|\s+and that\b).*$"
)
POINTING = re.compile(r"(?:it|this|these|those|they|we|he|she|our|such|both|its|their|there)\b", re.I)
"""Begins a sentence that cannot stand alone."""


def claims_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield the sentences of an English text that tell a finding, each with the claim in it."""
    for sentence in sentences(text):
        claim = claim_in(sentence)
        if claim:
            yield sentence, claim


def claim_in(sentence: str) -> str:
    """Return what a sentence claims, without who says so, asides and what hangs on behind; empty if it claims nothing.

    >>> claim_in("Taken together, our data suggest that Blimp-1 (in T cells) inhibits many genes, which was unknown.")
    'Blimp-1 inhibits many genes'
    """
    rest = OPENING.sub("", sentence)
    rest = LEAD.sub("", rest)
    if rest == sentence:
        return ""
    claim = TAIL.sub("", ASIDE.sub("", rest)).rstrip(" .;,:")
    low, high = WORDS
    if not low <= word_count(claim) <= high or POINTING.match(claim):
        return ""
    return claim[0].upper() + claim[1:]
