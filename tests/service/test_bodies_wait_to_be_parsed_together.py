"""What comes while a group is committed waits for the commit's end and is parsed together, unless it gets too much."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.admission import Admission, AdmissionLimits
from service.clients import ALL_SCOPES, Client, set_client
from service.metrics import Metrics
from service.settings import Settings
from service.store_settings import arrow_parser
from service.submissions import SubmitEndpoint
from storage.clock import system_now_us
from storage.errors import DiskFull
from storage.store import Store
from storage.submission_groups import Group, GroupParser
from tests.storage.building import FIRST_DAY, PARSER, action, body, store_in

# Six of them are worth a group; 27 are more than the event loop parses at once.
BODY = body([action(at=FIRST_DAY, properties={"locationX": n, "text": "x" * 800}) for n in range(11)])


class Held:
    """A store's endpoint, whose commits wait for `go_on`.

    Attributes:
        parsed: how many bodies were parsed together, each time.
        commits: how many commits have begun.
    """

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
        self.parsed: list[int] = []
        self.commits = 0
        self.go_on = threading.Semaphore(0)
        parse, append_next = GroupParser.parse, store.journal.append_next

        def noted(parser: GroupParser, bodies: Sequence[bytes], *, now_us: int) -> Group | None:
            self.parsed.append(len(bodies))
            return parse(parser, bodies, now_us=now_us)

        def held(take: Callable[[], Any], *, now_us: int) -> Any:
            self.commits += 1
            self.go_on.acquire()
            if fails and self.commits == 1:
                take()
                raise DiskFull("full", retry_after_s=5)
            return append_next(take, now_us=now_us)

        monkeypatch.setattr(GroupParser, "parse", noted)
        monkeypatch.setattr(store.journal, "append_next", held)

    async def committing(self, number: int) -> None:
        """Wait until that many commits have begun."""
        while self.commits < number:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def endpoint_of(store: Store, held: Held) -> AsyncIterator[Callable[[int], list[Awaitable[int]]]]:
    """Yields what submits so many bodies at once, and returns whose status will be what."""
    book = store.open_share_book()
    limits = AdmissionLimits(pending_bytes_max=1 << 26, journal_bytes_max=1 << 30)
    endpoint = SubmitEndpoint(
        store,
        PARSER,
        arrow_parser(Settings(), store.schema),
        Metrics(),
        admission=Admission(store, book, limits, lambda _: None),
        now_us=system_now_us,
    )

    async def status() -> int:
        scope: Any = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
        set_client(scope, Client("someone", ALL_SCOPES))
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": BODY, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await endpoint(scope, receive, send)
        return int(sent[0]["status"])

    def submit(count: int) -> list[Awaitable[int]]:
        return [asyncio.ensure_future(status()) for _ in range(count)]

    try:
        yield submit
    finally:
        held.go_on.release(100)
        await asyncio.to_thread(endpoint.close)
        book.close()


async def _turns() -> None:
    """Let the event loop do all that it can do now."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("fails", [False, True])
def test_they_are_parsed_at_its_end_whatever_came_of_it(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(store: Store) -> None:
        held = Held(store, monkeypatch, fails)
        async with endpoint_of(store, held) as submit:
            first = submit(6)
            await held.committing(1)
            second = submit(6)
            await _turns()
            second += submit(3)
            await _turns()
            assert held.parsed == [6]
            held.go_on.release()
            await held.committing(2)
            assert held.parsed == [6, 9]
            held.go_on.release()
            assert await asyncio.gather(*first) == [507 if fails else 200] * 6
            assert await asyncio.gather(*second) == [200] * 9

    with store_in(tmp_path / "data") as store:
        asyncio.run(run(store))
        assert store.journal.state().depth == (9 if fails else 15) * 11


def test_what_is_as_much_as_is_parsed_at_once_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(store: Store) -> None:
        held = Held(store, monkeypatch, fails=False)
        async with endpoint_of(store, held) as submit:
            statuses = submit(6)
            await held.committing(1)
            statuses += submit(30)
            await _turns()
            at_once = (256 << 10) // len(BODY)
            assert held.parsed == [6, at_once]
            held.go_on.release(3)
            assert await asyncio.gather(*statuses) == [200] * 36
            assert held.parsed[:2] == [6, at_once]
            assert sum(held.parsed) == 36

    with store_in(tmp_path / "data") as store:
        asyncio.run(run(store))
        assert store.journal.state().depth == 36 * 11


def test_one_that_is_parsed_alone_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where little comes, it is parsed while what came before is committed."""

    async def run(store: Store) -> None:
        held = Held(store, monkeypatch, fails=False)
        async with endpoint_of(store, held) as submit:
            statuses = submit(1)
            await held.committing(1)
            statuses += submit(2)
            await _turns()
            assert held.parsed == [1, 2]
            held.go_on.release(2)
            assert await asyncio.gather(*statuses) == [200] * 3

    with store_in(tmp_path / "data") as store:
        asyncio.run(run(store))
