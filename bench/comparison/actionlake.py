"""Actionlake as a contender: over REST as an application asks it, and in process without HTTP."""

from __future__ import annotations

import datetime
import http.client
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.parquet as pq

from bench.comparison.actions import JOURNAL
from bench.comparison.contenders import Contender, Row, folder_bytes, micros, table_rows
from bench.comparison.questions import DAILY, Question, funnel_sql
from bench.errors import BenchFailed
from bench.opponents import ACTIONLAKE
from bench.processes import ServerProcess, free_port
from queries.engine import Engine, EngineLimits
from queries.pruning import RetrievalFilter
from queries.retrieval import RetrievalRequest, retrieve_page
from storage.data_files import WrittenFile, sort_rows, write_partitions
from storage.lake import Lake
from storage.paths import StorePaths
from storage.schema import ActionSchema
from storage.store import StoreOptions, open_store, read_store

_PAGE_ROWS: Final = 10_000
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def write_store(source: Sequence[Path], folder: Path) -> None:
    """Write the actions as flushes write them: one commit for each *source* file, sorted files by day and type."""
    schema, paths = ActionSchema(), StorePaths.of(folder)
    store, _ = open_store(paths, schema, StoreOptions(), holder="the benchmark")
    store.close(flush=False)
    lake = Lake(paths.table, schema)
    for number, path in enumerate(source):
        rows = pq.read_table(path, schema=schema.table_schema)
        files: list[WrittenFile] = write_partitions(sort_rows(rows), paths.table)
        # As the rows of other nodes are: the folder's own journal never held these.
        version = lake.append(files, journal=f"{JOURNAL}-{number}", after=0, watermark=1)
        lake.sync(after_version=version - 1, through_version=version)


class ActionlakeRest(Contender):
    """A served folder, asked over one keep-alive connection."""

    name = "actionlake"
    title = "Actionlake over REST"

    def load(self, source: Sequence[Path], folder: Path) -> None:
        write_store(source, folder)

    def open(self, folder: Path) -> None:
        port = free_port()
        self._server = ServerProcess(ACTIONLAKE.command(folder, port), folder.parent / "server.log")
        self._server.__enter__()
        self._server.wait_ready(f"http://127.0.0.1:{port}/health/ready")
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def ask(self, question: Question) -> bytes:
        if question.counts:
            sql = DAILY if question.kind == "daily" else funnel_sql(question)
            return self._answer("POST", "/api/sql", json.dumps({"sql": sql}).encode())
        parameters: dict[str, object] = {}
        if question.user is not None:
            parameters["userId"] = question.user
        if question.type is not None:
            parameters["logType"] = question.type
        if question.from_us is not None and question.to_us is not None:
            parameters |= {"fromTime": _text(question.from_us), "toTime": _text(question.to_us - 1)}
        if question.newest is not None:
            parameters |= {"order": "desc", "limit": question.newest}
        elif not question.columnar:
            parameters["limit"] = _PAGE_ROWS
        if question.columnar:
            parameters["format"] = "arrow"
        return self._answer("GET", f"/api/retrievelogs?{urlencode(parameters)}", None)

    def _answer(self, method: str, target: str, body: bytes | None) -> bytes:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        self._connection.request(method, target, body, headers)
        response = self._connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise BenchFailed(f"{method} {target} answered {response.status}: {content[:500]!r}")
        return content

    def rows(self, answer: bytes, question: Question) -> list[Row]:
        if question.columnar:
            with pa.ipc.open_stream(answer) as stream:
                return table_rows(stream.read_all(), question)
        content = json.loads(answer)
        if question.counts:
            return [tuple(row.values()) for row in content["rows"]]
        if content["next"] is not None and question.newest is None:
            raise BenchFailed(f"{question} has more than one page")
        return _log_rows(answer)

    def bytes_on_disk(self, folder: Path) -> dict[str, int]:
        """The table with its log, and everything else as caches."""
        table = folder_bytes(folder / "actions")
        return {"data": table, "caches": folder_bytes(folder) - table}

    def pids(self) -> list[int]:
        """The processes of the server."""
        return self._server.pids()

    def close(self) -> None:
        self._connection.close()
        self._server.__exit__(None, None, None)


class ActionlakeInProcess(Contender):
    """The retrieval of the service, without HTTP; only questions about actions, a page at a time."""

    name = "actionlake-in-process"
    title = "Actionlake in process"

    def load(self, source: Sequence[Path], folder: Path) -> None:
        """It reads what `ActionlakeRest` has loaded."""

    def open(self, folder: Path) -> None:
        self._store = read_store(StorePaths.of(folder), ActionSchema())
        self._engine = Engine(EngineLimits(), folder.parent / "engine-temp")

    def ask(self, question: Question) -> Sequence[str]:
        to_us = None if question.to_us is None else question.to_us - 1
        asked = RetrievalFilter(question.user, question.type, question.from_us, to_us)
        order, limit = ("desc", question.newest) if question.newest else ("asc", _PAGE_ROWS)
        with self._engine.connect() as connection:
            request = RetrievalRequest(asked, order, limit)  # type: ignore[arg-type]
            return retrieve_page(connection, self._store.read_view(), request).rows

    def rows(self, answer: Sequence[str], question: Question) -> list[Row]:
        return _log_rows(f'{{"logs":[{",".join(answer)}]}}'.encode())

    def close(self) -> None:
        self._engine.close()
        self._store.close(flush=False)


def _log_rows(answer: bytes) -> list[Row]:
    """Time, type and the text of properties of each log; the texts here hold no blanks, so that they are told again."""
    logs: list[dict[str, Any]] = json.loads(answer)["logs"]
    return [
        (
            micros(datetime.datetime.fromisoformat(one["time"])),
            one["type"].lower(),
            json.dumps(one["properties"], separators=(",", ":")),
        )
        for one in logs
    ]


def _text(time_us: int) -> str:
    return (_EPOCH + datetime.timedelta(microseconds=time_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
