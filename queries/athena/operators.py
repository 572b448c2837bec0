"""Operators on translated values: arithmetic, comparison, concatenation, subscripts."""

from __future__ import annotations

import re
from typing import Final

from queries.athena.casts import coerce, convert, instant, local
from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.literals import text_sql
from queries.athena.scope import Value
from queries.athena.types import (
    BOOLEAN,
    DATE,
    DOUBLE,
    INTERVAL_DAY,
    INTERVAL_YEAR,
    VARCHAR,
    TrinoType,
    array,
    common_super_type,
    decimal,
    integer_as_decimal,
    timestamp,
)

# Which side is taken for the greatest there is, if it is NaN; of an equality, both are looked at.
_NAN_SIDES: Final = {"=": None, "<>": None, ">": 0, ">=": 0, "<": 1, "<=": 1}
_NUMBER: Final = re.compile(r"\(*-?(?:CAST\()*'?[0-9.]+(?:[eE][+-]?[0-9]+)?'?(?: AS [A-Z0-9(),]+\))*\)*")
_SYMBOLS: Final = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "modulo": "%"}


def mismatch(symbol: str, left: TrinoType, right: TrinoType) -> QueryError:
    """The error of an operator between types that it does not take."""
    hint = ""
    for text, moment in ((left, right), (right, left)):
        if text.name == "varchar" and moment.has_date:
            hint = f"; write {moment.name.split()[0].upper()} '...' for a literal, or use CAST"
    return QueryError("TYPE_MISMATCH", f"Cannot apply operator: {left} {symbol} {right}{hint}")


def arithmetic(operation: str, left: Value, right: Value, *, errors_as_null: bool = False) -> Value:
    """`left operation right`, of numbers, moments and intervals.

    Args:
        operation: `add`, `subtract`, `multiply`, `divide` or `modulo`.
        left: the left operand.
        right: the right operand.
        errors_as_null: whether a division by zero gives NULL instead of failing.

    Raises:
        QueryError: the operator does not take such operands.
    """
    if left.type.name == "unknown" and right.type.name == "unknown":
        left = Value("CAST(NULL AS INTEGER)", TrinoType("integer"))
    numbers = {kind.name for kind in (left.type, right.type) if kind.is_numeric or kind.name == "unknown"}
    if len(numbers) == len({left.type.name, right.type.name}):
        return _number(operation, left, right, errors_as_null=errors_as_null)
    moment = _moment(operation, left, right)
    if moment is None:
        raise mismatch(_SYMBOLS[operation], left.type, right.type)
    return moment


def _number(operation: str, left: Value, right: Value, *, errors_as_null: bool) -> Value:
    common = common_super_type(left.type, right.type)
    if common is None:
        raise mismatch(_SYMBOLS[operation], left.type, right.type)
    if common.name == "decimal":
        return _decimal(operation, _as_decimal(left, common), _as_decimal(right, common), errors_as_null=errors_as_null)
    a, b = coerce(left, common).sql, coerce(right, common).sql
    if operation not in ("divide", "modulo"):
        return Value(f"({a} {_SYMBOLS[operation]} {b})", common)
    symbol = "//" if operation == "divide" else "%"
    if common.name in ("real", "double"):
        return Value(f"({a} {'/' if operation == 'divide' else '%'} {b})", common)
    if errors_as_null:
        return Value(f"({a} {symbol} nullif({b}, 0))", common)
    return Value(f"trino_{operation}({a}, {b})", common)


def _as_decimal(value: Value, common: TrinoType) -> Value:
    if value.type.name == "unknown":
        return coerce(value, common)
    return coerce(value, integer_as_decimal(value.type))


def _decimal(operation: str, left: Value, right: Value, *, errors_as_null: bool) -> Value:
    p1, s1 = left.type.precision or 0, left.type.scale or 0
    p2, s2 = right.type.precision or 0, right.type.scale or 0
    scale = max(s1, s2)
    if operation in ("add", "subtract"):
        result = decimal(1 + scale + max(p1 - s1, p2 - s2), scale)
    elif operation == "multiply":
        result = decimal(p1 + p2, s1 + s2)
    elif operation == "modulo":
        result = decimal(min(p1 - s1, p2 - s2) + scale, scale)
    else:
        result = decimal(p1 + s2 + max(0, s2 - s1), scale)
    if operation in ("add", "subtract", "multiply"):
        sql = f"({left.sql} {_SYMBOLS[operation]} {right.sql})"
        return Value(f"CAST({sql} AS DECIMAL({result.precision},{result.scale}))", result)
    divisor = f"nullif({right.sql}, 0)" if errors_as_null else right.sql
    if operation == "modulo":
        sql = f"({left.sql} % {divisor})" if errors_as_null else f"trino_modulo({left.sql}, {right.sql})"
        return Value(f"CAST({sql} AS DECIMAL({result.precision},{result.scale}))", result)
    whole = f"trino_quotient({_shifted(left.sql, scale + s2)}, {_shifted(divisor, s2)})"
    return Value(_as_last_digits(whole, result), result)


def _shifted(sql: str, digits: int) -> str:
    """A decimal times ten to the power of *digits*, as a whole number."""
    if digits == 0:
        return f"CAST({sql} AS HUGEINT)"
    return f"CAST({sql} * CAST('1{'0' * digits}' AS DECIMAL({digits + 1},0)) AS HUGEINT)"


def _as_last_digits(whole: str, result: TrinoType) -> str:
    """A whole number as so many units of the last digit of a decimal."""
    scale = result.scale or 0
    sql = f"CAST({whole} AS DECIMAL(38,0))"
    if scale:
        sql = f"{sql} * CAST('0.{'0' * (scale - 1)}1' AS DECIMAL({scale + 1},{scale}))"
    return f"CAST({sql} AS DECIMAL({result.precision},{scale}))"


def _moment(operation: str, left: Value, right: Value) -> Value | None:
    if operation in ("add", "subtract") and (left.type.has_date or left.type.name == "time") and right.type.is_interval:
        return shifted_moment(left, right, "+" if operation == "add" else "-")
    if operation == "add" and left.type.is_interval and (right.type.has_date or right.type.name == "time"):
        return shifted_moment(right, left, "+")
    if operation in ("add", "subtract") and left.type.is_interval and left.type == right.type:
        return Value(f"({left.sql} {_SYMBOLS[operation]} {right.sql})", left.type)
    if operation == "subtract" and left.type.has_date and right.type.has_date:
        return _difference(left, right)
    if operation == "multiply" and right.type.is_interval and left.type.is_numeric:
        left, right = right, left
    if operation in ("multiply", "divide") and left.type.is_interval and right.type.is_numeric:
        return _scaled_interval(operation, left, right)
    return None


def _scaled_interval(operation: str, interval: Value, number: Value) -> Value:
    factor = coerce(number, DOUBLE).sql
    if operation == "divide":
        factor = f"(1 / {factor})"
    if interval.type == INTERVAL_YEAR:
        months = f"(date_part('year', {interval.sql}) * 12 + date_part('month', {interval.sql}))"
        return Value(f"to_months(CAST(trunc({months} * {factor}) AS INTEGER))", INTERVAL_YEAR)
    return Value(f"to_milliseconds(CAST(trunc({milliseconds(interval.sql)} * {factor}) AS BIGINT))", INTERVAL_DAY)


def milliseconds(interval_sql: str) -> str:
    """The milliseconds of a day to second interval, as a whole number."""
    return f"CAST(round(epoch({interval_sql}) * 1000) AS BIGINT)"


def _difference(left: Value, right: Value) -> Value:
    common = common_super_type(left.type, right.type)
    if common is None:
        raise mismatch("-", left.type, right.type)
    if common.name == "date":
        common = timestamp(0)
    a, b = (convert(v.sql, v.type, common, strict=True) for v in (left, right))
    # DuckDB counts whole days apart from the rest; Trino has one number of milliseconds.
    return Value(f"to_milliseconds((epoch_us({a}) - epoch_us({b})) // 1000)", INTERVAL_DAY)


def shifted_moment(moment: Value, interval: Value, sign: str) -> Value:
    """A date, time or timestamp plus or minus an interval.

    Months are counted on the calendar of the timestamp's own zone.
    """
    kind = moment.type
    if kind == DATE:
        days = interval.sql if interval.type == INTERVAL_YEAR else f"trino_whole_days({interval.sql})"
        return Value(f"CAST({moment.sql} {sign} {days} AS DATE)", DATE)
    if kind.name == "timestamp with time zone" and interval.type == INTERVAL_YEAR and kind.zone != "UTC":
        return Value(instant(f"({local(moment.sql, kind)} {sign} {interval.sql})", kind.zone or ""), kind)
    return Value(f"({moment.sql} {sign} {interval.sql})", kind)


def compared(symbol: str, left: Value, right: Value) -> Value:
    """`left symbol right`, a boolean, after coercion to the type that both have in common.

    Raises:
        QueryError: Trino does not compare such types.
        UntranslatableError: DuckDB compares such values otherwise.
    """
    kind = common_type(symbol, [left, right])
    a, b = (convert(value.sql, value.type, kind, strict=True) for value in (left, right))
    return Value(comparison(symbol, a, b, kind), BOOLEAN)


def comparison(symbol: str, a: str, b: str, kind: TrinoType) -> str:
    """The text of `a symbol b`, both of *kind*.

    NaN is equal to nothing and neither less nor greater than anything, where DuckDB has it equal to itself and the
    greatest. Of rows and arrays, NULL inside makes NULL of what would be equal; DuckDB has it equal to itself.
    """
    if symbol in ("=", "<>") and (equal := _equality_of_parts(a, b, kind)) is not None:
        return equal if symbol == "=" else f"(NOT {equal})"
    sql = f"({a} {symbol} {b})"
    sides = [f"isnan({side})" for side in (a, b) if not _NUMBER.fullmatch(side)]
    if kind.name not in ("double", "real") or symbol not in _NAN_SIDES or not sides:
        return sql
    if symbol in ("=", "<>"):
        both = " AND ".join(sides)
        if len(sides) == 1:
            return sql
        return f"({sql} AND NOT ({both}))" if symbol == "=" else f"({sql} OR ({both}))"
    greater = a if _NAN_SIDES[symbol] == 0 else b
    return sql if _NUMBER.fullmatch(greater) else f"({sql} AND NOT isnan({greater}))"


def _equality_of_parts(a: str, b: str, kind: TrinoType) -> str | None:
    if kind.name == "row":
        fields = [
            (row_field(Value(a, kind), at), row_field(Value(b, kind), at).sql) for at in range(len(kind.parameters))
        ]
        return f"({' AND '.join(comparison('=', one.sql, other, one.type) for one, other in fields)})"
    if kind.name == "array" and not kind.element.parameters:
        return f"trino_array_equals({a}, {b})"
    return None


def aligned(symbol: str, values: list[Value]) -> list[str]:
    """The texts of *values*, all coerced to one comparable type."""
    common = common_type(symbol, values)
    return [convert(v.sql, v.type, common, strict=True) for v in values]


def common_type(symbol: str, values: list[Value]) -> TrinoType:
    """The type in which *values* are compared.

    Raises:
        QueryError: Trino does not compare such types.
        UntranslatableError: DuckDB compares such values otherwise.
    """
    common = values[0].type
    for value in values[1:]:
        merged = common_super_type(common, value.type)
        if merged is None:
            raise mismatch(symbol, common, value.type)
        common = merged
    if _contains_map(common):
        raise UntranslatableError(f"a comparison of {common}")
    return common


def _contains_map(kind: TrinoType) -> bool:
    return kind.name == "map" or any(map(_contains_map, kind.parameters))


def concatenated(left: Value, right: Value) -> Value:
    """`left || right`, of strings, binaries, arrays, or an array and an element.

    Raises:
        QueryError: the operator does not take such operands.
    """
    names = {left.type.name, right.type.name}
    if names <= {"varchar", "unknown"}:
        a, b = (convert(v.sql, v.type, VARCHAR, strict=True) for v in (left, right))
        return Value(f"({a} || {b})", VARCHAR)
    if names == {"varbinary"}:
        return Value(f"({left.sql} || {right.sql})", left.type)
    if names == {"array"} or (left.type.name == "array" and right.type.name == "unknown"):
        common = common_super_type(left.type, right.type)
        if common is not None:
            a, b = (convert(v.sql, v.type, common, strict=True) for v in (left, right))
            return Value(f"trino_array_concat({a}, {b})", common)
    elif "array" in names:
        listed, single = (left, right) if left.type.name == "array" else (right, left)
        element = common_super_type(listed.type.element, single.type)
        if element is not None:
            items = convert(listed.sql, listed.type, array(element), strict=True)
            item = convert(single.sql, single.type, element, strict=True)
            function = f"list_append({items}, {item})" if listed is left else f"list_prepend({item}, {items})"
            return Value(f"CASE WHEN {items} IS NOT NULL THEN {function} END", array(element))
    raise mismatch("||", left.type, right.type)


def subscript(container: Value, index: Value) -> Value:
    """`container[index]`: an element of an array, a value of a map, or a field of a row.

    Raises:
        QueryError: the value has no elements of this kind.
    """
    kind = container.type
    if kind.name == "array":
        position = coerce(index, TrinoType("bigint")).sql
        return Value(f"trino_array_at({container.sql}, {position})", kind.element)
    if kind.name == "map":
        key = coerce(index, kind.parameters[0]).sql
        return Value(f"trino_map_at({container.sql}, {key})", kind.parameters[1])
    raise QueryError("TYPE_MISMATCH", f"Cannot use {index.type} for subscript of {kind}")


def field_of(value: Value, name: str) -> Value:
    """`value.name`, a field of a row.

    Raises:
        QueryError: the value is no row, or has no such field.
    """
    if value.type.name == "row":
        for i, given in enumerate(value.type.fields):
            if given is not None and given.lower() == name.lower():
                return row_field(value, i)
    raise QueryError("COLUMN_NOT_FOUND", f"Field '{name}' cannot be resolved in {value.type}")


def row_field(value: Value, index: int) -> Value:
    """Field number *index* (from 0) of a row."""
    kind = value.type
    return Value(f"struct_extract({value.sql}, {text_sql(kind.field_name(index))})", kind.parameters[index])
