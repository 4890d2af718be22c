"""Tiny decoder-only rerankers of every class, by the name of the class; built once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.tiny_gemma import costwise_gemma, plain_gemma2
from tests.parity.tiny_minicpm import minicpm, plain_minicpm

LAYERWISE, LIGHTWEIGHT, BASE = "decoder-only-layerwise", "decoder-only-lightweight", "decoder-only-base"
CLASSES = (BASE, LAYERWISE, LIGHTWEIGHT)


@pytest.fixture(scope="session")
def decoders(tmp_path_factory: pytest.TempPathFactory, tiny_language_model: str) -> dict[str, str]:
    folder: Path = tmp_path_factory.mktemp("decoders")
    return {
        BASE: tiny_language_model,
        LAYERWISE: str(minicpm(folder / "layers")),
        LIGHTWEIGHT: str(costwise_gemma(folder / "light")),
        "plain minicpm": str(plain_minicpm(folder / "minicpm")),
        "plain gemma": str(plain_gemma2(folder / "gemma")),
    }
