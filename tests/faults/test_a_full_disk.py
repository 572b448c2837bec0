"""A full disk: nothing is acknowledged that is not kept, reads go on, and so do submits when there is space again."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from storage.errors import DiskFull, StoreFailed
from tests.faults.effort import repetitions
from tests.faults.history import History
from tests.faults.injected_faults import FSYNC
from tests.faults.server_process import HASTY, Clients, serving
from tests.faults.small_disks import mountable_namespace, small_disk
from tests.faults.store_process import Run, RunningStore, spawner
from tests.storage.building import opened, positions, put, store_in, through

_DISK_BYTES: Final = 24 * 1024 * 1024
_PATIENCE_S: Final = 180.0
_CONTROL_TRIES: Final = 5

with tempfile.TemporaryDirectory() as _folder:
    _MOUNTABLE: Final = bool(mountable_namespace(Path(_folder)))
# Where no disk can be mounted, the injected one is what remains; where one can, the long form tries both.
_BOTH: Final = bool(repetitions(suite=0, long=1))
KINDS: Final = ["injected"] * (_BOTH or not _MOUNTABLE) + ["mounted"] * _MOUNTABLE


def _soon(run: RunningStore, history: History, happened: Callable[[RunningStore], bool], what: str) -> None:
    assert run.read_until(history, happened, timeout_s=_PATIENCE_S), f"not within {_PATIENCE_S:g} s: {what}"


def _acknowledged(submissions: int) -> Callable[[RunningStore], bool]:
    return lambda run: run.submissions_acknowledged >= submissions


@pytest.mark.parametrize("kind", KINDS)
def test_submits_are_refused_and_go_on_by_themselves(kind: str, tmp_path: Path, figures: Callable[[str], None]) -> None:
    """Fill the store's disk under load, read from it, give space back, and kill the store in the end."""
    history = History()
    with (
        small_disk(tmp_path / "disk", real=kind == "mounted", size_bytes=_DISK_BYTES) as disk,
        spawner() as processes,
    ):
        folder = str(disk.folder / "data")
        run = processes.start(Run(folder, "client", patience=True, fault=disk.fault, namespaces=disk.namespaces))
        _soon(run, history, lambda one: one.flushes >= 2, "two flushes")
        disk.fill()
        _soon(run, history, lambda one: len(one.refusals) >= 5, "refusals")
        _soon(run, history, lambda one: len(one.flush_errors) >= 1, "a flush that fails")
        assert {text.split(":")[0] for text in run.refusals} == {"DiskFull"}
        assert {text.split(":")[0] for text in run.flush_errors} == {"DiskFull"}
        acknowledged_when_full = set(history.acknowledged)
        found = processes.start(Run(folder, "reader", read_only=True, namespaces=disk.namespaces)).read_to_the_end(
            history
        )
        assert acknowledged_when_full <= {row.action for row in found}, "a read while the disk is full misses actions"
        disk.free()
        before = run.submissions_acknowledged
        flushes = run.flushes
        _soon(run, history, lambda one: one.submissions_acknowledged >= before + 50, "submits go on")
        _soon(run, history, lambda one: one.flushes >= flushes + 2, "flushes go on")
        refused = len(run.refusals)
        run.kill(history)
        recovery = Run(folder, "recovery", threads=0, namespaces=disk.namespaces)
        found = processes.start(recovery).read_to_the_end(history)
    violations = history.judge(found)
    figures(
        f"{len(acknowledged_when_full)} actions acknowledged until the disk was full, {refused} submissions refused,"
        f" {len(history.acknowledged)} actions acknowledged in the end, {len(found)} found; violations: {violations}"
    )
    assert not violations, str(violations)


@pytest.mark.parametrize("kind", KINDS)
def test_a_restart_on_a_full_disk_harms_nothing(kind: str, tmp_path: Path, figures: Callable[[str], None]) -> None:
    """Kill the store while its disk is full and start it again: it opens or says what is missing, and loses nothing."""
    history = History()
    with (
        small_disk(tmp_path / "disk", real=kind == "mounted", size_bytes=_DISK_BYTES) as disk,
        spawner() as processes,
    ):
        folder = str(disk.folder / "data")
        run = processes.start(Run(folder, "client", patience=True, fault=disk.fault, namespaces=disk.namespaces))
        _soon(run, history, lambda one: one.flushes >= 2, "two flushes")
        disk.fill()
        _soon(run, history, lambda one: len(one.refusals) >= 5, "refusals")
        run.kill(history)
        early = Run(folder, "too-early", threads=0, fault=disk.fault, fault_from_start=True, namespaces=disk.namespaces)
        again = processes.start(early)
        again.await_end(history)
        told = [failure.strip().splitlines()[-1] for failure in again.failures]
        for line in told:
            assert line.startswith(("storage.errors.DiskFull", "storage.errors.StoreFailed")), line
        disk.free()
        recovery = Run(folder, "recovery", threads=0, namespaces=disk.namespaces)
        found = processes.start(recovery).read_to_the_end(history)
    violations = history.judge(found)
    figures(f"the early restart said {told or 'nothing'}; {len(found)} actions found; violations: {violations}")
    assert not violations, str(violations)


def test_a_start_that_finds_no_space_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is at, until there is space: the error is the store's own, and what was there is there."""
    with store_in(tmp_path) as store:
        put(store, 3)
        store.flush_here()
        put(store, 2)
    fsync = os.fsync

    def full_at(number: int) -> Callable[[int], None]:
        calls = count(1)

        def faulty(descriptor: int) -> None:
            if next(calls) == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        return faulty

    refused = 0
    for number in count(1):
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        monkeypatch.setattr(os, "fsync", full_at(number))
        try:
            # The first of them with what is there already, which a start syncs again; all with a new store.
            opened(tmp_path if number == 1 else tmp_path / "new")[0].close(flush=False)
        except (DiskFull, StoreFailed):
            refused += 1
        else:
            break
        finally:
            monkeypatch.setattr(os, "fsync", fsync)
    assert refused > 3
    with store_in(tmp_path) as store:
        assert positions(store) == through(5)


def test_submits_go_on_while_only_flushes_have_no_space(tmp_path: Path, figures: Callable[[str], None]) -> None:
    """The table's disk is full, the journal's is not: nothing is refused, and flushes resume when there is space."""
    history = History()
    full = tmp_path / "full"
    fault = {"error": "ENOSPC", "calls": [FSYNC], "while_exists": str(full)}
    with spawner() as processes:
        run = processes.start(Run(str(tmp_path / "data"), "client", fault=fault))
        _soon(run, history, lambda one: one.flushes >= 2, "two flushes")
        full.touch()
        _soon(run, history, lambda one: len(one.flush_errors) >= 2, "flushes that fail")
        before, flushes = run.submissions_acknowledged, run.flushes
        _soon(run, history, lambda one: one.submissions_acknowledged >= before + 50, "submits go on")
        assert run.flushes <= flushes + 1
        full.unlink()
        _soon(run, history, lambda one: one.flushes >= flushes + 3, "flushes go on")
        assert not run.refusals
        assert {text.split(":")[0] for text in run.flush_errors} == {"DiskFull"}
        run.kill(history)
        found = processes.start(Run(str(tmp_path / "data"), "recovery", threads=0)).read_to_the_end(history)
    violations = history.judge(found)
    figures(f"{len(run.flush_errors)} flushes failed; {len(found)} actions found; violations: {violations}")
    assert not violations, str(violations)


@pytest.mark.parametrize(
    ("kind", "kept_free"), [(kind, 0) for kind in KINDS] + [("mounted", 4 * 1024 * 1024)] * _MOUNTABLE
)
def test_the_server_answers_507_until_there_is_space(
    kind: str, kept_free: int, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    """The same over HTTP, also with space kept for flushing: 507 with Retry-After, retrievals, and 200 again."""
    history = History()
    with small_disk(tmp_path / "disk", real=kind == "mounted", size_bytes=_DISK_BYTES) as disk:
        settings = HASTY | {"disk_free_bytes_min": str(kept_free)}
        options = {"settings": settings, "namespaces": disk.namespaces}
        with serving(disk.folder / "data", tmp_path / "log", fault=disk.fault, **options) as server:
            clients = Clients(server, history, "client", steadfast=True)
            clients.await_acknowledged(30)
            disk.fill()
            clients.await_refusals(4)
            acknowledged_when_full = set(history.acknowledged)
            found = server.retrieve_all()
            assert acknowledged_when_full <= {row.action for row in found}, "a retrieval misses actions"
            assert server.ask("GET", "/health/live").status == 200
            # 200 is right as well, if by chance there was nothing left to flush.
            assert server.ask("POST", "/api/flush", b"").status in {200, 507}
            disk.free()
            flush = server.ask("POST", "/api/flush", b"")
            assert flush.status == 200, "a flush is still refused when there is space again"
            clients.await_acknowledged(clients.acknowledged + 30)
            clients.stop()
            for refusal in clients.refusals:
                assert refusal.status == 507, refusal
                assert int(refusal.headers["retry-after"]) >= 1
                assert refusal.headers["content-type"] == "application/problem+json"
                assert refusal.json()["status"] == 507
            server.kill()
        with serving(disk.folder / "data", tmp_path / "log", **options) as server:
            found = server.retrieve_all()
    violations = history.judge(found)
    figures(
        f"{len(clients.refusals)} submissions answered 507, {len(history.acknowledged)} actions acknowledged,"
        f" {len(found)} found after a restart; violations: {violations}"
    )
    assert not violations, str(violations)


@pytest.mark.parametrize("kind", KINDS)
def test_the_control_notices(kind: str, tmp_path: Path, figures: Callable[[str], None]) -> None:
    """The same over a store that acknowledges before it commits: the full disk makes it lose actions."""
    history = History()
    with (
        small_disk(tmp_path / "disk", real=kind == "mounted", size_bytes=_DISK_BYTES) as disk,
        spawner() as processes,
    ):
        folder = str(disk.folder / "data")
        for number in range(_CONTROL_TRIES):
            # Where the journal's files were made larger before, they have room for what comes when the disk is full.
            eager = Run(
                folder,
                f"client-{number}",
                mistake="acknowledge_before_the_commit",
                fault=disk.fault,
                namespaces=disk.namespaces,
            )
            run = processes.start(eager)
            _soon(run, history, lambda one: one.flushes >= 2, "two flushes")
            disk.fill()
            _soon(run, history, lambda one: len(one.flush_errors) >= 1, "a flush that fails")
            _soon(run, history, _acknowledged(run.submissions_acknowledged + 200 * (number + 1)), "credit")
            run.kill(history)
            disk.free()
            recovery = Run(folder, f"recovery-{number}", threads=0, namespaces=disk.namespaces)
            found = processes.start(recovery).read_to_the_end(history)
            violations = history.judge(found)
            if violations.lost:
                break
    figures(f"noticed: {violations}")
    assert violations.lost
