"""Which function translates which kind of syntax. What is not registered here is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlglot import exp

from queries.athena.scope import Value

# Each handler takes the compiler, a node of its own kind, and the scope.
Handler = Callable[..., Value]
_H = TypeVar("_H", bound=Callable[..., Any])

HANDLERS: Final[dict[type[exp.Expr], Handler]] = {}


def handles(*kinds: type[exp.Expr]) -> Callable[[_H], _H]:
    """Register what translates nodes of *kinds*."""

    def register(handler: _H) -> _H:
        for kind in kinds:
            HANDLERS[kind] = handler
        return handler

    return register
