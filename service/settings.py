"""The settings: their names, types, bounds and defaults, and which follow the file while the service runs.

Where they are read from stands in `service.sources`. `python -m service.settings` prints `docs/settings.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from storage.schema import DEFAULT_ACTION_TYPES, ActionSchema, PromotedProperty, PromotedType

_MIB: Final = 1024 * 1024
_GIB: Final = 1024 * _MIB
_DAY_MS: Final = 86_400_000


class SettingsError(ValueError):
    """A setting is unknown or not allowed; the message names it, its source, its value and what is allowed."""


class Promoted(Struct, frozen=True, forbid_unknown_fields=True):
    """A promoted property: the column that it gets, and its type."""

    column: str
    type: PromotedType


class WorkGroup(Struct, frozen=True, forbid_unknown_fields=True):
    """An Athena work group: queries that scan more than `scanned_bytes_max` are cancelled."""

    scanned_bytes_max: Annotated[int, Meta(ge=1)] | None = None


def _default_action_types() -> dict[str, dict[str, Promoted]]:
    return {
        name: {one.property: Promoted(one.column, one.type) for one in promoted}
        for name, promoted in DEFAULT_ACTION_TYPES.items()
    }


# An empty path would be the current folder, and no path holds a NUL.
_Folder = Annotated[str, Meta(min_length=1, pattern=r"^[^\x00]*$")]
_Origin = Annotated[str, Meta(pattern=r"^(\*|https?://[^/\s?#@*]+)$")]
_Port = Annotated[int, Meta(ge=0, le=65_535)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of the service. Sizes are bytes, durations say their unit."""

    data: Annotated[_Folder, Meta(description="Folder of the table.")] = "./data"
    state: Annotated[
        _Folder | None,
        Meta(description="Folder of what is this node's own: journal, locks, history. The data folder unless given."),
    ] = None
    host: Annotated[str, Meta(min_length=1, description="Address to bind. Without keys it must be loopback.")] = (
        "127.0.0.1"
    )
    port: Annotated[_Port, Meta(description="Port to bind; 0 takes any free one and logs it.")] = 8080
    workers: Annotated[int, Meta(ge=1, le=64, description="Processes that serve one folder together.")] = 1
    insecure: Annotated[
        bool,
        Meta(
            description="Without keys, serve any address and any Host: whoever reaches the port may do everything."
            " Once there are keys, they are asked for all the same."
        ),
    ] = False
    cors_allowed_origins: Annotated[
        tuple[_Origin, ...],
        Meta(description="Origins whose web pages may use the service with a key of theirs; `*` is any. See below."),
    ] = ()
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least severe log entries to write.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Meta(description="`auto` is console on a terminal and JSON lines otherwise."),
    ] = "auto"
    flush_interval_ms_max: Annotated[
        int, Meta(ge=1, le=_DAY_MS, description="No acknowledged action waits longer than this for the table.")
    ] = 60_000
    flush_rows_max: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="The journal is flushed at this many actions; one commit takes twice as many where they wait.",
        ),
    ] = 100_000
    flush_bytes_max: Annotated[
        int, Meta(ge=1, description="The journal is flushed at this many bytes; also one commit's most.")
    ] = 64 * _MIB
    flush_partitions_max: Annotated[
        int, Meta(ge=1, le=10_000, description="Partitions that one commit writes files into, at the most.")
    ] = 1_024
    flush_timeout_ms_max: Annotated[
        int, Meta(ge=1, le=_DAY_MS, description="How long `POST /api/flush` waits before it answers 503.")
    ] = 60_000
    journal_bytes_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Submissions are answered 503 while the journal holds this much: rows not flushed yet, dead"
            " letters, and its write-ahead log. Above half of it, 429 for a client that has more than its share.",
        ),
    ] = _GIB
    disk_free_bytes_min: Annotated[
        int,
        Meta(ge=0, description="Submissions are answered 507 while the disk has less left: it is kept for flushing."),
    ] = 64 * _MIB
    submit_body_bytes_max: Annotated[
        int, Meta(ge=1, le=_GIB, description="Largest body of a submission, after decompression.")
    ] = 10_000_000
    submit_actions_max: Annotated[int, Meta(ge=1, description="Most actions of one submission.")] = 10_000
    submit_arrow_bytes_max: Annotated[
        int, Meta(ge=1, le=_GIB, description="Largest Arrow stream of a submission, after decompression.")
    ] = 64 * _MIB
    submit_arrow_rows_max: Annotated[int, Meta(ge=1, description="Most rows of one Arrow stream.")] = 1_000_000
    submit_pending_bytes_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Bytes of submissions that may be read or wait for the disk in one process; beyond it 503."
            " Above half of it, 429 for a client that has more than its share.",
        ),
    ] = 64 * _MIB
    client_requests_per_s_max: Annotated[
        int | None, Meta(description="Submissions of one client a second, over all processes; beyond it 429.")
    ] = None
    client_bytes_per_s_max: Annotated[
        int | None, Meta(description="Bytes of one client's submissions a second, over all processes; beyond it 429.")
    ] = None
    connections_max: Annotated[
        int, Meta(ge=1, description="Connections of one process; one more is answered 503 and closed.")
    ] = 1_000
    head_timeout_ms_max: Annotated[
        int, Meta(ge=1, description="A request's head must have arrived by then, or its connection is closed (408).")
    ] = 10_000
    submit_body_timeout_ms_max: Annotated[
        int, Meta(ge=1, description="A request's body must have arrived by then, or its connection is closed (408).")
    ] = 60_000
    answer_timeout_ms_max: Annotated[
        int, Meta(ge=1, description="A client that takes nothing of its answer for this long is cut off.")
    ] = 60_000
    action_properties_bytes_max: Annotated[
        int, Meta(ge=2, description="Largest properties text of one action; beyond it the action is rejected.")
    ] = 65_536
    id_bytes_max: Annotated[int, Meta(ge=1, description="Largest userId and sessionId, as UTF-8.")] = 256
    json_depth_max: Annotated[int, Meta(ge=4, le=512, description="Deepest nesting of a submission.")] = 64
    time_ahead_ms_max: Annotated[
        int, Meta(ge=0, description="How far ahead of the server's clock an action's time may lie.")
    ] = _DAY_MS
    idempotency_retention_hours: Annotated[
        int, Meta(ge=1, le=8_760, description="How long an Idempotency-Key and its answer are kept.")
    ] = 72
    idempotency_bytes_max: Annotated[
        int, Meta(ge=1, description="Bytes of kept answers; beyond it the oldest keys are forgotten early.")
    ] = 256 * _MIB
    erasure_grace_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=_DAY_MS,
            description="Before an erased user's old files are removed, queries that may still read them get this long;"
            " at least the longest timeout of a query.",
        ),
    ] = 60_000
    erasure_deadline_ms: Annotated[
        int, Meta(ge=1, description="Within this time an erasure is promised to be done; the receipt says so.")
    ] = 3_600_000
    retrieve_limit_default: Annotated[int, Meta(ge=1, description="Rows of a page when `limit` is not given.")] = 1_000
    retrieve_limit_max: Annotated[int, Meta(ge=1, description="Largest `limit` of a page.")] = 10_000
    retrieve_timeout_ms_max: Annotated[int, Meta(ge=1, description="A retrieval that takes longer is stopped.")] = (
        30_000
    )
    stream_timeout_ms_max: Annotated[
        int,
        Meta(
            ge=1,
            description="A streamed answer that is not taken to its end within this time is cut off; never later than"
            " `vacuum_grace_ms`, after which files go that it reads. One of SQL has `sql_timeout_ms_max` as well.",
        ),
    ] = 600_000
    retrieve_concurrency_max: Annotated[
        int, Meta(ge=1, le=64, description="Retrievals that run at once in one process; others wait.")
    ] = 4
    query_memory_bytes_max: Annotated[
        int, Meta(ge=64 * _MIB, description="Memory of the service's own DuckDB; beyond it queries spill to disk.")
    ] = _GIB
    query_threads: Annotated[int, Meta(ge=1, le=256, description="Threads of the service's own DuckDB.")] = 2
    user_filters_bytes_max: Annotated[
        int,
        Meta(ge=0, description="Memory of each process, and disk, for knowing which users a file holds; 0 is off."),
    ] = 256 * _MIB
    history_bytes_share_max: Annotated[
        float,
        Meta(ge=0, le=4, description="Disk for copies arranged by user, as a share of the table's bytes; 0 is off."),
    ] = 1.25
    history_rest_ms: Annotated[
        int, Meta(ge=0, description="A data file is copied for histories when it has not changed for this long.")
    ] = 3_600_000
    sql_workers: Annotated[int, Meta(ge=1, le=64, description="Processes that run users' SQL.")] = 2
    sql_memory_bytes_max: Annotated[int, Meta(ge=64 * _MIB, description="Memory of each of them.")] = _GIB
    sql_threads: Annotated[int, Meta(ge=1, le=256, description="DuckDB threads of each of them.")] = 2
    sql_temp_bytes_max: Annotated[int, Meta(ge=0, description="Disk that each of them may spill to.")] = 2 * _GIB
    sql_timeout_ms_max: Annotated[int, Meta(ge=1, description="A user's query that takes longer is stopped.")] = 30_000
    sql_when_idle: Annotated[
        bool,
        Meta(
            description="A user's query that takes longer than a second gets only what everything else on the machine"
            " leaves of the processors, so that it hardly holds up submissions (Linux). Otherwise it has a small share."
        ),
    ] = True
    sql_share_min: Annotated[
        float,
        Meta(
            ge=0.01,
            le=1,
            description="While submissions come, a user's query that takes longer than a second and has not begun to"
            " answer runs for this share of the time, where such queries could take every processor (Linux, with"
            " `sql_when_idle`). 1 lets it run on, and submissions wait for it now and then.",
        ),
    ] = 0.025
    sql_rows_default: Annotated[int, Meta(ge=1, description="`maxRows` of `POST /api/sql` when it is not given.")] = (
        10_000
    )
    sql_rows_max: Annotated[int, Meta(ge=1, description="Largest `maxRows` of a JSON answer.")] = 1_000_000
    compact_file_bytes_max: Annotated[
        int, Meta(ge=_MIB, description="About the largest file that compaction writes.")
    ] = 128 * _MIB
    compact_files_spare: Annotated[
        int,
        Meta(ge=1, description="Files more than a resting one that a partition still being written to may have."),
    ] = 16
    compact_rest_ms: Annotated[
        int, Meta(ge=0, description="A partition rests when nothing was added to it for this long.")
    ] = 900_000
    compact_memory_bytes_max: Annotated[
        int,
        Meta(ge=128 * _MIB, description="Memory of a compaction, whatever a partition's size; the rest is spilled."),
    ] = 512 * _MIB
    vacuum_grace_ms: Annotated[
        int,
        Meta(
            ge=1_000,
            le=1_800_000,
            description="How long a file stays that the table no longer names; longer than any query.",
        ),
    ] = 900_000
    retention_days_default: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Days after which actions are removed; for ever unless given."),
    ] = None
    athena_results_retention_hours: Annotated[
        int, Meta(ge=1, description="How long results of Athena queries are kept.")
    ] = 24
    athena_results_bytes_max: Annotated[
        int, Meta(ge=1, description="Disk for kept results of Athena queries; beyond it the oldest go.")
    ] = _GIB
    shutdown_timeout_ms_max: Annotated[
        int, Meta(ge=1_000, description="How long requests under way may take after SIGTERM.")
    ] = 30_000
    action_types: Annotated[
        dict[str, dict[str, Promoted]],
        Meta(description="Action types, each with its promoted properties; given here, it replaces the default."),
    ] = msgspec.field(default_factory=_default_action_types)
    retention_days: Annotated[
        dict[str, Annotated[int, Meta(ge=1)]],
        Meta(description="Action type → days after which its actions are removed, instead of the default."),
    ] = msgspec.field(default_factory=dict)
    athena_work_groups: Annotated[dict[str, WorkGroup], Meta(description="Athena work groups beside `primary`.")] = (
        msgspec.field(default_factory=dict)
    )

    def __post_init__(self) -> None:
        self.action_schema()
        for name in ("retrieve_timeout_ms_max", "sql_timeout_ms_max", "flush_timeout_ms_max"):
            if self.vacuum_grace_ms <= getattr(self, name):
                raise ValueError(
                    f"vacuum_grace_ms: {self.vacuum_grace_ms} is not longer than {name}, {getattr(self, name)}:"
                    " files would go that a query still reads"
                )

    @property
    def stream_timeout_s(self) -> float:
        """How long a streamed answer may take: what it reads must be there until its end."""
        return min(self.stream_timeout_ms_max, self.vacuum_grace_ms) / 1000

    def action_schema(self) -> ActionSchema:
        """The action types and promoted properties as the store wants them."""
        return ActionSchema(
            {
                name: tuple(PromotedProperty(key, one.column, one.type) for key, one in promoted.items())
                for name, promoted in self.action_types.items()
            }
        )


SETTING_TYPES: Final = get_type_hints(Settings, include_extras=True)
STRUCTURED: Final = ("action_types", "retention_days", "athena_work_groups", "cors_allowed_origins")
# What follows the settings file while the service runs; everything else needs a restart.
LIVE: Final = frozenset(
    {
        "cors_allowed_origins",
        "log_level",
        "flush_interval_ms_max",
        "flush_rows_max",
        "flush_bytes_max",
        "flush_partitions_max",
        "flush_timeout_ms_max",
        "journal_bytes_max",
        "disk_free_bytes_min",
        "client_requests_per_s_max",
        "client_bytes_per_s_max",
        "connections_max",
        "head_timeout_ms_max",
        "submit_body_timeout_ms_max",
        "answer_timeout_ms_max",
        "submit_body_bytes_max",
        "submit_actions_max",
        "submit_arrow_bytes_max",
        "submit_arrow_rows_max",
        "submit_pending_bytes_max",
        "action_properties_bytes_max",
        "id_bytes_max",
        "json_depth_max",
        "time_ahead_ms_max",
        "idempotency_retention_hours",
        "idempotency_bytes_max",
        "erasure_grace_ms",
        "erasure_deadline_ms",
        "retrieve_limit_default",
        "retrieve_limit_max",
        "retrieve_timeout_ms_max",
        "stream_timeout_ms_max",
        "sql_rows_default",
        "sql_rows_max",
        "compact_file_bytes_max",
        "compact_files_spare",
        "compact_rest_ms",
        "compact_memory_bytes_max",
        "vacuum_grace_ms",
        "retention_days",
        "retention_days_default",
        "action_types",
    }
)


def describe_type(name: str) -> str:
    """Say, for documentation, what values a setting takes."""
    parts = list(_flattened(SETTING_TYPES[name]))
    words = [part for part in parts if isinstance(part, str)]
    metas = [part for part in parts if isinstance(part, Meta)]
    low = next((meta.ge for meta in metas if meta.ge is not None), None)
    high = next((meta.le for meta in metas if meta.le is not None), None)
    text = " or ".join(words)
    if low is not None and high is not None:
        return f"{text}, {low:,} to {high:,}"
    return f"{text}, at least {low:,}" if low is not None else text


def _flattened(annotation: Any) -> Iterable[str | Meta]:
    if get_origin(annotation) is Annotated:
        inner, *metas = get_args(annotation)
        yield from _flattened(inner)
        yield from (meta for meta in metas if isinstance(meta, Meta))
    elif get_origin(annotation) is Literal:
        yield from (f"`{value}`" for value in get_args(annotation))
    elif annotation in (int, float, str, bool):
        yield {int: "whole number", float: "number", str: "text", bool: "true or false"}[annotation]
    elif annotation is type(None):
        yield "not set"
    elif get_origin(annotation) is dict:
        yield "table"
    elif get_origin(annotation) is tuple:
        yield "list"
    else:
        for part in get_args(annotation):
            yield from _flattened(part)


def description(name: str) -> str:
    """The description of a setting."""
    return next(p.description for p in _flattened(SETTING_TYPES[name]) if isinstance(p, Meta) and p.description)


def document() -> str:
    """The text of `docs/settings.md`."""
    defaults = Settings()
    lines = [
        "# Settings",
        "",
        "Defaults < `actionlake.toml` < `ACTIONLAKE_*` variables < flags. One name everywhere: `flush_rows_max` in the",
        "file is `ACTIONLAKE_FLUSH_ROWS_MAX` in the environment and `--flush-rows-max` as a flag. The file is the one",
        "given by `--config` or `ACTIONLAKE_CONFIG`, else `./actionlake.toml` if there is one.",
        "An unknown name is an error there; an unknown variable is warned of. Lists and tables have no flag, and their",
        "variables hold JSON: `ACTIONLAKE_CORS_ALLOWED_ORIGINS='[\"https://app.example\"]'`.",
        "",
        "The file is followed while the service runs: settings marked *live* take effect within seconds, without a",
        "dropped request; the others need a restart. A file that is wrong changes nothing.",
        "",
        "This page is printed by `python -m service.settings`.",
        "",
        "| setting | default | values | live | meaning |",
        "|---|---|---|---|---|",
    ]
    for name in Settings.__struct_fields__:
        value = getattr(defaults, name)
        shown = "see below" if name in STRUCTURED else "" if value is None else f"`{_toml(value)}`"
        live = "live" if name in LIVE else ""
        lines.append(f"| `{name}` | {shown} | {describe_type(name)} | {live} | {description(name)} |")
    lines += ["", "## Example", "", "```toml", *_example(defaults), "```", ""]
    return "\n".join(lines)


def _toml(value: object) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, str | bool) else str(value)


def _example(defaults: Settings) -> list[str]:
    lines = [
        "# actionlake.toml",
        "flush_interval_ms_max = 30_000",
        'cors_allowed_origins = ["https://app.example"]  # web pages that may send a key of theirs',
        "retrieve_timeout_ms_max = 10_000",
        "",
        "# Action types with the properties that get a column of their own: double, bigint, varchar or boolean.",
    ]
    for name, promoted in defaults.action_types.items():
        lines.append(f"[action_types.{name}]")
        lines += [f'{key} = {{ column = "{one.column}", type = "{one.type}" }}' for key, one in promoted.items()]
        lines.append("")
    return [
        *lines,
        "[action_types.purchase]",
        'amountCents = { column = "amount_cents", type = "bigint" }',
        "",
        "[retention_days]",
        "navigate = 90",
        "",
        "[athena_work_groups.analysts]",
        "scanned_bytes_max = 10_000_000_000",
    ]


if __name__ == "__main__":
    print(document(), end="")
