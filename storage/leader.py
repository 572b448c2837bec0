"""The leader: the one process of a store that flushes, checkpoints and cleans up. Elected by a lock on a file."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from storage.errors import StoreError, StoreFailed
from storage.flush import Flusher, FlushLimits, FlushPlan, plan_flush
from storage.journal import Journal
from storage.leader_page import LeaderPage
from storage.locks import FileLock

# Also how long a flush that another process asks for waits at the most before it begins.
_TICK_S: Final = 0.02
_STANDBY_TICK_S: Final = 0.5
_BACKOFF_S_MAX: Final = 10.0
_WAL_CHECKPOINT_BYTES: Final = 16 * 1024 * 1024
_WAL_TRUNCATE_BYTES: Final = 64 * 1024 * 1024
_KEYS_CLEANUP_S: Final = 60.0

_log = logging.getLogger("actionlake.leader")


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """How long idempotency keys and their answers are kept, and how many bytes of them."""

    retention_us: int
    bytes_max: int


class Leader:
    """A thread that competes for the leader's lock and, while it holds it, keeps the journal short.

    An error never ends the thread: it is logged, counted by `on_error` and tried again with a growing pause. After a
    failure that latched the store the thread only waits, since nothing may be written any more.
    """

    def __init__(
        self,
        lock: FileLock,
        page: LeaderPage,
        journal: Journal,
        flusher: Callable[[], Flusher],
        *,
        limits: Callable[[], FlushLimits],
        keys: Callable[[], KeyLimits],
        journal_bytes_max: Callable[[], int],
        now_us: Callable[[], int],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._lock = lock
        self._page = page
        self._journal = journal
        self._make_flusher = flusher
        self._flusher: Flusher | None = None
        self._limits = limits
        self._keys = keys
        self._journal_bytes_max = journal_bytes_max
        self._now_us = now_us
        self._on_error = on_error
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._stepping = threading.Lock()
        self._next_keys_cleanup_us = 0
        self.last_error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="leader", daemon=True)
        self._thread.start()

    @property
    def leads(self) -> bool:
        """Whether this process is the leader now."""
        return self._lock.held

    def wake(self) -> None:
        """Look at the journal now instead of at the next tick."""
        self._wake.set()

    @contextmanager
    def between_flushes(self) -> Iterator[bool]:
        """Hold up flushing for a block; yields whether this process leads, and goes on to until the block ends."""
        with self._stepping:
            yield self._lock.held

    def stop(self) -> None:
        """End the thread after the step it is in; the lock stays held until `release`."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def flush_all(self) -> None:
        """Flush everything, after `stop`, if this process can lead. Another process may lead instead, and then does it.

        Raises:
            StoreError: as `Flusher.flush` does.
        """
        with self._stepping:
            if self._lock.try_acquire(f"pid {os.getpid()}"):
                state = self._journal.state()
                if state.depth:
                    self._require_flusher().flush(state.head)
                self._require_flusher().rejects.flush()

    def release(self) -> None:
        """Let another process lead."""
        with self._stepping:
            self._lock.release()

    def _require_flusher(self) -> Flusher:
        if self._flusher is None:
            self._flusher = self._make_flusher()
        return self._flusher

    def _run(self) -> None:
        pause_s = _TICK_S
        while not self._stopping.is_set():
            try:
                if self._lock.try_acquire(f"pid {os.getpid()}"):
                    with self._stepping:
                        flushed = self._step()
                    self.last_error = None
                    pause_s = 0.0 if flushed else _TICK_S
                else:
                    pause_s = _STANDBY_TICK_S
            except StoreFailed as error:
                self._note(error)
                pause_s = _BACKOFF_S_MAX
            except (StoreError, OSError) as error:
                _log.warning("flushing failed and is tried again: %s", error)
                self._note(error)
                pause_s = min(_BACKOFF_S_MAX, max(0.5, pause_s * 2))
            except Exception as error:  # noqa: BLE001
                _log.exception("flushing failed unexpectedly and is tried again")
                self._note(error)
                pause_s = min(_BACKOFF_S_MAX, max(0.5, pause_s * 2))
            self._wake.wait(pause_s)
            self._wake.clear()

    def _note(self, error: BaseException) -> None:
        self.last_error = error
        self._page.note_error(error)
        self._on_error(error)

    def _flush(self, plan: FlushPlan) -> None:
        """Flush, and tell the others how fast that goes."""
        drained, started_s = self._journal.trimmed_bytes, time.monotonic()
        self._page.note_flush_begins()
        self._require_flusher().flush(plan.through, to_the_end=plan.to_the_end, between=self._keep_log_short)
        self._page.note_flush_ended(
            drained_bytes=self._journal.trimmed_bytes - drained, seconds=time.monotonic() - started_s
        )

    def _keep_log_short(self) -> None:
        """Copy the write-ahead log into the database, and empty it, when it has become long.

        Also between the commits of a long flush, during which submissions go on. Emptying the log holds up appends, so
        that under load it waits until it is worth it.
        """
        journal_bytes_max = self._journal_bytes_max()
        wal_bytes = self._journal.wal_bytes()
        if wal_bytes > min(_WAL_CHECKPOINT_BYTES, journal_bytes_max // 16):
            self._journal.checkpoint(truncate=wal_bytes > min(_WAL_TRUNCATE_BYTES, journal_bytes_max // 8))

    def _step(self) -> bool:
        """Do what is due; return whether there was something to flush, so that there may be more."""
        now_us = self._now_us()
        self._page.note_look(now_us)
        state = self._journal.state()
        oldest = self._journal.oldest_received_at_us() if state.depth else None
        plan = plan_flush(state, oldest_received_at_us=oldest, now_us=now_us, limits=self._limits())
        if plan is not None:
            self._flush(plan)
            idle = self._journal.state().depth == 0
            # Under load, the next rows take what is free, so that only what exceeds a flush's worth is given back.
            # Before the checkpoint, which is what makes the file shorter, and so that the log ends up empty.
            self._journal.shrink(free_bytes_kept=0 if idle else self._limits().bytes_max)
            if idle:
                self._journal.checkpoint(truncate=True)
        if plan is None or not idle:
            self._keep_log_short()
        self._require_flusher().rejects.flush_if_due()
        if now_us >= self._next_keys_cleanup_us:
            keys = self._keys()
            self._journal.forget_idempotency_keys(before_us=now_us - keys.retention_us, bytes_max=keys.bytes_max)
            self._next_keys_cleanup_us = now_us + int(_KEYS_CLEANUP_S * 1_000_000)
        return plan is not None
