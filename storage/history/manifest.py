"""What a run says of itself: its parts, and the data files whose rows it holds. Written last, checked when read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from storage.durable_files import fsync_path

FORMAT: Final = 2
HASH_BITS: Final = 64
MANIFEST: Final = "manifest.json"
# A reader leaves this in a run that does not check; the chore removes the run.
DAMAGED: Final = "damaged"
# Of runs that are being made. Whatever begins with a dot is no run.
BUILDING_PREFIX: Final = ".building-"
_DIGEST_HEX: Final = 32


class Part(msgspec.Struct, frozen=True):
    """One file of a run: the rows of the users whose hash begins with certain bits.

    Attributes:
        name: of the file, in the run's folder.
        size_bytes: its size.
        rows: its rows.
        footer_digest: of the Parquet footer, which says where everything is.
    """

    name: str
    size_bytes: int
    rows: int
    footer_digest: str


class Source(msgspec.Struct, frozen=True):
    """What a run holds of one partition: all rows of these data files, named without their folder."""

    date: str
    type: str
    rows: int
    files: tuple[str, ...]

    @property
    def partition(self) -> tuple[str, str]:
        """Date and type."""
        return self.date, self.type


class Run(msgspec.Struct, frozen=True):
    """A run.

    Attributes:
        id: its folder's name.
        bits: how many leading bits of a user's hash choose the part; there are 2 to the power of that many places.
        parts: by those bits; None where there are no rows.
        columns: that the parts have.
        sources: the data files, by partition.
    """

    format: int
    id: str
    bits: int
    parts: tuple[Part | None, ...]
    columns: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(part.rows for part in self.parts if part is not None)

    @property
    def size_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.size_bytes for part in self.parts if part is not None)

    def part_of(self, user_hash: int) -> Part | None:
        """The part that holds the users with this hash."""
        return self.parts[user_hash >> (HASH_BITS - self.bits)] if self.bits else self.parts[0]


_decoder: Final = msgspec.json.Decoder(Run)


def write_manifest(folder: Path, run: Run) -> None:
    """Write a run's manifest, durably, as the last file of its folder.

    Raises:
        OSError: it could not be written.
    """
    content = msgspec.json.encode(run)
    path = folder / MANIFEST
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(_digest(content) + b"\n" + content)
        file.flush()
        os.fsync(file.fileno())
    fsync_path(folder)


def read_manifest(folder: Path) -> Run | None:
    """Read a run's manifest; None where there is none that checks."""
    try:
        stored = (folder / MANIFEST).read_bytes()
    except OSError:
        return None
    content = stored[_DIGEST_HEX + 1 :]
    if stored[:_DIGEST_HEX] != _digest(content):
        return None
    try:
        run = _decoder.decode(content)
    except msgspec.DecodeError:
        return None
    return run if run.format == FORMAT and run.id == folder.name and len(run.parts) == 1 << run.bits else None


def run_folders(history: Path) -> Iterator[Path]:
    """The folders of runs that are complete, whether they check or not."""
    try:
        entries = sorted(history.iterdir())
    except OSError:
        return
    for folder in entries:
        if not folder.name.startswith("."):
            yield folder


def footer_digest(footer: bytes) -> str:
    """Identify a Parquet footer."""
    return _digest(footer).decode()


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_HEX // 2).hexdigest().encode()
