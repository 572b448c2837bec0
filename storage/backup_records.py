"""What is known about backups: which were made of a store, and which of those in a folder are whole.

A backup is a folder of its own below the destination, named by when it was begun. It holds the store as `restore` and
every reader of the table find it: `actions/`, `rejects/`, `journal.sqlite`, and `backup.json`, which is written last.
Until then the folder's name ends with `.unfinished`.

The store's state folder has a line for each backup since before its first byte was copied, so that an erasure can name
the backups that it does not cover.
"""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from storage.durable_files import fsync_path
from storage.errors import CorruptData
from storage.paths import StorePaths

MANIFEST: Final = "backup.json"
UNFINISHED: Final = ".unfinished"
_NAME: Final = "%Y-%m-%dT%H-%M-%S."
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND: Final = datetime.timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a finished backup says of itself.

    Attributes:
        begun_at_us, finished_at_us: microseconds since the epoch.
        journal: id of the journal.
        head: every action up to this position of it is in the backup, and none beyond.
        version, watermark: of the table: rows of the journal up to the watermark are in its files.
        rejects_version: of the table `rejects`, -1 if there was none.
        files, rows, bytes: of both tables together.
    """

    begun_at_us: int
    finished_at_us: int
    journal: str
    head: int
    version: int
    watermark: int
    rejects_version: int
    files: int
    rows: int
    bytes: int

    def write(self, folder: Path) -> None:
        """Write it into a backup's folder, durably."""
        path = folder / MANIFEST
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        fsync_path(path)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read that of a finished backup.

        Raises:
            FileNotFoundError: there is none: the folder is no finished backup.
            CorruptData: it cannot be read.
        """
        path = folder / MANIFEST
        try:
            return cls(**json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise CorruptData(f"{path} cannot be read ({error}): take another backup") from error


def finished_backups(destination: Path) -> list[Path]:
    """The finished backups below a destination, oldest first."""
    return sorted(path.parent for path in destination.glob(f"*/{MANIFEST}") if path.parent.suffix != UNFINISHED)


def unfinished_backups(destination: Path) -> list[Path]:
    """What backups that were interrupted have left below a destination."""
    return sorted(destination.glob(f"*{UNFINISHED}"))


@dataclass(frozen=True, slots=True)
class RecordedBackup:
    """A backup that was begun: where, and when, in microseconds since the epoch."""

    path: Path
    begun_at_us: int


def record_backup(paths: StorePaths, path: Path, begun_at_us: int) -> None:
    """Note, durably, that a backup is begun at *path*.

    Raises:
        OSError: the note could not be written; there must be no backup without it.
    """
    _append(paths, {"path": str(path), "begun_at_us": begun_at_us})


def record_removal(paths: StorePaths, path: Path) -> None:
    """Note that the backup at *path* was removed."""
    _append(paths, {"path": str(path), "removed": True})


def recorded_backups(paths: StorePaths) -> list[RecordedBackup]:
    """The backups that were made of a store, oldest first, without those that `backup` itself has removed.

    Whether they are still there is not looked at: they may lie on a disk that is not mounted.
    """
    found: dict[str, RecordedBackup] = {}
    try:
        lines = paths.backups.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        # A line that a crash has cut off: its backup had copied nothing yet.
        if not line.startswith("{") or not line.endswith("}"):
            continue
        record = json.loads(line)
        if "begun_at_us" in record:
            found[record["path"]] = RecordedBackup(Path(record["path"]), record["begun_at_us"])
        else:
            found.pop(record["path"], None)
    return sorted(found.values(), key=lambda one: one.begun_at_us)


def folder_name(begun_at_us: int, destination: Path) -> str:
    """The name of a new backup's folder below *destination*: the UTC time of its beginning, to the millisecond.

    Backups are told apart by their names, which is the newest, too: where the clock was set back since the last one,
    the name is of the moment after that one's.
    """
    after_ms = max(filter(None, (_named_ms(path.name) for path in destination.iterdir())), default=0)
    return _name_of(max(begun_at_us // 1000, after_ms + 1))


def _name_of(time_ms: int) -> str:
    moment = _EPOCH + datetime.timedelta(milliseconds=time_ms)
    return moment.strftime(_NAME) + f"{time_ms % 1000:03d}Z"


def _named_ms(name: str) -> int | None:
    """The moment of which a folder has its name; None if it is not named so."""
    seconds, _, rest = name.removesuffix(UNFINISHED).partition(".")
    try:
        moment = datetime.datetime.strptime(f"{seconds}.", _NAME).replace(tzinfo=datetime.UTC)
        return (moment - _EPOCH) // _MILLISECOND + int(rest.removesuffix("Z"))
    except ValueError:
        return None


def _append(paths: StorePaths, record: dict[str, object]) -> None:
    is_new = not paths.backups.exists()
    descriptor = os.open(paths.backups, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        # The line end before it closes a line that a crash may have cut off.
        os.write(descriptor, b"\n" + json.dumps(record).encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        fsync_path(paths.backups.parent)
