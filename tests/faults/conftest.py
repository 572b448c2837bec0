"""Figures of the fault tests, printed where they are made and once more at the end of the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

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
    lines = config.stash.get(_FIGURES, [])
    if lines:
        terminalreporter.section("figures of the fault tests")
        for line in lines:
            terminalreporter.write_line(line)
