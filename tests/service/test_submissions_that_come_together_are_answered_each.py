"""Requests that come at one moment are parsed and kept together; each is answered for itself, and none is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import httpx
import pytest

from service.admission import Passage
from service.submissions import _resolve, _Together, _Waiting
from storage.errors import DiskFull
from storage.submission import ParsedBody
from tests.service.running_service import RunningService, action, submission

ACTIONS = 100
CLIENTS = 24


def test_each_of_many_at_once_hears_of_its_own_and_is_there_at_once(service: RunningService) -> None:
    """Right ones, one with a wrong action, one that is no submission; each is retrieved as soon as it is answered."""

    def of(client: int) -> tuple[httpx.Response, list[dict[str, Any]]]:
        user = f"together-{client}"
        sent: Any = submission(user, *(action(locationX=n) for n in range(ACTIONS + client)))
        if client == 7:
            sent["actions"][3]["type"] = "swipe"
        elif client == 11:
            sent["userId"] = 11
        answer = service.submit(sent)
        return answer, service.retrieve_all(userId=user)

    before = service.metric("actionlake_actions_accepted_total")
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(of, range(CLIENTS)))
    for client, (answer, logs) in enumerate(answers):
        expected = list(range(ACTIONS + client))
        if client == 11:
            assert answer.status_code == 400
            assert logs == []
            continue
        if client == 7:
            del expected[3]
        assert answer.status_code == 200
        assert answer.json()["accepted"] == len(expected)
        assert [one["index"] for one in answer.json()["rejected"]] == ([3] if client == 7 else [])
        kept = Counter(one["properties"]["locationX"] for one in logs)
        assert kept == Counter(expected), f"client {client}"
    accepted = sum(ACTIONS + client for client in range(CLIENTS) if client != 11) - 1
    assert service.metric("actionlake_actions_accepted_total") - before == accepted


@pytest.mark.parametrize("fails", [False, True])
def test_the_outcome_of_a_commit_is_that_of_all_whose_rows_it_holds(fails: bool) -> None:
    async def outcomes() -> list[bytes | BaseException]:
        loop = asyncio.get_running_loop()
        group = _Together(_Waiting(b"", loop.create_future(), cast(Passage, None)) for _ in range(3))
        for place, waiting in enumerate(group):
            waiting.accepted = place
        group[1].future.cancel()
        one = _Waiting(b"", loop.create_future(), cast(Passage, None))
        one.parsed = ParsedBody((), ())
        plain: asyncio.Future[bytes] = loop.create_future()
        outcome = DiskFull("full", retry_after_s=5) if fails else b"its own"
        _resolve([(group, DiskFull("full", retry_after_s=5) if fails else b"")])
        _resolve([(_Together([one]), outcome), (plain, outcome)])
        futures = [group[0].future, group[2].future, one.future, plain]
        return await asyncio.gather(*futures, return_exceptions=True)

    found = asyncio.run(outcomes())
    if fails:
        assert [type(one) for one in found] == [DiskFull] * 4
    else:
        answers = [b'{"status":"submitted","accepted":%d,"rejected":[]}' % n for n in (0, 2)]
        assert found == [*answers, b"its own", b"its own"]


def test_one_that_was_answered_already_keeps_nobody_from_an_answer() -> None:
    """As after an error that came when some of those that were taken together had been handed over."""
    loop = asyncio.new_event_loop()
    answered: asyncio.Future[bytes] = loop.create_future()
    waiting: asyncio.Future[bytes] = loop.create_future()
    answered.set_exception(RuntimeError("unexpected"))
    _resolve([(answered, b"kept"), (waiting, b"kept")])
    assert waiting.result() == b"kept"
    assert isinstance(answered.exception(), RuntimeError)
    loop.close()
