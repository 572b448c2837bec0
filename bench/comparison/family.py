"""The contenders of one run, each in its process, asked in turn."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from bench.comparison.child import Reply, Request
from bench.comparison.questions import Question
from bench.errors import BenchFailed
from bench.processes import ROOT


class ContenderProcess:
    """A contender's process; a context manager."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder

    def __enter__(self) -> ContenderProcess:
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "bench.comparison.child", self.name, str(self._folder), str(writing)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[writing]
        )
        os.close(writing)
        self._replies = os.fdopen(reading, "rb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None, "it was made with a pipe"
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._replies.close()

    def _do(self, request: Request) -> Reply:
        assert self._process.stdin is not None, "it was made with a pipe"
        self._process.stdin.write(msgspec.json.encode(request) + b"\n")
        self._process.stdin.flush()
        line = self._replies.readline()
        if not line:
            raise BenchFailed(f"{self.name} ended with {self._process.wait()} while it was asked to {request.do}")
        reply = msgspec.json.decode(line, type=Reply)
        if reply.error is not None:
            raise BenchFailed(f"{self.name} could not {request.do}: {reply.error}")
        return reply

    def load(self, source: Sequence[Path]) -> float:
        """Have it take the actions; return the seconds."""
        return self._do(Request("load", source=[str(one) for one in source])).seconds[0]

    def open(self) -> float:
        """Have it open what it took; return the seconds."""
        return self._do(Request("open")).seconds[0]

    def ask(self, questions: Sequence[Question]) -> Sequence[float]:
        """Ask one after the other; return the seconds of each."""
        return self._do(Request("ask", questions=questions)).seconds

    def rows(self, question: Question) -> list[tuple[Any, ...]]:
        """The values of an answer, for comparing."""
        (rows,) = self._do(Request("ask", questions=[question], rows=True)).rows
        return [tuple(one) for one in rows]

    def sizes(self) -> dict[str, float]:
        """Bytes on disk and the most memory that the process ever had."""
        return self._do(Request("sizes")).figures
