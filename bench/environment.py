"""What a figure depends on besides the code: processor, memory, disk, versions."""

from __future__ import annotations

import hashlib
import os
import platform
import sqlite3
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from bench.comparison.catalogue import absences, postgresql_version
from bench.errors import BenchFailed
from bench.processes import ROOT

_LIBRARIES: Final = (
    "apsw",
    "boto3",
    "chdb",
    "chdb-core",
    "deltalake",
    "duckdb",
    "flask",
    "httptools",
    "litestar",
    "msgspec",
    "polars",
    "psycopg",
    "pyarrow",
    "uvicorn",
    "uvloop",
    "werkzeug",
)
_MEASURED_CODE: Final = (
    "service/**/*.py",
    "queries/**/*.py",
    "storage/**/*.py",
    "bench/baseline.py",
    "bench/bodies.py",
    "bench/comparison/**/*.py",
    "bench/http_client.py",
    "bench/load.py",
    "bench/queries.py",
    "bench/stored_actions.py",
)
_MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs"})
_FSYNC_PROBES: Final = 50


def describe_environment(folder: Path) -> dict[str, Any]:
    """The machine, the file system that holds *folder*, and the versions; the same as long as these are the same.

    Raises:
        BenchFailed: *folder* is in memory, where an fsync costs nothing and proves nothing.
    """
    file_system = _file_system(folder)
    if file_system in _MEMORY_FILE_SYSTEMS:
        raise BenchFailed(f"the data folder is on {file_system}: choose one on a disk with --data-dir")
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "file_system": file_system,
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _LIBRARIES},
            "sqlite of the baseline": sqlite3.sqlite_version,
            "PostgreSQL": postgresql_version() or "absent",
        },
        "absent": absences(),
        "code": _code_digest(),
    }


def fsync_median_ms(folder: Path) -> float:
    """How long a write of 4 KiB and its fdatasync take at the end of a file in *folder*."""
    path = folder / "fsync-probe"
    took_ms = []
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(_FSYNC_PROBES):
                began = time.perf_counter()
                file.write(bytes(4096))
                os.fdatasync(file.fileno())
                took_ms.append((time.perf_counter() - began) * 1000)
    finally:
        path.unlink(missing_ok=True)
    return statistics.median(took_ms)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "absent"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    resolved = folder.resolve()
    found = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        mount_point, file_system = line.split()[1:3]
        if resolved.is_relative_to(mount_point) and len(mount_point) >= len(found[0]):
            found = (mount_point, file_system)
    return found[1]


def _code_digest() -> str:
    digest = hashlib.sha256()
    for pattern in _MEASURED_CODE:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
