"""A disk below SQLite that fails when it is told to: full, unable to write, or unable to sync.

It is a VFS over the operating system's own, and the default one while it is installed, so that the journal under test
opens its files through it without knowing.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Final, Literal

import apsw

Failure = Literal["full", "write", "sync"]
Operation = tuple[str, str]

_NAME: Final = "failing-disk"
# apsw turns the result code of an exception raised in a VFS into SQLite's own.
_CODES: Final = {"write": apsw.SQLITE_IOERR_WRITE, "sync": apsw.SQLITE_IOERR_FSYNC}


def _error(failure: Failure) -> apsw.Error:
    if failure == "full":
        return apsw.FullError("no space left, as told")
    error = apsw.IOError("input/output error, as told")
    error.extendedresult = _CODES[failure]  # type: ignore[attr-defined]  # the stubs leave it out
    return error


class FailingDisk:
    """Counts writes, truncations and syncs of all files, and fails from the one on that it is told.

    Attributes:
        operations: how many there were.
        log: (kind, end of the file's name) of each.
    """

    def __init__(self) -> None:
        self.log: list[Operation] = []
        self.before_sync: list[Any] = []
        self._lock = threading.Lock()
        self._failure: Failure | None = None
        self._left = 0
        self._vfs: _Vfs | None = None

    @property
    def operations(self) -> int:
        return len(self.log)

    def fill_up(self, at: int) -> None:
        """Let the *at*-th write from now on, and all that follow, find no space."""
        self._fail("full", at)

    def break_down(self, failure: Failure, at: int) -> None:
        """Let the *at*-th operation of that kind from now on, and all that follow, fail."""
        self._fail(failure, at)

    def _fail(self, failure: Failure, at: int) -> None:
        with self._lock:
            self._failure, self._left = failure, at

    def heal(self) -> None:
        """Let everything succeed again."""
        with self._lock:
            self._failure = None

    def meet(self, kind: Literal["write", "sync"], name: str) -> None:
        """Count an operation; raise what it is told to."""
        with self._lock:
            self.log.append((kind, name.rpartition("journal.sqlite")[2]))
            failure = self._failure
            if failure is None or (kind == "sync") != (failure == "sync"):
                return
            self._left -= 1
            if self._left <= 0:
                raise _error(failure)

    def __enter__(self) -> FailingDisk:
        self._vfs = _Vfs(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._vfs is not None:
            self._vfs.unregister()


class _Vfs(apsw.VFS):
    def __init__(self, disk: FailingDisk) -> None:
        super().__init__(_NAME, "unix", makedefault=True)
        self._disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        return _File(self._disk, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, disk: FailingDisk, name: Any, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.meet("write", self._name)
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._disk.meet("write", self._name)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        for callback in self._disk.before_sync:
            callback()
        self._disk.meet("sync", self._name)
        super().xSync(flags)
