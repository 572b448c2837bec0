"""One contender in a process of its own: `python -m bench.comparison.child NAME FOLDER`, one request a line.

A process of its own keeps the memory and the threads of one library out of the figures of another, and lets a cold
start be a new process. The clock runs here, around the call that answers, so that the pipe between is not measured.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.comparison.actionlake import ActionlakeInProcess, ActionlakeRest
from bench.comparison.contenders import ClickHouse, Contender, DuckDbGlob, PolarsScan, Sqlite
from bench.comparison.questions import Question

CONTENDERS: Final[dict[str, Contender]] = {
    one.name: one
    for one in (
        ActionlakeRest(),
        ActionlakeInProcess(),
        ClickHouse("clickhouse", "user_id, time"),
        ClickHouse("clickhouse-by-time", "time"),
        DuckDbGlob(),
        PolarsScan(),
        Sqlite(),
    )
}


class Request(msgspec.Struct, omit_defaults=True):
    """Load, open, ask, or tell sizes.

    Attributes:
        do: what is to be done.
        source: for `load`, the files.
        questions: for `ask`, asked one after the other.
        rows: whether the values of the answers are wanted, too.
    """

    do: str
    source: Sequence[str] = ()
    questions: Sequence[Question] = ()
    rows: bool = False


class Reply(msgspec.Struct, omit_defaults=True):
    """What came of it: seconds for each question, their rows if wanted, or figures."""

    seconds: Sequence[float] = ()
    rows: Sequence[Any] = ()
    figures: dict[str, float] = {}  # noqa: RUF012 - msgspec copies defaults
    error: str | None = None


def answer(contender: Contender, folder: Path, request: Request) -> Reply:
    """Do what is asked."""
    match request.do:
        case "load":
            began_s = time.perf_counter()
            contender.load([Path(one) for one in request.source], folder)
            return Reply(seconds=[time.perf_counter() - began_s])
        case "open":
            began_s = time.perf_counter()
            contender.open(folder)
            return Reply(seconds=[time.perf_counter() - began_s])
        case "ask":
            seconds, rows = [], []
            for question in request.questions:
                began_s = time.perf_counter()
                got = contender.ask(question)
                seconds.append(time.perf_counter() - began_s)
                if request.rows:
                    rows.append(contender.rows(got, question))
            return Reply(seconds=seconds, rows=rows)
        case "sizes":
            peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            return Reply(figures=contender.bytes_on_disk(folder) | {"peak_rss_bytes": peak_bytes})
        case _:
            raise ValueError(f"{request.do} is not known")


def main() -> None:
    """Answer requests from standard input until it ends; whatever goes wrong is told in the reply."""
    contender, folder = CONTENDERS[sys.argv[1]], Path(sys.argv[2])
    decoder = msgspec.json.Decoder(Request)
    # Libraries print to standard output as they like; replies have a descriptor of their own.
    replies = open(int(sys.argv[3]), "wb", buffering=0)  # noqa: SIM115 - open as long as the process
    try:
        for line in sys.stdin.buffer:
            try:
                reply = answer(contender, folder, decoder.decode(line))
            except Exception as error:  # noqa: BLE001 - the parent raises it again
                reply = Reply(error=f"{type(error).__name__}: {error}")
            replies.write(msgspec.json.encode(reply) + b"\n")
    finally:
        contender.close()


if __name__ == "__main__":
    main()
