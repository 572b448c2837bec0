"""What can go wrong in the Athena API, in Athena's own words.

ApiError                   an operation is refused: HTTP 4xx or 5xx with `__type` and `Message`
├── InvalidRequest         the request is wrong (InvalidRequestException)
├── ResourceNotFound       what it names does not exist (ResourceNotFoundException)
├── MetadataFailure        a catalog call names what does not exist (MetadataException)
├── TooManyRequests        too many queries at once; retry later (TooManyRequestsException)
└── InternalFailure        our own fault (InternalServerException)

QueryError                 a query is refused or failed: the execution ends as FAILED with this text
├── MalformedQuery         the text is not a statement; StartQueryExecution itself is refused
└── UntranslatableError    Athena knows the construct, this service does not; `construct` names it
"""

from __future__ import annotations

from typing import ClassVar


class ApiError(Exception):
    """An operation that is refused."""

    exception_type: ClassVar[str] = "InvalidRequestException"
    http_status: ClassVar[int] = 400

    def body(self) -> dict[str, object]:
        """The JSON object that Athena's clients expect."""
        return {"__type": self.exception_type, "Message": str(self)}


class InvalidRequest(ApiError):
    """The request is wrong.

    Attributes:
        athena_error_code: Athena's finer code, such as `MALFORMED_QUERY`.
    """

    def __init__(self, message: str, *, athena_error_code: str = "INVALID_INPUT") -> None:
        super().__init__(message)
        self.athena_error_code = athena_error_code

    def body(self) -> dict[str, object]:
        """The JSON object that Athena's clients expect."""
        return {**super().body(), "AthenaErrorCode": self.athena_error_code}


class ResourceNotFound(ApiError):
    """What the request names does not exist."""

    exception_type = "ResourceNotFoundException"

    def __init__(self, message: str, *, resource_name: str) -> None:
        super().__init__(message)
        self.resource_name = resource_name

    def body(self) -> dict[str, object]:
        """The JSON object that Athena's clients expect."""
        return {**super().body(), "ResourceName": self.resource_name}


class MetadataFailure(ApiError):
    """A catalog call failed as the data catalog behind Athena fails.

    Clients find the cause in the message's service envelope, so it ends with one.
    """

    exception_type = "MetadataException"

    def __init__(self, message: str, *, error_code: str = "EntityNotFoundException") -> None:
        envelope = (
            f"(Service: AmazonDataCatalog; Status Code: 400; Error Code: {error_code}; Request ID: local; Proxy: null)"
        )
        super().__init__(f"{message} {envelope}")


class TooManyRequests(ApiError):
    """Too many queries are queued or running; retry later."""

    exception_type = "TooManyRequestsException"

    def body(self) -> dict[str, object]:
        """The JSON object that Athena's clients expect."""
        return {**super().body(), "Reason": "CONCURRENT_QUERY_LIMIT_EXCEEDED"}


class InternalFailure(ApiError):
    """A fault of the service's own."""

    exception_type = "InternalServerException"
    http_status = 500


class QueryError(Exception):
    """A query that is refused or failed.

    Attributes:
        code: Trino's name of the error, such as `COLUMN_NOT_FOUND`.
        message: what is wrong, without the code and the place.
        line, column: where in the query's text, counted from 1, when it is known.
    """

    def __init__(self, code: str, message: str, *, line: int | None = None, column: int | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.line = line
        self.column = column

    def __str__(self) -> str:
        """The text of `StateChangeReason`: the code, the place if it is known, and the message."""
        where = f"line {self.line}:{self.column}: " if self.line is not None and self.column is not None else ""
        return f"{self.code}: {where}{self.message}"

    @property
    def message_with_place(self) -> str:
        """The message as the parser's errors are told: with the place, without the code."""
        return str(self).partition(": ")[2]

    def located(self, line: int, column: int) -> None:
        """Say where the error is, unless a place nearer to it is known already."""
        if self.line is None:
            self.line, self.column = line, column


class MalformedQuery(QueryError):
    """The text is not one statement of Athena's grammar."""

    def __init__(self, message: str, *, line: int | None = None, column: int | None = None) -> None:
        super().__init__("SYNTAX_ERROR", message, line=line, column=column)


class UntranslatableError(QueryError):
    """Athena knows the construct, this service does not.

    Attributes:
        construct: the name of what could not be translated, as it reads in the query.
    """

    def __init__(
        self,
        construct: str,
        reason: str = "is not supported by this service",
        *,
        line: int | None = None,
        column: int | None = None,
    ) -> None:
        super().__init__("NOT_SUPPORTED", f"{construct} {reason}", line=line, column=column)
        self.construct = construct
