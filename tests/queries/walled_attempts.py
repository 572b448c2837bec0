"""A process that raises walls around itself and then tries to get out, with nothing else in its way.

Run as a script with a JSON object: `root` (of the sources), `data`, `temp`, `outside` (a file), `walls` (names),
`port` (that listens), `parent` (a process). Prints a JSON object: the report's walls, and how each attempt ended.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path


def main() -> None:
    """Raise the walls, try, and print."""
    asked = json.loads(sys.argv[1])
    sys.path.insert(0, asked["root"])
    from queries.sql.walls.around import Enclosure, Walls

    data, temp, outside = Path(asked["data"]), Path(asked["temp"]), asked["outside"]
    walls = Walls(Enclosure(data, temp, 1 << 30, 1 << 30, frozenset(asked["walls"])))
    walls.prepare()
    walls.enclose()
    libc = ctypes.CDLL(None, use_errno=True)
    inside = next(path for path in data.rglob("*") if path.is_file())
    (temp / "spill").mkdir()
    report = walls.seal()

    attempts: dict[str, Callable[[], object]] = {
        "read the table": inside.read_bytes,
        "list the table": lambda: os.listdir(data),
        "write temporary data": lambda: (temp / "spill" / "x").write_text("x"),
        "read outside": Path(outside).read_bytes,
        "list outside": lambda: os.listdir(Path(outside).parent),
        "list the root": lambda: os.listdir("/usr"),
        "read the environment": Path("/proc/self/environ").read_bytes,
        "write outside": lambda: Path(outside).write_text("x"),
        "create outside": lambda: (Path(outside).parent / "new").write_text("x"),
        "write into the table": lambda: (data / "new").write_text("x"),
        "change the table": lambda: inside.open("r+b"),
        "remove from the table": inside.unlink,
        "rename in the table": lambda: inside.rename(inside.with_name("renamed")),
        "connect by TCP": lambda: _connect(asked["port"]),
        "open a UDP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
        "open a local socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close(),
        "fork": _fork,
        "run a program": _run_a_program,
        "signal the parent": lambda: os.kill(asked["parent"], 0),
        "trace itself": lambda: _checked(libc.ptrace(0, 0, 0, 0)),
        "map new code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC).close(),
        "become root": lambda: os.setuid(0),
        "mount": lambda: _mount(libc, str(temp).encode()),
        "leave the root": lambda: os.chroot("/"),
        "take much memory": lambda: mmap.mmap(-1, 4 << 30).close(),
    }
    outcomes = {name: _try(attempt) for name, attempt in attempts.items()}
    print(json.dumps({"walls": {wall.name: [wall.standing, wall.detail] for wall in report.walls}, "tries": outcomes}))
    sys.stdout.flush()
    os._exit(0)


def _try(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (OSError, ValueError) as error:
        return f"refused: {error}"
    return "went through"


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _connect(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        client.connect(("127.0.0.1", port))


def _run_a_program() -> None:
    """Try one that does not exist: whoever may run programs is told so."""
    try:
        os.execv("/no/such/program", ["program"])  # noqa: S606
    except FileNotFoundError:
        return


def _mount(libc: ctypes.CDLL, folder: bytes) -> None:
    _checked(libc.mount(b"none", folder, b"tmpfs", 0, None))
    _checked(libc.umount2(folder, 0))


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    main()
