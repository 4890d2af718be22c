"""``--report_to``: which of the services that transformers writes figures to are there."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from finerank.core.errors import UsageError, UserError, did_you_mean

PACKAGES = {"azure_ml": "azureml-core", "comet_ml": "comet-ml", "dvclive": "dvclive", "clearml": "clearml"}
"""Service -> its package, where the name is not the same."""


def check_reports(asked: str | Sequence[str] | None) -> None:
    """Refuse a service that is unknown or whose package is missing, before anything is loaded.

    Raises:
        UsageError: for an unknown name.
        UserError: for a missing package.
    """
    names = [asked] if isinstance(asked, str) else list(asked or [])
    for name in names:
        if name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise UsageError(
                f'unknown --report_to "{name}"{did_you_mean(name, INTEGRATION_TO_CALLBACK)}',
                hint=f"none, all, {', '.join(sorted(INTEGRATION_TO_CALLBACK))}",
            )
        if name not in get_available_reporting_integrations():
            raise UserError(
                f"--report_to {name} needs a package that is not installed",
                hint=f"pip install {PACKAGES.get(name, name)}; without it, figures go to metrics.jsonl",
            )
