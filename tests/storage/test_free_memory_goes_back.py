"""Memory that was used once and is free again goes back to the system; allocators keep it otherwise."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator

import duckdb
import pytest

from storage.free_memory import GivingBack, give_back, resident_bytes
from tests.storage.building import eventually

MIB = 1024 * 1024
USED_AT_LEAST = 64 * MIB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the allocators are those of Linux")


def resident() -> int:
    size = resident_bytes()
    assert size is not None
    return size


@pytest.fixture
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 2, "memory_limit": "1GB"}) as connection:
        connection.execute("SELECT count(DISTINCT (i, i)) FROM range(1000) AS t(i)").fetchall()
        give_back()
        yield connection


def use_much(connection: duckdb.DuckDBPyConnection) -> None:
    """An aggregate that needs some hundred megabytes, and gives all of it back to its allocator."""
    connection.execute("SELECT count(DISTINCT (i, i)) FROM range(2_000_000) AS t(i)").fetchall()
    held = connection.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory()").fetchall()[0][0]
    assert held < MIB


def test_what_duckdb_used_once_goes_back(engine: duckdb.DuckDBPyConnection) -> None:
    before = resident()
    use_much(engine)
    # The control: nothing of it goes back by itself.
    kept = resident() - before
    assert kept > USED_AT_LEAST, f"{kept >> 20} MiB"
    give_back()
    left = resident() - before
    assert left < kept / 4, f"{kept >> 20} MiB were kept, {left >> 20} MiB still are"


def test_a_process_that_grows_gives_back_by_itself(engine: duckdb.DuckDBPyConnection) -> None:
    before = resident()
    giving = GivingBack(look_s=0.05)
    try:
        use_much(engine)
        eventually(lambda: resident() - before < USED_AT_LEAST)
    finally:
        giving.stop()


# Threads that each hold what they allocated at the same time; the number of arenas is what the C library says itself.
_ARENAS_OF_THREADS = """
import ctypes, sys, threading
from storage.free_memory import share_arenas

if sys.argv[1] == "shared":
    share_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(6)

def use():
    together.wait()
    libc.malloc(ctypes.c_size_t(1000))
    together.wait()

threads = [threading.Thread(target=use) for _ in range(6)]
for one in threads:
    one.start()
for one in threads:
    one.join()
to = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, ctypes.c_void_p(to))
libc.fclose(ctypes.c_void_p(to))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="another C library has other arenas")
def test_threads_share_a_few_arenas() -> None:
    def arenas(how: str) -> int:
        command = [sys.executable, "-c", _ARENAS_OF_THREADS, how]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.count("<heap nr=")

    # The control: otherwise they have more.
    assert arenas("own") > 2
    assert arenas("shared") <= 2
