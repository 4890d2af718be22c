"""Files that appear whole or not at all: temporary name, fsync, rename, fsync of the folder. And the lock."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finerank.core.errors import UserError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
"""Names of files that ``write_atomic`` has not renamed yet; a killed process leaves them behind."""


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write ``data`` so that a reader sees the old file or the new one, also after a crash.

    Raises:
        UserError: naming ``path``, if it cannot be written; what stood there is intact.
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        raise UserError("expected a file to write to, found something else", where=str(path))
    with writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        land(target.with_name(f".{target.name}.{os.getpid()}.tmp"), target, [data])


def land(temporary: Path, target: Path, parts: Iterable[bytes]) -> None:
    """Write ``parts`` under a temporary name on the same file system, then rename."""
    try:
        with open(temporary, "wb") as stream:
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync(target.parent)


def sync(path: Path) -> None:
    """Make a file's content, or the renames in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what the file system refuses into a UserError that names the output."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            hint = "make room, then run the same command again: what has landed is kept"
        else:
            hint = "choose another place for the output, or mend the permissions of this one"
        raise UserError(f"cannot be written: {error.strerror or error}", where=str(path), hint=hint) from error


class Lock:
    """An exclusive lock on a file; it dies with its process, so it is never stale.

    The file names its owner, for the error that a second process shows.
    """

    _held: weakref.WeakSet[Lock] = weakref.WeakSet()

    def __init__(self, path: Path, output: str | Path) -> None:
        self.path = path
        self.handle = -1
        while self.handle < 0:
            self.handle = self._try(output)
        Lock._held.add(self)
        with suppress(OSError):  # the owner's name is a courtesy; a full disk must not stop a run that can go on
            os.ftruncate(self.handle, 0)
            os.pwrite(self.handle, f"process {os.getpid()} on host {socket.gethostname()}".encode(), 0)

    def _try(self, output: str | Path) -> int:
        """Lock the file that stands at ``path``; -1 if it was removed in between and must be tried again."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # the folder was removed by the process that finished just now
            return -1
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 500, 0).decode("utf-8", "replace") or "another process"
            os.close(handle)
            raise UserError(f"is being written by {owner}", where=str(output), hint="wait for it, or stop it") from None
        except OSError:
            os.close(handle)
            raise
        with suppress(OSError):
            if os.fstat(handle).st_ino == os.stat(self.path).st_ino:
                return handle
        os.close(handle)
        return -1

    def release(self, *, remove: bool) -> None:
        """Let go; ``remove`` also deletes the file, while it is still held, so that nobody locks a deleted file."""
        if self.handle < 0:
            return
        if remove:
            with suppress(OSError):
                self.path.unlink()
            with suppress(OSError):
                self.path.parent.rmdir()
        with suppress(OSError):  # in words, for a child that was forked just now may still hold a copy
            fcntl.flock(self.handle, fcntl.LOCK_UN)
        self.forget()

    def forget(self) -> None:
        """Close the handle. In a forked child this leaves the parent's lock alone."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


def _forget_all() -> None:
    for lock in list(Lock._held):
        lock.forget()


# A forked worker that outlives a killed parent must not keep its lock.
os.register_at_fork(after_in_child=_forget_all)
