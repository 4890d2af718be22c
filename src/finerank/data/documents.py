"""Source documents: FlashRAG and BEIR corpora, pools, folders of Markdown and plain text; their texts stay on disk."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, overload

import xxhash

from finerank.core.errors import DataError, Problem, UserError
from finerank.core.records import kind
from finerank.data import console
from finerank.data.files import kind_of
from finerank.data.judged import is_judged
from finerank.data.manifest import digest_file
from finerank.data.markdown import JOINT, pieces, sections_of
from finerank.data.origins import find_origins, records_of
from finerank.data.sources import ID_KEYS, MAX_PROBLEMS

MARKDOWN = (".md", ".markdown", ".mdx")
PLAIN = (".txt", ".text", ".rst")
UNREAD = frozenset({"node_modules", "__pycache__", "venv", "site-packages"})
MAX_FILE = 16 * 2**20
"""Bytes of a text file; a larger one is no page that somebody wrote."""
IN_MEMORY = 8 * 2**20
LONG_TITLE = 200
ENCODING: tuple[str, str] = ("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Document:
    """One source document.

    Attributes:
        id: its name in the corpus.
        title: empty where there is none.
        text: without the title.
        head: what stands before the text in the passage: the title as it is spelt there, and what joins the two.
    """

    id: str
    title: str
    text: str
    head: str = ""

    @property
    def passage(self) -> str:
        """The document as the pool of ``mine`` has it."""
        return self.head + self.text


class Documents(Sequence[Document]):
    """Documents by number, their texts in a temporary file once they are large; about 40 bytes each in memory.

    Attributes:
        skipped: why -> how many records or files gave no document.
    """

    def __init__(self, documents: Iterable[Document], name: str = "the corpus", in_memory: int = IN_MEMORY) -> None:
        self.name = name
        self.skipped: dict[str, int] = {}
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=in_memory)  # noqa: SIM115 - lives as long as this
        self._ends = array("q", [0])
        self._hashes = array("Q")
        self._order: Any = None
        try:
            for document in documents:
                self._append(document)
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"the documents cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}",
                hint="set TMPDIR to a folder on a disk with room for the corpus",
            ) from error

    def __len__(self) -> int:
        return len(self._hashes)

    @overload
    def __getitem__(self, index: int) -> Document: ...

    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...

    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        self._file.seek(self._ends[4 * number])
        first, last = self._ends[4 * number], self._ends[4 * number + 4]
        data = self._file.read(last - first)
        cuts = [self._ends[4 * number + part] - first for part in range(5)]
        name, title, head, text = (data[start:stop].decode(*ENCODING) for start, stop in zip(cuts, cuts[1:]))
        return Document(name, title, text, head)

    def __iter__(self) -> Iterator[Document]:
        return (self[number] for number in range(len(self)))

    def length(self, number: int) -> int:
        """Return the bytes of a document's passage."""
        return self._ends[4 * number + 4] - self._ends[4 * number + 2]

    def number_of(self, name: str) -> int | None:
        """Return the number of the document with this id, or None."""
        import numpy as np

        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        if self._order is None:
            self._order = np.argsort(hashes, kind="stable")
        wanted = np.uint64(_hash(name))
        place = int(np.searchsorted(hashes, wanted, sorter=self._order))
        while place < len(self) and hashes[self._order[place]] == wanted:
            number = int(self._order[place])
            if self[number].id == name:
                return number
            place += 1
        return None

    def repeated_ids(self) -> list[str]:
        """Return ids that several documents bear."""
        import numpy as np

        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        distinct, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        return [self[int(number)].id for number in first[counts > 1]]

    def passages(self) -> Passages:
        """Return the passages as a sequence of texts."""
        return Passages(self)

    def _append(self, document: Document) -> None:
        parts = [part.encode(*ENCODING) for part in (document.id, document.title, document.head, document.text)]
        self._file.write(b"".join(parts))
        for part in parts:
            self._ends.append(self._ends[-1] + len(part))
        self._hashes.append(_hash(document.id))


class Passages(Sequence[str]):
    """The passages of documents, read one by one."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    def __len__(self) -> int:
        return len(self._documents)

    def __iter__(self) -> Iterator[str]:
        return (document.passage for document in self._documents)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        found = self._documents[index]
        return [document.passage for document in found] if isinstance(found, list) else found.passage


@dataclass(frozen=True)
class Pages:
    """A folder of Markdown and text files as an input: what else lies there does not count."""

    path: str

    def __str__(self) -> str:
        return self.path

    def digest(self) -> str:
        """Return the hex sha256 of the pages' names and contents."""
        root, total = Path(self.path).expanduser(), hashlib.sha256()
        for file in text_files(root):
            total.update(f"{file.relative_to(root).as_posix()}\0{digest_file(file)}\n".encode(*ENCODING))
        return total.hexdigest()


def input_of(path: str) -> str | Pages:
    """Return what an output's manifest digests for a corpus."""
    place = Path(path).expanduser()
    if place.is_dir() and text_files(place):
        return Pages(path)
    return str(_pool(place)) if is_judged(place) else path


@dataclass
class _Reader:
    """Reads one corpus; what gives no document is counted."""

    skipped: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def skip(self, why: str) -> None:
        self.skipped[why] = self.skipped.get(why, 0) + 1

    def pool(self, path: Path) -> Iterator[Document]:
        number = 0
        for origin in find_origins([path]):
            for where, value in records_of(origin):
                found = value if isinstance(value, Problem) else document_of(value, where, f"d{number}")
                number += 1
                if isinstance(found, Problem):
                    self.problems.append(found)
                elif found.text.strip():
                    yield found
                else:
                    self.skip("blank")
                if len(self.problems) >= MAX_PROBLEMS:
                    return

    def files(self, files: Sequence[Path], root: Path) -> Iterator[Document]:
        used: set[str] = set()
        for file in files:
            text = self._text(file)
            name = file.relative_to(root).as_posix()
            for document in self._cut(text, file, name) if text else ():
                yield Document(_unused(document.id, used), document.title, document.text, document.head)

    def _cut(self, text: str, file: Path, name: str) -> Iterator[Document]:
        heading = _heading(file)
        if kind_of(file) not in MARKDOWN:
            for piece in pieces(text):
                yield Document(name, heading, piece, f"{heading}\n")
            return
        for section in sections_of(text, heading):
            title = JOINT.join(section.headings)
            slug = re.sub(r"\W+", "-", section.headings[-1].lower()).strip("-")
            yield Document(f"{name}#{slug}" if slug else name, title, section.text, f"{title}\n")

    def _text(self, file: Path) -> str:
        try:
            if file.stat().st_size > MAX_FILE:
                self.skip("file over 16 MiB")
                return ""
            text = file.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError:
            console.say(f"{file}: skipped, it is not UTF-8")
            self.skip("file not UTF-8")
            return ""
        except OSError as error:
            console.say(f"{file}: skipped, {error.strerror or error}")
            self.skip("file unreadable")
            return ""
        if not text.strip():
            self.skip("blank")
        return text.replace("\r\n", "\n")


def open_documents(path: str | Path) -> Documents:
    """Read a corpus: a pool file or a folder of them, a BEIR folder, a Markdown or text file, or a folder of these.

    Takes FlashRAG's ``{"id", "contents": "Title\\ntext"}``, BEIR's ``{"_id", "title", "text"}``, ``{"text"}`` (also
    packed, also parquet). Folders of texts are read recursively; Markdown is cut at its headings.

    Raises:
        DataError: for bad lines, all of them; for two documents with one id.
        UserError: if there is nothing to read.
    """
    place, reader = Path(path).expanduser(), _Reader()
    texts = text_files(place)
    source = reader.files(texts, place if place.is_dir() else place.parent) if texts else reader.pool(_pool(place))
    documents = Documents(source, str(path))
    documents.skipped = reader.skipped
    if reader.problems:
        raise DataError(reader.problems)
    if not len(documents):
        raise UserError("holds no document", where=str(path), hint='a line is {"id": "…", "contents": "Title\\ntext"}')
    repeated = documents.repeated_ids()
    if repeated:
        message = f'the id "{repeated[0]}" stands for several documents ({len(repeated):,} such ids)'
        raise DataError([Problem(str(path), "duplicate-id", message)])
    return documents


def text_files(place: Path) -> list[Path]:
    """Return the Markdown and text files that a path means, sorted; none if it is a corpus of records."""
    if place.is_file():
        return [place] if kind_of(place) in (*MARKDOWN, *PLAIN) and place.suffix.lower() in (*MARKDOWN, *PLAIN) else []
    if not place.is_dir() or is_judged(place):
        return []
    found: list[Path] = []
    for folder, names, files in os.walk(place):
        names[:] = sorted(name for name in names if not name.startswith(".") and name not in UNREAD)
        found += [
            Path(folder) / name
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in (*MARKDOWN, *PLAIN)
        ]
    return sorted(found)


def document_of(value: Mapping[str, Any], where: str, name: str) -> Document | Problem:
    """Return the document that a record holds, or what is wrong with it.

    Args:
        name: the id of a record without one.
    """
    key = next((key for key in ("contents", "text", "content") if key in value), None)
    if key is None:
        named = ", ".join(list(value)[:8]) or "none"
        return Problem(where, "missing-text", f'a document needs "contents" or "text", got the keys {named}')
    text, title = value[key], value.get("title") or ""
    for label, part in ((key, text), ("title", title)):
        if not isinstance(part, str):
            return Problem(where, f"bad-{label}", f'"{label}" must be a string, got {kind(part)}')
    ids = [value[each] for each in ID_KEYS if value.get(each) is not None]
    name = str(ids[0]) if ids else name
    if key != "contents":
        return Document(name, title.strip(), text, f"{title} " if title and key == "text" else "")
    first, newline, rest = text.partition("\n")
    if newline and rest.strip() and len(first) <= LONG_TITLE:
        return Document(name, (title or first).strip().strip('"“”').strip(), rest, f"{first}\n")
    return Document(name, title.strip().strip('"'), text)


def _pool(place: Path) -> Path:
    return place / "corpus.jsonl" if is_judged(place) else place


def _heading(file: Path) -> str:
    """Return a file's name as a heading; a folder's where the file is only its index."""
    stem = file.stem
    if stem.lower() in ("readme", "index", "_index") and file.parent.name not in ("", "."):
        stem = file.parent.name
    words = re.sub(r"[-_]+", " ", stem).strip() or file.name
    return words[0].upper() + words[1:]


def _unused(name: str, used: set[str]) -> str:
    found, number = name, 1
    while found in used:
        number += 1
        found = f"{name}-{number}"
    used.add(found)
    return found


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode(*ENCODING))
