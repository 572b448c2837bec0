"""Faults of a disk, injected by the kernel's tracing interface: the process under test is not changed at all."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

_SYNCS: Final = "fsync,fdatasync"


@cache
def can_trace() -> bool:
    """Tell whether there is a tracer here that may trace and inject."""
    if shutil.which("strace") is None:
        return False
    probe = [*failing_syncs(Path("/dev/null"), at=1, log=Path("/dev/null")), "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def failing_syncs(path: Path, *, at: int, log: Path) -> list[str]:
    """Return a prefix for a command of which each thread's *at*-th sync of *path* fails with EIO.

    Args:
        path: of the file; syncs of others are let through.
        at: counted from 1.
        log: where the tracer writes what it did.
    """
    inject = f"inject={_SYNCS}:error=EIO:when={at}"
    return [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-o",
        str(log),
        "-P",
        str(path),
        "-e",
        f"trace={_SYNCS}",
        "-e",
        inject,
    ]
