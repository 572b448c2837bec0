"""Actionlake as a contender: over REST as an application asks it, and in process without HTTP."""

from __future__ import annotations

import datetime
import http.client
import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.parquet as pq

from bench.comparison.actions import JOURNAL
from bench.comparison.contender import DATA, EPOCH, Contender, Reader, Row, folder_bytes, micros, table_rows
from bench.comparison.questions import DAILY, Question, funnel_sql
from bench.errors import BenchFailed
from bench.opponents import ACTIONLAKE
from bench.processes import ServerProcess, free_port
from queries.engine import Engine, EngineLimits
from queries.file_index import RetrievalFilter
from queries.local_sql import LocalSql
from queries.retrieval import RetrievalRequest, retrieve_page
from queries.sources import Order
from storage.data_files import WrittenFile, sort_rows, write_partitions
from storage.lake import Lake
from storage.opening import open_store, read_store
from storage.paths import StorePaths
from storage.schema import ActionSchema
from storage.store_options import StoreOptions

_PAGE_ROWS: Final = 10_000


class ActionlakeRest(Contender):
    """A served folder, asked over one keep-alive connection."""

    def __init__(self) -> None:
        self._server: ServerProcess | None = None

    def create(self, folder: Path) -> None:
        self._paths, self._schema = StorePaths.of(folder / DATA), ActionSchema()
        store, _ = open_store(self._paths, self._schema, StoreOptions(), holder="the benchmark")
        store.close(flush=False)
        self._lake = Lake(self._paths.table, self._schema)
        self._taken = 0

    def take(self, source: Path) -> None:
        """As a flush writes them: sorted files by day and type, in one commit."""
        rows = pq.read_table(source, schema=self._schema.table_schema)
        files: list[WrittenFile] = write_partitions(sort_rows(rows), self._paths.table)
        # As the rows of other nodes are: the folder's own journal never held these.
        version = self._lake.append(files, journal=f"{JOURNAL}-{self._taken}", after=0, watermark=1)
        self._lake.sync(after_version=version - 1, through_version=version)
        self._taken += 1

    def finish(self) -> None:
        """What is left to do, the service does by itself (`bench.comparison.settling`)."""

    def open(self, folder: Path) -> None:
        port = free_port()
        self._server = ServerProcess(ACTIONLAKE.command(folder / DATA, port), folder / "server.log")
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
        """The live files of the table with its log, and everything else of the folder as caches.

        Files that were replaced stay for a while and do not count: nobody reads them any more.
        """
        data = folder / DATA
        paths = StorePaths.of(data)
        live = sum(one.size_bytes for one in read_store(paths, ActionSchema()).read_view().files)
        log = folder_bytes(data / "actions" / "_delta_log")
        return {"data_bytes": live + log, "caches_bytes": folder_bytes(data) - folder_bytes(data / "actions")}

    def pids(self) -> list[int]:
        """The processes of the server."""
        assert self._server is not None, "it was opened"
        return self._server.pids()

    def close(self) -> None:
        if self._server is not None:
            self._connection.close()
            self._server.__exit__(None, None, None)


class ActionlakeInProcess(Reader):
    """The retrieval of the service without HTTP, a page at a time, and for counts what `actionlake sql` runs."""

    def open(self, folder: Path) -> None:
        self._store = read_store(StorePaths.of(folder / DATA), ActionSchema())
        self._engine = Engine(EngineLimits(), folder / "engine-temp")
        self._sql = LocalSql(self._store)

    def answers(self, question: Question) -> bool:
        """Not as Arrow: streams are of the service."""
        return not question.columnar

    def ask(self, question: Question) -> Any:
        if question.counts:
            sql = DAILY if question.kind == "daily" else funnel_sql(question)
            return list(self._sql.run(sql).batches)
        to_us = None if question.to_us is None else question.to_us - 1
        asked = RetrievalFilter(question.user, question.type, question.from_us, to_us)
        order: Order = "desc" if question.newest else "asc"
        with self._engine.connect() as connection:
            request = RetrievalRequest(asked, order, question.newest or _PAGE_ROWS)
            return retrieve_page(connection, self._store.read_view(), request).rows

    def rows(self, answer: Any, question: Question) -> list[Row]:
        if question.counts:
            return table_rows(pa.Table.from_batches(answer), question)
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
    return (EPOCH + datetime.timedelta(microseconds=time_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
