"""Figures of the fault tests, printed where they are made and once more at the end of the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.held_calls import can_hold
from tests.faults.traced_faults import can_trace

# A property of the test's report: the one thing that also arrives from a test process of several.
_PROPERTY = "figures"


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that prints one line of figures, now and in the summary of the run."""

    def note(line: str) -> None:
        print(line)
        request.node.user_properties.append((_PROPERTY, f"{request.node.name}: {line}"))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures."""
    missing = []
    if not can_trace():
        missing.append("strace is not installed, or may not trace: no power cuts, no failing syncs of one file")
    if not can_hold():
        missing.append("the kernel does not let a test hold system calls: no faults at every one of them")
    if missing:
        terminalreporter.section("NOT PROVEN HERE")
        for line in missing:
            terminalreporter.write_line(line)
    ended = [one for name in ("passed", "failed") for one in terminalreporter.getreports(name)]
    lines = [line for one in ended if one.when == "call" for name, line in one.user_properties if name == _PROPERTY]
    if lines:
        terminalreporter.section("figures of the fault tests")
        for line in lines:
            terminalreporter.write_line(line)
