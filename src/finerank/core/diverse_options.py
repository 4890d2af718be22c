"""The λ of the diverse retriever, and ``mine --diverse``."""

from __future__ import annotations

from dataclasses import dataclass

from finerank.core.errors import UsageError
from finerank.core.options import VerbOptions, option


@dataclass(kw_only=True)
class DiverseOptions(VerbOptions):
    """How ``finerank mine`` chooses among the candidates that may be negatives."""

    diverse: bool = option(
        False,
        "choose negatives that are near the query, unlike the row's positives and unlike each other, rather than at "
        "random: the same range and rules, weighed by --lambda1 to --lambda3; needs an embedder",
    )
    lambda1: float = option(0.7, "--diverse: weight of a passage's cosine to the query", ge=0)
    lambda2: float = option(
        0.1, "--diverse: weight of its likeness to the row's positives, the most alike of which counts; 0 ignores them",
        ge=0,
    )  # fmt: skip
    lambda3: float = option(
        0.2,
        "--diverse: weight of its likeness to the negatives chosen so far; the three are divided by their sum",
        ge=0,
    )

    def check_diverse(self, *, embedder: bool, sampling: str) -> None:
        """Raise UsageError where ``--diverse`` cannot be."""
        if not self.diverse:
            return
        if not embedder:
            raise UsageError(
                "--diverse compares vectors, and --retriever bm25 has none without an embedder",
                hint="add --model_name_or_path MODEL",
            )
        if sampling != "random":
            raise UsageError(f"--diverse and --sampling {sampling} are two ways to choose", hint="leave one out")
        if not self.lambda1 + self.lambda2 + self.lambda3:
            raise UsageError("--lambda1, --lambda2 and --lambda3 are all 0", hint="--lambda1 0.7")
