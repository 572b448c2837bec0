"""What a client has under way and in the journal is summed over all processes of a store, in memory of a fixed size."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage import share_book
from storage.leader_page import LeaderPage
from storage.share_book import PLACES, ShareBook


class Process:
    """One process of a store, and the clock that all share."""

    now_s = 1000.25

    def __init__(self, folder: Path) -> None:
        self.page = LeaderPage(folder / "leader.page")
        self.book = ShareBook(
            folder / "shares.page",
            flushes_begun=lambda: self.page.flushes_begun,
            flushing=lambda: self.page.flushing,
            now_s=lambda: Process.now_s,
        )


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Process, Process]:
    monkeypatch.setattr(Process, "now_s", 1000.25)
    return Process(tmp_path), Process(tmp_path)


def test_all_processes_agree_on_a_clients_place(two: tuple[Process, Process]) -> None:
    clients = [f"client {n}" for n in range(5000)]
    places = [two[0].book.place_of(one) for one in clients]
    assert places == [two[1].book.place_of(one) for one in clients]
    assert len(set(places)) == PLACES


def test_what_is_in_the_journal_goes_with_its_flush(two: tuple[Process, Process]) -> None:
    one, other = two
    one.book.add_waiting(7, 100)
    other.book.add_waiting(7, 10)
    other.book.add_waiting(8, 1)
    assert [book.waiting_of(7) for book in (one.book, other.book)] == [110, 110]
    assert one.book.clients_waiting() == 2
    one.page.note_flush_begins()
    # What is being flushed is in the journal until it is flushed.
    other.book.add_waiting(7, 5)
    assert one.book.waiting_of(7) == 115
    # A flush that fails, or whose process dies, is the same one when it is tried again.
    one.page.note_flush_begins()
    assert one.book.waiting_of(7) == 115
    one.page.note_flush_ended(drained_bytes=110, seconds=0.5)
    assert one.book.waiting_of(7) == 5
    assert one.book.clients_waiting() == 1
    for _ in range(3):
        one.page.note_flush_begins()
        one.page.note_flush_ended(drained_bytes=0, seconds=0.5)
        assert one.book.waiting_of(7) == 0
        assert one.book.clients_waiting() == 0
    one.book.add_waiting(7, 3)
    assert other.book.waiting_of(7) == 3
    assert one.page.drained_bytes_per_s == 220


def test_rates_are_those_of_the_last_second(two: tuple[Process, Process]) -> None:
    one, other = two
    one.book.add_arrived(3, 1000)
    other.book.add_arrived(3, 500)
    assert one.book.arrived_in_a_second(3) == (2, 1500)
    Process.now_s = 1001.5
    assert other.book.arrived_in_a_second(3) == (1, 750)
    other.book.add_arrived(3, 1)
    assert one.book.arrived_in_a_second(3) == (2, 751)
    Process.now_s = 1003.0
    assert one.book.arrived_in_a_second(3) == (0, 0)


def test_what_is_under_way_ends_with_its_process(
    two: tuple[Process, Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    one.book.set_in_flight(30)
    other.book.set_in_flight(12)
    assert (one.book.in_flight, one.book.in_flight_of_all()) == (30, 42)
    size = (tmp_path / "shares.page").stat().st_size
    # The region of a process that is gone is taken by the next one, with nothing in it.
    monkeypatch.setattr(share_book, "_is_running", lambda pid: False)
    heir = Process(tmp_path)
    assert heir.book.in_flight_of_all() == 12
    monkeypatch.undo()
    assert (tmp_path / "shares.page").stat().st_size == size
    other.book.close()
    assert Process(tmp_path).book.in_flight_of_all() == 0
