"""Function calls: which functions of Trino's are known, and how their arguments are read.

A function that is not registered is refused by its name. `functions/` holds the registrations, a module a family.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from sqlglot import exp

from queries.athena.casts import coerce
from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.scope import Scope, Value
from queries.athena.types import BIGINT, BOOLEAN, DOUBLE, VARBINARY, VARCHAR, TrinoType

if TYPE_CHECKING:
    from queries.athena.expressions import ExpressionCompiler


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function: its name and its arguments, translated on demand."""

    name: str
    nodes: Sequence[exp.Expr]
    scope: Scope
    compiler: ExpressionCompiler

    def __len__(self) -> int:
        """The number of arguments."""
        return len(self.nodes)

    def value(self, index: int) -> Value:
        """Argument number *index* (from 0).

        Raises:
            QueryError: there is no such argument, or it is a lambda.
        """
        if index >= len(self.nodes) or isinstance(self.nodes[index], exp.Lambda):
            raise self.refusal()
        return self.compiler.compile(self.nodes[index], self.scope)

    def values(self) -> list[Value]:
        """All arguments."""
        return [self.value(i) for i in range(len(self))]

    def of(self, index: int, kind: TrinoType) -> str:
        """DuckDB's text of argument number *index*, coerced to *kind*.

        Raises:
            QueryError: it cannot be coerced.
        """
        try:
            return coerce(self.value(index), kind).sql
        except QueryError as error:
            if error.code == "TYPE_MISMATCH" and error.line is None:
                raise self.refusal() from None
            raise

    def text(self, index: int) -> str:
        """Argument *index* as varchar."""
        return self.of(index, VARCHAR)

    def double(self, index: int) -> str:
        """Argument *index* as double."""
        return self.of(index, DOUBLE)

    def bigint(self, index: int) -> str:
        """Argument *index* as bigint."""
        return self.of(index, BIGINT)

    def binary(self, index: int) -> str:
        """Argument *index* as varbinary."""
        return self.of(index, VARBINARY)

    def one_of(self, index: int, *names: str) -> Value:
        """Argument *index*, whose type must have one of the bare *names*.

        Raises:
            QueryError: it has another type.
        """
        value = self.value(index)
        if value.type.name not in names:
            raise self.refusal()
        return value

    def constant_text(self, index: int) -> str | None:
        """The text of argument *index* if it is a string literal."""
        node = self.nodes[index] if index < len(self.nodes) else None
        while isinstance(node, exp.Paren):
            node = node.this
        if isinstance(node, exp.Cast) and node.to.this == exp.DType.VARCHAR and not node.to.expressions:
            node = node.this
        return node.this if isinstance(node, exp.Literal) and node.is_string else None

    def required_text(self, index: int, what: str) -> str:
        """The text of argument *index*, which must be a string literal.

        Raises:
            UntranslatableError: it is not constant.
        """
        text = self.constant_text(index)
        if text is None:
            raise UntranslatableError(f"{self.name} with {what} that is not constant")
        return text

    def constant_integer(self, index: int) -> int | None:
        """The value of argument *index* if it is an integer literal, with or without a sign."""
        node, sign = self.nodes[index], 1
        while isinstance(node, exp.Paren | exp.Neg):
            sign = -sign if isinstance(node, exp.Neg) else sign
            node = node.this
        if isinstance(node, exp.Literal) and not node.is_string and str(node.this).isdigit():
            return sign * int(node.this)
        return None

    def apply(self, index: int, parameters: Sequence[Value]) -> Value:
        """The body of the lambda at *index*, its parameters standing for *parameters*.

        Raises:
            QueryError: there is no lambda with so many parameters.
        """
        node = self.nodes[index] if index < len(self.nodes) else None
        if not isinstance(node, exp.Lambda) or len(node.expressions) != len(parameters):
            raise self.refusal()
        names = [identifier.name.lower() for identifier in node.expressions]
        inside = self.scope.inside(variables=dict(zip(names, parameters, strict=True)))
        return self.compiler.compile(node.this, inside)

    def condition(self, index: int, parameters: Sequence[Value]) -> str:
        """The body of the lambda at *index*, which must be a boolean."""
        return coerce(self.apply(index, parameters), BOOLEAN).sql

    def refusal(self) -> QueryError:
        """The error of a call whose arguments fit no form of the function."""
        kinds = []
        for node in self.nodes:
            kinds.append(
                "function" if isinstance(node, exp.Lambda) else str(self.compiler.compile(node, self.scope).type)
            )
        return QueryError("FUNCTION_NOT_FOUND", f"Unexpected parameters ({', '.join(kinds)}) for function {self.name}")


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregate or window function in DuckDB, open for DISTINCT, ORDER BY, FILTER and OVER.

    Attributes:
        function: DuckDB's name.
        arguments: the texts of its arguments.
        type: Trino's type of the result.
        finish: what is made of the whole call, such as a cast.
    """

    function: str
    arguments: Sequence[str]
    type: TrinoType
    finish: Callable[[str], str] = str


_T = TypeVar("_T")
ScalarBuilder = Callable[[Call], Value]
AggregateBuilder = Callable[[Call], Aggregate]

SCALARS: Final[dict[str, ScalarBuilder]] = {}
AGGREGATES: Final[dict[str, AggregateBuilder]] = {}
WINDOW_FUNCTIONS: Final[dict[str, AggregateBuilder]] = {}


def scalar(*names: str, arguments: int | tuple[int, int] | None = None) -> Callable[[ScalarBuilder], ScalarBuilder]:
    """Register a function under *names*; *arguments* is how many it takes, or the least and the most."""

    def register(build: ScalarBuilder) -> ScalarBuilder:
        for name in names:
            SCALARS[name] = _checked(build, arguments)
        return build

    return register


def aggregate(
    *names: str, arguments: int | tuple[int, int] | None = None
) -> Callable[[AggregateBuilder], AggregateBuilder]:
    """Register an aggregate under *names*; it is a window function too."""

    def register(build: AggregateBuilder) -> AggregateBuilder:
        for name in names:
            AGGREGATES[name] = _checked(build, arguments)
        return build

    return register


def window_function(*names: str, arguments: int | tuple[int, int]) -> Callable[[AggregateBuilder], AggregateBuilder]:
    """Register a function under *names* that needs OVER."""

    def register(build: AggregateBuilder) -> AggregateBuilder:
        for name in names:
            WINDOW_FUNCTIONS[name] = _checked(build, arguments)
        return build

    return register


def _checked(build: Callable[[Call], _T], arguments: int | tuple[int, int] | None) -> Callable[[Call], _T]:
    least, most = arguments if isinstance(arguments, tuple) else (arguments, arguments)

    def checked(call: Call) -> _T:
        if least is not None and most is not None and not least <= len(call) <= most:
            raise call.refusal()
        return build(call)

    return checked
