"""Canaries, inside the table's folder and outside, and a port that listens: neither must be touched."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.queries.sql_tables import SmallTable

CANARY = "c4n4ry-in-a-coal-mine"


@dataclass(frozen=True)
class Canaries:
    """Things that must stay as they are, and a port that must stay silent."""

    inside: Path
    outside: Path
    parquet: Path
    folder: Path
    port: int
    connections: list[object]

    def fill(self, template: str) -> str:
        """Put paths and names into an attempt."""
        return template.replace("\\n", "\n").format(
            inside=self.inside,
            outside=self.outside,
            outside_name=self.outside.name,
            elsewhere=self.outside.parent,
            elsewhere_name=self.outside.parent.name,
            folder=self.folder,
            parquet=self.parquet,
            port=self.port,
            hot="hot_rows",
            stand_in="planning.actions",
        )

    def state(self) -> dict[str, tuple[int, int, bytes]]:
        """Every file in both folders: size, time of change, content."""
        return {
            str(path): (path.stat().st_size, path.stat().st_mtime_ns, path.read_bytes())
            for folder in (self.folder, self.outside.parent)
            for path in folder.rglob("*")
            if path.is_file()
        }


@contextmanager
def watched_canaries(table: SmallTable, elsewhere: Path) -> Iterator[Canaries]:
    """Canaries in the folder of *table* and *elsewhere*, which anybody might read and write."""
    outside = elsewhere / "canary.csv"
    inside = table.folder / "canary.csv"
    for canary in (outside, inside):
        canary.write_text(f"word\n{CANARY}\n")
        canary.chmod(0o666)
    outside.parent.chmod(0o777)
    connections: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connections.append(listener.accept())
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        port = listener.getsockname()[1]
        yield Canaries(inside, outside, Path(table.files[0].path), table.folder, port, connections)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
