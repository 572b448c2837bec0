"""Conversions between Trino's types, as CAST, TRY_CAST and the implicit coercions make them.

DuckDB's own casts are more generous than Trino's (`'5.7'` becomes 6, `'2024/01/02'` a date) and round halves to even,
so text is first matched against what Trino accepts.
"""

from __future__ import annotations

from typing import Final

from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.literals import MICROSECOND_DIGITS, offset_minutes, text_sql
from queries.athena.scope import Value
from queries.athena.types import UTC, VARCHAR, TrinoType, common_super_type, duckdb_type, quoted

_TEXT_NUMBERS: Final = {
    "tinyint": ("trino_parse_integer", "TINYINT"),
    "smallint": ("trino_parse_integer", "SMALLINT"),
    "integer": ("trino_parse_integer", "INT"),
    "bigint": ("trino_parse_integer", "BIGINT"),
    "decimal": ("trino_parse_decimal", "DECIMAL"),
    "real": ("trino_parse_double", "REAL"),
    "double": ("trino_parse_double", "DOUBLE"),
    "boolean": ("trino_parse_boolean", "BOOLEAN"),
    "date": ("trino_parse_date", "date"),
    "time": ("trino_parse_time", "time"),
    "timestamp": ("trino_parse_timestamp", "timestamp"),
    "timestamp with time zone": ("trino_parse_timestamp_tz", "timestamp with time zone"),
}


def fresh_name(*around: str) -> str:
    """A name for a lambda's parameter that occurs nowhere in the texts *around* it.

    The same texts always give the same name, so that equal expressions of a query stay equal in DuckDB.
    """
    number = 1
    while any(f"e{number}" in text for text in around):
        number += 1
    return f"e{number}"


def coerce(value: Value, target: TrinoType) -> Value:
    """*value* as a *target*, where Trino converts by itself: numbers and dates upwards, NULL into anything.

    Raises:
        QueryError: Trino asks for an explicit cast here.
    """
    if value.type == target:
        return value
    common = common_super_type(value.type, target)
    same_shape = common is not None and (common == target or (common.name == target.name and not target.is_numeric))
    if not same_shape:
        raise QueryError("TYPE_MISMATCH", f"Cannot convert {value.type} to {target} implicitly; use CAST")
    return Value(convert(value.sql, value.type, target, strict=True), target)


def cast(value: Value, target: TrinoType, *, strict: bool) -> Value:
    """*value* cast to *target*: TRY_CAST gives NULL where CAST fails, so it is the one that is not *strict*.

    Raises:
        QueryError: Trino has no such cast.
        UntranslatableError: Trino has it, DuckDB cannot make it.
    """
    if target.name == "timestamp with time zone" and value.type.name in ("varchar", "json"):
        target = target.in_zone(None)
    elif value.type.name == target.name == "timestamp with time zone":
        target = target.in_zone(value.type.zone)
    return Value(convert(value.sql, value.type, target, strict=strict), target)


def convert(sql: str, source: TrinoType, target: TrinoType, *, strict: bool) -> str:  # noqa: PLR0911 (one a rule)
    """DuckDB's text of *sql*, of type *source*, converted to *target*."""
    if source.name == "unknown":
        return f"CAST({sql} AS {duckdb_type(target)})" if target.name != "unknown" else sql
    if target.name == "varchar":
        return _to_text(sql, source, target, strict=strict)
    if target.name == "json":
        return _to_json(sql, source)
    if source.name == "json":
        return _from_json(sql, target, strict=strict)
    if source.name == "varchar":
        return _from_text(sql, target, strict=strict)
    if source.parameters and source.name == target.name and len(source.parameters) == len(target.parameters):
        return _nested(sql, source, target, strict=strict)
    if target.has_date or target.name == "time":
        return _to_moment(sql, source, target)
    if source == target:
        return sql
    return _number_or_same(sql, source, target, strict=strict)


def _number_or_same(sql: str, source: TrinoType, target: TrinoType, *, strict: bool) -> str:
    numeric = source.is_numeric or source.name == "boolean"
    if target.name == "boolean" and source.is_numeric:
        return f"({sql} <> 0)"
    if numeric and target.is_integer and source.name in ("real", "double"):
        return _cast(f"round({sql})", target, strict=strict)
    if numeric and target.is_numeric:
        return _cast(sql, target, strict=strict)
    raise QueryError("TYPE_MISMATCH", f"Cannot cast {source} to {target}")


def _cast(sql: str, target: TrinoType, *, strict: bool) -> str:
    return f"{'CAST' if strict else 'TRY_CAST'}({sql} AS {duckdb_type(target)})"


def _from_text(sql: str, target: TrinoType, *, strict: bool) -> str:
    if target.name == "varbinary":
        return f"encode({sql})"
    if target.name == "uuid":
        return _cast(sql, target, strict=strict)
    if target.name not in _TEXT_NUMBERS:
        raise QueryError("TYPE_MISMATCH", f"Cannot cast varchar to {target}")
    parser, kind = _TEXT_NUMBERS[target.name]
    parsed = f"{parser}({sql})"
    if strict:
        parsed = f"trino_checked({sql}, {parsed}, {text_sql(kind)})"
    if target.name in ("timestamp", "timestamp with time zone", "time"):
        return rounded(parsed, MICROSECOND_DIGITS, target)
    return parsed if target.name in ("boolean", "date") else _cast(parsed, target, strict=strict)


def _to_text(sql: str, source: TrinoType, target: TrinoType, *, strict: bool) -> str:
    length = target.precision
    if source.name == "varchar":
        fits = length is None or (source.precision is not None and source.precision <= length)
        return sql if fits else f"left({sql}, {length})"
    text = text_of(sql, source, strict=strict)
    if length is None:
        return text
    otherwise = (
        f"trino_raise('INVALID_CAST_ARGUMENT: Value ' || {text} || ' cannot be represented as {target}')"
        if strict
        else "NULL"
    )
    return f"CASE WHEN length({text}) > {length} THEN {otherwise} ELSE {text} END"


def text_of(sql: str, source: TrinoType, *, strict: bool = True) -> str:  # noqa: PLR0911 (one return a type)
    """The text that Trino's CAST to varchar makes of a value.

    Raises:
        QueryError: Trino has no such cast.
        UntranslatableError: Trino has it, DuckDB cannot make it.
    """
    if source.name in ("boolean", "tinyint", "smallint", "integer", "bigint", "decimal", "date", "uuid"):
        return f"CAST({sql} AS VARCHAR)"
    if source.name == "varchar":
        return sql
    if source.name == "double":
        return f"trino_double_text({sql})"
    if source.name == "timestamp":
        return moment_text(sql, source, "%Y-%m-%d %H:%M:%S")
    if source.name == "timestamp with time zone":
        return (
            f"{moment_text(local(sql, source), source, '%Y-%m-%d %H:%M:%S')} || {text_sql(' ' + _known_zone(source))}"
        )
    if source.name == "time":
        return moment_text(f"(TIMESTAMP '1970-01-01' + {sql})", source, "%H:%M:%S")
    if source.name == "json":
        return f"trino_json_varchar({sql})" if strict else f"TRY(trino_json_varchar({sql}))"
    if source.name == "real" or source.is_interval:
        raise UntranslatableError(f"a cast of {source} to varchar")
    raise QueryError("TYPE_MISMATCH", f"Cannot cast {source} to varchar")


def moment_text(local_sql: str, kind: TrinoType, pattern: str) -> str:
    """A local timestamp by a strftime *pattern*, then the fraction of a second with the type's number of digits."""
    if not kind.precision:
        return f"strftime({local_sql}, '{pattern}')"
    if kind.precision == MICROSECOND_DIGITS:
        return f"strftime({local_sql}, '{pattern}.%f')"
    return f"left(strftime({local_sql}, '{pattern}.%f'), {kind.precision - MICROSECOND_DIGITS})"


def _known_zone(kind: TrinoType) -> str:
    if kind.zone is None:
        raise UntranslatableError(
            "the time zone of a timestamp that was read from text", "may differ by row: add AT TIME ZONE 'UTC'"
        )
    return kind.zone


def local(sql: str, kind: TrinoType) -> str:
    """The wall clock of a `timestamp with time zone`, in its own zone, as a DuckDB TIMESTAMP.

    Raises:
        UntranslatableError: the zone may differ from row to row.
    """
    zone = _known_zone(kind)
    minutes = offset_minutes(zone)
    if minutes is not None:
        return f"(timezone('UTC', {sql}) + to_minutes({minutes}))"
    return f"timezone({text_sql(zone)}, {sql})"


def instant(local_sql: str, zone: str) -> str:
    """The moment at which a wall clock in *zone* shows *local_sql*, as a DuckDB TIMESTAMPTZ."""
    minutes = offset_minutes(zone)
    if minutes is not None:
        return f"timezone('UTC', {local_sql} - to_minutes({minutes}))"
    return f"timezone({text_sql(zone)}, {local_sql})"


def _to_moment(sql: str, source: TrinoType, target: TrinoType) -> str:
    zoned = source.name == "timestamp with time zone"
    if target.name == "timestamp with time zone":
        if zoned:
            return rounded(sql, source.precision, target)
        if source.name in ("date", "timestamp"):
            return instant(rounded(f"CAST({sql} AS TIMESTAMP)", source.precision or 0, target), UTC)
    elif target.name in ("timestamp", "date", "time") and (source.has_date or source.name == "time"):
        clock = local(sql, source) if zoned else sql
        if target.name == "timestamp" and source.has_date:
            return rounded(
                clock if source.name != "date" else f"CAST({sql} AS TIMESTAMP)", source.precision or 0, target
            )
        if target.name == "date" and source.has_date:
            return clock if source.name == "date" else f"CAST({clock} AS DATE)"
        if target.name == "time" and source.name != "date":
            return rounded(clock if source.name == "time" else f"CAST({clock} AS TIME)", source.precision or 0, target)
    raise QueryError("TYPE_MISMATCH", f"Cannot cast {source} to {target}")


def rounded(sql: str, digits: int | None, target: TrinoType) -> str:
    """A time or timestamp of *digits* fractional digits, rounded half up to those of *target*.

    Raises:
        UntranslatableError: *target* is finer than a microsecond.
    """
    wanted = target.precision or 0
    if wanted > MICROSECOND_DIGITS:
        raise UntranslatableError(f"the type {target}", "is finer than a microsecond")
    if digits is not None and digits <= wanted:
        return sql
    if target.name == "time":
        raise UntranslatableError(f"a cast to {target} that rounds")
    return f"trino_round_time({sql}, {10 ** (MICROSECOND_DIGITS - wanted)})"


def _nested(sql: str, source: TrinoType, target: TrinoType, *, strict: bool) -> str:
    if duckdb_type(source) == duckdb_type(target) and source.name != "row" and _convertible_as_is(source, target):
        return sql
    name = fresh_name(sql)
    if source.name == "array":
        return f"list_transform({sql}, lambda {name}: {convert(name, source.element, target.element, strict=strict)})"
    if source.name == "map":
        key, value = (
            convert(f"{name}.{part}", a, b, strict=strict)
            for part, a, b in zip(("key", "value"), source.parameters, target.parameters, strict=True)
        )
        entries = f"list_transform(map_entries({sql}), lambda {name}: {{'key': {key}, 'value': {value}}})"
        return f"map_from_entries({entries})"
    fields = ", ".join(
        f"{quoted(target.field_name(i))} := "
        + convert(f"struct_extract({sql}, {text_sql(source.field_name(i))})", a, b, strict=strict)
        for i, (a, b) in enumerate(zip(source.parameters, target.parameters, strict=True))
    )
    return f"CASE WHEN {sql} IS NOT NULL THEN struct_pack({fields}) END"


def _convertible_as_is(source: TrinoType, target: TrinoType) -> bool:
    pairs = list(zip(source.parameters, target.parameters, strict=True))
    return all(a == b or (a.parameters and _convertible_as_is(a, b)) for a, b in pairs)


def _to_json(sql: str, source: TrinoType) -> str:
    if source.name == "json":
        return sql
    if source.name == "array":
        name = fresh_name(sql)
        return f"to_json(list_transform({sql}, lambda {name}: {_to_json(name, source.element)}))"
    if source.name == "map" and source.parameters[0].name == "varchar":
        name = fresh_name(sql)
        pair = f"{{'key': {name}.key, 'value': {_to_json(f'{name}.value', source.parameters[1])}}}"
        return f"to_json(map_from_entries(list_transform(map_entries({sql}), lambda {name}: {pair})))"
    if source.name == "row" and all(source.fields):
        fields = ", ".join(
            f"{quoted(source.field_name(i))} := "
            + _to_json(f"struct_extract({sql}, {text_sql(source.field_name(i))})", kind)
            for i, kind in enumerate(source.parameters)
        )
        return f"CASE WHEN {sql} IS NOT NULL THEN to_json(struct_pack({fields})) END"
    if source.is_numeric or source.name in ("boolean", "varchar"):
        return f"to_json({sql})"
    if source.has_date:
        return f"to_json({text_of(sql, source)})"
    raise UntranslatableError(f"a cast of {source} to json")


def _from_json(sql: str, target: TrinoType, *, strict: bool) -> str:
    name = fresh_name(sql)
    if target.name == "array":
        element = _from_json(name, target.element, strict=strict)
        return f"list_transform({'CAST' if strict else 'TRY_CAST'}({sql} AS JSON[]), lambda {name}: {element})"
    if target.name == "map" and target.parameters[0].name == "varchar":
        pairs = f"map_entries({'CAST' if strict else 'TRY_CAST'}({sql} AS MAP(VARCHAR, JSON)))"
        value = _from_json(f"{name}.value", target.parameters[1], strict=strict)
        return f"map_from_entries(list_transform({pairs}, lambda {name}: {{'key': {name}.key, 'value': {value}}}))"
    if target.name == "row":
        return _row_from_json(sql, target, strict=strict)
    if target.name == "json":
        return sql
    kind = text_sql(str(target))
    if target.is_integer:
        text = f"trino_json_whole({sql}, {kind})"
    elif target.name in ("real", "double", "decimal"):
        text = f"trino_json_fractional({sql}, {kind})"
    elif target.name in ("varchar", "boolean"):
        text = f"trino_json_{target.name}({sql})"
    elif target.name == "date":
        text = f"trino_json_text({sql}, {kind})"
    else:
        raise UntranslatableError(f"a cast of json to {target}")
    return convert(text if strict else f"TRY({text})", VARCHAR, target, strict=strict)


def _row_from_json(sql: str, target: TrinoType, *, strict: bool) -> str:
    def fields(path: str) -> str:
        return ", ".join(
            f"{quoted(target.field_name(i))} := "
            + _from_json(
                f"json_extract({sql}, {text_sql(path.format(index=i, name=target.field_name(i)))})", kind, strict=strict
            )
            for i, kind in enumerate(target.parameters)
        )

    by_index, by_name = fields("$[{index}]"), fields('$."{name}"')
    return (
        f"CASE json_type({sql}) WHEN 'ARRAY' THEN struct_pack({by_index}) WHEN 'OBJECT' THEN struct_pack({by_name}) "
        f"WHEN 'NULL' THEN NULL ELSE struct_pack({by_index}) END"
    )
