"""One contender in a process of its own: `python -m bench.comparison.child NAME FOLDER FD`, one request a line.

A process of its own keeps the memory and the threads of one library out of the figures of another, and lets a cold
start be a new process. The clock runs here, around the call that answers, so that the pipe between is not measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.comparison.catalogue import BY_NAME
from bench.comparison.contender import Contender
from bench.comparison.questions import Question
from bench.processes import peak_rss_bytes


class Request(msgspec.Struct, omit_defaults=True):
    """Create, take, finish, open, ask, or tell sizes.

    Attributes:
        do: what is to be done.
        source: for `take`, the file.
        questions: for `ask`, asked one after the other.
        rows: whether the values of the answers are wanted, too.
        seconds_max: no more questions are asked after this time, but one is.
    """

    do: str
    source: str = ""
    questions: Sequence[Question] = ()
    rows: bool = False
    seconds_max: float = 3600.0


class Reply(msgspec.Struct, omit_defaults=True):
    """What came of it: seconds for each question that was asked, their rows if wanted, or figures."""

    seconds: Sequence[float] = ()
    rows: Sequence[Any] = ()
    figures: dict[str, float] = {}
    error: str | None = None


def answer(contender: Contender, folder: Path, request: Request) -> Reply:
    """Do what is asked."""
    match request.do:
        case "create":
            return _timed(lambda: contender.create(folder))
        case "take":
            return _timed(lambda: contender.take(Path(request.source)))
        case "finish":
            return _timed(contender.finish)
        case "open":
            return _timed(lambda: contender.open(folder))
        case "answers":
            return Reply(figures={"answers": float(all(map(contender.answers, request.questions)))})
        case "ask":
            return _ask(contender, request)
        case "sizes":
            peaks = [peak for pid in contender.pids() if (peak := peak_rss_bytes(pid)) is not None]
            return Reply(figures=contender.bytes_on_disk(folder) | {"peak_rss_bytes": float(sum(peaks))})
        case _:
            raise ValueError(f"{request.do} is not known")


def _timed(do: Callable[[], None]) -> Reply:
    began_s = time.perf_counter()
    do()
    return Reply(seconds=[time.perf_counter() - began_s])


def _ask(contender: Contender, request: Request) -> Reply:
    seconds, rows = [], []
    for question in request.questions:
        began_s = time.perf_counter()
        got = contender.ask(question)
        seconds.append(time.perf_counter() - began_s)
        if request.rows:
            rows.append(contender.rows(got, question))
        elif sum(seconds) > request.seconds_max:
            break
    return Reply(seconds=seconds, rows=rows)


def main() -> None:
    """Answer requests from standard input until it ends; whatever goes wrong is told in the reply."""
    contender, folder = BY_NAME[sys.argv[1]].make(), Path(sys.argv[2])
    decoder = msgspec.json.Decoder(Request)
    # Libraries print to standard output as they like; replies have a descriptor of their own.
    replies = open(int(sys.argv[3]), "wb", buffering=0)  # noqa: SIM115 - open as long as the process
    opened = False
    try:
        for line in sys.stdin.buffer:
            request = decoder.decode(line)
            try:
                reply = answer(contender, folder, request)
            except Exception as error:  # noqa: BLE001 - the parent raises it again
                reply = Reply(error=f"{type(error).__name__}: {error}")
            else:
                opened = opened or request.do in ("create", "open")
            replies.write(msgspec.json.encode(reply) + b"\n")
    finally:
        if opened:
            contender.close()


if __name__ == "__main__":
    main()
