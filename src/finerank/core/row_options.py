"""The options that say which part of a data set is read, for every verb that takes rows."""

from __future__ import annotations

from typing import Any

from finerank.core.options import option


def sub_data_name_option() -> Any:
    """Declare ``--sub_data_name``: one name or, where the field is a list, several."""
    return option(
        None,
        "subset to read: a config of a data set of the Hugging Face hub, or of a folder, laid out "
        "FOLDER/NAME/SPLIT.jsonl",
        metavar="NAME",
    )


def split_option(default: str = "train") -> Any:
    """Declare ``--split``."""
    return option(default, "split to read of a subset, of a hub data set and of a folder with corpus.jsonl and qrels/")
