"""Doing without modules that a library imports for no other reason than that they are there.

pyarrow imports pandas, where it is installed, to see whether what it is given comes from there. Nothing of the service
does; the import takes a quarter of a second, and 50 MB in each process of a service.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Absent(MetaPathFinder):
    """Says of some modules that there are none; all others are left to the next finder."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - as the import system calls it
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Refuse what is to be absent.

        Raises:
            ModuleNotFoundError: it is one of them.
        """
        if fullname in self._names:
            raise ModuleNotFoundError(f"this process does without {fullname}", name=fullname)
        return None


def do_without(*names: str) -> None:
    """Have imports of these modules fail in this process from now on, as if they were not installed.

    For a process of its own, before anything that would import them; one that is imported already stays.
    """
    sys.meta_path.insert(0, _Absent(frozenset(names)))
