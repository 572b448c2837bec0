"""What both tables of a store have in common with the log of a Delta table: its times, its files, its errors.

The library syncs nothing to disk, so that whoever writes an entry or a checkpoint makes it durable with what is here.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Final

from storage.durable_files import fsync_path

# Statistics in the log are cut to milliseconds: a maximum may be this much later than it says.
MILLISECOND_US: Final = 1000
_LAST_CHECKPOINT: Final = "_last_checkpoint"
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def log_folder(table: Path) -> Path:
    """Where the log of the table in the folder *table* is."""
    return table / "_delta_log"


def entry_name(version: int) -> str:
    """The file of one version's entry."""
    return f"{version:020d}.json"


def checkpoint_mark(table: Path) -> bytes:
    """The note that the library leaves of the last checkpoint: another one with each, empty where there is none.

    Costs the same however long the log is, which a list of the folder does not.
    """
    try:
        return (log_folder(table) / _LAST_CHECKPOINT).read_bytes()
    except FileNotFoundError:
        return b""


def sync_checkpoint(table: Path, version: int) -> None:
    """Make the checkpoint of *version*, and the note that it is the last one, durable.

    Raises:
        OSError: it could not be synced.
    """
    log = log_folder(table)
    for path in log.glob(f"{version:020d}.checkpoint*.parquet"):
        fsync_path(path)
    fsync_path(log / _LAST_CHECKPOINT)
    fsync_path(log)


def first_line(error: BaseException) -> str:
    """What an error says, without the library's trace of its own."""
    return str(error).partition("\n")[0]


def now_ms() -> int:
    """Milliseconds since the epoch, as the log has them."""
    return int(datetime.datetime.now(datetime.UTC).timestamp() * 1000)


def iso_of(time_us: int) -> str:
    """A time as the log's statistics have it: UTC, cut to milliseconds."""
    moment = _EPOCH + datetime.timedelta(microseconds=time_us)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def microseconds_of(moment: datetime.datetime) -> int:
    """Microseconds since the epoch, exactly."""
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1)
