"""Connections within bounds: how many there are, how long a request may take to arrive, how long its head is, and how
long its answer may wait for the client.

The server below has none of these bounds. What a request's arrival is judged by is noted as it comes, which costs next
to nothing; one timer a process looks at all connections. A request that is late is answered 408 where nothing was
answered yet, and its connection closed: the application then hears that the client is gone. So it does where a client
takes nothing of its answer, which would hold the query and what it has in memory for as long as the client likes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.answer_parts import offer_parts
from service.problems import MEDIA_TYPE, Problem
from service.whole_answers import WholeAnswer

HEAD_BYTES_MAX: Final = 64 * 1024
_LOOK_S: Final = 0.25
_FULL_RETRY_AFTER_S: Final = 2


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The settings of these names.

    Attributes:
        connections_max: connections of one process; one more is answered 503.
        head_timeout_s: a request's head must have arrived that long after its first byte, or after the connection was
            made.
        body_timeout_s: a request's body must have arrived that long after its head.
        answer_timeout_s: a client must take something of its answer within that time, as long as there is something.
    """

    connections_max: int
    head_timeout_s: float
    body_timeout_s: float
    answer_timeout_s: float


class BoundedProtocol(HttpToolsProtocol):
    """One connection. `limits` is this process's, set before it serves, and may be changed at any time."""

    limits: ClassVar[ConnectionLimits] = ConnectionLimits(
        connections_max=1_000, head_timeout_s=10.0, body_timeout_s=60.0, answer_timeout_s=60.0
    )
    _looking: ClassVar[set[int]] = set()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # When what is awaited from the client was begun; None while nothing is.
        self._head_since: float | None = None
        self._body_since: float | None = None
        self._head_bytes = 0
        # What has come since the last of its body: chunks' lengths, and the fields after the last chunk.
        self._beside_bytes = 0
        # What of the answer waits for the client, and since when it has been just as much.
        self._waiting_bytes = 0
        self._waiting_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections_max:
            self._refuse(Problem(503, "too many connections", headers={"retry-after": str(_FULL_RETRY_AFTER_S)}))
            return
        self._head_since = self.loop.time()
        self._keep_looking()

    def data_received(self, data: bytes) -> None:
        """Take bytes, unless a request's head gets too long, or what comes with its body and is none of it."""
        in_head = self._head_since is not None
        self._beside_bytes += len(data)
        super().data_received(data)
        if self._head_since is not None:
            # What ended the request before, and began this one, is not all of its head; one byte at least is.
            self._head_bytes += len(data) if in_head else 1
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(Problem(431, f"the head of a request is larger than {HEAD_BYTES_MAX} bytes"))
        elif self._body_since is not None and self._beside_bytes > HEAD_BYTES_MAX:
            what = f"a body's chunks come with more than {HEAD_BYTES_MAX} bytes that are none of it"
            self._refuse(Problem(431, what))

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as everything else that is wrong is answered."""
        self._refuse(Problem(400, msg))

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head_since = self.loop.time()
        self._head_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head. Those after the last chunk are nobody's: who is asked for the head's must not find
        others among them, which a proxy in between has not looked at."""
        if self._body_since is None:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """A part of its body is there."""
        self._beside_bytes = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._body_since, self._head_since = self.loop.time(), None
        self._beside_bytes = 0
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before and self.cycle is not None:
            WholeAnswer.take_over(self.cycle)
            offer_parts(self.cycle)

    def on_message_complete(self) -> None:
        """Its body is there."""
        self._body_since = None
        super().on_message_complete()

    def look(self, now: float) -> None:
        """Cut the connection off if what is awaited from the client is late."""
        limits = self.limits
        if self._is_stuck(now):
            # Closing would wait for the client to take what is there.
            self.transport.abort()
            return
        if self.transport.is_closing():
            return
        if self._head_since is not None and now - self._head_since > limits.head_timeout_s:
            if self._head_bytes:
                self._refuse(Problem(408, f"the request's head did not arrive within {limits.head_timeout_s:g} s"))
            else:
                self.transport.close()
        elif self._body_since is not None and now - self._body_since > limits.body_timeout_s:
            if self.cycle is None or not self.cycle.response_started:
                self._refuse(Problem(408, f"the request's body did not arrive within {limits.body_timeout_s:g} s"))
            else:
                self.transport.close()

    def _is_stuck(self, now: float) -> bool:
        """Whether the client has taken nothing of what waits for it for too long; also after the answer's end."""
        waiting = self.transport.get_write_buffer_size()
        if not waiting or waiting != self._waiting_bytes:
            self._waiting_bytes, self._waiting_since = waiting, now
        return now - self._waiting_since > self.limits.answer_timeout_s

    def _refuse(self, problem: Problem) -> None:
        """Answer without the application, and close."""
        body = problem.body()
        lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}", f"content-type: {MEDIA_TYPE}"]
        lines += [f"content-length: {len(body)}", "connection: close"]
        lines += [f"{name}: {value}" for name, value in problem.headers.items()]
        self._head_since = self._body_since = None
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()

    def _keep_looking(self) -> None:
        """Have all connections of the event loop looked at regularly, as long as there are any."""
        loop, connections, looking = self.loop, self.connections, self._looking
        if id(loop) in looking:
            return
        looking.add(id(loop))

        def look() -> None:
            now = loop.time()
            for one in list(connections):
                one.look(now)  # type: ignore[union-attr]  # they are all of this class
            if connections:
                loop.call_later(_LOOK_S, look)
            else:
                looking.discard(id(loop))

        loop.call_later(_LOOK_S, look)
