"""The file that a journal is: a database with its connections, its transactions, and its errors in the store's words.

SQLite keeps it in WAL mode with `synchronous=FULL`; every setting on which durability rests is read back. What the
tables hold is the business of `storage.journal` and of the modules that get a transaction's `execute`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw

from storage.durable_files import fsync_path, make_durable_folder
from storage.errors import CorruptData, DiskFull, Overloaded, StoreFailed
from storage.journal_records import SCHEMA_VERSION, upgrade_statements
from storage.journal_rows import ON_INSERT
from storage.latch import Latch
from storage.leader_page import LeaderPage

BUSY_TIMEOUT_S: Final = 10.0
_PAGE_BYTES: Final = 4096
_SHRINK_PAGES: Final = 256

T = TypeVar("T")

_PRAGMAS: Final = {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "auto_vacuum": 2}


def new_journal_id() -> str:
    """Make an id that no other journal has."""
    return uuid.uuid4().hex


class JournalFile:
    """One journal's database, opened by one process. All methods may be called from any thread.

    There is one connection for appends, one for readers and one for trimming and checkpoints, each behind its own
    lock, so that a checkpoint does not keep an append waiting in this process.
    """

    def __init__(self, path: Path, latch: Latch | None, *, page: LeaderPage | None) -> None:
        """Open an existing journal, for reading only where there is no *latch*; see `storage.journal.Journal`."""
        self.path = path
        self._latch = latch
        self._page = page
        self._append_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._upkeep_lock = threading.Lock()
        with self._translated():
            self._reader = self._connect(read_only=latch is None)
            if latch is not None:
                self._appender = self._connect(read_only=False)
                self._appender.execute(ON_INSERT)
                self._upkeep = self._connect(read_only=False)
            self._identity = _identity(path)

    @staticmethod
    def create(path: Path, *, durable_version: int, rejects_durable_version: int = -1) -> None:
        """Make a new, empty journal with an id of its own, durably.

        Args:
            path: where; nothing may be there yet.
            durable_version: the newest version of the lake at this moment.
            rejects_durable_version: the newest version of the table `rejects`, -1 if there is none.

        Raises:
            StoreFailed: the file could not be made.
        """
        make_durable_folder(path.parent)
        unfinished = path.with_suffix(".creating")
        unfinished.unlink(missing_ok=True)
        try:
            connection = apsw.Connection(str(unfinished))
            connection.execute(f"PRAGMA auto_vacuum = {_PRAGMAS['auto_vacuum']}")
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(upgrade_statements(0))
            journal = new_journal_id()
            connection.execute(
                "INSERT INTO journal (only, id, next_position, trimmed_position, durable_version, lake_version_min,"
                " bytes, flush_requested_position) VALUES (1, ?, 1, 0, ?, 0, 0, 0)",
                (journal, durable_version),
            )
            connection.execute(
                "INSERT INTO rejects (only, source, moved_through, durable_version, version_min, bytes,"
                " flush_requested_id) VALUES (1, ?, 0, ?, -1, 0, 0)",
                (journal, rejects_durable_version),
            )
            connection.execute("COMMIT")
            connection.close()
            fsync_path(unfinished)
            os.rename(unfinished, path)
            fsync_path(path.parent)
        except (apsw.Error, OSError) as error:
            raise StoreFailed(f"the journal {path} could not be made: {error}") from error

    @staticmethod
    def upgrade(path: Path) -> None:
        """Bring a journal of an older format to the present one, durably; without effect on one that is.

        Only for the holder of the folder's lock, before anybody else opens the journal.

        Raises:
            CorruptData: it is no journal, or of a format that only a newer program knows.
            StoreFailed: it could not be written.
        """
        try:
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("BEGIN IMMEDIATE")
                version = connection.pragma("user_version")
                if version == 0:
                    raise CorruptData(f"{path} is not a journal")
                if version != SCHEMA_VERSION:
                    connection.execute(upgrade_statements(version))
                connection.execute("COMMIT")
            finally:
                connection.close()
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise CorruptData(f"the journal {path} is damaged ({error}); restore it from a backup") from error
        except apsw.Error as error:
            raise StoreFailed(f"the journal {path} could not be brought to a new format: {error}") from error

    def _connect(self, *, read_only: bool) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
        connection = apsw.Connection(str(self.path), flags=flags)
        connection.set_busy_timeout(int(BUSY_TIMEOUT_S * 1000))
        version = connection.pragma("user_version")
        if version != SCHEMA_VERSION:
            raise CorruptData(f"{self.path} is not a journal of format {SCHEMA_VERSION} (it says {version})")
        if read_only:
            # The last to close copies the log into the database; one that cannot write must not try.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        else:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")
            # Checkpoints are the leader's, so that no submission waits for one.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            for name, wanted in _PRAGMAS.items():
                got = connection.pragma(name)
                if got != wanted:
                    raise StoreFailed(f"{self.path}: PRAGMA {name} is {got!r} where it must be {wanted!r}")
        return connection

    # Transactions

    @contextlib.contextmanager
    def _append_turn(self, *, patient: bool = False) -> Iterator[None]:
        """Keep everybody else, of this and of other processes, from writing.

        Args:
            patient: wait as long as it takes.

        Raises:
            Overloaded: somebody else was writing for too long.
        """
        with self._alone(patient=patient) as until_s:
            if self._page is None:
                yield
                return
            self._page.give_way()
            with self._page.queued(timeout_s=_left_s(until_s)):
                yield

    @contextlib.contextmanager
    def _appending(self) -> Iterator[Callable[..., Any]]:
        """A turn to append, and a durable transaction in it; an error undoes it."""
        with self._append_turn(), self._append_transaction() as execute:
            yield execute

    @contextlib.contextmanager
    def _append_transaction(self) -> Iterator[Callable[..., Any]]:
        """A durable transaction of the appending connection, in its turn; an error undoes it."""
        with self._translated(), self._transaction(self._appender) as execute:
            # In here, since a commit that this one had to wait for may have set it.
            self._check_latch()
            yield execute

    def _append_statement(self, append: Callable[[Callable[..., Any]], T]) -> T | None:
        """Call *append*, in the turn to append, with an `execute` of which each statement is a durable transaction.

        Returns:
            What *append* does; None if a constraint did not allow it, so that nothing was changed. Whoever writes
            without queueing may have been between two statements.
        """
        with self._translated():
            self._check_latch()
            try:
                return append(self._appender.execute)
            except apsw.ConstraintError:
                return None

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[..., Any]]:
        """One read transaction for what belongs to other modules; rows must be copied before it ends."""
        with self._read_lock, self._translated(), _read_transaction(self._reader) as execute:
            yield execute

    @contextlib.contextmanager
    def _reading_beside_readers(self) -> Iterator[Callable[..., Any]]:
        """One read transaction of the upkeep connection, for long looks that readers must not wait for."""
        with self._upkeep_lock, self._translated(), _read_transaction(self._upkeep) as execute:
            yield execute

    @contextlib.contextmanager
    def _upkeep_transaction(self) -> Iterator[Callable[..., Any]]:
        """A transaction of the upkeep connection, which takes its turn with the appends of this and other processes."""
        with self._upkeep_turn(), self._translated(), self._transaction(self._upkeep) as execute:
            yield execute

    @contextlib.contextmanager
    def _upkeep_turn(self) -> Iterator[None]:
        """Keep everybody from appending, as soon as the append that is under way has ended."""
        with self._upkeep_lock, self._alone() as until_s:
            if self._page is None:
                yield
                return
            self._page.want_turn()
            with self._page.queued(timeout_s=_left_s(until_s)):
                self._page.end_turn()
                yield

    @contextlib.contextmanager
    def _alone(self, *, patient: bool = False) -> Iterator[float | None]:
        """Keep this process's other threads from writing; yields until when to wait for other processes, None for ever.

        Raises:
            Overloaded: another thread was writing for too long.
        """
        until_s = None if patient else time.monotonic() + BUSY_TIMEOUT_S
        if not self._append_lock.acquire(timeout=-1 if patient else BUSY_TIMEOUT_S):
            raise Overloaded("the journal was busy for too long")
        try:
            yield until_s
        finally:
            self._append_lock.release()

    @contextlib.contextmanager
    def _transaction(self, connection: apsw.Connection) -> Iterator[Callable[..., Any]]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection.execute
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    # The file

    def copy_to(self, path: Path) -> None:
        """Copy the journal as it is at one instant into a new file, durably; appends go on meanwhile.

        Raises:
            DiskFull: no space there.
            StoreFailed: it could not be read, or not be written there.
        """
        with self._read_lock, self._translated():
            copy = apsw.Connection(str(path))
            try:
                with copy.backup("main", self._reader, "main") as copying:
                    # All pages in one step, which is one read transaction: a copy in steps begins anew at each commit.
                    copying.step(-1)
                # So that it is one file, which can be read from where nothing can be written.
                copy.execute("PRAGMA journal_mode = DELETE")
            finally:
                copy.close()
        fsync_path(path)
        fsync_path(path.parent)

    def check_in_place(self) -> None:
        """Do nothing while the file that is open here is the one that a restart will find.

        One that was removed or replaced under the running service can still be written to, and read, so that nothing
        else would tell; what is flushed from it is safe, what is not is gone with the last process that has it open.

        Raises:
            StoreFailed: it is not.
        """
        try:
            found = _identity(self.path)
        except OSError as error:
            raise StoreFailed(f"the journal {self.path} cannot be found: {error.strerror}") from error
        if found != self._identity:
            raise StoreFailed(f"the journal {self.path} was replaced while it was in use")

    def wal_bytes(self) -> int:
        """The size of the write-ahead log."""
        try:
            return self.path.with_name(self.path.name + "-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def checkpoint(self, *, truncate: bool) -> None:
        """Copy the write-ahead log into the database file.

        With *truncate* the log file is emptied as well, and free pages go back to the file system; this waits for
        readers and writers, so that it comes after a checkpoint without it. If they are in the way for too long,
        nothing is said: the log is not lost, only longer.

        Raises:
            DiskFull: the database file cannot grow; the log holds everything still.
            StoreFailed: a write or a sync failed.
        """
        try:
            with self._upkeep_lock, self._translated():
                self._upkeep.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            if truncate:
                with self._upkeep_turn(), self._translated():
                    self._upkeep.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except DiskFull:
            raise
        except Overloaded:
            # A commit at the same instant, or a reader in another process, is in the way, and SQLite does not wait for
            # all of them; the next checkpoint gets its chance.
            return

    def scrub(self) -> bool:
        """Return all free pages to the file system and empty the write-ahead log, so that nothing deleted is left.

        Returns:
            Whether the log was emptied: not if a reader or a writer was in the way for too long.
        """
        with self._upkeep_turn(), self._translated():
            for _ in self._upkeep.execute("PRAGMA incremental_vacuum"):
                pass
            try:
                self._upkeep.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.BusyError:
                return False
            return True

    def shrink(self, *, free_bytes_kept: int) -> None:
        """Return free pages of the database file to the file system, but for *free_bytes_kept*.

        Done in steps of a megabyte, since each holds the write lock.
        """
        while True:
            with self._upkeep_turn(), self._translated():
                spare = self._upkeep.pragma("freelist_count") - free_bytes_kept // _PAGE_BYTES
                if spare <= 0:
                    return
                pages = min(spare, _SHRINK_PAGES)
                for _ in self._upkeep.execute(f"PRAGMA incremental_vacuum({pages})"):
                    pass
            if spare <= _SHRINK_PAGES:
                return

    def integrity_problems(self, *, thorough: bool = False) -> list[str]:
        """Check the database's structure, with *thorough* its indexes too.

        Returns:
            What is wrong with it, nothing if it is whole.
        """
        check = "integrity_check" if thorough else "quick_check"
        with self._read_lock, self._translated():
            return [row[0] for row in self._reader.execute(f"PRAGMA {check}") if row[0] != "ok"]

    def close(self) -> None:
        """Close all connections; the last one of all processes checkpoints.

        While a thread waits for a turn that does not come, its connection stays open until the process ends.
        """
        with self._upkeep_lock, self._read_lock:
            appends = not self._append_lock.acquire(timeout=BUSY_TIMEOUT_S)
            self._reader.close()
            if self._latch is not None:
                if not appends:
                    self._appender.close()
                self._upkeep.close()
            if not appends:
                self._append_lock.release()

    # Errors

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the library's errors into the store's, and latch what must not be retried."""
        try:
            yield
        except apsw.FullError as error:
            raise DiskFull("no space left on the journal's disk", retry_after_s=5) from error
        except apsw.BusyError as error:
            raise Overloaded("the journal was busy for too long") from error
        except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError, UnicodeDecodeError) as error:
            reason = f"the journal {self.path} is damaged ({error}); restore it from a backup, or move it away"
            self._set_latch(reason)
            raise CorruptData(reason) from error
        except (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError) as error:
            if _extended_result(error) == apsw.SQLITE_IOERR_SHMSIZE and _is_full(self.path.parent):
                raise DiskFull("no space left for the journal's index", retry_after_s=5) from error
            reason = f"the journal {self.path} could not be written or read: {error}"
            self._set_latch(reason)
            raise StoreFailed(reason) from error

    def _check_latch(self) -> None:
        if self._latch is not None:
            self._latch.check()

    def _set_latch(self, reason: str) -> None:
        """Latch the store; a process that only reads does not judge for the service."""
        if self._latch is not None:
            self._latch.set(reason)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _extended_result(error: apsw.Error) -> int:
    """Return SQLite's extended result code, which the library's stubs leave out."""
    return int(error.extendedresult)  # type: ignore[attr-defined]


def _left_s(until_s: float | None) -> float | None:
    return None if until_s is None else max(0.0, until_s - time.monotonic())


@contextlib.contextmanager
def _read_transaction(connection: apsw.Connection) -> Iterator[Callable[..., Any]]:
    """Hold one read transaction; rows must be copied before it ends."""
    with connection:
        yield connection.execute


def _is_full(folder: Path) -> bool:
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize < 64 * 1024
