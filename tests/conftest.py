"""What a run says of its failures, short in the summary and by name in the very last lines; and how it is kept short.

Whoever reads the end of a long output, which is all that some machines keep, must find there which tests failed.
Tracebacks above the summary stay as they are.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings

# How long an example takes is the machine's affair, which may halt any process for as long as it likes.
settings.register_profile("suite", settings.default, deadline=None)
settings.load_profile("suite")

# Of the message that the summary gives of a failed test; pytest gives all of it where the variable `CI` is set.
MESSAGE_CHARACTERS_MAX: Final = 300
# Of the tests that the last lines name, and of what they say of each.
NAMED_MAX: Final = 12
_REASON_CHARACTERS_MAX: Final = 160


def _import_modules(session: pytest.Session) -> None:
    """Let processes that collect the whole suite at once begin with different modules.

    pytest compiles each, which takes longer than all else of the collection; what one process has compiled, the others
    read.
    """
    given: dict[str, int | str] | None = getattr(session.config, "workerinput", None)
    whole = session.config.args_source == pytest.Config.ArgsSource.TESTPATHS
    if given is None or not whole or sys.dont_write_bytecode:
        return
    folder = Path(__file__).parent
    modules = [".".join(path.relative_to(folder.parent).with_suffix("").parts) for path in folder.rglob("test_*.py")]
    modules.sort()
    first = len(modules) * int(str(given["workerid"]).removeprefix("gw")) // int(given["workercount"])
    for module in modules[first:] + modules[:first]:
        # The collection, which imports it again then, reports it.
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(module)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Have no garbage looked for while tests are collected, nor ever among what their modules hold from then on.

    That is so much that looking through it takes a fifth of the time of the tests.
    """
    gc.disable()
    try:
        _import_modules(session)
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def shortened(message: str) -> str:
    """Cut a message in the middle where it is long: its beginning says what was wrong, its end often how it ended."""
    if len(message) <= MESSAGE_CHARACTERS_MAX:
        return message
    half = MESSAGE_CHARACTERS_MAX // 2
    return f"{message[:half]} […] {message[-half:]}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Shorten what the summary says of a test."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        crash.message = shortened(crash.message)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """After everything else that a run says, name the tests that failed."""
    result = yield
    reporter: pytest.TerminalReporter | None = session.config.pluginmanager.get_plugin("terminalreporter")
    # A process of several that run the tests reports to the one that started them.
    if reporter is not None and not hasattr(session.config, "workerinput"):
        failed = [*reporter.getreports("failed"), *reporter.getreports("error")]
        for report in failed[:NAMED_MAX]:
            reporter.write_line(f"failed: {report.nodeid}: {_reason(report)}")
        if len(failed) > NAMED_MAX:
            reporter.write_line(f"failed: {len(failed) - NAMED_MAX} more")
    return result


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The place where a test failed, and the first line of why."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return " ".join(str(report.longrepr).split())[-_REASON_CHARACTERS_MAX:]
    first_line = (crash.message.splitlines() or [""])[0][:_REASON_CHARACTERS_MAX]
    return f"{crash.path.rpartition('/')[2]}:{crash.lineno}: {first_line}"
