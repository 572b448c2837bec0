"""A body of very many compressed parts costs what its bytes cost, not their square; and it is all of them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from service import decompression
from service.decompression import decompress
from service.problems import Problem

PARTS = 2_000
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstandard.compress}


class Counting:
    """A decompressor that counts the bytes that it is given, each of which it may copy."""

    given = 0

    def __init__(self, real: Any) -> None:
        self._real = real

    def decompress(self, piece: Any, *arguments: int) -> bytes:
        Counting.given += len(piece)
        return bytes(self._real.decompress(piece, *arguments))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize("encoding", COMPRESS)
def test_empty_parts(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Zlib:
        error = zlib.error

        @staticmethod
        def decompressobj(bits: int) -> Counting:
            return Counting(zlib.decompressobj(bits))

    class Zstandard:
        ZstdError = zstandard.ZstdError

        @staticmethod
        def ZstdDecompressor(**options: Any) -> Any:
            real = zstandard.ZstdDecompressor(**options)

            class Decompressor:
                @staticmethod
                def decompressobj(**more: Any) -> Counting:
                    return Counting(real.decompressobj(**more))

            return Decompressor

    monkeypatch.setattr(decompression, "zlib", Zlib)
    monkeypatch.setattr(decompression, "zstandard", Zstandard)
    Counting.given = 0
    body = COMPRESS[encoding](b"") * PARTS
    assert decompress(body, encoding, bytes_max=1000) == b""
    # Given whole, each time, what is left: a thousand times its size.
    assert len(body) <= Counting.given <= len(body) * 150


@pytest.mark.parametrize("encoding", COMPRESS)
def test_every_part_is_there_and_what_is_wrong_is_said(encoding: str) -> None:
    compress = COMPRESS[encoding]
    texts = [b"", b"abc", b"x" * 10_000, b"", bytes(range(256)) * 40]
    body = b"".join(map(compress, texts))
    whole = b"".join(texts)
    assert decompress(body, encoding, bytes_max=len(whole)) == whole
    for wrong, status in ((body[:-1], 400), (body + b"no", 400), (body + compress(b"y"), 413)):
        with pytest.raises(Problem) as error:
            decompress(wrong, encoding, bytes_max=len(whole))
        assert error.value.status == status
