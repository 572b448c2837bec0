"""A chunk of an answer leaves as the parts that it was made of, uncopied, and no faster than the client takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from litestar.types import Message

from service.answer_parts import PartsSend, offer_parts


class Cycle(SimpleNamespace):
    """Can be referred to weakly, as that of the server."""


class Connection:
    """What the server has of a connection, as far as an answer's body needs it."""

    def __init__(self, *, chunked: bool = True, paused: bool = False) -> None:
        self.written: list[Any] = []
        self.messages: list[Message] = []
        self.drained = 0
        self.on_drain: Callable[[], None] = lambda: None
        self.cycle = Cycle(
            scope={},
            chunked_encoding=chunked,
            disconnected=False,
            flow=SimpleNamespace(write_paused=paused, drain=self._drain),
            transport=SimpleNamespace(writelines=self.written.extend),
        )

    async def _drain(self) -> None:
        self.drained += 1
        self.on_drain()

    async def _send(self, message: Message) -> None:
        self.messages.append(message)

    def send(self, parts: list[bytes | memoryview], *, offered: bool = True) -> None:
        if offered:
            offer_parts(cast("Any", self.cycle))
        asyncio.run(PartsSend(cast("Any", self.cycle.scope), self._send).chunk(parts))


def test_parts_are_written_as_they_are() -> None:
    connection = Connection()
    parts: list[bytes | memoryview] = [b"abc", memoryview(b"d" * 20)]
    connection.send(parts)
    assert b"".join(connection.written) == b"17\r\nabc" + b"d" * 20 + b"\r\n"
    assert all(any(one is part for one in connection.written) for part in parts)
    assert connection.messages == []


def test_an_empty_chunk_is_not_the_end() -> None:
    connection = Connection()
    connection.send([b""])
    assert connection.written == []
    assert connection.messages == [{"type": "http.response.body", "body": b"", "more_body": True}]


def test_another_server_gets_the_chunk_as_a_whole() -> None:
    for connection, offered in ((Connection(), False), (Connection(chunked=False), True)):
        connection.send([b"abc", memoryview(b"def")], offered=offered)
        assert connection.written == []
        assert connection.messages == [{"type": "http.response.body", "body": b"abcdef", "more_body": True}]


def test_nothing_is_written_before_the_client_took_what_there_is() -> None:
    connection = Connection(paused=True)
    connection.on_drain = lambda: connection.written.append("taken")
    connection.send([b"abc"])
    assert connection.drained == 1
    assert connection.written == ["taken", b"3\r\n", b"abc", b"\r\n"]


def test_nothing_is_written_to_a_client_that_is_gone() -> None:
    connection = Connection(paused=True)
    connection.on_drain = lambda: setattr(connection.cycle, "disconnected", True)
    connection.send([b"abc"])
    assert connection.written == []
    assert connection.messages == []
