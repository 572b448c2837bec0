"""Figures of the fault tests, printed where they are made and once more at the end of the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.traced_faults import can_trace

_FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that prints one line of figures, now and in the summary of the run."""
    lines = request.config.stash.setdefault(_FIGURES, [])

    def note(line: str) -> None:
        print(line)
        lines.append(f"{request.node.name}: {line}")

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures."""
    if not can_trace():
        terminalreporter.section("NOT PROVEN HERE")
        terminalreporter.write_line(
            "strace is not installed, or may not trace: no faults at system calls, no power cuts"
        )
    lines = config.stash.get(_FIGURES, [])
    if lines:
        terminalreporter.section("figures of the fault tests")
        for line in lines:
            terminalreporter.write_line(line)
