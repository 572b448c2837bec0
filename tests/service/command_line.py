"""The `actionlake` command, run within the test's own process.

Starting a process and importing the libraries takes longer than what most commands do. That the installed command
works as a process is seen where the documentation's snippets are run, and by tests that are about processes.
"""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

from click.testing import CliRunner

from service.cli import main


def actionlake(*arguments: str | Path, stdin: str | None = None) -> CompletedProcess[str]:
    """Run a command to its end and return what a process would; an error that it does not report itself is raised."""
    command = [str(one) for one in arguments]
    ended = CliRunner().invoke(main, command, input=stdin, catch_exceptions=False)
    return CompletedProcess(command, ended.exit_code, ended.stdout, ended.stderr)
