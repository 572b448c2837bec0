"""Errors as RFC 9457 problems: the one place where the store's errors become HTTP answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

import msgspec

from queries.engine import QueryStopped
from queries.sql import SnapshotUnreadable, SqlCancelled, SqlError, SqlTimeout, SqlTooLarge, SqlWorkerDied
from storage.errors import CommitRefused, CorruptData, DiskFull, InvalidInput, Overloaded, StoreError, StoreFailed
from storage.journal_records import IdempotencyConflict
from storage.submission import InvalidSubmission, SubmissionTooLarge

MEDIA_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ParameterError:
    """One field at fault: a query parameter, a header or a place in the body, and what is wrong with it."""

    parameter: str
    message: str


class Problem(Exception):
    """An answer that tells what went wrong: `{type, title, status, detail, errors?}`.

    Attributes:
        status: the HTTP status.
        detail: what went wrong, for a person.
        errors: the fields at fault.
        headers: to be sent with it, `retry-after` for instance.
        members: further members of the object.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[ParameterError] = (),
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        members: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers
        self.members = members

    def body(self) -> bytes:
        """The JSON text of the problem."""
        content: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            content["errors"] = [{"parameter": one.parameter, "message": one.message} for one in self.errors]
        return msgspec.json.encode(content | dict(self.members))


def bad_parameter(parameter: str, message: str, *, status: int = 400) -> Problem:
    """A request whose *parameter* is wrong."""
    return Problem(status, f"{parameter}: {message}", [ParameterError(parameter, message)])


def problem_of(error: Exception) -> Problem:  # noqa: PLR0911, PLR0912 - a table of classes reads best as one
    """Turn any error into the problem that the client is told.

    Errors that are not the client's and not foreseen tell nothing of the inside; they are for the log.
    """
    match error:
        case Problem():
            return error
        case InvalidSubmission(parameter=parameter):
            status = 413 if isinstance(error, SubmissionTooLarge) else 400
            if parameter is not None:
                return bad_parameter(parameter, str(error), status=status)
            return Problem(status, str(error))
        case SqlError(position=position, suggestion=suggestion):
            more: dict[str, object] = {"position": position, "suggestion": suggestion}
            return Problem(
                400,
                error.message,
                [ParameterError("sql", error.message)],
                members={name: value for name, value in more.items() if value is not None},
            )
        case SqlTimeout(limit=limit):
            return Problem(408, str(error), members={"limit": limit})
        case SqlTooLarge(limit=limit):
            return Problem(413, str(error), members={"limit": limit})
        case SqlWorkerDied() | SnapshotUnreadable() | SqlCancelled():
            return Problem(503, str(error), headers={"retry-after": "1"})
        case IdempotencyConflict():
            return bad_parameter("Idempotency-Key", str(error), status=422)
        case InvalidInput():
            return Problem(400, str(error))
        case DiskFull(retry_after_s=seconds):
            return Problem(507, str(error), headers={"retry-after": str(seconds)})
        case Overloaded(retry_after_s=seconds):
            return Problem(503, str(error), headers={"retry-after": str(seconds)})
        case StoreFailed() | CommitRefused():
            return Problem(503, str(error), headers={"retry-after": "30"})
        case QueryStopped():
            return Problem(503, "the query took too long and was stopped; narrow it down", headers={"retry-after": "1"})
        case CorruptData():
            return Problem(500, str(error))
        case StoreError():
            return Problem(500, str(error))
        case _:
            return Problem(500, "an unexpected error; the service's log has the details")
