"""What a process takes from a settings file that changes, and what it keeps when the file is wrong."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from service.configuration import describe
from service.live_settings import LiveSettings
from service.settings import Settings
from service.sources import Sources
from storage.errors import CorruptData


class Process:
    """A process that follows a file, and the settings that it was told to use."""

    def __init__(self, path: Path, environ: dict[str, str], flags: dict[str, object]) -> None:
        self.path = path
        self.used: list[Settings] = []
        self.answers: Callable[[], bool] = lambda: True
        sources = Sources.of(config=path, environ=environ, flags=flags)
        self.live = LiveSettings.load(sources, now_us=lambda: 1_700_000_000_000_000)

    def apply(self, settings: Settings) -> bool:
        if not self.answers():
            return False
        self.used.append(settings)
        return True

    def look(self, times: int = 2) -> None:
        for _ in range(times):
            self.live.look(self.apply)

    def replace(self, content: str) -> None:
        """As an editor saves: a new file, renamed over the old one."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(content)
        os.replace(fresh, self.path)


@pytest.fixture
def process(tmp_path: Path) -> Process:
    path = tmp_path / "s.toml"
    path.write_text("flush_rows_max = 5\nport = 1\n")
    return Process(path, {"ACTIONLAKE_FLUSH_BYTES_MAX": "9"}, {"host": "::1"})


def test_a_change_is_taken_once_and_told(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "actionlake.settings")
    process.look()
    assert not process.used
    process.replace("flush_rows_max = 6\nflush_bytes_max = 10\nport = 2\nhost = 'localhost'\n")
    process.look(4)
    assert [one.flush_rows_max for one in process.used] == [6]
    in_force = process.live.in_force
    # Variables and flags stand above the file, and what is not live stays until a restart.
    assert (in_force.settings.flush_bytes_max, in_force.settings.host, in_force.settings.port) == (9, "::1", 1)
    told = describe(in_force, "s.toml")
    assert told["needsRestart"] == {"port": 2}
    assert told["settings"]["flush_rows_max"] == {
        "value": 6, "source": "file", "live": True, "changedAt": "2023-11-14T22:13:20.000Z",
    }  # fmt: skip
    assert {name: told["settings"][name]["source"] for name in ("flush_bytes_max", "host", "flush_partitions_max")} == {
        "flush_bytes_max": "environment",
        "host": "flag",
        "flush_partitions_max": "default",
    }
    messages = [one.getMessage() for one in caplog.records]
    assert messages == ["settings changed: flush_rows_max", f"port was changed in {process.path} and needs a restart"]


def test_half_a_file_is_not_taken(process: Process) -> None:
    # An editor that writes in place leaves, for a moment, an empty file, which says: all defaults.
    process.path.write_text("")
    process.look(1)
    process.path.write_text("flush_rows_max = 7\n")
    process.look(1)
    assert not process.used
    process.look(1)
    assert [one.flush_rows_max for one in process.used] == [7]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("flush_rows_max = ", "s.toml"),
        ("flush_rows_max = 0", "flush_rows_max"),
        ("flash_rows_max = 1", "flush_rows_max"),
        (None, "s.toml"),
    ],
)
def test_a_wrong_file_changes_nothing_and_is_told_once(
    process: Process, content: str | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = process.live.in_force.settings
    if content is None:
        process.path.unlink()
    else:
        process.path.write_text(content)
    process.look(5)
    assert process.live.in_force.settings is before
    assert not process.used
    error = process.live.in_force.error
    assert error is not None
    assert words in error
    assert describe(process.live.in_force, "")["error"] == error
    assert len([one for one in caplog.records if one.levelno == logging.ERROR]) == 1
    process.path.write_text("flush_rows_max = 8\n")
    process.look()
    assert process.live.in_force.error is None
    assert process.live.in_force.settings.flush_rows_max == 8


def test_what_the_store_does_not_take_is_tried_again(process: Process) -> None:
    process.replace("flush_rows_max = 6\n")

    def refuse() -> bool:
        raise CorruptData("column x is double")

    process.answers = refuse
    process.look(3)
    assert process.live.in_force.error == "column x is double"
    process.answers = lambda: False
    process.look(3)
    assert process.live.in_force.settings.flush_rows_max == 5
    process.answers = lambda: True
    process.look(1)
    assert process.live.in_force.settings.flush_rows_max == 6
    assert process.live.in_force.error is None


def test_a_file_that_appears_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sources = Sources.of(config=None, environ={}, flags={})
    live = LiveSettings.load(sources, now_us=int)
    used: list[Settings] = []
    # The file is the one of the folder in which the process began.
    monkeypatch.chdir("/")
    (tmp_path / "actionlake.toml").write_text("log_level = 'debug'\n")
    for _ in range(2):
        live.look(lambda settings: not used.append(settings))  # type: ignore[func-returns-value]
    assert [one.log_level for one in used] == ["debug"]
    # Gone again, nobody's types may vanish with it.
    (tmp_path / "actionlake.toml").unlink()
    for _ in range(2):
        live.look(lambda settings: not used.append(settings))  # type: ignore[func-returns-value]
    assert len(used) == 1
    assert "is gone" in (live.in_force.error or "")


def test_a_worker_that_starts_later_gets_what_is_in_force(process: Process) -> None:
    process.replace("flush_rows_max = 6\nport = 2\n")
    process.look()
    process.replace("not toml")
    process.look()
    worker = LiveSettings.take_over(process.live.hand_over(), now_us=int)
    settings = worker.in_force.settings
    assert (settings.flush_rows_max, settings.port, settings.flush_bytes_max, settings.host) == (6, 1, 9, "::1")
    process.replace("flush_rows_max = 7\n")
    for _ in range(2):
        worker.look(lambda _: True)
    # Nothing that was handed over stands above the file.
    assert worker.in_force.settings.flush_rows_max == 7
