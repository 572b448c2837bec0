"""What the processes of a service have in memory, by what they do."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

_NAMES: Final = {
    "service.keeper": "keeper",
    "queries.sql.worker": "SQL workers",
    "compaction_child": "compaction",
    "history.building": "history",
}
_SPAWNED: Final = "spawn_main"
_LEFT_OUT: Final = "resource_tracker"
# Processes that come and go with a piece of work: what they take at once is of interest, growth is not.
PASSING: Final = frozenset({"compaction", "history"})


def resident_bytes(top: int) -> dict[str, int]:
    """The bytes in memory of a service's processes, those that do the same counted together: what they do → bytes."""
    sizes: Counter[str] = Counter()
    unseen = [top]
    while unseen:
        pid = unseen.pop()
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                unseen += map(int, (task / "children").read_text().split())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            size = _resident_bytes(pid)
        except (FileNotFoundError, ProcessLookupError):  # It has ended meanwhile.
            continue
        # One that is just ending has no command any more.
        if command and _LEFT_OUT not in command:
            sizes["service" if pid == top else _name(command)] += size
    return dict(sizes)


def _name(command: str) -> str:
    for part, name in _NAMES.items():
        if part in command:
            return name
    return "HTTP workers" if _SPAWNED in command else f"`{command.replace(chr(0), ' ').strip()}`"


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
