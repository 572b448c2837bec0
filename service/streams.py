"""Answers that are made while they are sent, in threads, no faster than the client takes them, and not for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar, cast

from litestar.response import Stream
from litestar.response.base import ASGIResponse
from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import ASGIApp, Receive, Scope, Send

from queries.formats import ByteStream, Piece
from service.answer_parts import PartsSend
from storage.free_memory import give_back

T = TypeVar("T")
Content = ByteStream | Generator[Piece, None, None]

# Of an answer: more than this took memory in slices, whose allocators keep it.
_LARGE_BYTES: Final = 16 * 1024 * 1024

_log = logging.getLogger("actionlake.stream")


class WorkThreads:
    """A bounded number of threads for work that must not hold up the event loop."""

    def __init__(self, threads_max: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads_max, thread_name_prefix=name)
        self._endings: set[asyncio.Future[None]] = set()

    async def run(self, work: Callable[[], T]) -> T:
        """Do *work* in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def chunks(self, content: Content, *, stop: Callable[[], None], release: Callable[[], None]) -> Chunks:
        """Have *content* made chunk by chunk; to be closed, whether or not any was asked for.

        Args:
            content: the bytes.
            stop: makes the thread that is at work end soon; called when the client goes away, and at the end.
            release: called last, in a thread, when nothing uses the content's source any more.
        """
        return Chunks(self, content, stop, release)

    def end(self, ending: asyncio.Future[None]) -> None:
        """Let `close` wait for *ending*."""
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    async def close(self) -> None:
        """Wait for what is at work."""
        if self._endings:
            await asyncio.wait(self._endings)
        await asyncio.to_thread(self._threads.shutdown)


def _next_chunk(content: Content) -> list[Piece] | None:
    if isinstance(content, ByteStream):
        return content.next_parts()
    piece = next(content, None)
    return None if piece is None else [piece]


class Chunks:
    """The chunks of an answer, each in parts, made when the one before was taken, which is sent meanwhile.

    No generator, since one that was never started does not run its clean-up: a client that goes away before the first
    chunk would keep its place among the queries under way for ever.
    """

    def __init__(
        self, threads: WorkThreads, content: Content, stop: Callable[[], None], release: Callable[[], None]
    ) -> None:
        self._threads = threads
        self._content = content
        self._stop = stop
        self._release = release
        self._making: asyncio.Future[list[Piece] | None] | None = None
        self._bytes = 0
        self._closed = False

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> list[Piece]:
        if self._closed:
            raise StopAsyncIteration
        chunk = await asyncio.shield(self._making or self._make())
        if chunk is None:
            raise StopAsyncIteration
        self._bytes += sum(map(len, chunk))
        # While this one is sent.
        self._make()
        return chunk

    def _make(self) -> asyncio.Future[list[Piece] | None]:
        self._making = asyncio.ensure_future(self._threads.run(lambda: _next_chunk(self._content)))
        return self._making

    def close(self) -> None:
        """Stop what is being made, and have the content's source released; may be called again.

        Also while this task is being cancelled, in which case nothing may be awaited any more.
        """
        if self._closed:
            return
        self._closed = True
        self._stop()
        self._threads.end(asyncio.ensure_future(self._end()))

    async def _end(self) -> None:
        making = self._making
        if making is not None:
            await asyncio.wait([making])
            if not making.cancelled() and (error := making.exception()) is not None:
                _log.info("a stream ended early: %s", error)

        def finish() -> None:
            try:
                self._content.close()
            finally:
                self._release()
            if self._bytes > _LARGE_BYTES:
                # Each format has an allocator of its own; what one keeps would stay beside what the next one takes.
                give_back()

        await asyncio.to_thread(finish)


async def send_to_its_end(
    chunks: Chunks, send_all: ASGIApp, scope: Scope, receive: Receive, send: Send, *, timeout_s: float
) -> None:
    """Have *send_all* send the chunks, which are closed with the answer, however it ends, also before its beginning.

    One that is not sent to its end within *timeout_s* is cut off: its connection is closed without the end that HTTP
    has for an answer in chunks, so that the client sees that something is missing.
    """
    try:
        async with asyncio.timeout(timeout_s) as limit:
            await send_all(scope, receive, send)
    except TimeoutError:
        if not limit.expired():
            raise
        # The server closes the connection of an answer that is not complete.
        _log.warning("a stream was cut off: it was not taken to its end within %g s", timeout_s)
    finally:
        chunks.close()


class PartsResponse(ASGIStreamingResponse):
    """Sends the chunks of `Chunks`, none of which is copied where the server below can do without."""

    __slots__ = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        await super().__call__(scope, receive, cast("Send", PartsSend(scope, send)))

    async def _stream(self, send: Send) -> None:
        async for parts in cast("Chunks", self.iterator):
            await cast("PartsSend", send).chunk(parts)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class ChunkedAnswer(Stream):
    """An answer of `Chunks`, sent by `send_to_its_end`."""

    def __init__(self, chunks: Chunks, *, media_type: str, headers: dict[str, str], timeout_s: float) -> None:
        super().__init__(cast("Any", chunks), media_type=media_type, headers=headers)
        self._chunks: Final = chunks
        self._timeout_s: Final = timeout_s

    def to_asgi_response(self, *args: Any, **kwargs: Any) -> ASGIResponse:
        """Make the application that sends them, and closes them also where sending never began."""
        send_all = super().to_asgi_response(*args, **kwargs)
        # What the framework made of its arguments, but for how chunks are sent.
        send_all.__class__ = PartsResponse

        async def respond(scope: Scope, receive: Receive, send: Send) -> None:
            await send_to_its_end(self._chunks, send_all, scope, receive, send, timeout_s=self._timeout_s)

        # The framework does nothing with it but to call it.
        return cast("ASGIResponse", respond)
