"""A row that cannot be written is put with the dead letters, once and with its position, and the others pass it by."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake.exceptions import DeltaError

from storage import data_files as data_files_module
from storage.columns import encode_columns
from storage.data_files import WrittenFile
from storage.errors import CommitRefused, DiskFull
from storage.flush import UNFLUSHABLE, FlushLimits, FlushResult
from storage.lake import Lake
from storage.schema import ActionSchema, PromotedProperty
from storage.store import Store
from tests.storage.building import (
    Crash,
    data_files,
    execute,
    flusher,
    in_lake,
    positions,
    put,
    store_in,
    through,
)


def spoil(store: Store, first_position: int, payload: bytes) -> None:
    """Overwrite what the journal holds of a submission."""
    execute(
        store.paths.journal, "UPDATE submissions SET payload = ? WHERE first_position = ?", [payload, first_position]
    )


def letters(store: Store) -> list[tuple[int, str, bytes]]:
    return [
        (one["position"], one["code"], one["original"]) for one in reversed(store.journal.read_dead_letters(limit=100))
    ]


def columns(**wrong: Any) -> bytes:
    """The stored columns of one action, with something in them that no action can have."""
    given: dict[str, Any] = {
        "times_us": [1_700_000_000_000_000],
        "utc_offsets_minutes": [0],
        "type_names": ("click",),
        "type_codes": [0],
        "properties_lengths": [2],
        "properties": b"{}",
        "promoted": {0: {}},
    }
    return encode_columns(**(given | wrong))


SPOILED = {
    "not what was encoded": b"\xc1",
    "nothing": b"",
    "of another format": columns().replace(b"\x98\x01", b"\x98\x7f", 1),
    "of another length": columns(times_us=[1, 2]),
    "an unknown type": columns(type_codes=[7], promoted={7: {}}),
    "a time before 1970": columns(times_us=[-1]),
    "a time after the year 9999": columns(times_us=[253_402_300_800_000_000]),
    "a length below zero": columns(properties_lengths=[-2]),
    "texts longer than their lengths": columns(properties=b"{}}"),
    "text that is no UTF-8": columns(properties=b"\xff\xff"),
    "promoted values of another length": columns(promoted={0: {"location_x": [1.0, 2.0]}}),
    "a type that is no folder": columns(type_names=("cl\0ick",)),
}


def test_what_is_not_spoiled_is_flushed(store: Store) -> None:
    """The control: the same way of writing into the journal, with nothing wrong."""
    put(store, 1)
    spoil(store, 1, columns())
    flusher(store).flush(1)
    assert in_lake(store) == [1]
    assert letters(store) == []


@pytest.mark.parametrize("payload", list(SPOILED.values()), ids=list(SPOILED))
def test_one_spoiled_submission_among_many_is_put_aside_and_the_others_arrive(store: Store, payload: bytes) -> None:
    put(store, 2)
    put(store, 1)
    put(store, 3)
    put(store, 2)
    spoil(store, 3, payload)
    done: list[FlushResult] = []
    flusher(store, done=done).flush(8)
    assert in_lake(store) == [1, 2, 4, 5, 6, 7, 8]
    ((position, code, _),) = letters(store)
    assert (position, code) == (3, UNFLUSHABLE)
    assert sum(one.rejected for one in done) == 1
    assert Lake(store.paths.table, store.schema).watermark(store.journal_id) == 8
    assert store.journal.state().depth == 0
    put(store, 1)
    assert positions(store) == [1, 2, 4, 5, 6, 7, 8, 9]


def test_the_dead_letter_holds_the_payload_as_it_was(store: Store) -> None:
    put(store, 1, user="somebody")
    spoil(store, 1, b"\xc1\x00 spoiled")
    flusher(store).flush(1)
    (letter,) = store.journal.read_dead_letters(limit=10)
    assert letter["original"] == b"\xc1\x00 spoiled"
    assert letter["user_id"] == "somebody"
    assert "position" in letter["message"]


@pytest.mark.parametrize("spoiled", [[1], [5], [1, 2, 3, 4, 5], [2, 4], [1, 5]])
def test_any_number_of_spoiled_submissions_is_found_by_halving(store: Store, spoiled: list[int]) -> None:
    for _ in range(5):
        put(store, 1)
    for position in spoiled:
        spoil(store, position, b"\xc1")
    flusher(store).flush(5)
    assert in_lake(store) == [n for n in through(5) if n not in spoiled]
    assert [position for position, _, _ in letters(store)] == spoiled
    assert Lake(store.paths.table, store.schema).watermark(store.journal_id) == 5


def test_a_spoiled_submission_beyond_this_commit_waits_for_its_own(store: Store) -> None:
    put(store, 2, days=2)
    put(store, 1)
    spoil(store, 3, b"\xc1")
    done: list[FlushResult] = []
    flusher(store, limits=FlushLimits(partitions_max=1), done=done).flush(3)
    assert [(one.rows, one.rejected) for one in done] == [(1, 0), (1, 1)]
    assert [position for position, _, _ in letters(store)] == [3]


def test_a_crash_between_dead_letter_and_commit_leaves_the_letter_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store_in(folder) as store:
        put(store, 1)
        put(store, 1)
        spoil(store, 1, b"\xc1")

        def die(*_: Any, **__: Any) -> int:
            raise Crash

        with monkeypatch.context() as patched:
            patched.setattr(Lake, "append", die)
            with pytest.raises(Crash):
                flusher(store).flush(2)
    with store_in(folder) as store:
        flusher(store).flush(2)
        assert [position for position, _, _ in letters(store)] == [1]
        assert in_lake(store) == [2]


def test_a_single_row_that_no_file_takes_is_put_aside(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, 7)
    write = data_files_module.write_partitions

    def refuse_position_5(ordered: pa.Table, table_folder: Path) -> list[WrittenFile]:
        if 5 in ordered["position"].to_pylist():
            raise pa.ArrowInvalid("no")
        return write(ordered, table_folder)

    monkeypatch.setattr("storage.flush.write_partitions", refuse_position_5)
    flusher(store).flush(7)
    assert in_lake(store) == [1, 2, 3, 4, 6, 7]
    ((position, _, original),) = letters(store)
    assert position == 5
    assert b'"properties":{"locationX": 4}' in original


def test_a_disk_that_fills_up_while_rows_are_looked_for_gets_its_room_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 4)
    write = data_files_module.write_partitions

    def refuse_then_fill_up(ordered: pa.Table, table_folder: Path) -> list[WrittenFile]:
        if ordered.num_rows == 4:
            raise pa.ArrowInvalid("no")
        if 4 in ordered["position"].to_pylist():
            raise OSError(errno.ENOSPC, "full")
        return write(ordered, table_folder)

    with monkeypatch.context() as patched:
        patched.setattr("storage.flush.write_partitions", refuse_then_fill_up)
        with pytest.raises(DiskFull):
            flusher(store).flush(4)
    assert data_files(store.paths.data) == set()
    assert letters(store) == []
    flusher(store).flush(4)
    assert in_lake(store) == through(4)


@pytest.mark.parametrize(
    ("where", "error", "told"),
    [
        ("storage.flush.write_partitions", OSError(errno.ENOSPC, "full"), DiskFull),
        ("storage.flush.write_partitions", pa.lib.ArrowMemoryError("malloc"), MemoryError),
        ("storage.flush.rows_to_table", MemoryError(), MemoryError),
        ("storage.lake.Lake.append", DeltaError("conflict"), CommitRefused),
        ("storage.lake.Lake.append", ValueError("schema mismatch"), CommitRefused),
    ],
)
def test_what_is_wrong_around_the_rows_never_counts_against_them(
    store: Store, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception, told: type[Exception]
) -> None:
    put(store, 3)

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(where, fail)
        with pytest.raises(told):
            flusher(store).flush(3)
    assert letters(store) == []
    flusher(store).flush(3)
    assert in_lake(store) == through(3)


def test_rows_promoted_under_another_configuration_are_flushed_with_null_in_what_changed_its_type(
    folder: Path,
) -> None:
    """The text of the properties keeps the value; a configuration that changed makes no row unflushable."""
    was = ActionSchema({"click": (PromotedProperty("locationX", "spot", "double"),)})
    now = ActionSchema({"view": (), "click": (PromotedProperty("locationX", "spot", "varchar"),)})
    with store_in(folder, schema=was) as store:
        pass
    del was
    with store_in(folder.with_name("other"), schema=now) as store:
        put(store, 2)
        spoil(
            store,
            1,
            encode_columns(
                times_us=[1, 2],
                utc_offsets_minutes=[0, 0],
                type_names=("click",),
                type_codes=[0, 0],
                properties_lengths=[2, 2],
                properties=b"{}{}",
                promoted={0: {"spot": [1.5, 2.5]}},
            ),
        )
        assert store.read_view().hot["spot"].to_pylist() == [None, None]
        flusher(store).flush(2)
        assert letters(store) == []
        assert in_lake(store) == [1, 2]


def test_dead_letters_that_cannot_be_kept_keep_the_row_in_the_journal(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 1)
    put(store, 1)
    spoil(store, 2, b"\xc1")

    def fail(*_: Any, **__: Any) -> None:
        raise DiskFull("full")

    with monkeypatch.context() as patched:
        patched.setattr("storage.journal.Journal.move_to_dead_letters", fail)
        with pytest.raises(DiskFull):
            flusher(store).flush(2)
    assert Lake(store.paths.table, store.schema).watermark(store.journal_id) == 0
    assert store.journal.state().depth == 2
    flusher(store).flush(2)
    assert in_lake(store) == [1]
    assert [position for position, _, _ in letters(store)] == [2]
