"""Athena's SQL text into a syntax tree, by sqlglot's grammar of Trino.

Only the grammar is sqlglot's. Its own idea of what each function means is switched off: every call is read as a
plain name with arguments, so that a function which this package does not know is refused and never guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final

from sqlglot import exp
from sqlglot.dialects.trino import Trino
from sqlglot.errors import ParseError, TokenError
from sqlglot.parsers.trino import TrinoParser
from sqlglot.tokenizer_core import Token, TokenType

from queries.athena.errors import MalformedQuery, QueryError

QUERY_CHARACTERS_MAX: Final = 262_144

_NUMBER_OF_A_BASE: Final = re.compile(r"0(?:[xX](?:_?[0-9a-fA-F])+|[oO](?:_?[0-7])+|[bB](?:_?[01])+)")

# These have a syntax of their own inside their parentheses.
_SYNTACTIC_FUNCTIONS: Final = (
    "CAST",
    "EXTRACT",
    "JSON_OBJECT",
    "JSON_QUERY",
    "JSON_VALUE",
    "LISTAGG",
    "POSITION",
    "SUBSTRING",
    "TRIM",
    "TRY_CAST",
)


class _Parser(TrinoParser):
    FUNCTIONS: ClassVar = {}
    FUNCTION_PARSERS: ClassVar = {name: TrinoParser.FUNCTION_PARSERS[name] for name in _SYNTACTIC_FUNCTIONS}
    PLACEHOLDER_PARSERS: ClassVar = {TokenType.PLACEHOLDER: lambda self: exp.Placeholder().update_positions(self._prev)}

    def _warn_unsupported(self) -> None:
        """Nothing: what is not understood is refused, and nobody's query is written into a log."""


class AthenaSql(Trino):
    """Trino's grammar without sqlglot's translation of functions and of array indexes."""

    INDEX_OFFSET = 0
    NUMBERS_CAN_BE_UNDERSCORE_SEPARATED = True
    Parser = _Parser

    def to_json_path(self, path: exp.Expr | None) -> exp.Expr | None:
        """The path as it is written; the functions that take one read it themselves."""
        return path


def tokenize(text: str) -> list[Token]:
    """The tokens of *text*.

    Raises:
        MalformedQuery: a string or a comment does not end, or the text is too long.
    """
    if len(text) > QUERY_CHARACTERS_MAX:
        raise MalformedQuery(f"the query has {len(text)} characters; at most {QUERY_CHARACTERS_MAX} are allowed")
    try:
        tokens = list(AthenaSql().tokenize(text))
    except TokenError as error:
        raise MalformedQuery(_first_line(str(error))) from None
    return list(_with_numbers_of_trino(tokens, text))


def _with_numbers_of_trino(tokens: list[Token], text: str) -> Iterator[Token]:
    """The tokens, with `0x1f`, `0o17` and `0b11` as numbers, which sqlglot takes for bytes, or for 0 and an alias.

    Raises:
        MalformedQuery: an identifier begins with a digit.
    """
    end = -1
    for at, token in enumerate(tokens):
        if token.start <= end:
            continue
        following = tokens[at + 1] if at + 1 < len(tokens) else None
        number = _NUMBER_OF_A_BASE.fullmatch(text, token.start, token.end + 1)
        if following is not None and token.token_type == TokenType.NUMBER and following.start == token.end + 1:
            number = number or _NUMBER_OF_A_BASE.fullmatch(text, token.start, following.end + 1)
            if number is None and (text[following.start].isalpha() or text[following.start] == "_"):
                raise MalformedQuery(
                    "identifiers must not start with a digit; surround the identifier with double quotes",
                    line=token.line,
                    column=token.col,
                )
        if number is None:
            yield token
            continue
        end = number.end() - 1
        yield Token(TokenType.NUMBER, str(int(number[0], 0)), token.line, token.col, token.start, end)


def parse_query(text: str, parameters: Sequence[str] = ()) -> exp.Expr:
    """The syntax tree of one query, its `?` replaced by *parameters*, each the text of a constant expression.

    Raises:
        MalformedQuery: *text* is not one query, or a parameter is not an expression.
        QueryError: the number of parameters is not that of the `?` in the text.
    """
    trees = _parse(text)
    if len(trees) != 1 or not isinstance(trees[0], exp.Query | exp.Values):
        raise MalformedQuery("expected exactly one query")
    query = trees[0]
    places = sorted(query.find_all(exp.Placeholder), key=lambda node: int(node.meta.get("start", 0)))
    if len(places) != len(parameters):
        raise QueryError(
            "INVALID_PARAMETER_USAGE",
            f"Incorrect number of parameters: expected {len(places)} but found {len(parameters)}",
        )
    for place, parameter in zip(places, parameters, strict=True):
        place.replace(exp.Paren(this=parse_constant(parameter)))
    return query


def parse_constant(text: str) -> exp.Expr:
    """The syntax tree of a constant expression, such as `'abc'`, `-1` or `DATE '2024-01-02'`.

    Raises:
        MalformedQuery: it is not one expression.
        QueryError: it reads a column or a table.
    """
    trees = _parse(f"SELECT {text}")
    only = trees[0].expressions if len(trees) == 1 and isinstance(trees[0], exp.Select) else []
    if (
        len(only) != 1
        or set(filter(trees[0].args.get, trees[0].args)) != {"expressions"}
        or isinstance(only[0], exp.Alias)
    ):
        raise MalformedQuery(f"parameter {text!r} is not an expression")
    if only[0].find(exp.Column, exp.Query, exp.Star, exp.Placeholder):
        raise QueryError("EXPRESSION_NOT_CONSTANT", f"parameter {text!r} is not constant; put text in single quotes")
    expression: exp.Expr = only[0]
    return expression


def _parse(text: str) -> list[exp.Expr]:
    try:
        return [tree for tree in AthenaSql().parser().parse(tokenize(text), text) if tree is not None]
    except ParseError as error:
        first = error.errors[0] if error.errors else {}
        line, end = first.get("line"), first.get("col")
        token = str(first.get("highlight") or "")
        column = max(1, end - max(len(token) - 1, 0)) if end else None
        description = str(first.get("description", "it cannot be read")).split(" but got ")[0]
        found = f"mismatched input '{token}'" if token else "unexpected end of the statement"
        raise MalformedQuery(f"{found}: {description}", line=line, column=column) from None
    except RecursionError:
        raise QueryError("STACK_OVERFLOW", "statement is too large (stack overflow while parsing)") from None


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]
