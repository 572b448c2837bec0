"""The head of an answer and its body leave the process together, unless it is a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.connections import BoundedProtocol

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"4")]


class Wire:
    """A transport that notes what is written in one go."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False
        self.closed_with_answer = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> Any:
        return None

    def pause_reading(self) -> None:
        """Nothing is read here."""

    resume_reading = pause_reading


def answers(application: Callable[[Any], Any], request: bytes = REQUEST) -> Wire:
    """What is written in answer to *request*, by an application that only sends."""

    async def app(_: Any, __: Any, send: Any) -> None:
        await application(send)

    async def serve() -> Wire:
        config = uvicorn.Config(app, http=BoundedProtocol, ws="none", lifespan="off", log_config=None, access_log=False)
        config.load()
        state, wire = ServerState(), Wire()
        protocol = BoundedProtocol(config=config, server_state=state, app_state={})
        protocol.connection_made(wire)  # type: ignore[arg-type]  # it has what is used of one
        protocol.data_received(request)
        while state.tasks:
            await asyncio.gather(*state.tasks)
        wire.closed_with_answer = wire.closed
        protocol.connection_lost(None)
        return wire

    return asyncio.run(serve())


def start(status: int = 200, headers: list[tuple[bytes, bytes]] = HEADERS) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def whole(send: Any) -> None:
    await send(start())
    await send(part(b"body"))


def test_an_answer_is_one_write() -> None:
    wire = answers(whole)
    (written,) = wire.written
    assert written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert written.endswith(b"\r\n\r\nbody")
    assert not wire.closed_with_answer


def test_answers_to_requests_that_came_together_are_one_write_each() -> None:
    wire = answers(whole, REQUEST * 3)
    assert [one[-4:] for one in wire.written] == [b"body"] * 3


def test_a_connection_that_is_to_end_is_closed_after_its_answer() -> None:
    wire = answers(whole, REQUEST.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    (written,) = wire.written
    assert b"connection: close" in written
    assert written.endswith(b"body")
    assert wire.closed_with_answer


def test_the_parts_of_a_stream_leave_one_by_one() -> None:
    async def stream(send: Any) -> None:
        await send(start(headers=[]))
        for text in (b"one", b"two"):
            await send(part(text, more=True))
        await send(part(b""))

    head, *parts = answers(stream).written
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert parts == [b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"]


def test_a_failure_between_head_and_body_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(send: Any) -> None:
        await send(start())
        raise RuntimeError("no body")

    wire = answers(fail)
    (written,) = wire.written
    assert written.startswith(b"HTTP/1.1 500 ")
    assert "no body" in caplog.text
