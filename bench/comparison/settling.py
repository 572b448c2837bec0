"""Waiting until the service has brought a loaded table in order: compacted, its users known, their histories copied.

`actionlake compact`, and then the service's own background work, with its default settings but for the time that a file
must have rested before it is copied.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from bench.comparison.contender import DATA
from bench.errors import BenchFailed
from bench.opponents import ACTIONLAKE
from bench.processes import ROOT, ServerProcess, command_line, free_port
from storage.history import building
from storage.opening import read_store
from storage.paths import StorePaths
from storage.schema import ActionSchema

_AT_ONCE: Final = ("--history-rest-ms", "1000")
_LOOKS: Final = 5
# Caught up is: nothing that is known to be due, and for as long as this nothing changes and nothing works.
STILL_S: Final = 15.0
_STILL_CPUS: Final = 0.2
_BUILDER: Final = building.__name__
_TIMEOUT_S: Final = 3 * 3600.0
_COMMAND_TIMEOUT_S: Final = 3600.0


def status_of(folder: Path) -> Mapping[str, Any]:
    """What `actionlake status --json` tells of the store in *folder*."""
    content = json.loads(_command("status", "--json", "--data", str(folder / DATA)))
    assert isinstance(content, dict)
    return content


def due_of(status: Mapping[str, Any]) -> dict[str, int]:
    """What is known to be due: data files to be compacted, data files whose users are not known, rows to be copied."""
    due = {
        "files to compact": int(status["files_to_compact"]),
        "files without known users": max(0, int(status["files"]) - int(status["filtered_files"])),
        "rows to copy": max(0, int(status["rows"]) - int(status["history_rows"])),
    }
    return {what: count for what, count in due.items() if count}


def settle(folder: Path, progress: Callable[[str], None], *, still_s: float = STILL_S) -> Mapping[str, Any]:
    """Serve the store in *folder* until it has caught up, and remove the files that were replaced.

    Args:
        progress: told what is due.
        still_s: for how long nothing must change.

    Returns:
        the last status, with the seconds that it took as `settle_s` and what is still due as `due`: copies may be
        bounded by their share of the disk.

    Raises:
        BenchFailed: compaction or the users of files are still not done when nothing works any more.
    """
    port, began_s = free_port(), time.monotonic()
    # The service does the same once a partition has rested for a quarter of an hour.
    progress("compacting")
    _command("compact", "--data", str(folder / DATA))
    command = [*ACTIONLAKE.command(folder / DATA, port), *_AT_ONCE]
    with ServerProcess(command, folder / "settling.log") as server:
        server.wait_ready(f"http://127.0.0.1:{port}{ACTIONLAKE.ready_path}", timeout_s=300)
        status = _wait_still(folder, server, began_s, progress, still_s)
        settle_s = time.monotonic() - began_s
        server.stop()
    _remove_replaced(folder / DATA)
    os.sync()
    due = due_of(status)
    if set(due) - {"rows to copy"}:
        raise BenchFailed(f"the table has come to rest and is not in order: {due}")
    return {**status, "settle_s": settle_s, "due": due}


def _wait_still(
    folder: Path, server: ServerProcess, began_s: float, progress: Callable[[str], None], still_s: float
) -> Mapping[str, Any]:
    still_since_s, cpu_s = time.monotonic(), server.cpu_s()
    last: dict[str, Any] = {}
    status: Mapping[str, Any] = {}
    while time.monotonic() - began_s < _TIMEOUT_S:
        looked_s = time.monotonic()
        time.sleep(still_s / _LOOKS)
        status = status_of(folder)
        due = due_of(status)
        now_cpu_s = server.cpu_s()
        used_cpus = (now_cpu_s - cpu_s) / (time.monotonic() - looked_s)
        # On a machine that others fill, a copy that is being made may be given hardly any processor.
        busy = used_cpus > _STILL_CPUS or any(_BUILDER in command_line(pid) for pid in server.pids())
        seen = {name: status[name] for name in ("version", "filtered_files", "history_rows", "history_runs")}
        if busy or seen != last or set(due) - {"rows to copy"}:
            still_since_s = time.monotonic()
        last, cpu_s = seen, now_cpu_s
        what = ", ".join(f"{count:,} {name}" for name, count in due.items()) or "nothing is due"
        progress(f"{time.monotonic() - began_s:.0f} s: {what}")
        if time.monotonic() - still_since_s >= still_s:
            return status
    raise BenchFailed(f"the table has not come to rest within {_TIMEOUT_S:g} s: {due_of(status)}")


def _remove_replaced(data: Path) -> None:
    """What a vacuum does after its grace: a reader of a plain glob would find rows twice. Nobody reads here now."""
    store = read_store(StorePaths.of(data), ActionSchema())
    try:
        live = {Path(one.path) for one in store.read_view().files}
    finally:
        store.close(flush=False)
    for path in (data / "actions").glob("*/*/*.parquet"):
        if path not in live:
            path.unlink()


def _command(*words: str) -> str:
    actionlake = ACTIONLAKE.command(Path(), 0)[0]
    done = subprocess.run(
        [actionlake, *words], cwd=ROOT, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise BenchFailed(f"actionlake {words[0]} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout
