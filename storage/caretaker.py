"""The caretaker: a thread that does the table's upkeep while its process leads, one chore after another.

Flushing has a thread of its own (`storage.leader`), so that no acknowledged row waits for a compaction. Chores never
run two at once in one store; that they are right even if they did, from two processes say, is the business of each.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from storage.errors import RewriteConflict, StoreError

_TICK_S: Final = 0.5
_BACKOFF_S_MAX: Final = 60.0

_log = logging.getLogger("actionlake.caretaker")


@dataclass(frozen=True, slots=True)
class Chore:
    """Something that is looked at regularly.

    Attributes:
        name: for logs and metrics.
        interval_s: how long after one look the next one is due; `Caretaker.wake` makes all chores due.
        run: looks, and does a bounded amount of what there is to do; returns whether there is more, in which case it
            is called again at once, after the other chores that are due.
    """

    name: str
    interval_s: float
    run: Callable[[], bool]


class Caretaker:
    """Runs chores while `leads()` is true. An error never ends the thread: it is told, and tried again with a pause."""

    def __init__(
        self,
        chores: Sequence[Chore],
        *,
        leads: Callable[[], bool],
        on_error: Callable[[str, BaseException], None] = lambda _name, _error: None,
    ) -> None:
        self._chores = tuple(chores)
        self._leads = leads
        self._on_error = on_error
        self._due_s = dict.fromkeys((chore.name for chore in self._chores), 0.0)
        self._failures = dict.fromkeys(self._due_s, 0)
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="caretaker", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Make every chore due now."""
        self._due_s = dict.fromkeys(self._due_s, 0.0)
        self._wake.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called; a long chore looks at this between its steps."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """End the thread after the step that it is in."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._leads():
                for chore in self._chores:
                    if not self._stopping.is_set() and self._due_s[chore.name] <= time.monotonic():
                        self._do(chore)
            self._wake.wait(_TICK_S)
            self._wake.clear()

    def _do(self, chore: Chore) -> None:
        pause_s = chore.interval_s
        due_s = self._due_s
        try:
            if chore.run():
                pause_s = 0.0
            self._failures[chore.name] = 0
        except RewriteConflict as error:
            _log.info("%s was overtaken and plans again: %s", chore.name, error)
            pause_s = _TICK_S
        except Exception as error:  # noqa: BLE001 - the thread must live on; the error is told and counted
            self._failures[chore.name] += 1
            pause_s = min(_BACKOFF_S_MAX, 2.0 ** self._failures[chore.name])
            if isinstance(error, StoreError | OSError):
                _log.warning("%s failed and is tried again in %.0f s: %s", chore.name, pause_s, error)
            else:
                _log.exception("%s failed unexpectedly and is tried again in %.0f s", chore.name, pause_s)
            self._on_error(chore.name, error)
        # If everything was made due meanwhile, so is what has just been done by what held before.
        due_s[chore.name] = time.monotonic() + pause_s
