"""Bytes on their way out: in chunks of a sensible size, closed together with what they come from."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Final, cast

CHUNK_BYTES: Final = 256 * 1024
CHUNK_BYTES_MAX: Final = 1024 * 1024
# Of messages whose parts are sent as they lie in memory, which are there as a whole anyway: fewer change hands.
LARGE_CHUNK_BYTES: Final = 1024 * 1024
LARGE_CHUNK_BYTES_MAX: Final = 4096 * 1024

Piece = bytes | memoryview


class ByteStream(Iterator[Piece]):
    """An answer's bytes in chunks of at most 1 MiB, large ones 4, encoded as they are asked for, whole or in parts.

    Closing it, at any time and also before the first chunk, closes the source that the rows come from; so does its
    end, and an error. Used by one thread at a time.
    """

    def __init__(
        self,
        pieces: Iterator[Piece] | Iterator[Sequence[Piece]],
        close_source: Callable[[], object],
        *,
        messages: bool = False,
    ) -> None:
        """Chunk *pieces*; *close_source* is called once, when they are not needed any more.

        Args:
            pieces: the bytes; with *messages* the parts of messages.
            close_source: closes where they come from.
            messages: make large chunks of whole messages, as far as they are not larger than a chunk. Who reads one
                then has it in one piece, where Python's client would otherwise put two together.
        """
        self._chunks = (
            _chunked(cast("Iterator[Sequence[Piece]]", pieces), LARGE_CHUNK_BYTES, LARGE_CHUNK_BYTES_MAX)
            if messages
            else _chunked(([one] for one in cast("Iterator[Piece]", pieces)), CHUNK_BYTES, CHUNK_BYTES_MAX)
        )
        self._pieces = pieces
        self._close_source: Callable[[], object] | None = close_source
        self._begun: list[list[Piece] | None] = []

    def begin(self) -> None:
        """Make the first chunk now, so that what fails in it is told of before any of the answer is sent."""
        self._begun = [self.next_parts()]

    def __next__(self) -> Piece:
        parts = self.next_parts()
        if parts is None:
            raise StopIteration
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def next_parts(self) -> list[Piece] | None:
        """The next chunk in parts as they lie in memory, instead of `next`; None at the end."""
        if self._begun:
            return self._begun.pop()
        try:
            return next(self._chunks)
        except StopIteration:
            self.close()
            return None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop encoding and close the source; without effect a second time."""
        close_source, self._close_source = self._close_source, None
        if close_source is None:
            return
        try:
            for one in (self._chunks, self._pieces):
                if (close := getattr(one, "close", None)) is not None:
                    close()
        finally:
            close_source()

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _chunked(messages: Iterator[Sequence[Piece]], chunk_bytes: int, chunk_bytes_max: int) -> Iterator[list[Piece]]:
    """Join small messages and cut large ones.

    Half as much is held back as was sent already, up to a chunk: the first bytes leave at once, the second message
    too, which is a little smaller than the first one with what precedes it, and many small messages become few chunks.
    """
    held: list[Piece] = []
    held_bytes = 0
    sent_bytes = 0
    for message in messages:
        held += message
        held_bytes += sum(map(len, message))
        if held_bytes and held_bytes >= min(chunk_bytes, sent_bytes // 2):
            yield from _cut(held, chunk_bytes_max)
            sent_bytes += held_bytes
            held, held_bytes = [], 0
    if held_bytes:
        yield from _cut(held, chunk_bytes_max)


def _cut(held: list[Piece], chunk_bytes_max: int) -> Iterator[list[Piece]]:
    parts: list[Piece] = []
    parts_bytes = 0
    for piece in held:
        for start in range(0, len(piece), chunk_bytes_max):
            part = piece if len(piece) <= chunk_bytes_max else memoryview(piece)[start : start + chunk_bytes_max]
            if parts_bytes + len(part) > chunk_bytes_max:
                yield parts
                parts, parts_bytes = [], 0
            parts.append(part)
            parts_bytes += len(part)
    if parts:
        yield parts


class DrainedSink(io.RawIOBase):
    """A file to write to, whose content is taken out again as it grows."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[Piece] = []

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: object) -> int:
        """Keep *data*, which is not copied, until the next `drain`."""
        view = memoryview(data)  # type: ignore[arg-type]  # any buffer, the base class says
        self._pieces.append(view.cast("B"))
        return view.nbytes

    def drain(self) -> list[Piece]:
        """Take out what was written since the last time."""
        pieces, self._pieces = self._pieces, []
        return pieces
