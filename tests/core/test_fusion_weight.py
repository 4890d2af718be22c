"""The one reading of --fusion_weight."""

from __future__ import annotations

import pytest

from finerank.core.errors import UsageError
from finerank.core.fusion_weight import parse_weight


def test_numbers_and_auto() -> None:
    assert parse_weight("auto") is None
    assert parse_weight("0") == 0.0
    assert parse_weight("2.5") == 2.5


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf", ""])
def test_anything_else_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--fusion_weight must be"):
        parse_weight(text)
