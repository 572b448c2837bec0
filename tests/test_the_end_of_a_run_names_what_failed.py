"""However long messages are, the last lines of a run name the tests that failed, and its summary stays short."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import MESSAGE_CHARACTERS_MAX, shortened

ROOT = Path(__file__).resolve().parents[1]
TESTS = """
import pytest

@pytest.fixture
def broken():
    raise OSError("no such thing " + "y" * 50_000)

def test_one():
    assert not "x" * 50_000, "the log\\n" + "z" * 50_000

def test_two(broken):
    pass

def test_three():
    pass
"""


def test_failures_stand_in_the_last_lines(tmp_path: Path) -> None:
    tests = tmp_path / "test_it.py"
    tests.write_text(TESTS)
    # As where pytest gives whole messages in its summary.
    environment = {**os.environ, "CI": "true", "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-ra", "-c", os.devnull, "--rootdir", str(tmp_path)]
    command += ["-p", "tests.conftest", "-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:xdist", str(tests)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr[-1000:]
    _, _, summary = done.stdout.partition("short test summary info")
    assert "1 failed, 1 passed, 1 error" in summary, done.stdout[-1000:]
    *_, first, second = summary.splitlines()
    assert first.startswith("failed: test_it.py::test_one: test_it.py:9: AssertionError: the log"), first
    assert second.startswith("failed: test_it.py::test_two: test_it.py:6: OSError: no such thing yyy"), second
    assert len(summary) < 3_000


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    assert shortened("as it is") == "as it is"
    cut = shortened("begin" + "x" * 10_000 + "end")
    assert cut.startswith("begin")
    assert cut.endswith("end")
    assert len(cut) <= MESSAGE_CHARACTERS_MAX + 10
