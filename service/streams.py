"""Answers that are made while they are sent, in threads, no faster than the client takes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from queries.formats import ByteStream

T = TypeVar("T")

_log = logging.getLogger("actionlake.stream")


class WorkThreads:
    """A bounded number of threads for work that must not hold up the event loop."""

    def __init__(self, threads_max: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads_max, thread_name_prefix=name)
        self._endings: set[asyncio.Future[None]] = set()

    async def run(self, work: Callable[[], T]) -> T:
        """Do *work* in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def chunks(
        self, content: ByteStream, *, stop: Callable[[], None], release: Callable[[], None]
    ) -> AsyncIterator[bytes]:
        """Yield *content*, making each chunk when the one before was taken.

        Args:
            content: the bytes.
            stop: makes the thread that is at work end soon; called when the client goes away, and at the end.
            release: called last, in a thread, when nothing uses the content's source any more.
        """
        making: asyncio.Future[bytes | None] | None = None
        try:
            while True:
                making = asyncio.ensure_future(self.run(lambda: next(content, None)))
                chunk = await asyncio.shield(making)
                if chunk is None:
                    return
                yield chunk
        finally:
            # Also when this task is being cancelled, in which case nothing may be awaited here any more.
            stop()
            ending = asyncio.ensure_future(self._end(making, content, release))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    async def _end(
        self, making: asyncio.Future[bytes | None] | None, content: ByteStream, release: Callable[[], None]
    ) -> None:
        if making is not None:
            await asyncio.wait([making])
            if not making.cancelled() and (error := making.exception()) is not None:
                _log.info("a stream ended early: %s", error)

        def finish() -> None:
            try:
                content.close()
            finally:
                release()

        await asyncio.to_thread(finish)

    async def close(self) -> None:
        """Wait for what is at work."""
        if self._endings:
            await asyncio.wait(self._endings)
        await asyncio.to_thread(self._threads.shutdown)
