"""The operations of the API on prepared statements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from queries.athena.errors import ResourceNotFound
from queries.athena.paging import place_of, token_of
from queries.athena.prepared import PreparedStatement, PreparedStatements
from queries.athena.requests import Request
from queries.athena.work_groups import WorkGroup, chosen

_LIST_MAX: Final = 50
_DESCRIPTION_CHARACTERS_MAX: Final = 1024


class PreparedStatementOperations:
    """What clients may do with prepared statements; each belongs to a work group."""

    def __init__(
        self, prepared: PreparedStatements, groups: Mapping[str, WorkGroup], clock: Callable[[], float]
    ) -> None:
        self._prepared = prepared
        self._groups = groups
        self._clock = clock

    def by_name(self) -> dict[str, Callable[[Request], dict[str, object]]]:
        """The operations by their names."""
        return {
            "CreatePreparedStatement": self._create,
            "UpdatePreparedStatement": self._update,
            "GetPreparedStatement": self._get,
            "BatchGetPreparedStatement": self._batch_get,
            "ListPreparedStatements": self._list,
            "DeletePreparedStatement": self._delete,
        }

    def _group(self, request: Request) -> str:
        return chosen(self._groups, request.text("WorkGroup")).name

    def _given(self, request: Request) -> PreparedStatement:
        request.only("StatementName", "WorkGroup", "QueryStatement", "Description")
        return PreparedStatement(
            request.text("StatementName", characters_max=256),
            request.text("QueryStatement"),
            self._group(request),
            request.optional_text("Description", characters_max=_DESCRIPTION_CHARACTERS_MAX) or "",
            self._clock(),
        )

    def _create(self, request: Request) -> dict[str, object]:
        self._prepared.create(self._given(request))
        return {}

    def _update(self, request: Request) -> dict[str, object]:
        self._prepared.update(self._given(request))
        return {}

    def _get(self, request: Request) -> dict[str, object]:
        request.only("StatementName", "WorkGroup")
        return {"PreparedStatement": self._prepared.get(self._group(request), request.text("StatementName")).details()}

    def _batch_get(self, request: Request) -> dict[str, object]:
        request.only("PreparedStatementNames", "WorkGroup")
        group, found, missing = self._group(request), [], []
        for name in request.texts("PreparedStatementNames", most=_LIST_MAX):
            try:
                found.append(self._prepared.get(group, name).details())
            except ResourceNotFound as error:
                missing.append({"StatementName": name, "ErrorCode": "STATEMENT_NOT_FOUND", "ErrorMessage": str(error)})
        return {"PreparedStatements": found, "UnprocessedPreparedStatementNames": missing}

    def _list(self, request: Request) -> dict[str, object]:
        request.only("WorkGroup", "NextToken", "MaxResults")
        count = request.whole("MaxResults", least=1, most=_LIST_MAX, default=_LIST_MAX)
        token = request.optional_text("NextToken")
        after = place_of(token, request.operation) if token is not None else ""
        found = self._prepared.list(self._group(request), after, count + 1)
        answer: dict[str, object] = {"PreparedStatements": [statement.summary() for statement in found[:count]]}
        if len(found) <= count:
            return answer
        return {**answer, "NextToken": token_of(request.operation, found[count - 1].name)}

    def _delete(self, request: Request) -> dict[str, object]:
        request.only("StatementName", "WorkGroup")
        self._prepared.delete(self._group(request), request.text("StatementName"))
        return {}
