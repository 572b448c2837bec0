"""A folder with actions to query, written as flushes write it: sorted files, one a day and type, in one commit."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa

from storage.data_files import WrittenFile, sort_rows, write_partitions
from storage.lake import Lake
from storage.opening import open_store
from storage.paths import StorePaths
from storage.schema import ActionSchema
from storage.store_options import StoreOptions

USERS: Final = 20_000
# Neither one of the few whom Zipf's law gives most of the actions, nor one who is hardly there.
ASKED_USER: Final = "u-000099"

# As the rows of another node are: the folder's own journal never held these.
_JOURNAL: Final = "bench"
_DAY_MS: Final = 86_400_000
_SESSION_MS: Final = 1_800_000
_PAGES: Final = ("home", "communities", "inventory", "floor-plans", "pricing", "contact", "search", "account")


@dataclass(frozen=True, slots=True)
class StoredActions:
    """What was written.

    Attributes:
        paths: absolute paths of the data files.
        by_type: actions of each type.
        asked_date: the day in the middle.
        asked_rows: actions of `ASKED_USER` on that day; at least one.
    """

    paths: tuple[str, ...]
    actions: int
    first_date: date
    days: int
    by_type: dict[str, int]
    asked_date: date
    asked_rows: int


def write_actions(
    data: Path, *, actions: int, days: int, base_time_s: int, progress: Callable[[float], None]
) -> StoredActions:
    """Make a store in the folder *data* with *actions*, evenly over the *days* before that of *base_time_s*.

    The same arguments give the same rows. Users are drawn by Zipf's law; the three types have their properties, some
    as columns.

    Args:
        progress: told the share that is done after each day.

    Raises:
        ValueError: *actions* cannot be spread evenly, or are too few for `ASKED_USER` to have one on the day asked for.
        StoreError, OSError: they could not be written.
    """
    if actions % days:
        raise ValueError(f"{actions} actions cannot be spread evenly over {days} days")
    schema, store_paths = ActionSchema(), StorePaths.of(data)
    store, _ = open_store(store_paths, schema, StoreOptions(), holder="the benchmark")
    store.close(flush=False)
    first_date = datetime.fromtimestamp(base_time_s, UTC).date() - timedelta(days=days)
    asked_date, asked_rows = first_date + timedelta(days=days // 2), 0
    by_type: Counter[str] = Counter()
    files: list[WrittenFile] = []
    # Not for secrets: the same seed must give the same rows.
    source = random.Random(1)
    for day in range(days):
        rows = _day_of_actions(
            source,
            schema,
            date_=first_date + timedelta(days=day),
            count=actions // days,
            position=day * (actions // days) + 1,
        )
        by_type.update(rows["type"].to_pylist())
        if first_date + timedelta(days=day) == asked_date:
            asked_rows = rows["user_id"].to_pylist().count(ASKED_USER)
        files += write_partitions(sort_rows(rows), store_paths.table)
        progress((day + 1) / days)
    if not asked_rows:
        raise ValueError(f"{actions} actions are too few: {ASKED_USER} has none on {asked_date}")
    lake = Lake(store_paths.table, schema)
    version = lake.append(files, journal=_JOURNAL, after=0, watermark=actions)
    lake.sync(after_version=0, through_version=version)
    return StoredActions(
        paths=tuple(str(store_paths.table / one.relative_path) for one in files),
        actions=actions,
        first_date=first_date,
        days=days,
        by_type=dict(sorted(by_type.items())),
        asked_date=asked_date,
        asked_rows=asked_rows,
    )


def _day_of_actions(source: random.Random, schema: ActionSchema, *, date_: date, count: int, position: int) -> pa.Table:
    midnight = datetime(date_.year, date_.month, date_.day, tzinfo=UTC)
    user, ms, share = pl.col("user"), pl.col("ms"), pl.col("share")
    x, y, viewed = share * 4_000 // 100, pl.col("y"), pl.format("{}", pl.col("viewed"))
    page_from, page_to = pl.col("page_from"), pl.col("page_to")
    is_click, is_view = share < 45, (share >= 45) & (share < 80)
    time = pl.lit(midnight).cast(pl.Datetime("us", "UTC")) + pl.duration(milliseconds=ms, time_unit="us")
    weights = list(itertools.accumulate(1 / rank for rank in range(1, USERS + 1)))
    drawn = pl.DataFrame(
        {
            "user": source.choices(range(USERS), cum_weights=weights, k=count),
            "ms": sorted(source.choices(range(_DAY_MS), k=count)),
            "share": source.choices(range(100), k=count),
            "y": source.choices(range(1_024), k=count),
            "viewed": source.choices(range(10**8, 10**9), k=count),
            "page_from": source.choices(_PAGES, k=count),
            "page_to": source.choices(_PAGES, k=count),
        }
    )
    click_text = pl.concat_str(pl.lit('{"locationX":'), x, pl.lit(',"locationY":'), y, pl.lit("}"))
    view_text = pl.concat_str(pl.lit('{"viewedId":"'), viewed, pl.lit('"}'))
    navigate_text = pl.concat_str(pl.lit('{"pageFrom":"'), page_from, pl.lit('","pageTo":"'), page_to, pl.lit('"}'))
    frame = drawn.select(
        date=pl.lit(date_),
        type=pl.when(is_click).then(pl.lit("click")).when(is_view).then(pl.lit("view")).otherwise(pl.lit("navigate")),
        user_id=pl.concat_str(pl.lit("u-"), user.cast(pl.String).str.zfill(6)),
        session_id=pl.concat_str(user.cast(pl.String).str.zfill(6), pl.lit("-"), ms // _SESSION_MS),
        time=time,
        utc_offset_minutes=(user % 3 * -60).cast(pl.Int16),
        properties=pl.when(is_click).then(click_text).when(is_view).then(view_text).otherwise(navigate_text),
        location_x=pl.when(is_click).then(x.cast(pl.Float64)),
        location_y=pl.when(is_click).then(y.cast(pl.Float64)),
        viewed_id=pl.when(is_view).then(viewed),
        page_from=pl.when(share >= 80).then(page_from),
        page_to=pl.when(share >= 80).then(page_to),
        received_at=time + pl.duration(seconds=1, time_unit="us"),
        journal=pl.lit(_JOURNAL),
        position=pl.int_range(position, position + count, dtype=pl.Int64),
    )
    return frame.to_arrow().select(schema.table_schema.names).cast(schema.table_schema)
