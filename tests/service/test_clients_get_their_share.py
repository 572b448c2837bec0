"""Who sends too much is answered 429 while the others go on; a full server is 503 for all; rates hold where given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.admission import Admission, AdmissionLimits, Passage
from service.problems import Problem
from storage.errors import Overloaded
from storage.share_book import ShareBook


class StoreOfTests:
    """As much of a store as admission asks."""

    held_bytes = 0

    def check_writable(self, part: float = 1.0) -> None:
        """It is while 1000 bytes, or this part of them, are not held."""
        if self.held_bytes >= 1000 * part:
            raise Overloaded("full")

    @staticmethod
    def seconds_to_drain(excess_bytes: int) -> int:
        return excess_bytes


class Door:
    """Admission with a clock and a journal of the test's own."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        self.flushes = 0
        self.now_s = 5.0
        self.refused: list[str] = []
        self.store = StoreOfTests()
        book = ShareBook(
            folder / "shares.page",
            flushes_begun=lambda: self.flushes,
            flushing=lambda: False,
            now_s=lambda: self.now_s,
        )
        given = {"pending_bytes_max": 1000, "journal_bytes_max": 1000, **limits}
        self.admission = Admission(self.store, book, AdmissionLimits(**given), self.refused.append)  # type: ignore[arg-type]

    def enter(self, client: str, size: int = 0) -> Passage:
        return self.admission.begin(client, size)

    def keep(self, client: str, size: int) -> None:
        passage = self.enter(client)
        passage.kept(size)
        passage.end()
        self.store.held_bytes += size


def status(error: pytest.ExceptionInfo[Problem]) -> tuple[int, str]:
    return error.value.status, error.value.headers["retry-after"]


def test_one_client_alone_may_fill_everything(tmp_path: Path) -> None:
    door = Door(tmp_path)
    for _ in range(10):
        door.enter("a", 100)
    with pytest.raises(Overloaded, match="under way"):
        door.enter("a", 100)
    assert door.refused == []


def test_a_client_over_its_share_makes_room_for_others(tmp_path: Path) -> None:
    door = Door(tmp_path)
    passages = [door.enter("greedy", 100) for _ in range(9)]
    door.enter("modest", 100)
    with pytest.raises(Problem) as caught:
        door.enter("greedy", 100)
    assert status(caught) == (429, "1")
    door.enter("new", 100)
    assert door.refused == ["share of what is under way"]
    for one in passages[:7]:
        one.end()
    door.enter("greedy", 100)
    # However much is announced, one request alone gets in.
    Door(tmp_path, pending_bytes_max=10).enter("large", 5000)


def test_a_body_that_says_no_size_is_held_as_it_grows(tmp_path: Path) -> None:
    door = Door(tmp_path)
    door.enter("other", 900)
    passage = door.enter("growing")
    passage.grow(200)
    with pytest.raises(Overloaded):
        passage.grow(200)
    passage.end()
    door.enter("growing").grow(200)


def test_the_journal_is_shared_among_those_who_fill_it(tmp_path: Path) -> None:
    door = Door(tmp_path)
    door.keep("greedy", 400)
    door.keep("modest", 50)
    door.keep("greedy", 150)
    # More than half is full, and two clients may have half each.
    with pytest.raises(Problem) as caught:
        door.enter("greedy")
    assert status(caught) == (429, "300")
    door.keep("modest", 100)
    door.keep("new", 10)
    assert door.refused == ["share of the journal"]
    # The last fifth is for those who have nothing in it.
    door.keep("modest", 100)
    with pytest.raises(Overloaded):
        door.enter("modest")
    door.enter("newer still")
    # A flush takes it all away.
    door.flushes += 1
    door.store.held_bytes = 0
    door.keep("greedy", 400)


def test_rates_hold_where_they_are_given(tmp_path: Path) -> None:
    door = Door(tmp_path, client_requests_per_s_max=3, client_bytes_per_s_max=100)
    for _ in range(3):
        door.enter("a", 10).end()
    with pytest.raises(Problem) as caught:
        door.enter("a", 10)
    assert status(caught) == (429, "1")
    door.enter("b", 150).end()
    with pytest.raises(Problem, match="100 bytes"):
        door.enter("b", 1)
    door.now_s += 2
    door.enter("a", 10).end()
    assert door.refused == ["rate of requests", "rate of bytes"]
