"""The baseline: the same two routes in the manner of the original service.

Flask on its threaded development server (HTTP/1.1 with keep-alive, a thread a connection), sqlite3 from the standard
library in WAL mode with `synchronous=FULL`, an index on user and time, one INSERT an action, one transaction a
request, a connection a thread with a busy timeout. Neither crippled nor tuned: what it answers with 200 is on disk,
its requests are not logged, and nothing is batched across requests, which is what the comparison is about.

Run as `python -m bench.baseline --data DIR --port PORT`; SIGTERM stops it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from flask import Flask, Response, request
from werkzeug.exceptions import BadRequest
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.test import run_wsgi_app

ACTION_TYPES: Final = frozenset({"CLICK", "VIEW", "NAVIGATE"})
BUSY_TIMEOUT_S: Final = 120.0
LIMIT_DEFAULT: Final = 1_000
LIMIT_MAX: Final = 10_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS actions (
    id INTEGER PRIMARY KEY, user_id TEXT NOT NULL, session_id TEXT, time_us INTEGER NOT NULL,
    time TEXT NOT NULL, type TEXT NOT NULL, properties TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS actions_by_user_and_time ON actions (user_id, time_us);
"""
_INSERT: Final = "INSERT INTO actions (user_id, session_id, time_us, time, type, properties) VALUES (?, ?, ?, ?, ?, ?)"


def database_path(data: Path) -> Path:
    """Where the baseline keeps its actions below the folder *data*."""
    return data / "baseline.sqlite"


class Connections(threading.local):
    """A connection of its own for each thread."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")


def create_app(data: Path) -> Flask:
    """Build the application over the folder *data*, which must exist."""
    path = database_path(data)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(_SCHEMA)
    connection.close()
    connections = Connections(path)
    app = Flask(__name__)

    @app.post("/api/submitlogs")
    def submit_logs() -> dict[str, Any]:
        user, session, actions = _envelope(request.get_json())
        rows: list[tuple[object, ...]] = []
        rejected: list[dict[str, Any]] = []
        for index, action in enumerate(actions):
            try:
                rows.append((user, session, *_columns(action)))
            except (BadRequest, KeyError, ValueError, TypeError, AttributeError) as error:
                rejected.append({"index": index, "code": "bad_action", "message": str(error)})
        connection = connections.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(_INSERT, rows)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return {"status": "submitted", "accepted": len(rows), "rejected": rejected}

    @app.get("/api/retrievelogs")
    def retrieve_logs() -> dict[str, Any]:
        query, parameters, limit = _retrieval(request.args)
        found = connections.connection.execute(query, parameters).fetchall()
        more = len(found) > limit
        logs = [
            {"userId": user, "sessionId": session, "time": time, "type": kind, "properties": json.loads(properties)}
            for _, _, user, session, time, kind, properties in found[:limit]
        ]
        return {"logs": logs, "next": f"{found[limit - 1][0]}:{found[limit - 1][1]}" if more else None}

    @app.errorhandler(BadRequest)
    def refuse(error: BadRequest) -> Response:
        problem = {"type": "about:blank", "title": error.name, "status": error.code, "detail": error.description}
        return Response(json.dumps(problem), error.code, content_type="application/problem+json")

    return app


def _envelope(body: Any) -> tuple[str, str | None, list[Any]]:
    if not isinstance(body, dict):
        raise BadRequest("the body must be an object")
    user, session, actions = body.get("userId"), body.get("sessionId"), body.get("actions")
    if not isinstance(user, str) or not user:
        raise BadRequest("userId is missing")
    if session is not None and not isinstance(session, str):
        raise BadRequest("sessionId must be a string")
    if not isinstance(actions, list):
        raise BadRequest("actions must be a list")
    return user, session, actions


def _columns(action: Any) -> tuple[int, str, str, str]:
    kind = action["type"].upper()
    if kind not in ACTION_TYPES:
        raise BadRequest(f"unknown type {kind!r}")
    properties = action.get("properties", {})
    if not isinstance(properties, dict):
        raise BadRequest("properties must be an object")
    return _microseconds(action["time"]), action["time"], kind, json.dumps(properties)


def _microseconds(text: str) -> int:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise BadRequest(f"time {text!r} has no offset")
    return (time - _EPOCH) // timedelta(microseconds=1)


def _retrieval(arguments: Any) -> tuple[str, list[object], int]:
    conditions: list[str] = []
    parameters: list[object] = []
    try:
        if "userId" in arguments:
            conditions.append("user_id = ?")
            parameters.append(arguments["userId"])
        if "logType" in arguments:
            conditions.append("type = ?")
            parameters.append(arguments["logType"].upper())
        if "fromTime" in arguments or "toTime" in arguments:
            conditions.append("time_us BETWEEN ? AND ?")
            parameters += [_microseconds(arguments[name].replace(" ", "+")) for name in ("fromTime", "toTime")]
        if not conditions:
            raise BadRequest("give userId, logType, or fromTime and toTime")
        descending = {"asc": False, "desc": True}[arguments.get("order", "asc")]
        if "cursor" in arguments:
            conditions.append(f"(time_us, id) {'<' if descending else '>'} (?, ?)")
            parameters += [int(part) for part in arguments["cursor"].split(":", 1)]
        limit = int(arguments.get("limit", LIMIT_DEFAULT))
    except (KeyError, ValueError) as error:
        raise BadRequest(f"a parameter is wrong or missing: {error}") from error
    if not 1 <= limit <= LIMIT_MAX:
        raise BadRequest(f"limit must be 1 to {LIMIT_MAX}")
    direction = "DESC" if descending else "ASC"
    query = (
        "SELECT time_us, id, user_id, session_id, time, type, properties FROM actions"
        f" WHERE {' AND '.join(conditions)} ORDER BY time_us {direction}, id {direction} LIMIT {limit + 1}"
    )
    return query, parameters, limit


class KeepAliveRequestHandler(WSGIRequestHandler):
    """Werkzeug's handler with keep-alive, and without a log line for each request.

    Werkzeug itself closes the connection after each answer, since an application may leave a part of the body unread
    (it would be taken for the next request). These routes read the body whole whenever they answer with success.
    """

    disable_nagle_algorithm = True

    def run_wsgi(self) -> None:
        """Answer one request; the connection stays open unless it was refused."""
        content, status, headers = run_wsgi_app(self.server.app, self.make_environ(), buffered=True)
        code, reason = status.split(maxsplit=1)
        self.send_response(int(code), reason)
        for name, value in headers:
            self.send_header(name, value)
        if int(code) >= 400:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"".join(content))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Do nothing: the other side writes no line for each request either."""


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.baseline", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args(arguments)
    options.data.mkdir(parents=True, exist_ok=True)
    server = make_server(
        "127.0.0.1", options.port, create_app(options.data), threaded=True, request_handler=KeepAliveRequestHandler
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
