"""Work groups: who may scan how much in one query."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from queries.athena.errors import InvalidRequest

PRIMARY: Final = "primary"
_NAME: Final = re.compile(r"[a-zA-Z0-9._-]{1,128}")
ENGINE_VERSION: Final = {
    "SelectedEngineVersion": "AUTO",
    "EffectiveEngineVersion": "Athena engine version 3",
}


@dataclass(frozen=True, slots=True)
class WorkGroup:
    """A work group.

    Attributes:
        name: of letters, digits, dots, dashes and underscores.
        scanned_bytes_max: a query that scans more is cancelled; None for no limit.
        description: what it is for.
    """

    name: str
    scanned_bytes_max: int | None = None
    description: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"the work group's name {self.name!r} must match {_NAME.pattern}")
        if self.scanned_bytes_max is not None and self.scanned_bytes_max < 1:
            raise ValueError(f"scanned_bytes_max of work group {self.name!r} must be at least 1")

    def details(self, created_at: float) -> dict[str, object]:
        """The answer of GetWorkGroup. It says that results are managed by the service, so that no client asks S3."""
        configuration: dict[str, object] = {
            "EnforceWorkGroupConfiguration": True,
            "ManagedQueryResultsConfiguration": {"Enabled": True},
            "PublishCloudWatchMetricsEnabled": False,
            "RequesterPaysEnabled": False,
            "EngineVersion": ENGINE_VERSION,
        }
        if self.scanned_bytes_max is not None:
            configuration["BytesScannedCutoffPerQuery"] = self.scanned_bytes_max
        return {**self.summary(created_at), "Configuration": configuration}

    def summary(self, created_at: float) -> dict[str, object]:
        """One entry of ListWorkGroups."""
        return {
            "Name": self.name,
            "State": "ENABLED",
            "Description": self.description,
            "CreationTime": created_at,
        }

    def cut_off(self, scanned_bytes: int) -> str:
        """Why a query that scanned so much was cancelled."""
        return (
            f"Query cancelled! : The number of bytes scanned ({scanned_bytes}) exceeded the "
            f"BytesScannedCutoffPerQuery limit ({self.scanned_bytes_max})"
        )


def named(groups: Iterable[WorkGroup]) -> Mapping[str, WorkGroup]:
    """*groups* by name, with the work group `primary` if it is not among them.

    Raises:
        ValueError: two have the same name.
    """
    by_name: dict[str, WorkGroup] = {}
    for group in groups:
        if group.name in by_name:
            raise ValueError(f"the work group {group.name!r} is given twice")
        by_name[group.name] = group
    by_name.setdefault(PRIMARY, WorkGroup(PRIMARY, description="The work group of queries that name none"))
    return by_name


def chosen(groups: Mapping[str, WorkGroup], name: str | None) -> WorkGroup:
    """The work group called *name*, or `primary`.

    Raises:
        InvalidRequest: there is none of that name.
    """
    group = groups.get(name or PRIMARY)
    if group is None:
        raise InvalidRequest(f"WorkGroup {name} is not found.")
    return group
