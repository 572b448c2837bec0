"""PostgreSQL as a contender, where it is installed: a server of its own below the folder, on a socket and no port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import psycopg
import pyarrow.csv
import pyarrow.parquet as pq

from bench.comparison.contender import JSON_ROW, Contender, Row, micros, plain_row, quoted_times
from bench.comparison.questions import DAILY, Question, funnel_sql, rows_sql
from bench.errors import BenchFailed

_START_TIMEOUT_S: Final = 60.0
_BATCH_ROWS: Final = 50_000
# The manual's advice for a machine that serves nothing else: a quarter of its memory.
_MEMORY_SHARE: Final = 4


def binaries() -> Path | None:
    """The folder of the newest server that is installed; None when there is none."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda one: int(one.parts[-3]))
    return found[-1].parent if found else None


def server_user() -> str | None:
    """Whom the server is to run as: it refuses root. None for whoever runs this."""
    if os.geteuid() != 0:
        return None
    return next(one.pw_name for one in pwd.getpwall() if one.pw_name in ("postgres", "nobody"))


class PostgreSql(Contender):
    """The same columns and indexes as SQLite has; as many shared buffers as its manual advises."""

    def create(self, folder: Path) -> None:
        found = binaries()
        assert found is not None, "the catalogue says whether it is installed"
        user = server_user()
        folder.mkdir(parents=True)
        if user is not None:
            shutil.chown(folder, user)
        command = [str(found / "initdb"), "-D", str(folder / "pg"), "-A", "trust", "-U", "bench", "--locale=C", "-E"]
        done = subprocess.run([*command, "UTF8"], user=user, capture_output=True, text=True, check=False, cwd="/")
        if done.returncode != 0:
            raise BenchFailed(
                f"PostgreSQL, run as {user or 'yourself'}, cannot use {folder} (choose another with --data-dir):"
                f" {done.stderr.strip()}"
            )
        self.open(folder)
        self._connection.execute(
            "CREATE TABLE actions (date date, type text, user_id text, session_id text, time timestamptz,"
            " utc_offset_minutes smallint, properties text, location_x float8, location_y float8, viewed_id text,"
            " page_from text, page_to text, received_at timestamptz, journal text, position bigint PRIMARY KEY)"
        )

    def take(self, source: Path) -> None:
        options = pyarrow.csv.WriteOptions(include_header=False)
        with (
            pq.ParquetFile(source) as file,
            self._connection.cursor() as cursor,
            cursor.copy("COPY actions FROM STDIN (FORMAT csv)") as copy,
        ):
            for batch in file.iter_batches(_BATCH_ROWS):
                sink = pyarrow.BufferOutputStream()
                pyarrow.csv.write_csv(batch, sink, options)
                copy.write(sink.getvalue().to_pybytes())

    def finish(self) -> None:
        self._connection.execute("CREATE INDEX by_user ON actions (user_id, time)")
        self._connection.execute("CREATE INDEX by_type ON actions (type, time)")
        self._connection.execute("VACUUM (FREEZE, ANALYZE) actions")
        self._connection.execute("CHECKPOINT")

    def open(self, folder: Path) -> None:
        found = binaries()
        assert found is not None, "the catalogue says whether it is installed"
        user = server_user()
        # The path of a socket may not be long, so it is not below the folder.
        self._socket = tempfile.mkdtemp(prefix="bench-pg-")
        if user is not None:
            shutil.chown(self._socket, user)
        buffers_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // _MEMORY_SHARE
        settings = {
            "listen_addresses": "", "unix_socket_directories": self._socket, "shared_buffers": f"{buffers_mb}MB",
            "work_mem": "256MB", "maintenance_work_mem": "1GB", "max_wal_size": "8GB", "TimeZone": "UTC",
            "max_parallel_maintenance_workers": "2",
        }  # fmt: skip
        command = [str(found / "postgres"), "-D", str(folder / "pg")]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self._server = subprocess.Popen(
            command, user=user, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
        )
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                self._connection = psycopg.connect(
                    host=self._socket, user="bench", dbname="postgres", autocommit=True, prepare_threshold=1
                )
            except psycopg.OperationalError as error:
                if self._server.poll() is not None or time.monotonic() > deadline_s:
                    raise BenchFailed(f"PostgreSQL did not start: {error}") from error
                time.sleep(0.05)
            else:
                return

    def ask(self, question: Question) -> list[Row]:
        if question.kind == "daily":
            sql = DAILY
        elif question.kind == "funnel":
            sql = funnel_sql(question)
        else:
            times = quoted_times(question, "TIMESTAMPTZ '{}+00'")
            sql = rows_sql(question, time_literal=times, columns="*" if question.columnar else JSON_ROW)
        return self._connection.execute(sql.encode()).fetchall()

    def rows(self, answer: list[Row], question: Question) -> list[Row]:
        if question.counts:
            return [plain_row(row) for row in answer]
        # In the order of `ROW_COLUMNS`, or in that of the table.
        time_at, type_at, properties_at = (4, 1, 6) if question.columnar else (2, 4, 5)
        return [(micros(row[time_at]), row[type_at], row[properties_at]) for row in answer]

    def bytes_on_disk(self, folder: Path) -> dict[str, int]:
        """The table with its indexes, without what the server writes for itself."""
        del folder
        found: Any = self._connection.execute("SELECT pg_total_relation_size('actions')").fetchone()
        return {"data_bytes": int(found[0]), "caches_bytes": 0}

    def pids(self) -> list[int]:
        """The server's processes; memory that they share counts in each."""
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text().split()
        return [self._server.pid, *map(int, children)]

    def close(self) -> None:
        self._connection.close()
        # SIGINT: end at once and properly.
        self._server.send_signal(2)
        self._server.wait(_START_TIMEOUT_S)
        shutil.rmtree(self._socket)
