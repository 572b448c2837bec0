"""Figures of the fault tests, printed where they are made and once more at the end of the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

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
    if not can_trace():
        terminalreporter.section("NOT PROVEN HERE")
        terminalreporter.write_line(
            "strace is not installed, or may not trace: no faults at system calls, no power cuts"
        )
    ended = [one for name in ("passed", "failed") for one in terminalreporter.getreports(name)]
    lines = [line for one in ended if one.when == "call" for name, line in one.user_properties if name == _PROPERTY]
    if lines:
        terminalreporter.section("figures of the fault tests")
        for line in lines:
            terminalreporter.write_line(line)
