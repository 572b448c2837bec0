"""A real `actionlake serve` process for tests, and a client for it."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.service.forked_service import ENVIRONMENT, ForkedProcess

_SERVING = re.compile(r"serving (http://\S+) over")
ACTIONLAKE = str(Path(sys.executable).parent / "actionlake")
# What is in the table was flushed because a test asked for it, however long that test takes; one process for SQL is
# enough for most tests.
_USUAL = ("--flush-interval-ms-max", "3600000", "--sql-workers", "1")
_START_TIMEOUT_S = 180
# For clients that never speak TLS: httpx reads all certificates for each that is not given a context, for 20 ms.
NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class RunningService:
    """One service process over *data*; `client` talks to it."""

    def __init__(self, data: Path, flags: Sequence[str] = (), environ: dict[str, str] | None = None) -> None:
        self.data = data
        self._log = tempfile.NamedTemporaryFile("w+b", prefix="actionlake-", suffix=".log", delete=False)  # noqa: SIM115
        self.process = ForkedProcess(
            "service.cli",
            ["serve", "--data", str(data), "--port", "0", "--log-format", "json", *_USUAL, *flags],
            output=self._log.fileno(),
            # Queries of tests have their share of a busy machine.
            environment={
                **os.environ,
                "PYTHONPATH": ENVIRONMENT["PYTHONPATH"],
                "ACTIONLAKE_SQL_WHEN_IDLE": "false",
                **(environ or {}),
            },
            folder=data.parent,
        )
        self.url = self._wait_until_ready()
        self.client = httpx.Client(base_url=self.url, timeout=_START_TIMEOUT_S, verify=NO_TLS)

    def _wait_until_ready(self) -> str:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            found = _SERVING.search(self.log())
            if found:
                try:
                    if httpx.get(f"{found.group(1)}/health/ready", timeout=180, verify=NO_TLS).status_code == 200:
                        return found.group(1)
                except httpx.TransportError:
                    pass
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"the service did not start:\n{self.log()}")

    def log(self) -> str:
        """What the process has logged so far."""
        return Path(self._log.name).read_text(errors="replace")

    def submit(self, body: Any, **headers: str) -> httpx.Response:
        """POST a submission, as JSON unless it is bytes."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(
            "/api/submitlogs", content=content, headers={"content-type": "application/json", **headers}
        )

    def retrieve(self, **parameters: Any) -> httpx.Response:
        """GET one page."""
        return self.client.get("/api/retrievelogs", params=parameters)

    def retrieve_all(self, **parameters: Any) -> list[dict[str, Any]]:
        """GET all pages."""
        rows: list[dict[str, Any]] = []
        while True:
            response = self.retrieve(**parameters)
            assert response.status_code == 200, response.text
            page = response.json()
            rows += page["logs"]
            if page["next"] is None:
                return rows
            parameters["cursor"] = page["next"]

    def flush(self) -> None:
        """Move everything into the table."""
        response = self.client.post("/api/flush", headers={"content-type": "application/json"})
        assert response.status_code == 200, response.text

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}({{.*}})? ", line))

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=_START_TIMEOUT_S)
        finally:
            self._close()

    def kill(self) -> None:
        """Send SIGKILL."""
        self.client.close()
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        self._log.close()
        Path(self._log.name).unlink(missing_ok=True)


@contextmanager
def running_service(data: Path, *flags: str, environ: dict[str, str] | None = None) -> Iterator[RunningService]:
    """Run a service for the length of a block."""
    service = RunningService(data, flags, environ)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.stop()


def action(time_: str = "2018-10-20T21:37:28-06:00", type_: str = "CLICK", **properties: Any) -> dict[str, Any]:
    """One action as it is sent."""
    return {"time": time_, "type": type_, "properties": properties}


def submission(user: str, *actions: dict[str, Any], session: str | None = "s-1") -> dict[str, Any]:
    """One submission as it is sent."""
    return {"userId": user, "sessionId": session, "actions": list(actions)}
