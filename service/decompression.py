"""Request bodies with a `Content-Encoding`, bounded by what they become, not by what they say they become."""

from __future__ import annotations

import zlib
from typing import Final

import zstandard

from service.problems import Problem

ENCODINGS: Final = ("gzip", "zstd")

# RFC 9659: a decoder of web content need not support windows over 8 MB, which is what bounds its memory.
_ZSTD_WINDOW_BYTES_MAX: Final = 8 * 1024 * 1024
_GZIP_WINDOW_BITS: Final = 31
# Small, since a piece may expand several thousand times before it can be stopped, and since what of it belongs to the
# next member or frame is copied: a body of nothing but empty ones must not cost its square.
_PIECE_BYTES: Final = 1024


def decompress(body: bytes, encoding: str, *, bytes_max: int) -> bytes:
    """Decompress a body of one or more gzip members or zstd frames.

    Raises:
        Problem: 413 as soon as it becomes larger than *bytes_max*; 400 if it is damaged or cut off; 415 if the
            encoding is not one of `ENCODINGS`.
    """
    match encoding:
        case "gzip":
            content = _gunzip(body, bytes_max)
        case "zstd":
            content = _unzstd(body, bytes_max)
        case _:
            supported = ", ".join(ENCODINGS)
            raise Problem(
                415, f"Content-Encoding {encoding!r} is not supported", headers={"accept-encoding": supported}
            )
    if len(content) > bytes_max:
        raise Problem(413, f"the decompressed body is larger than {bytes_max} bytes")
    return content


def _gunzip(body: bytes, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    size = place = 0
    rest = memoryview(body)
    while place < len(rest) and size <= bytes_max:
        member = zlib.decompressobj(_GZIP_WINDOW_BITS)
        while not member.eof and size <= bytes_max:
            piece = rest[place : place + _PIECE_BYTES]
            if not piece:
                raise Problem(400, "the gzip body is cut off")
            try:
                part = member.decompress(piece, bytes_max + 1 - size)
            except zlib.error as error:
                raise Problem(400, f"the body is not gzip: {error}") from error
            parts.append(part)
            size += len(part)
            place += len(piece) - len(member.unused_data)
    return b"".join(parts)


def _unzstd(body: bytes, bytes_max: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX)
    parts: list[bytes] = []
    size = place = 0
    rest = memoryview(body)
    while place < len(rest) and size <= bytes_max:
        frame = decompressor.decompressobj(read_across_frames=False)
        while not frame.eof and size <= bytes_max:
            piece = rest[place : place + _PIECE_BYTES]
            if not piece:
                raise Problem(400, "the zstd body is cut off")
            try:
                part = frame.decompress(piece)
            except zstandard.ZstdError as error:
                raise Problem(400, f"the body is not zstd: {error}") from error
            parts.append(part)
            size += len(part)
            place += len(piece) - len(frame.unused_data)
    return b"".join(parts)
