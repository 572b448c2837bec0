"""What the service and a worker say to each other. A message may be followed by bytes, such as an Arrow stream."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from queries.sql.walls.report import IsolationReport

ParameterValue = tuple[str, Any]
"""The kind of a parameter and its value, since MessagePack knows fewer types than SQL."""


class Start(msgspec.Struct, tag=True, frozen=True):
    """The first message to a worker: what it may touch and use, for its whole life."""

    data_folder: str
    temp_folder: str
    memory_bytes_max: int
    threads: int
    temp_bytes_max: int
    views: dict[str, str]
    macros: dict[str, str]
    walls: list[str]
    niceness: int
    when_idle: bool = False


class UseTable(msgspec.Struct, tag=True, frozen=True):
    """The files of a snapshot, for this and later queries; followed by the table's Arrow schema.

    Each file is its path below the data folder, its size in bytes, its date as an ordinal, its type, and the bounds
    of `time` in microseconds. `views` are the ready views for these columns; None for those of the start.
    """

    files: list[tuple[str, int, int, str, int, int]]
    views: dict[str, str] | None = None


class UseHot(msgspec.Struct, tag=True, frozen=True):
    """The rows that are in no file yet, for this and later queries; followed by an Arrow stream of new batches.

    `order` names the batches in their order: the place of one in the last message's order, or -1 for the next new one.
    """

    order: list[int]


class UseErased(msgspec.Struct, tag=True, frozen=True):
    """The rows of files that are not to be seen by this and later queries: user → journal → kept above."""

    kept_after: dict[str, dict[str, int]]


class Run(msgspec.Struct, tag=True, frozen=True):
    """One query. The worker may send `batches` batches before it waits for `More`.

    With `scanned_bytes_max` it is stopped soon after it has read more than that.
    """

    sql: str
    parameters: list[ParameterValue] | dict[str, ParameterValue]
    max_rows: int | None
    rows_max: int
    result_bytes_max: int
    explain: bool
    cpu_s_max: int
    batches: int
    scanned_bytes_max: int | None = None


class More(msgspec.Struct, tag=True, frozen=True):
    """The worker may send so many batches more."""

    batches: int = 1


class Cancel(msgspec.Struct, tag=True, frozen=True):
    """Stop the query that runs. The worker answers with `Failed` or `Finished`, whichever is sooner."""


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The worker's walls stand, and it takes queries."""

    isolation: IsolationReport


class NotReady(msgspec.Struct, tag=True, frozen=True):
    """The worker cannot start, and ends."""

    message: str


class Started(msgspec.Struct, tag=True, frozen=True):
    """The query has its first rows, or knows that it has none; followed by the Arrow schema of the answer.

    The counts are files and bytes: of the snapshot, after pruning by partition, after pruning by time. Where an
    explanation is asked for, also by user; and row groups that can be needed, row groups of these files, and bytes.
    """

    columns: list[tuple[str, str]]
    total: tuple[int, int]
    by_partition: tuple[int, int]
    by_time: tuple[int, int]
    hot_rows: int
    by_user: tuple[int, int] | None = None
    row_groups: tuple[int, int, int] | None = None


class Batch(msgspec.Struct, tag=True, frozen=True):
    """Rows of the answer; followed by an Arrow stream of its own."""


class Finished(msgspec.Struct, tag=True, frozen=True):
    """All rows were sent. `retire` says that the worker should not be used again."""

    rows: int
    truncated: bool
    scanned_files: int
    scanned_bytes: int
    elapsed_ms: float
    retire: bool = False


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The query ended with an error.

    `limit` is named where `kind` is `too_large`, `scanned_bytes` where it is `scan_limit`; `retire` says that the
    worker should not be used again.
    """

    kind: Literal["sql", "too_large", "interrupted", "unreadable", "engine", "scan_limit"]
    message: str
    position: int | None = None
    suggestion: str | None = None
    limit: str | None = None
    retire: bool = False
    scanned_bytes: int = 0


ToWorker = Start | UseTable | UseHot | UseErased | Run | More | Cancel
FromWorker = Ready | NotReady | Started | Batch | Finished | Failed
