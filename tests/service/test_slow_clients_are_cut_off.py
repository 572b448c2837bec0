"""A request that does not arrive in time is answered 408 and its connection closed; so is one too many, or too long.

A client that takes nothing of its answer is cut off; one that takes it slowly is not.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.connections import HEAD_BYTES_MAX, BoundedProtocol, ConnectionLimits

TIMEOUT_S = 0.3
PATIENT_TIMEOUT_S = 3_600.0
CONNECTIONS = 5


class Strict(BoundedProtocol):
    """Cuts off soon, once a test says so: until then, this machine may be slow."""


def cut_off_after(seconds: float) -> None:
    """Give whatever is waited for so long from now on, if it is waited for already as well."""
    Strict.limits = ConnectionLimits(
        connections_max=CONNECTIONS, head_timeout_s=seconds, body_timeout_s=seconds, answer_timeout_s=seconds
    )


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """Nobody is cut off before a test has sent what is to be late."""
    cut_off_after(PATIENT_TIMEOUT_S)
    yield
    cut_off_after(TIMEOUT_S)


ENDED = threading.Event()


async def send_for_ever(receive: Any, send: Any) -> None:
    """Answer without end, until the client is gone."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await receive()
    gone = asyncio.ensure_future(receive())
    while not gone.done():
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        await asyncio.sleep(0)
    ENDED.set()


async def echo_size(scope: Any, receive: Any, send: Any) -> None:
    """Answer how large the body is; `/early` answers before it is there, `/endless` never comes to an end."""
    if scope["path"] == "/endless":
        await send_for_ever(receive, send)
        return
    size = 0
    while scope["path"] != "/early":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    body = b"%d" % size
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(echo_size, http=Strict, ws="none", lifespan="off", log_config=None, access_log=False)
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=180) as connected:
        yield connected


def until_closed(client: socket.socket) -> bytes:
    received = b""
    while part := client.recv(65536):
        received += part
    return received


def until_it_was_read(client: socket.socket) -> None:
    """Wait until the server has taken all that was sent, and that has all arrived."""
    ours = client.getsockname()[1]
    deadline = time.monotonic() + 180
    while True:
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        # What waits to be sent, on our side, is the first of two numbers; what waits to be read, on theirs, the second.
        unsent = [line[4].split(":")[0] for line in lines if int(line[1].split(":")[1], 16) == ours]
        unread = [line[4].split(":")[1] for line in lines if int(line[2].split(":")[1], 16) == ours]
        if unsent and unread and not any(int(one, 16) for one in unsent + unread):
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)


def trickle(client: socket.socket, text: bytes) -> bytes:
    """Send byte by byte, each well before any pause is too long; return the answer."""
    cut_off_after(TIMEOUT_S)
    for place in range(len(text)):
        try:
            client.sendall(text[place : place + 1])
        except (BrokenPipeError, ConnectionResetError):
            break
        time.sleep(0.05)
    try:
        return until_closed(client)
    except ConnectionResetError:
        return b"reset"


def test_a_head_that_trickles(client: socket.socket) -> None:
    client.sendall(b"P")
    until_it_was_read(client)
    answer = trickle(client, b"OST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n")
    assert answer == b"reset" or (answer.startswith(b"HTTP/1.1 408 ") and b"head" in answer)


def test_a_head_that_stops(client: socket.socket) -> None:
    client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\n")
    until_it_was_read(client)
    cut_off_after(TIMEOUT_S)
    answer = until_closed(client)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer


def test_a_body_that_trickles(client: socket.socket) -> None:
    client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
    until_it_was_read(client)
    answer = trickle(client, b"x" * 20)
    assert answer == b"reset" or (answer.startswith(b"HTTP/1.1 408 ") and b"body" in answer)


def test_a_body_that_stops(client: socket.socket) -> None:
    client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
    until_it_was_read(client)
    cut_off_after(TIMEOUT_S)
    assert until_closed(client).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_was_answered_before_it_came(client: socket.socket) -> None:
    client.sendall(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n")
    assert client.recv(1).startswith(b"H")
    cut_off_after(TIMEOUT_S)
    assert until_closed(client).count(b"TTP/1.1 ") == 1


def test_a_connection_that_never_says_anything(client: socket.socket) -> None:
    cut_off_after(TIMEOUT_S)
    assert until_closed(client) == b""


def test_a_second_request_that_stops(client: socket.socket) -> None:
    client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
    answer = b""
    # The head and the body may come one after the other.
    while not answer.endswith(b"\r\n\r\n3"):
        answer += client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 ")
    cut_off_after(TIMEOUT_S)
    # A connection that waits for its next request is nobody's delay.
    time.sleep(TIMEOUT_S * 2)
    cut_off_after(PATIENT_TIMEOUT_S)
    client.sendall(b"GET / HTTP/1.1\r\n")
    until_it_was_read(client)
    cut_off_after(TIMEOUT_S)
    assert until_closed(client).startswith(b"HTTP/1.1 408 ")


def test_a_head_without_end(client: socket.socket) -> None:
    client.sendall(b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(HEAD_BYTES_MAX // 8)))
    assert until_closed(client).startswith(b"HTTP/1.1 431 ")


def test_a_prompt_request_is_served_whatever_its_size(client: socket.socket) -> None:
    size = 5_000_000
    client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % size)
    client.sendall(bytes(size))
    assert until_closed(client).endswith(b"%d" % size)


def test_one_connection_too_many(address: tuple[str, int]) -> None:
    held = [socket.create_connection(address, timeout=180) for _ in range(CONNECTIONS)]
    try:
        with socket.create_connection(address, timeout=180) as one_more:
            answer = until_closed(one_more)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in answer
    finally:
        for one in held:
            one.close()


def test_a_client_that_takes_nothing_of_its_answer(client: socket.socket) -> None:
    ENDED.clear()
    client.sendall(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
    assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    cut_off_after(TIMEOUT_S)
    assert ENDED.wait(180), "the answer goes on, though nobody takes it"


class Waiting:
    """A connection of which so much waits for the client."""

    bytes = 0
    aborted = False

    def get_write_buffer_size(self) -> int:
        return self.bytes

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        self.aborted = True


def test_a_client_that_takes_its_answer_slowly_is_not_cut_off() -> None:
    cut_off_after(TIMEOUT_S)
    loop = asyncio.new_event_loop()
    config = uvicorn.Config(echo_size, http=Strict, ws="none", lifespan="off", log_config=None)
    config.load()
    one = Strict(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    waiting = Waiting()
    one.transport = cast("asyncio.Transport", waiting)
    for tick in range(100):
        waiting.bytes = 1_000_000 - tick
        one.look(tick * TIMEOUT_S * 0.9)
        one.look(tick * TIMEOUT_S * 0.9 + 0.01)
        assert not waiting.aborted
    # Nor is one to whom nothing is sent for a while.
    waiting.bytes = 0
    one.look(1000.0)
    one.look(2000.0)
    assert not waiting.aborted
    loop.close()


class Recorder(Waiting):
    """A connection's other end: what was written to it, and whether it was closed."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> None:
        return None

    def pause_reading(self) -> None:
        return None

    resume_reading = pause_reading


class Unhurried(BoundedProtocol):
    """Cuts nobody off for being late, however busy the machine is."""

    _looking: ClassVar[set[int]] = set()

    def look(self, now: float) -> None:
        """Nothing is late."""


def fed(*parts: bytes) -> tuple[Recorder, list[dict[bytes, bytes]]]:
    """Give a connection *parts*, each as it comes; return what is answered, and the fields of each request's head."""
    heads: list[dict[bytes, bytes]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        heads.append(dict(scope["headers"]))
        await echo_size(scope, receive, send)

    async def feed() -> Recorder:
        config = uvicorn.Config(application, http=Unhurried, ws="none", lifespan="off", log_config=None)
        config.load()
        one = Unhurried(config=config, server_state=ServerState(), app_state={}, _loop=asyncio.get_running_loop())
        recorder = Recorder()
        one.connection_made(cast("asyncio.Transport", recorder))
        for part in parts:
            if not recorder.closed:
                one.data_received(part)
            for _ in range(10):
                await asyncio.sleep(0)
        one.connection_lost(None)
        return recorder

    return asyncio.run(feed()), heads


CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


def test_fields_after_a_body_without_end() -> None:
    fields = b"x: y\r\n" * 10_000
    recorder, _ = fed(CHUNKED + b"3\r\nabc\r\n0\r\n", *[fields] * 20)
    assert recorder.written.startswith(b"HTTP/1.1 431 ")
    assert recorder.closed


def test_one_field_after_a_body_without_end() -> None:
    recorder, _ = fed(CHUNKED + b"3\r\nabc\r\n0\r\nx: ", *[b"y" * 60_000] * 20)
    assert recorder.written.startswith(b"HTTP/1.1 431 ")


def test_a_body_in_small_chunks_is_served() -> None:
    recorder, _ = fed(CHUNKED, *[b"1;why=not\r\nx\r\n" * 1_000] * 20, b"0\r\n\r\n")
    assert recorder.written.endswith(b"\r\n\r\n20000")


def test_fields_after_a_body_are_no_part_of_the_head() -> None:
    """A proxy that has set or checked the head's has not looked at these."""
    recorder, heads = fed(CHUNKED + b"3\r\nabc\r\n0\r\nhost: other\r\nauthorization: Bearer mine\r\n\r\n")
    assert recorder.written.endswith(b"\r\n\r\n3")
    assert heads == [{b"host": b"x", b"transfer-encoding": b"chunked"}]


def test_a_request_that_begins_with_the_end_of_another_is_served() -> None:
    size = HEAD_BYTES_MAX * 2
    first = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size
    recorder, heads = fed(first, bytes(size) + b"GET / HTTP/1.1\r\nhos", b"t: x\r\n\r\n")
    assert recorder.written.count(b"HTTP/1.1 200 ") == 2
    assert len(heads) == 2


def test_what_is_no_http_is_a_problem_like_others() -> None:
    for wrong in (b"\x16\x03\x01\x02\x00\x01", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n"):
        recorder, heads = fed(wrong, b"more")
        assert recorder.written.startswith(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json")
        assert recorder.written.count(b"HTTP/1.1") == 1
        assert recorder.closed
        assert heads == []
