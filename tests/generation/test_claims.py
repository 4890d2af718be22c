"""Claims out of sentences that tell a finding, and queries made of them."""

from __future__ import annotations

import pytest

from finerank.generation.claims import claim_in, claims_in

CLAIMS = {
    "These results suggest that Blimp-1 represses critical Th1 genes.": "Blimp-1 represses critical Th1 genes",
    "We further show that 4-PBA (a chaperone) decreases stress in cells.": "4-PBA decreases stress in cells",
    "In conclusion, low birth weight causes deaths, which was unknown.": "Low birth weight causes deaths",
    "Here, using a screen, we found that the acidic tail is required.": "The acidic tail is required",
    "We measured the acidic tail of RanGAP in cells.": "",  # what was done, not what was found
    "These findings suggest that it plays a critical role in the disease.": "",  # cannot stand alone
    "Our data show that it works.": "",
    "Thus, so.": "",
}


@pytest.mark.parametrize(("sentence", "claim"), CLAIMS.items())
def test_what_a_sentence_claims(sentence: str, claim: str) -> None:
    assert claim_in(sentence) == claim


def test_each_comes_with_its_sentence() -> None:
    text = "We looked at mice. We show that the old mice learn less than young mice. They were fed."
    assert list(claims_in(text)) == [
        ("We show that the old mice learn less than young mice.", "The old mice learn less than young mice")
    ]
