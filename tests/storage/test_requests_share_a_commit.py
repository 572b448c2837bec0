"""Requests that arrive during a commit share the next one; each hears of its own outcome, after the fsync."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from storage.clock import system_now_us
from storage.errors import DiskFull, Overloaded, StoreError, StoreFailed
from storage.group_commit import GROUP_REQUESTS_MAX, GroupCommitter
from storage.journal import Journal
from storage.journal_records import Append, IdempotencyConflict, IdempotencyKey
from storage.leader_page import LeaderPage
from storage.store import Store
from storage.submission import Rejection
from tests.storage.building import eventually, positions, request, through


class Committing:
    """A committer over a store's journal whose commits wait until they are let go."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch, *, pending_bytes_max: int = 1 << 20) -> None:
        self.outcomes: dict[str, bytes | StoreError] = {}
        self.groups: list[int] = []
        self.sizes: list[int] = []
        self.seconds: list[float] = []
        self.go = threading.Event()
        self.errors: list[Exception] = []
        append_next = Journal.append_next

        def append_when_let(
            journal: Journal, take: Callable[[], Sequence[Append]], *, now_us: int
        ) -> list[bytes | StoreError]:
            group = take()
            self.groups.append(len(group))
            assert self.go.wait(120)
            if self.errors:
                raise self.errors.pop(0)
            return append_next(journal, lambda: group, now_us=now_us)

        monkeypatch.setattr(Journal, "append_next", append_when_let)
        self.committer = GroupCommitter(
            store.journal,
            now_us=system_now_us,
            deliver=self.deliver,
            pending_bytes_max=pending_bytes_max,
            on_commit=self.on_commit,
        )

    def deliver(self, outcomes: list[tuple[Any, bytes | StoreError]]) -> None:
        for who, outcome in outcomes:
            if who == "boom":
                raise RuntimeError("a mistake of whoever waits")
            assert who not in self.outcomes, "told twice"
            self.outcomes[who] = outcome

    def on_commit(self, requests: int, seconds: float) -> None:
        self.sizes.append(requests)
        self.seconds.append(seconds)

    def submit(self, token: str, append: Append | None = None) -> None:
        self.committer.submit(token, append or request(1))

    def begin(self) -> None:
        """Have one commit under way."""
        self.submit("first")
        eventually(lambda: self.groups == [1])


@pytest.fixture
def committing(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Committing]:
    one = Committing(store, monkeypatch)
    yield one
    one.go.set()
    one.committer.close()


def test_what_arrives_during_a_commit_shares_the_next_one(store: Store, committing: Committing) -> None:
    committing.begin()
    for n in range(20):
        committing.submit(f"r{n}")
    assert committing.outcomes == {}, "nobody hears anything before the fsync"
    committing.go.set()
    eventually(lambda: len(committing.outcomes) == 21)
    assert committing.groups == committing.sizes == [1, 20]
    assert min(committing.seconds) > 0
    assert positions(store) == through(21)
    assert set(committing.outcomes.values()) == {b'{"accepted": 1}'}


def test_a_group_is_bounded_in_requests(store: Store, committing: Committing) -> None:
    committing.begin()
    empty = Append((), (), b"ok")
    for n in range(GROUP_REQUESTS_MAX + 10):
        committing.submit(f"r{n}", empty)
    committing.go.set()
    eventually(lambda: len(committing.outcomes) == GROUP_REQUESTS_MAX + 11)
    assert committing.groups == [1, GROUP_REQUESTS_MAX, 10]


def test_a_group_is_bounded_in_bytes_and_one_large_request_still_goes(
    store: Store, committing: Committing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.group_commit.GROUP_BYTES_MAX", 1000)
    committing.begin()
    for n, size in enumerate([400, 400, 400, 5000, 400]):
        committing.submit(f"r{n}", Append((), (Rejection(0, None, "bad_time", "", bytes(size), None, None),), b"ok"))
    committing.go.set()
    eventually(lambda: len(committing.outcomes) == 6)
    assert committing.groups == [1, 2, 1, 1, 1]
    assert store.journal.dead_letters() == 5


def test_more_bytes_than_may_wait_are_refused_and_room_comes_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    committing = Committing(store, monkeypatch, pending_bytes_max=1500)
    letter = Append((), (Rejection(0, None, "bad_time", "", bytes(1000), None, None),), b"ok")
    committing.begin()
    committing.submit("waits", letter)
    with pytest.raises(Overloaded) as caught:
        committing.submit("too much", letter)
    assert caught.value.retry_after_s == 1
    committing.go.set()
    eventually(lambda: "waits" in committing.outcomes)
    committing.submit("now", letter)
    committing.committer.close()
    assert set(committing.outcomes) == {"first", "waits", "now"}
    assert store.journal.dead_letters() == 2


@pytest.mark.parametrize("error", [DiskFull("full"), StoreFailed("failed"), RuntimeError("unheard of")])
def test_a_commit_that_fails_fails_all_its_requests_and_the_next_one_is_tried(
    store: Store, committing: Committing, error: Exception
) -> None:
    committing.begin()
    committing.errors.append(error)
    committing.go.set()
    eventually(lambda: "first" in committing.outcomes)
    outcome = committing.outcomes["first"]
    assert isinstance(outcome, StoreError)
    assert outcome is error or outcome.__cause__ is error
    committing.submit("next")
    eventually(lambda: "next" in committing.outcomes)
    assert committing.outcomes["next"] == b'{"accepted": 1}'
    assert positions(store) == [1]


def test_a_conflict_of_keys_is_told_to_its_own_request_only(store: Store, committing: Committing) -> None:
    committing.begin()
    for n, body in enumerate([b"one", b"other", b"one"]):
        committing.submit(f"r{n}", request(1, key=IdempotencyKey.of("key", body)))
    committing.submit("r3")
    committing.go.set()
    eventually(lambda: len(committing.outcomes) == 5)
    assert isinstance(committing.outcomes["r1"], IdempotencyConflict)
    assert [committing.outcomes[f"r{n}"] for n in (0, 2, 3)] == [b'{"accepted": 1}'] * 3
    assert positions(store) == through(3)


def test_closing_commits_what_waits_and_refuses_the_rest(store: Store, committing: Committing) -> None:
    committing.begin()
    committing.submit("waits")
    closing = threading.Thread(target=committing.committer.close)
    closing.start()
    eventually(lambda: committing.committer._closing)
    with pytest.raises(StoreFailed, match="shutting down"):
        committing.submit("late")
    committing.go.set()
    closing.join(120)
    assert set(committing.outcomes) == {"first", "waits"}
    assert positions(store) == [1, 2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_the_answers_cannot_be_delivered_later_requests_are_refused_and_do_not_hang(
    store: Store, committing: Committing
) -> None:
    committing.go.set()
    committing.submit("boom")
    eventually(lambda: not committing.committer._thread.is_alive())
    with pytest.raises(StoreFailed):
        committing.submit("later")
    assert positions(store) == [1]


def test_requests_that_were_gathered_wait_for_the_hand_over_and_share_a_commit(committing: Committing) -> None:
    committing.go.set()
    for n in range(5):
        committing.committer.gather(f"g{n}", request(1))
    committing.submit("last")
    eventually(lambda: len(committing.outcomes) == 6)
    assert committing.groups == [6]
    committing.committer.gather("left", request(1))
    committing.committer.close()
    assert isinstance(committing.outcomes["left"], bytes)


def test_a_group_is_taken_when_it_is_the_processs_turn_to_write(store: Store) -> None:
    """What comes while another process writes is in the commit that waited for it."""
    outcomes: list[Any] = []
    sizes: list[int] = []
    committer = GroupCommitter(
        store.journal,
        now_us=system_now_us,
        deliver=outcomes.extend,
        pending_bytes_max=1 << 20,
        on_commit=lambda requests, _: sizes.append(requests),
    )
    other = LeaderPage(store.paths.leader_page)
    with other.queued(timeout_s=None):
        committer.submit("first", request(1))
        time.sleep(0.05)
        committer.submit("second", request(1))
    eventually(lambda: len(outcomes) == 2)
    assert sizes == [2]
    committer.close()
    other.close()


def test_what_arrives_during_a_pause_shares_the_next_commit_and_closing_ends_it(store: Store) -> None:
    outcomes: list[Any] = []
    sizes: list[int] = []
    paused_after: list[int] = []

    def pause_s(committed_bytes: int) -> float:
        paused_after.append(committed_bytes)
        return 60.0

    committer = GroupCommitter(
        store.journal,
        now_us=system_now_us,
        deliver=outcomes.extend,
        pending_bytes_max=1 << 20,
        on_commit=lambda requests, _: sizes.append(requests),
        pause_s=pause_s,
    )
    first = request(1)
    committer.submit("first", first)
    eventually(lambda: len(paused_after) == 1)
    assert len(outcomes) == 1, "a commit is answered before the pause"
    assert paused_after == [first.size_bytes]
    committer.submit("second", request(1))
    committer.submit("third", request(1))
    committer.close()
    assert sizes == [1, 2]
    assert len(outcomes) == 3
