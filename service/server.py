"""`actionlake serve`: take the folder, recover it, and serve it by one process or several, beside their keeper.

The order of an end: no more connections are accepted, requests under way are answered, the keeper flushes what is
left, the folder is given back.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import uvicorn

from service.access import is_loopback
from service.connections import BoundedProtocol
from service.keeper_process import KeeperProcess
from service.live_settings import LiveSettings
from service.logs import configure_logging, use_log_level
from service.metrics import share_metrics
from service.settings import Settings, SettingsError
from service.sources import HANDED_OVER_VARIABLE, SUPERVISED_VARIABLE, unknown_variables
from service.store_settings import store_paths
from service.workers import Workers, listening
from storage.absent_modules import do_without
from storage.access_keys import KeyFile
from storage.clock import system_now_us
from storage.errors import StoreFailed
from storage.lake import Lake
from storage.opening import lock_and_recover
from storage.recovery import RecoveryReport

if TYPE_CHECKING:
    from service.gate import Gate

# A worker that does not answer its supervisor for so long is killed and replaced. One that starts answers when it has
# imported what it needs, which takes a second, and many seconds on a machine that is busy.
_WORKER_ANSWERS_WITHIN_S: Final = 60

_asked_to_end: Final = threading.Event()

_log = logging.getLogger("actionlake.serve")


def serve(live: LiveSettings) -> None:
    """Serve until SIGTERM or SIGINT; then drain, flush and return.

    Raises:
        SettingsError: the settings ask for something that is refused.
        StoreLocked: another service or import holds the folder.
        CorruptData: what is in the folder, the keys included, is damaged.
        StoreFailed: the disk does not take writes.
        OSError: the address cannot be bound.
    """
    do_without("pandas")
    settings = live.in_force.settings
    configure_logging(settings.log_level, settings.log_format)
    for variable, hint in unknown_variables(os.environ).items():
        _log.warning("%s is not a setting%s", variable, hint)
    require_safe_address(settings)
    if settings.cors_allowed_origins and not KeyFile(store_paths(settings)).path.exists():
        _log.warning("cors_allowed_origins is without effect as long as there are no keys")
    if settings.data.startswith("s3://"):
        raise SettingsError("data: s3:// is not supported by this version; give a folder")
    if settings.workers == 1:
        # Before there is anything that a signal must not interrupt.
        importlib.import_module("service.app")
    with listening(settings.host, settings.port, listeners=settings.workers) as listeners:
        _serve_from(live, listeners)


def _serve_from(live: LiveSettings, listeners: Sequence[socket.socket]) -> None:
    settings = live.in_force.settings
    host, port = listeners[0].getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    lock, report = lock_and_recover(
        store_paths(settings), settings.action_schema(), holder=f"pid {os.getpid()}, serving {url}"
    )
    # What a service that was killed had spilled, of rows that may have been erased since.
    shutil.rmtree(store_paths(settings).state / "query-temp", ignore_errors=True)
    # uvicorn raises the signal that stopped it once more, for whoever handled it before: nobody, so that this ends
    # in order, with exit code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_in_order)
    with lock, _shared_metrics(lock.path.parent / "metrics"), KeeperProcess(live):
        _tell(report)
        _log.info("serving %s over %s, workers=%d", url, settings.data, settings.workers)
        if settings.workers == 1:
            app = _app_of(live)
            if _asked_to_end.is_set():  # While a library was at work that takes every exception for its own.
                raise SystemExit(0)
            server = uvicorn.Server(_config(settings, app))
            server.run(sockets=list(listeners))
            if not server.started:
                raise StoreFailed("the service did not start; the log above says why")
        else:
            _supervise(live, listeners)


def _exit_in_order(_: int, __: FrameType | None) -> None:
    _asked_to_end.set()
    raise SystemExit(0)


def _app_of(live: LiveSettings) -> Gate:
    """Build the service. Only who serves needs all of it: the supervisor of several workers does not import it."""
    from service.app import create_app

    return create_app(live)


def _config(settings: Settings, app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # uvicorn takes an application or the name of its factory
        factory=isinstance(app, str),
        workers=settings.workers,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        # A client is who connects: whoever is on this machine could claim to be many, each with a share of its own.
        proxy_headers=False,
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, settings.shutdown_timeout_ms_max // 1000),
        timeout_worker_healthcheck=_WORKER_ANSWERS_WITHIN_S,
    )


def _supervise(live: LiveSettings, listeners: Sequence[socket.socket]) -> None:
    """Run the workers; they get their settings through the environment, and follow the settings file by themselves."""
    settings = live.in_force.settings
    os.environ[HANDED_OVER_VARIABLE] = live.hand_over()
    os.environ[SUPERVISED_VARIABLE] = str(os.getpid())

    def use(changed: Settings) -> bool:
        # Workers that are started later, for those that end, must find all columns in the table as well.
        if Lake(store_paths(settings).table, changed.action_schema()).missing_columns():
            return False
        use_log_level(changed.log_level)
        return True

    def hand_over() -> None:
        os.environ[HANDED_OVER_VARIABLE] = live.hand_over()

    live.follow(use, on_taken=hand_over)
    Workers(_config(settings, "service.app:app_from_environ"), listeners).run()
    live.stop()


@contextmanager
def _shared_metrics(folder: Path) -> Iterator[None]:
    """Let the processes of this service count into files of *folder*, from zero, so that each can tell of all."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    share_metrics(folder)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_safe_address(settings: Settings) -> None:
    """Refuse an address that others can reach while there is no key that could let anybody in.

    Raises:
        SettingsError: it is one.
        CorruptData: the keys cannot be read, whatever the address.
    """
    read = KeyFile(store_paths(settings)).read()
    now_us = system_now_us()
    has_keys = read is not None and any(not one.expired(now_us) for one in read.keys)
    if settings.insecure or has_keys or is_loopback(settings.host):
        return
    raise SettingsError(
        f"host: without keys the service binds to loopback only, and {settings.host!r} is not;"
        " `actionlake keys create` makes a key; --insecure serves everybody who can reach it, without any check"
    )


def _tell(report: RecoveryReport) -> None:
    if report.created:
        _log.info("made a new store")
    if report.journal_lost:
        _log.warning("the journal was gone and is made anew; what it held and the table did not is lost")
    if report.journal_rolled_back:
        _log.warning("the journal is older than the table, as after restoring a disk; it got a new id")
    for entry in report.removed_entries:
        _log.warning("removed a log entry that was not whole, its rows are in the journal: %s", entry)
    for damaged in report.damaged_files:
        _log.error("%s: restore the file from a backup, or the store; queries that need it fail", damaged)
    if report.rejects_lost:
        _log.warning("the table of rejects was gone and is made anew; rejects that were in it are lost")
    if report.trimmed:
        _log.info("trimmed %d rows that the table holds already", report.trimmed)
