"""The settings that are in force in one process, which follow the settings file while the service runs.

The file's content is read twice a second: it is small, that works on every file system, and it sees what a watch for
events or a comparison of times and sizes misses: a file replaced by rename, one that appears, one on a network folder.
A content is looked at once two readings in a row found the same, so that half of a file being written is not taken.

A file that is wrong, or that the store cannot follow, changes nothing: all settings stay as they are, `error` says why,
and it is tried again at every reading. Each process follows the file by itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from service.settings import LIVE, SETTING_TYPES, Settings, SettingsError
from service.sources import Origin, Resolved, Sources
from storage.errors import StoreError

_POLL_S: Final = 0.5

_log = logging.getLogger("actionlake.settings")


@dataclass(frozen=True, slots=True)
class InForce:
    """What is in force at one moment.

    Attributes:
        settings: all values.
        origins: name → where its value is from.
        changed_at_us: name → when its value was last changed while this process ran, in microseconds since the epoch.
        needs_restart: name → the value that the file has now, where it takes effect with the next start only.
        error: why the file as it is now is not in force, or None.
    """

    settings: Settings
    origins: Mapping[str, Origin]
    changed_at_us: Mapping[str, int]
    needs_restart: Mapping[str, Any]
    error: str | None


class HandedOver(msgspec.Struct, frozen=True):
    """What a supervisor gives its workers: its sources, the values of its start, and the file's content in force.

    The values are not merged, so that a file that changes later is not overridden by what an earlier one said.
    """

    sources: Sources
    settings: Settings
    origins: dict[str, Origin]
    file: bytes | None


class LiveSettings:
    """Follows one settings file. `in_force` may be read from any thread.

    Args:
        sources: where settings come from.
        started: the values that the service was started with.
        file: the content of the file that is in force.
        now_us: the clock.
    """

    def __init__(self, sources: Sources, started: Resolved, file: bytes | None, *, now_us: Callable[[], int]) -> None:
        self.sources = sources
        self._started = started
        self._file = file
        self._now_us = now_us
        self._seen: bytes | str | None = file
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        resolved = sources.resolve(file)
        self.in_force = InForce(*self._mixed(resolved), {}, self._pending(resolved), None)

    @classmethod
    def load(cls, sources: Sources, *, now_us: Callable[[], int]) -> LiveSettings:
        """Read the settings for the first time.

        Raises:
            SettingsError: the file cannot be read, a name is unknown, or a value is not allowed.
        """
        file = sources.read_file()
        return cls(sources, sources.resolve(file), file, now_us=now_us)

    @classmethod
    def take_over(cls, handed_over: str, *, now_us: Callable[[], int]) -> LiveSettings:
        """Begin, in a worker, with what is in force in its supervisor."""
        given = msgspec.json.decode(handed_over, type=HandedOver)
        plain = given.sources
        sources = msgspec.structs.replace(plain, flags=_typed(plain.flags), variables=_typed(plain.variables))
        return cls(sources, Resolved(given.settings, given.origins), given.file, now_us=now_us)

    def hand_over(self) -> str:
        """What `take_over` takes, as text."""
        started = self._started
        handed_over = HandedOver(self.sources, started.settings, dict(started.origins), self._file)
        return msgspec.json.encode(handed_over).decode()

    def follow(self, apply: Callable[[Settings], bool], *, on_taken: Callable[[], None] = lambda: None) -> None:
        """Start to follow the file, in a thread.

        Args:
            apply: puts other settings into force; returns False, having changed nothing, if it cannot be done yet.
                Raises StoreError, having changed nothing, if the store does not take them.
            on_taken: called when another content of the file is in force.
        """

        def run() -> None:
            while not self._stopping.wait(_POLL_S):
                try:
                    before = self._file
                    self.look(apply)
                    if self._file != before:
                        on_taken()
                except Exception:  # noqa: BLE001 - the thread must live on; it is logged
                    _log.exception("following the settings file failed unexpectedly and is tried again")

        self._thread = threading.Thread(target=run, name="settings", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Follow the file no longer."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def look(self, apply: Callable[[Settings], bool]) -> None:
        """Look at the file once; see `follow`."""
        file: bytes | None = None
        error: str | None = None
        try:
            file = self._read()
        except SettingsError as wrong:
            error = str(wrong)
        seen, self._seen = self._seen, file if error is None else error
        if self._seen != seen:
            return
        if error is None and file != self._file:
            try:
                if not self._take(file, apply):
                    return
            except (SettingsError, StoreError) as wrong:
                error = str(wrong)
        if error != self.in_force.error:
            self._tell(error)
            self.in_force = replace(self.in_force, error=error)

    def _read(self) -> bytes | None:
        file = self.sources.read_file()
        if file is None and self._file is not None:
            raise SettingsError(f"{self.sources.config} is gone; restart the service to do without it")
        return file

    def _take(self, file: bytes | None, apply: Callable[[Settings], bool]) -> bool:
        resolved = self.sources.resolve(file)
        settings, origins = self._mixed(resolved)
        before = self.in_force
        changed = [name for name in LIVE if getattr(settings, name) != getattr(before.settings, name)]
        if changed and not apply(settings):
            return False
        now_us = self._now_us()
        pending = self._pending(resolved)
        self._file = file
        self.in_force = InForce(
            settings, origins, {**before.changed_at_us, **dict.fromkeys(changed, now_us)}, pending, before.error
        )
        if changed:
            _log.info("settings changed: %s", ", ".join(sorted(changed)))
        for name in pending.keys() - before.needs_restart.keys():
            _log.warning("%s was changed in %s and needs a restart", name, self.sources.config)
        return True

    def _mixed(self, resolved: Resolved) -> tuple[Settings, Mapping[str, Origin]]:
        """What is in force by *resolved*: its values for what is live, those of the start for everything else."""
        live = {name: getattr(resolved.settings, name) for name in LIVE}
        origins = {
            name: origin if name in LIVE else self._started.origins[name] for name, origin in resolved.origins.items()
        }
        return msgspec.structs.replace(self._started.settings, **live), origins

    def _pending(self, resolved: Resolved) -> dict[str, Any]:
        values = {name: getattr(resolved.settings, name) for name in Settings.__struct_fields__ if name not in LIVE}
        return {name: value for name, value in values.items() if value != getattr(self._started.settings, name)}

    def _tell(self, error: str | None) -> None:
        if error is None:
            _log.info("the settings file is right again")
        else:
            _log.error("the settings file is not followed, everything stays as it is: %s", error)


def _typed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: msgspec.convert(value, SETTING_TYPES[name]) for name, value in values.items()}
