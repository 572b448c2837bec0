"""A contender's process, as the benchmark sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec

from bench.comparison.catalogue import Entry
from bench.comparison.child import Reply, Request
from bench.comparison.questions import Question
from bench.errors import BenchFailed
from bench.processes import ROOT

_END_TIMEOUT_S: Final = 60.0


class ContenderProcess:
    """A contender in a process of its own; as a context manager it leaves nothing running."""

    def __init__(self, entry: Entry, folder: Path) -> None:
        self.entry = entry
        self._folder = folder

    def __enter__(self) -> ContenderProcess:
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "bench.comparison.child", self.entry.name, str(self._folder), str(writing)]
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
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._replies.close()

    def _do(self, request: Request) -> Reply:
        assert self._process.stdin is not None, "it was made with a pipe"
        try:
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            line = b""
        else:
            line = self._replies.readline()
        if not line:
            raise BenchFailed(f"{self.entry.title} ended with {self._process.wait()} while asked to {request.do}")
        reply = msgspec.json.decode(line, type=Reply)
        if reply.error is not None:
            raise BenchFailed(f"{self.entry.title} could not {request.do}: {reply.error}")
        return reply

    def create(self) -> float:
        """Have it begin; return the seconds."""
        return self._do(Request("create")).seconds[0]

    def take(self, source: Path) -> float:
        """Have it take the actions of a file; return the seconds."""
        return self._do(Request("take", source=str(source))).seconds[0]

    def finish(self) -> float:
        """Have it make ready what it took; return the seconds."""
        return self._do(Request("finish")).seconds[0]

    def open(self) -> float:
        """Have it open what it took; return the seconds."""
        return self._do(Request("open")).seconds[0]

    def answers(self, questions: Sequence[Question]) -> bool:
        """Whether it has answers to all of them."""
        return bool(self._do(Request("answers", questions=questions)).figures["answers"])

    def ask(self, questions: Sequence[Question], *, seconds_max: float) -> Sequence[float]:
        """Ask one after the other, as long as the time is not over; return the seconds of each."""
        return self._do(Request("ask", questions=questions, seconds_max=seconds_max)).seconds

    def rows(self, question: Question) -> list[tuple[Any, ...]]:
        """The values of an answer, for comparing."""
        (rows,) = self._do(Request("ask", questions=[question], rows=True)).rows
        return [tuple(one) for one in rows]

    def sizes(self) -> dict[str, float]:
        """Bytes on disk, and the most memory that its processes ever had."""
        return self._do(Request("sizes")).figures
