"""Simulated power loss: what a disk may hold at any moment of a traced run, where only what was synced is certain.

A trace of the kernel's (`strace`) has every write, sync, rename, link and removal with its data. It is replayed into a
model of a disk in which each file has the content that its last sync made certain, and the writes since; each folder
has the names that its last sync made certain, and the changes since. A state after a power cut is then any choice of
the uncertain ones: none, all, some, and of a write a part of its sectors. Names and contents are chosen independently
of each other, as POSIX allows and some file systems do.

Pages that are mapped into memory are not in a trace; what is kept in them (the index of the write-ahead log, the latch,
the note of what was acknowledged) must be, and is, dispensable.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

SYSCALLS: Final = (
    "write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,ftruncate,unlink,unlinkat,mkdir,mkdirat,rmdir,linkat,"
    "open,openat,lseek,fallocate"
)
_CALL: Final = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
_UNFINISHED: Final = re.compile(r"(\d+) +(\w+\(.*) <unfinished \.\.\.>$")
_RESUMED: Final = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)$")
_DESCRIPTOR: Final = re.compile(r"^(\d+)<((?:\\x[0-9a-f]{2})*)>")
_STRING: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_SECTOR_BYTES: Final = 512


def tracer(trace: Path) -> list[str]:
    """The beginning of a command whose effects on files are to be traced."""
    options = ["-f", "--seccomp-bpf", "-qq", "-y", "-xx", "-s", str(1 << 24), "-e", f"trace={SYSCALLS}"]
    return ["strace", *options, "-o", str(trace)]


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that succeeded: its name, its file descriptor and path if it has one, strings and result."""

    name: str
    arguments: str
    descriptor: int
    path: str
    strings: tuple[bytes, ...]
    result: int


def read_trace(trace: Path) -> Iterator[Call]:
    """Read the calls of a trace in the order in which they were done."""
    begun: dict[str, str] = {}
    with trace.open() as lines:
        for line in lines:
            unfinished = _UNFINISHED.match(line)
            if unfinished:
                begun[unfinished[1]] = unfinished[2]
                continue
            resumed = _RESUMED.match(line)
            whole = f"{resumed[1]} {begun.pop(resumed[1], '')}{resumed[2]}" if resumed else line
            match = _CALL.match(whole)
            if match is None or int(match[4]) < 0:
                continue
            arguments = match[3]
            descriptor = _DESCRIPTOR.match(arguments)
            yield Call(
                name=match[2],
                arguments=arguments,
                descriptor=int(descriptor[1]) if descriptor else -1,
                path=_text(descriptor[2]).decode() if descriptor else "",
                strings=tuple(_text(one) for one in _STRING.findall(arguments)),
                result=int(match[4]),
            )


def _text(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


@dataclass(slots=True, eq=False)
class _File:
    certain: bytearray = field(default_factory=bytearray)
    # (offset, data), or (size, None) for a truncation.
    since: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        for step in self.since:
            _apply(self.certain, *step)
        self.since = []

    def after_power_loss(self, choose: random.Random, keep: float) -> bytes:
        content = bytearray(self.certain)
        for place, data in self.since:
            if choose.random() >= keep:
                continue
            if data is None or keep == 1:
                _apply(content, place, data)
                continue
            for start in range(0, len(data), _SECTOR_BYTES):
                if choose.random() < 0.8:
                    _apply(content, place + start, data[start : start + _SECTOR_BYTES])
        return bytes(content)


def _apply(content: bytearray, place: int, data: bytes | None) -> None:
    if data is None:
        del content[place:]
        content.extend(bytes(place - len(content)))
        return
    content.extend(bytes(max(0, place - len(content))))
    content[place : place + len(data)] = data


@dataclass(slots=True, eq=False)
class _Folder:
    now: dict[str, _File | _Folder] = field(default_factory=dict)
    certain: dict[str, _File | _Folder] = field(default_factory=dict)
    # Each step is a set of changes that come together: name → what it means from then on, None for nothing.
    since: list[dict[str, _File | _Folder | None]] = field(default_factory=list)

    def change(self, changes: dict[str, _File | _Folder | None]) -> None:
        self.since.append(changes)
        _change(self.now, changes)

    def sync(self) -> None:
        self.certain = dict(self.now)
        self.since = []


def _change(names: dict[str, _File | _Folder], changes: dict[str, _File | _Folder | None]) -> None:
    for name, meaning in changes.items():
        if meaning is None:
            names.pop(name, None)
        else:
            names[name] = meaning


class Disk:
    """The part of a disk below one folder, as a trace goes on."""

    def __init__(self, root: Path) -> None:
        self._root = PurePosixPath(root)
        self._top = _Folder()
        # Open file → its offset; a descriptor is the process's, and names a file until it is opened anew.
        self._offsets: dict[int, int] = {}

    def do(self, call: Call) -> None:
        """Take part in one call; those elsewhere change nothing."""
        match call.name:
            case "open" | "openat":
                self._open(call)
            case "lseek":
                self._offsets[call.descriptor] = call.result
            case "write" | "pwrite64":
                self._write(call)
            case "ftruncate" | "fallocate":
                self._resize(call)
            case "fsync" | "fdatasync":
                found = self._find(call.path)
                if found is not None:
                    found.sync()
            case "mkdir" | "mkdirat":
                self._name(call.strings[-1].decode(), _Folder())
            case "unlink" | "unlinkat" | "rmdir":
                self._name(call.strings[-1].decode(), None)
            case "rename" | "renameat" | "renameat2":
                self._move(call, keep=False)
            case "linkat":
                self._move(call, keep=True)

    def _open(self, call: Call) -> None:
        self._offsets[call.result] = 0
        path = call.strings[0].decode()
        found = self._find(path)
        if found is None and "O_CREAT" in call.arguments:
            self._name(path, _File())
        elif isinstance(found, _File) and "O_TRUNC" in call.arguments:
            found.since.append((0, None))

    def _write(self, call: Call) -> None:
        found = self._find(call.path)
        data = call.strings[0] if call.strings else b""
        if call.name == "pwrite64":
            place = int(call.arguments.rpartition(", ")[2])
        else:
            place = self._offsets.get(call.descriptor, 0)
            self._offsets[call.descriptor] = place + call.result
        if isinstance(found, _File):
            found.since.append((place, data[: call.result]))

    def _resize(self, call: Call) -> None:
        found = self._find(call.path)
        if isinstance(found, _File) and call.name == "ftruncate":
            found.since.append((int(call.arguments.rpartition(", ")[2]), None))

    def _move(self, call: Call, *, keep: bool) -> None:
        old, new = (one.decode() for one in call.strings[-2:])
        found = self._find(old)
        if found is None:
            return
        (old_folder, old_name), (new_folder, new_name) = self._place(old), self._place(new)
        if old_folder is new_folder and not keep:
            new_folder.change({old_name: None, new_name: found})
            return
        new_folder.change({new_name: found})
        if not keep:
            old_folder.change({old_name: None})

    def _name(self, path: str, meaning: _File | _Folder | None) -> None:
        if PurePosixPath(path).is_relative_to(self._root) and PurePosixPath(path) != self._root:
            folder, name = self._place(path)
            folder.change({name: meaning})

    def _place(self, path: str) -> tuple[_Folder, str]:
        folder = self._find(str(PurePosixPath(path).parent))
        if isinstance(folder, _Folder):
            return folder, PurePosixPath(path).name
        raise LookupError(f"the trace does not tell of the folder of {path}")

    def _find(self, path: str) -> _File | _Folder | None:
        given = PurePosixPath(path)
        if not given.is_relative_to(self._root):
            return None
        found: _File | _Folder | None = self._top
        for part in given.relative_to(self._root).parts:
            found = found.now.get(part) if isinstance(found, _Folder) else None
        return found

    def after_power_loss(self, choose: random.Random, folder: Path, *, harsh: bool) -> None:
        """Write into *folder*, which is made, what the disk may hold if the power fails now; the least if *harsh*."""
        # Nothing, everything, names only, contents only, or some of each.
        chances = [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 0.5)]
        names, contents = chances[0] if harsh else choose.choice(chances)
        _write_folder(self._top, folder, choose, names=names, contents=contents)


def _write_folder(one: _Folder, folder: Path, choose: random.Random, *, names: float, contents: float) -> None:
    folder.mkdir()
    found = dict(one.certain)
    for changes in one.since:
        if choose.random() < names:
            _change(found, changes)
    for name, meaning in found.items():
        if isinstance(meaning, _Folder):
            _write_folder(meaning, folder / name, choose, names=names, contents=contents)
        else:
            (folder / name).write_bytes(meaning.after_power_loss(choose, contents))


def power_cuts(calls: Iterable[Call], root: Path, moments: set[int]) -> Iterator[tuple[int, Disk]]:
    """Replay *calls* and stop at each of *moments*, numbers of calls that were done by then."""
    disk = Disk(root)
    for number, call in enumerate(calls):
        if number in moments:
            yield number, disk
        disk.do(call)
