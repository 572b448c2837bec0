"""The services of tests are forked, with their keeper and workers; each of these runs as it does when it is started."""

from __future__ import annotations

from pathlib import Path

from tests.service.running_service import action, running_service, submission
from tests.storage.building import eventually


def _command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sorted(int(child) for task in tasks for child in (task / "children").read_text().split())


def test_none_is_replaced_by_one_that_starts_python_anew(tmp_path: Path) -> None:
    with running_service(tmp_path / "data", "--workers", "2") as service:
        assert service.submit(submission("u", action())).json()["accepted"] == 1
        service.flush()
        forked = [["python", "-c", "spawn_main"], ["python", "-c", "spawn_main"], ["python", "-m", "service.keeper"]]

        def of_python() -> list[list[str]]:
            commands = [_command(pid) for pid in _children(service.process.pid)]
            return sorted(command for command in commands if command[0] == "python")

        # Each shows so as soon as it runs.
        eventually(lambda: of_python() == forked)
        commands = [_command(pid) for pid in _children(service.process.pid)]
        # What is left is a helper of multiprocessing.
        assert len(commands) == 4, commands
        log = service.log()
    assert "Traceback" not in log, log
    assert "died" not in log, log
