"""A streamed answer gives back what it holds however it ends, also if its client goes away before the first chunk."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest
from litestar import Litestar, get
from litestar.response import Stream

from service.streams import ChunkedAnswer, WorkThreads


class Held:
    """What an answer holds while it is made."""

    def __init__(self) -> None:
        self.stopped = self.released = 0
        self.made: list[bytes] = []

    def content(self) -> Generator[bytes, None, None]:
        for one in (b"a", b"b", b"c"):
            self.made.append(one)
            yield one

    def stop(self) -> None:
        self.stopped += 1

    def release(self) -> None:
        self.released += 1


async def serve(
    answer: Callable[[WorkThreads, Held], Stream], *, gone: bool = False, sent_max: int = 9
) -> tuple[Held, bytes]:
    """Answer one request, whose client is *gone* before, or whose connection breaks after *sent_max* messages."""
    held, threads = Held(), WorkThreads(1, "test")
    sent: list[bytes] = []
    complete = asyncio.Event()

    @get("/")
    async def route() -> Stream:
        return answer(threads, held)

    async def receive() -> dict[str, Any]:
        # As the server does: a request without a body, and the end of the connection after the answer.
        if not gone:
            await complete.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if len(sent) >= sent_max:
            raise ConnectionResetError
        sent.append(message.get("body", b""))
        if message["type"] == "http.response.body" and not message["more_body"]:
            complete.set()

    scope: dict[str, Any] = {
        "type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "headers": [],
        "client": None, "server": None, "scheme": "http", "root_path": "", "http_version": "1.1",
        "asgi": {"version": "3.0", "spec_version": "2.3"}, "state": {},
    }  # fmt: skip
    app = Litestar([route], openapi_config=None)
    with contextlib.suppress(Exception):
        await asyncio.wait_for(app(scope, receive, send), 20)  # type: ignore[arg-type]
    await asyncio.wait_for(threads.close(), 20)
    return held, b"".join(sent)


def chunked(threads: WorkThreads, held: Held) -> Stream:
    chunks = threads.chunks(held.content(), stop=held.stop, release=held.release)
    return ChunkedAnswer(chunks, media_type="text/plain", headers={}, timeout_s=180)


def test_an_answer_that_is_taken_whole() -> None:
    held, sent = asyncio.run(serve(chunked))
    assert (held.released, sent) == (1, b"abc")


def test_a_client_that_is_gone_before_the_first_chunk() -> None:
    held, sent = asyncio.run(serve(chunked, gone=True))
    assert (held.stopped, held.released, sent) == (1, 1, b"")
    assert held.made in ([], [b"a"])


@pytest.mark.parametrize("sent_max", [0, 1, 2])
def test_a_connection_that_breaks(sent_max: int) -> None:
    held, _ = asyncio.run(serve(chunked, sent_max=sent_max))
    assert (held.stopped, held.released) == (1, 1)


def test_a_stream_is_cut_off_when_its_time_is_over() -> None:
    stopped = threading.Event()

    def slow(threads: WorkThreads, held: Held) -> Stream:
        def content() -> Generator[bytes, None, None]:
            yield from held.content()
            stopped.wait(120)
            yield b"too late"

        chunks = threads.chunks(content(), stop=stopped.set, release=held.release)
        return ChunkedAnswer(chunks, media_type="text/plain", headers={}, timeout_s=0.5)

    held, sent = asyncio.run(serve(slow))
    assert stopped.is_set()
    assert held.released == 1
    # What comes late is not sent, nor is the end of the answer.
    assert b"too late" not in sent


def test_the_control_keeps_its_place_for_ever() -> None:
    async def never_started(threads: WorkThreads, held: Held) -> Any:
        chunks = threads.chunks(held.content(), stop=held.stop, release=held.release)
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            chunks.close()

    held, _ = asyncio.run(serve(lambda threads, held: Stream(never_started(threads, held)), sent_max=0))
    assert held.released == 0
