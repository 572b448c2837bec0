"""Structured logs: JSON lines for machines, aligned text on a terminal. Strings of users are always encoded."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure_logging(level: str, form: str) -> None:
    """Send all logs to standard error; requests are not logged.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        form: `json`, `console`, or `auto`: console on a terminal, JSON otherwise.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    use_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    renderer: Any = structlog.processors.JSONRenderer() if use_json else structlog.dev.ConsoleRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    use_log_level(level)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # Requests are counted by the metrics and never logged: their addresses name users, and a line costs as much as a
    # small submission. A worker configures its logs after uvicorn has silenced this one, so that it is done here.
    requests = logging.getLogger("uvicorn.access")
    requests.handlers.clear()
    requests.propagate = False


def use_log_level(level: str) -> None:
    """Write log entries of *level* and above from now on."""
    logging.getLogger().setLevel(level.upper())
