"""Which data files can hold a user: for each file a Bloom filter of its users, all in one file in the state folder.

A pure cache. A file whose filter is missing or does not check is read like any other that might hold the user, so that
an answer never depends on what is here. Data files are never changed once they are written: a filter is right for as
long as a file of that name and size exists.

The file is a random id and then a log of records, each with a checksum. One process, the holder of a lock, appends to
it; all others read what was added. What is loaded was checked and is kept in memory, so that damage done to the file
later does no harm: a reader that finds the file shorter or replaced begins anew, and one that finds a record that does
not check ignores it with everything behind it, which the next writer cuts off.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from storage.data_files import DataFile
from storage.durable_files import make_durable_folder
from storage.user_hash import user_digests

BITS_PER_USER: Final = 12
PROBES: Final = 8
_ID_BYTES: Final = 16
_MAGIC: Final = b"AUF1"
# Magic, checksum of all that follows, length of the name, probes, bytes of the filter, bytes of the data file.
_HEADER: Final = struct.Struct("<4sIHHIQ")
_CHECKED_FROM: Final = 8
_PROBE_NUMBERS: Final = np.arange(PROBES, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class UserFilter:
    """The filter of one data file: its name below the table's folder, its size, and the bits."""

    name: str
    size_bytes: int
    bits: bytes


def data_file_name(one: DataFile) -> str:
    """The name of a data file below the table's folder."""
    return "/".join(one.path.rsplit("/", 3)[1:])


def build_filter(one: DataFile, users: Iterable[str]) -> UserFilter:
    """Make the filter of a data file from its users, each given once."""
    digests = user_digests(users)
    size = max(8, -(-len(digests) * BITS_PER_USER // 8))
    marked = np.zeros(size * 8, dtype=np.bool_)
    marked[_places(digests[:, :1], digests[:, 1:], np.uint64(size * 8))] = True
    return UserFilter(data_file_name(one), one.size_bytes, np.packbits(marked, bitorder="little").tobytes())


def _places(
    first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64], bits: npt.NDArray[np.uint64] | np.uint64
) -> npt.NDArray[np.uint64]:
    """The places of a user's bits: one row for each pair of hashes, or for each size in *bits*."""
    places: npt.NDArray[np.uint64] = (first + _PROBE_NUMBERS * (second | np.uint64(1))) % bits
    return places


class UserFilters:
    """The filters as one process reads them. Methods may be called from any thread."""

    def __init__(self, path: Path, *, bytes_max: int) -> None:
        """Read filters from *path*, which need not exist, up to *bytes_max* bytes of memory."""
        self.path = path
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._id = b""
        self._read_through = 0
        self._seen = (0, 0)
        self._bits = np.empty(0, dtype=np.uint8)
        self._used = 0
        # Name of a data file → its size, and where its filter begins and how many bits it has.
        self._known: dict[str, tuple[int, int, int]] = {}

    def refresh(self) -> None:
        """Read what was added since the last time; costs a look at the file if nothing was."""
        with self._lock:
            try:
                found = self.path.stat()
            except OSError:
                self._forget()
                return
            if (found.st_ino, found.st_size) != self._seen:
                self._seen = (found.st_ino, found.st_size)
                self._read_more()

    def _forget(self) -> None:
        self._id = b""
        self._read_through = 0
        self._seen = (0, 0)
        self._bits = np.empty(0, dtype=np.uint8)
        self._used = 0
        self._known = {}

    def _read_more(self) -> None:
        try:
            with self.path.open("rb") as file:
                id_ = file.read(_ID_BYTES)
                if id_ != self._id or self._seen[1] < self._read_through:
                    seen = self._seen
                    self._forget()
                    self._id, self._seen, self._read_through = id_, seen, len(id_)
                file.seek(self._read_through)
                content = file.read()
        except OSError:
            return
        known = dict(self._known)
        for one, end in _records(content):
            if self._used + len(one.bits) > self._bytes_max:
                break
            known[one.name] = (one.size_bytes, self._used * 8, len(one.bits) * 8)
            self._append(one.bits)
            self._read_through += end
        self._known = known

    def _append(self, bits: bytes) -> None:
        end = self._used + len(bits)
        if end > len(self._bits):
            grown = np.empty(max(end, 2 * len(self._bits), 65_536), dtype=np.uint8)
            grown[: self._used] = self._bits[: self._used]
            self._bits = grown
        self._bits[self._used : end] = np.frombuffer(bits, dtype=np.uint8)
        self._used = end

    @property
    def read_through(self) -> int:
        """Bytes of the log that were read and checked."""
        return self._read_through

    @property
    def names(self) -> frozenset[str]:
        """The data files that there is a filter for."""
        with self._lock:
            return frozenset(self._known)

    @property
    def loaded_bytes(self) -> int:
        """Bytes of the filters in memory."""
        return self._used

    def can_hold(self, user_id: str, files: Sequence[DataFile]) -> tuple[DataFile, ...]:
        """Leave out the files that hold no row of *user_id*; those without a filter stay."""
        with self._lock:
            known, bits = self._known, self._bits
        if not known or not files:
            return tuple(files)
        begins = np.zeros(len(files), dtype=np.uint64)
        sizes = np.zeros(len(files), dtype=np.uint64)
        for place, one in enumerate(files):
            found = known.get(data_file_name(one))
            if found is not None and found[0] == one.size_bytes:
                begins[place], sizes[place] = found[1], found[2]
        without = sizes == 0
        digest = user_digests((user_id,))
        places = begins[:, None] + _places(digest[:, :1], digest[:, 1:], np.where(without, 1, sizes)[:, None])
        # Those without a filter look at whatever is at the beginning, and stay in any case.
        marked = (bits[places >> np.uint64(3)] >> (places & np.uint64(7)).astype(np.uint8)) & np.uint8(1)
        kept = without | marked.all(axis=1)
        return tuple(files[place] for place in np.flatnonzero(kept).tolist())


def _records(content: bytes) -> Iterator[tuple[UserFilter, int]]:
    """Yield the records of a log, each with its length, up to the first that does not check."""
    start = 0
    while start + _HEADER.size <= len(content):
        magic, checksum, name_length, probes, bits_length, size_bytes = _HEADER.unpack_from(content, start)
        body = start + _HEADER.size
        end = body + name_length + bits_length
        if magic != _MAGIC or probes != PROBES or end > len(content):
            return
        if zlib.crc32(memoryview(content)[start + _CHECKED_FROM : end]) != checksum:
            return
        name = content[body : body + name_length].decode()
        yield UserFilter(name, size_bytes, content[body + name_length : end]), end - start
        start = end


def _record(one: UserFilter) -> bytes:
    name = one.name.encode()
    header = _HEADER.pack(_MAGIC, 0, len(name), PROBES, len(one.bits), one.size_bytes)
    checked = header[_CHECKED_FROM:] + name + one.bits
    return _MAGIC + zlib.crc32(checked).to_bytes(4, "little") + checked


def append_filters(path: Path, filters: Sequence[UserFilter], *, checked_bytes: int) -> None:
    """Add filters to the log. Only for the holder of the cache's lock.

    Args:
        path: of the log.
        filters: to be added.
        checked_bytes: how far the log was read and found right; what is behind it is damaged and goes.

    Raises:
        OSError: the file could not be written.
    """
    make_durable_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        if os.fstat(descriptor).st_size == checked_bytes:
            file.seek(checked_bytes)
            new_log = b"" if checked_bytes else os.urandom(_ID_BYTES)
            file.write(new_log + b"".join(map(_record, filters)))
            return
        content = file.read()[_ID_BYTES:]
    # In a file of its own: a reader that stopped at the damage must not take what follows for the rest of it.
    _replace(path, [*(one for one, _ in _records(content)), *filters])


def keep_filters(path: Path, names: Iterable[str]) -> None:
    """Rewrite the log with the filters of these data files only. Only for the holder of the cache's lock.

    Raises:
        OSError: the file could not be written; the log is as it was.
    """
    kept = frozenset(names)
    try:
        content = path.read_bytes()[_ID_BYTES:]
    except FileNotFoundError:
        return
    _replace(path, [one for one, _ in _records(content) if one.name in kept])


def _replace(path: Path, filters: Iterable[UserFilter]) -> None:
    fresh = path.with_suffix(".new")
    with open(fresh, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(os.urandom(_ID_BYTES))
        for one in filters:
            file.write(_record(one))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
