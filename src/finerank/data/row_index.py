"""What making groups takes to know of all rows at once, without their texts.

Each text is known by a number, the first 64 bits of its normal form's digest: 8 bytes a text, whatever its length.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finerank.core.data_sets import KNOWN_TYPES, Kind
from finerank.core.records import Row
from finerank.data.text import normal_form

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROMPT_KEYS = ("prompt", "query_prompt", "passage_prompt")
COLUMNS = {"numbers": "Q", "first": "q", "positives": "I", "kinds": "I"}
"""Column -> its array type code; a column is a file of its own where rows lie on disk."""


def number_of(text: str) -> int:
    """Return the number by which a text is known; texts with equal normal forms have equal ones."""
    data = normal_form(text).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def kind_of(row: Row) -> Kind:
    """Return what a row says about its group and its batches."""
    extra = row.extra
    if not extra:
        return Kind()
    name = extra.get("type")
    return Kind(
        name if name in KNOWN_TYPES else None,
        extra.get("batch_size"),
        any(extra.get(key) is not None for key in PROMPT_KEYS),
    )


class RowIndex:
    """Numbers of all texts of N rows, T in all.

    Attributes:
        numbers: uint64 [T]: of each row's query, positives, negatives, row after row.
        first: int64 [N + 1]: where each row's numbers begin; the last is T.
        positives: uint32 [N]: how many each row has.
        kinds: uint32 [N]: place of each row's Kind in ``table``.
        folder: of the columns, where they are files.
    """

    def __init__(self, columns: dict[str, Any], table: Sequence[Kind], folder: Path | None = None) -> None:
        self.numbers: NDArray[np.uint64] = columns["numbers"]
        self.first: NDArray[np.int64] = columns["first"]
        self.positives: NDArray[np.uint32] = columns["positives"]
        self.kinds: NDArray[np.uint32] = columns["kinds"]
        self.table = list(table)
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is not None:
            return mapped_index, (self.folder, self.table)
        return RowIndex, ({name: getattr(self, name) for name in COLUMNS}, self.table)

    def __len__(self) -> int:
        return len(self.positives)

    def row(self, index: int) -> tuple[int, list[int], list[int]]:
        """Return the numbers of a row's query, positives and negatives."""
        start, stop = self.first[index : index + 2].tolist()
        query, *passages = self.numbers[start:stop].tolist()
        count = int(self.positives[index])
        return query, passages[:count], passages[count:]

    def take(self, chosen: Sequence[int]) -> RowIndex:
        """Return the index of some of the rows."""
        import numpy as np

        rows = np.asarray(chosen, dtype=np.int64)
        lengths = np.diff(self.first)[rows]
        first = np.concatenate(([0], np.cumsum(lengths)))
        places = np.repeat(self.first[rows] - first[:-1], lengths) + np.arange(first[-1])
        columns = {
            "numbers": self.numbers[places],
            "first": first,
            "positives": self.positives[rows],
            "kinds": self.kinds[rows],
        }
        return RowIndex(columns, self.table)


class IndexWriter:
    """Takes rows one by one; the columns grow in memory, or in files of ``folder``."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.columns = {name: array(code) for name, code in COLUMNS.items()}
        self.columns["first"].append(0)
        self.table: dict[Kind, int] = {}
        self.texts = 0

    def add(self, row: Row) -> None:
        """Add one row."""
        columns = self.columns
        columns["numbers"].append(number_of(row.query))
        columns["numbers"].extend(map(number_of, row.positives))
        columns["numbers"].extend(map(number_of, row.negatives))
        self.texts += 1 + len(row.positives) + len(row.negatives)
        columns["first"].append(self.texts)
        columns["positives"].append(len(row.positives))
        columns["kinds"].append(self.table.setdefault(kind_of(row), len(self.table)))

    def flush(self) -> None:
        """Write what has gathered to the columns' files."""
        assert self.folder is not None
        for name, column in self.columns.items():
            with (self.folder / name).open("ab") as stream:
                column.tofile(stream)
            del column[:]

    def index(self) -> RowIndex:
        """Return the index of the rows added so far, held in memory."""
        import numpy as np

        columns = {name: np.frombuffer(column, dtype=column.typecode) for name, column in self.columns.items()}
        return RowIndex(columns, list(self.table))


def index_of(rows: Iterable[Row]) -> RowIndex:
    """Return the rows' own index, or make one."""
    own = getattr(rows, "index_of_rows", None)
    if own is not None:
        return own  # type: ignore[no-any-return]
    writer = IndexWriter()
    for row in rows:
        writer.add(row)
    return writer.index()


def mapped_index(folder: Path, table: Sequence[Kind]) -> RowIndex:
    """Return an index whose columns are files of ``folder``, mapped into memory."""
    import numpy as np

    columns = {name: np.memmap(folder / name, dtype=code, mode="r") for name, code in COLUMNS.items()}
    return RowIndex(columns, table, folder)
