"""Mathematical and bitwise functions."""

from __future__ import annotations

from typing import Final

from queries.athena import operators
from queries.athena.calls import Call, scalar
from queries.athena.errors import UntranslatableError
from queries.athena.scope import Value
from queries.athena.types import BIGINT, BOOLEAN, DOUBLE, VARCHAR, array, decimal, duckdb_type

_OF_ONE_DOUBLE: Final = {
    "acos": "trino_acos({})",
    "asin": "trino_asin({})",
    "atan": "atan({})",
    "cbrt": "trino_cbrt({})",
    "cos": "cos({})",
    "cosh": "cosh({})",
    "degrees": "degrees({})",
    "exp": "exp({})",
    "ln": "trino_ln({})",
    "log10": "trino_log({}, 10)",
    "log2": "trino_log({}, 2)",
    "radians": "radians({})",
    "sin": "sin({})",
    "sinh": "sinh({})",
    "sqrt": "trino_sqrt({})",
    "tan": "tan({})",
    "tanh": "tanh({})",
}
_CONSTANTS: Final = {
    "e": "exp(1)",
    "pi": "pi()",
    "infinity": "CAST('Infinity' AS DOUBLE)",
    "nan": "CAST('NaN' AS DOUBLE)",
}
_TESTS: Final = {"is_finite": "isfinite", "is_infinite": "isinf", "is_nan": "isnan"}
_BITWISE: Final = {"bitwise_and": "({} & {})", "bitwise_or": "({} | {})", "bitwise_xor": "xor({}, {})"}
_BITS: Final = {"tinyint": 8, "smallint": 16, "integer": 32, "bigint": 64}
_NUMBERS: Final = ("tinyint", "smallint", "integer", "bigint", "decimal", "real", "double")


@scalar(*_OF_ONE_DOUBLE, arguments=1)
def _of_one_double(call: Call) -> Value:
    return Value(_OF_ONE_DOUBLE[call.name].format(call.double(0)), DOUBLE)


@scalar(*_CONSTANTS, arguments=0)
def _constant(call: Call) -> Value:
    return Value(_CONSTANTS[call.name], DOUBLE)


@scalar(*_TESTS, arguments=1)
def _test(call: Call) -> Value:
    return Value(f"{_TESTS[call.name]}({call.double(0)})", BOOLEAN)


@scalar("power", "pow", arguments=2)
def _power(call: Call) -> Value:
    return Value(f"pow({call.double(0)}, {call.double(1)})", DOUBLE)


@scalar("log", arguments=2)
def _log(call: Call) -> Value:
    return Value(f"trino_log({call.double(1)}, {call.double(0)})", DOUBLE)


@scalar("atan2", arguments=2)
def _atan2(call: Call) -> Value:
    return Value(f"atan2({call.double(0)}, {call.double(1)})", DOUBLE)


@scalar("mod", arguments=2)
def _mod(call: Call) -> Value:
    first, second = call.values()
    return operators.arithmetic("modulo", first, second)


@scalar("abs", "sign", arguments=1)
def _same_type(call: Call) -> Value:
    value = call.one_of(0, *_NUMBERS)
    kind = value.type if call.name == "abs" or value.type.name != "decimal" else decimal(1, 0)
    return Value(f"CAST({call.name}({value.sql}) AS {duckdb_type(kind)})", kind)


@scalar("ceil", "ceiling", "floor", arguments=1)
def _to_whole(call: Call) -> Value:
    value = call.one_of(0, *_NUMBERS)
    if value.type.is_integer:
        return value
    function = "floor" if call.name == "floor" else "ceil"
    kind = value.type
    if kind.name == "decimal":
        scale = kind.scale or 0
        kind = decimal((kind.precision or 0) - scale + min(scale, 1), 0)
    return Value(f"CAST({function}({value.sql}) AS {duckdb_type(kind)})", kind)


@scalar("round", arguments=(1, 2))
def _round(call: Call) -> Value:
    value = call.one_of(0, *_NUMBERS)
    kind = value.type
    if len(call) == 2:
        digits = call.constant_integer(1)
        if digits is None:
            raise UntranslatableError("round with a number of digits that is not constant")
        if kind.name == "decimal":
            kind = decimal((kind.precision or 0) + 1, kind.scale or 0)
        return Value(f"CAST(round({value.sql}, {digits}) AS {duckdb_type(kind)})", kind)
    if kind.is_integer:
        return value
    if kind.name == "decimal":
        scale = kind.scale or 0
        kind = decimal((kind.precision or 0) - scale + min(scale, 1), 0)
    return Value(f"CAST(round({value.sql}) AS {duckdb_type(kind)})", kind)


@scalar("truncate", arguments=(1, 2))
def _truncate(call: Call) -> Value:
    value = call.one_of(0, *_NUMBERS)
    kind = value.type
    if len(call) == 2:
        digits = call.constant_integer(1)
        if digits is None:
            raise UntranslatableError("truncate with a number of digits that is not constant")
        return Value(f"CAST(trunc({value.sql}, {digits}) AS {duckdb_type(kind)})", kind)
    if kind.is_integer:
        return value
    if kind.name == "decimal":
        kind = decimal(max((kind.precision or 0) - (kind.scale or 0), 1), 0)
    return Value(f"CAST(trunc({value.sql}) AS {duckdb_type(kind)})", kind)


@scalar("rand", "random", arguments=(0, 2))
def _random(call: Call) -> Value:
    if len(call) == 0:
        return Value("random()", DOUBLE)
    for i in range(len(call)):
        if not call.value(i).type.is_integer:
            raise call.refusal()
    if len(call) == 1:
        return Value(f"trino_random({call.bigint(0)})", BIGINT)
    low, high = call.bigint(0), call.bigint(1)
    return Value(f"({low} + trino_random({high} - {low}))", BIGINT)


@scalar("to_base", arguments=2)
def _to_base(call: Call) -> Value:
    return Value(f"trino_to_base({call.bigint(0)}, {call.bigint(1)})", VARCHAR)


@scalar("from_base", arguments=2)
def _from_base(call: Call) -> Value:
    return Value(f"trino_from_base({call.text(0)}, {call.bigint(1)})", BIGINT)


@scalar("width_bucket", arguments=(2, 4))
def _width_bucket(call: Call) -> Value:
    if len(call) == 2:
        return Value(f"trino_width_bucket_of({call.double(0)}, {call.of(1, array(DOUBLE))})", BIGINT)
    if len(call) != 4:
        raise call.refusal()
    x, low, high = (call.double(i) for i in range(3))
    return Value(f"trino_width_bucket({x}, {low}, {high}, {call.bigint(3)})", BIGINT)


@scalar(*_BITWISE, arguments=2)
def _bitwise(call: Call) -> Value:
    return Value(_BITWISE[call.name].format(call.bigint(0), call.bigint(1)), BIGINT)


@scalar("bitwise_not", arguments=1)
def _bitwise_not(call: Call) -> Value:
    return Value(f"(~{call.bigint(0)})", BIGINT)


@scalar("bit_count", arguments=2)
def _bit_count(call: Call) -> Value:
    bits = call.constant_integer(1)
    name = next((name for name, width in _BITS.items() if width == bits), None)
    if name is None:
        raise UntranslatableError("bit_count of a width other than 8, 16, 32 or 64")
    return Value(f"CAST(bit_count(CAST({call.bigint(0)} AS {name.upper()})) AS BIGINT)", BIGINT)


@scalar("bitwise_left_shift", arguments=2)
def _left_shift(call: Call) -> Value:
    value = call.one_of(0, *_BITS)
    modulus = f"CAST({2 ** _BITS[value.type.name]} AS HUGEINT)"
    shifted = f"trino_left_shift({value.sql}, {call.bigint(1)}, {modulus})"
    return Value(f"CAST({shifted} AS {duckdb_type(value.type)})", value.type)


@scalar("bitwise_right_shift", "bitwise_right_shift_arithmetic", arguments=2)
def _right_shift(call: Call) -> Value:
    value = call.one_of(0, *_BITS)
    if call.name == "bitwise_right_shift":
        if value.type.name != "bigint":
            raise UntranslatableError(
                f"bitwise_right_shift of {value.type}", "is not supported by this service; cast it to bigint"
            )
        return Value(f"trino_right_shift({value.sql}, {call.bigint(1)})", value.type)
    shifted = f"trino_right_shift_arithmetic(CAST({value.sql} AS BIGINT), {call.bigint(1)})"
    return Value(f"CAST({shifted} AS {duckdb_type(value.type)})", value.type)
