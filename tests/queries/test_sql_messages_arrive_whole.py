"""Messages between service and worker arrive as they were sent, whatever pieces the socket makes of them."""

from __future__ import annotations

import itertools
import os
import random
import socket
import threading
from collections.abc import Iterator

import pytest

from queries.sql.channel import Channel, ChannelClosed, encode_frame
from queries.sql.messages import FromWorker, More, ToWorker, UseHot

SIZES = (0, 1, 15, 16_000, 16_383, 16_384, 16_385, 40_000, 1_000_000)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Channel[ToWorker]]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, Channel(theirs.fileno(), ToWorker, payload_bytes_max=1 << 24)


def _frames(source: random.Random) -> list[tuple[UseHot, bytes]]:
    sizes = source.choices(SIZES, k=12)
    return [
        (UseHot([number] * source.choice([0, 1, 20_000])), source.randbytes(one)) for number, one in enumerate(sizes)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_pieces_of_any_size_make_the_same_messages(ends: tuple[socket.socket, Channel[ToWorker]], seed: int) -> None:
    source = random.Random(seed)
    ours, channel = ends
    frames = _frames(source)
    stream = b"".join(bytes(part) for message, payload in frames for part in encode_frame(message, payload))
    cuts = [0, *sorted(source.choices(range(len(stream)), k=40)), len(stream)]

    def send() -> None:
        for begin, end in itertools.pairwise(cuts):
            ours.sendall(stream[begin:end])

    sender = threading.Thread(target=send)
    sender.start()
    received = [channel.receive() for _ in frames]
    sender.join()
    assert [(message, bytes(payload)) for message, payload in received] == frames
    assert channel.received_bytes == len(stream)
    assert not channel.has_read_ahead


def test_what_is_here_already_is_told(ends: tuple[socket.socket, Channel[ToWorker]]) -> None:
    ours, channel = ends
    ours.sendall(b"".join(bytes(part) for number in (1, 2) for part in encode_frame(More(number))))
    assert channel.receive()[0] == More(1)
    # The socket has nothing any more, so that nobody may wait for it.
    assert channel.has_read_ahead
    assert channel.receive()[0] == More(2)
    assert not channel.has_read_ahead


def test_frames_that_belong_together_are_one_write(
    ends: tuple[socket.socket, Channel[ToWorker]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, receiving = ends
    sending: Channel[FromWorker] = Channel(ours.fileno(), FromWorker, payload_bytes_max=1)
    writes: list[int] = []
    write = os.write

    def counted(descriptor: int, data: memoryview) -> int:
        writes.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", counted)
    sending.send_frame([*encode_frame(More(1)), *encode_frame(UseHot([]), b"x" * 1_000), *encode_frame(More(2))])
    assert len(writes) == 1
    assert [receiving.receive()[0] for _ in range(3)] == [More(1), UseHot([]), More(2)]


def test_a_message_that_is_cut_is_the_end(ends: tuple[socket.socket, Channel[ToWorker]]) -> None:
    ours, channel = ends
    frame = b"".join(bytes(part) for part in encode_frame(UseHot([]), b"x" * 1_000))
    ours.sendall(frame[:-1])
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(ChannelClosed):
        channel.receive()
