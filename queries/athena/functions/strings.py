"""String and binary functions."""

from __future__ import annotations

from typing import Final

from queries.athena import operators
from queries.athena.calls import Call, scalar
from queries.athena.errors import UntranslatableError
from queries.athena.functions.java_format import formatted
from queries.athena.functions.regular_expressions import RegularExpression
from queries.athena.literals import text_sql
from queries.athena.scope import Value
from queries.athena.types import BIGINT, BOOLEAN, INTEGER, VARBINARY, VARCHAR, array, map_of

_TEXT_TO_TEXT: Final = {"lower": "lower({})", "upper": "trino_upper({})"}


@scalar(*_TEXT_TO_TEXT, arguments=1)
def _text_to_text(call: Call) -> Value:
    return Value(_TEXT_TO_TEXT[call.name].format(call.text(0)), VARCHAR)


@scalar("trim", "ltrim", "rtrim", arguments=(1, 2))
def _trim(call: Call) -> Value:
    if len(call) == 2:
        return Value(f"{call.name}({call.text(0)}, {call.text(1)})", VARCHAR)
    return Value(f"trino_{call.name}({call.text(0)})", VARCHAR)


@scalar("length", arguments=1)
def _length(call: Call) -> Value:
    if call.value(0).type.name == "varbinary":
        return Value(f"octet_length({call.binary(0)})", BIGINT)
    return Value(f"length({call.text(0)})", BIGINT)


@scalar("reverse", arguments=1)
def _reverse(call: Call) -> Value:
    value = call.value(0)
    if value.type.name == "array":
        return Value(f"list_reverse({value.sql})", value.type)
    if value.type.name == "varbinary":
        raise UntranslatableError("reverse of varbinary")
    return Value(f"trino_reverse({call.text(0)})", VARCHAR)


@scalar("concat", arguments=(2, 127))
def _concat(call: Call) -> Value:
    first, *rest = call.values()
    for value in rest:
        first = operators.concatenated(first, value)
    return first


@scalar("concat_ws", arguments=(2, 127))
def _concat_ws(call: Call) -> Value:
    if len(call) == 2 and call.value(1).type.name == "array":
        items = call.of(1, array(VARCHAR))
        return Value(f"trino_join({items}, {call.text(0)})", VARCHAR)
    return Value(f"concat_ws({', '.join(call.text(i) for i in range(len(call)))})", VARCHAR)


@scalar("substr", "substring", arguments=(2, 3))
def _substr(call: Call) -> Value:
    if call.value(0).type.name == "varbinary":
        raise UntranslatableError("substr of varbinary")
    start = call.constant_integer(1)
    if len(call) == 2:
        if start is not None and start > 0:
            return Value(f"substr({call.text(0)}, {start})", VARCHAR)
        return Value(f"trino_substr({call.text(0)}, {call.bigint(1)})", VARCHAR)
    size = call.constant_integer(2)
    if start is not None and start > 0 and size is not None and size >= 0:
        return Value(f"substr({call.text(0)}, {start}, {size})", VARCHAR)
    return Value(f"trino_substr_length({call.text(0)}, {call.bigint(1)}, {call.bigint(2)})", VARCHAR)


@scalar("strpos", arguments=(2, 3))
def _strpos(call: Call) -> Value:
    if len(call) == 3:
        return Value(f"trino_strpos_nth({call.text(0)}, {call.text(1)}, {call.bigint(2)})", BIGINT)
    return Value(f"strpos({call.text(0)}, {call.text(1)})", BIGINT)


@scalar("replace", arguments=(2, 3))
def _replace(call: Call) -> Value:
    replacement = call.text(2) if len(call) == 3 else "''"
    function = "replace" if call.constant_text(1) else "trino_replace"
    return Value(f"{function}({call.text(0)}, {call.text(1)}, {replacement})", VARCHAR)


@scalar("translate", arguments=3)
def _translate(call: Call) -> Value:
    return Value(f"translate({call.text(0)}, {call.text(1)}, {call.text(2)})", VARCHAR)


@scalar("lpad", "rpad", arguments=3)
def _pad(call: Call) -> Value:
    if call.value(0).type.name == "varbinary":
        raise UntranslatableError(f"{call.name} of varbinary")
    return Value(f"trino_{call.name}({call.text(0)}, {call.bigint(1)}, {call.text(2)})", VARCHAR)


@scalar("starts_with", "ends_with", arguments=2)
def _affix(call: Call) -> Value:
    return Value(f"{call.name}({call.text(0)}, {call.text(1)})", BOOLEAN)


@scalar("split", arguments=(2, 3))
def _split(call: Call) -> Value:
    if len(call) == 3:
        return Value(f"trino_split_limit({call.text(0)}, {call.text(1)}, {call.bigint(2)})", array(VARCHAR))
    return Value(f"trino_split({call.text(0)}, {call.text(1)})", array(VARCHAR))


@scalar("split_part", arguments=3)
def _split_part(call: Call) -> Value:
    return Value(f"trino_split_part({call.text(0)}, {call.text(1)}, {call.bigint(2)})", VARCHAR)


@scalar("split_to_map", arguments=3)
def _split_to_map(call: Call) -> Value:
    sql = f"trino_split_to_map({call.text(0)}, {call.text(1)}, {call.text(2)})"
    return Value(sql, map_of(VARCHAR, VARCHAR))


@scalar("chr", arguments=1)
def _chr(call: Call) -> Value:
    return Value(f"chr(CAST({call.bigint(0)} AS INTEGER))", VARCHAR)


@scalar("codepoint", arguments=1)
def _codepoint(call: Call) -> Value:
    return Value(f"trino_codepoint({call.text(0)})", INTEGER)


@scalar("hamming_distance", "levenshtein_distance", arguments=2)
def _distance(call: Call) -> Value:
    function = {"hamming_distance": "hamming", "levenshtein_distance": "levenshtein"}[call.name]
    return Value(f"{function}({call.text(0)}, {call.text(1)})", BIGINT)


@scalar("normalize", arguments=(1, 2))
def _normalize(call: Call) -> Value:
    if len(call) == 2 and call.nodes[1].name.upper() != "NFC":
        raise UntranslatableError(f"normalize to {call.nodes[1].name.upper()}")
    return Value(f"nfc_normalize({call.text(0)})", VARCHAR)


@scalar("format", arguments=(1, 127))
def _format(call: Call) -> Value:
    pattern = call.required_text(0, "a format")
    return Value(formatted(pattern, [call.value(i) for i in range(1, len(call))]), VARCHAR)


# Binary.


@scalar("to_utf8", arguments=1)
def _to_utf8(call: Call) -> Value:
    return Value(f"encode({call.text(0)})", VARBINARY)


@scalar("from_utf8", arguments=1)
def _from_utf8(call: Call) -> Value:
    return Value(f"decode({call.binary(0)})", VARCHAR)


@scalar("to_hex", arguments=1)
def _to_hex(call: Call) -> Value:
    return Value(f"hex({call.binary(0)})", VARCHAR)


@scalar("from_hex", arguments=1)
def _from_hex(call: Call) -> Value:
    value = call.value(0)
    text = f"decode({value.sql})" if value.type.name == "varbinary" else call.text(0)
    return Value(f"unhex({text})", VARBINARY)


@scalar("to_base64", "to_base64url", arguments=1)
def _to_base64(call: Call) -> Value:
    text = f"to_base64({call.binary(0)})"
    return Value(f"translate({text}, '+/', '-_')" if call.name == "to_base64url" else text, VARCHAR)


@scalar("from_base64", "from_base64url", arguments=1)
def _from_base64(call: Call) -> Value:
    text = f"translate({call.text(0)}, '-_', '+/')" if call.name == "from_base64url" else call.text(0)
    return Value(f"from_base64({text})", VARBINARY)


@scalar("md5", "sha1", "sha256", arguments=1)
def _digest(call: Call) -> Value:
    return Value(f"unhex({call.name}({call.binary(0)}))", VARBINARY)


# Regular expressions.


def _pattern(call: Call) -> RegularExpression:
    return RegularExpression.parse(call.required_text(1, "a regular expression"))


@scalar("regexp_like", arguments=2)
def _regexp_like(call: Call) -> Value:
    return Value(f"regexp_matches({call.text(0)}, {text_sql(_pattern(call).duckdb)})", BOOLEAN)


def _searched(call: Call, pattern: RegularExpression) -> str:
    """The text that is searched, where what matches is kept or removed."""
    return f"trino_without_final_break({call.text(0)})" if pattern.reaches_past_end else call.text(0)


def _group(call: Call, pattern: RegularExpression, index: int) -> int:
    group = call.constant_integer(index) if len(call) > index else 0
    if group is None:
        raise UntranslatableError(f"{call.name} with a group that is not constant")
    return pattern.checked_group(group)


@scalar("regexp_extract", arguments=(2, 3))
def _regexp_extract(call: Call) -> Value:
    pattern = _pattern(call)
    group, regex = _group(call, pattern, 2), text_sql(pattern.duckdb)
    text = call.text(0) if group else _searched(call, pattern)
    found = f"regexp_extract({text}, {regex}, {group})"
    if pattern.may_be_absent(group):
        # A group that took no part is NULL in Trino; here it is told from an empty match by never being empty.
        found = f"nullif({found}, '')"
    return Value(f"CASE WHEN regexp_matches({text}, {regex}) THEN {found} END", VARCHAR)


@scalar("regexp_extract_all", arguments=(2, 3))
def _regexp_extract_all(call: Call) -> Value:
    pattern = _pattern(call)
    group = _group(call, pattern, 2)
    found = f"regexp_extract_all({_searched(call, pattern)}, {text_sql(pattern.duckdb)}, {group})"
    if pattern.may_be_absent(group):
        found = f"list_transform({found}, lambda e: nullif(e, ''))"
    return Value(found, array(VARCHAR))


@scalar("regexp_count", arguments=2)
def _regexp_count(call: Call) -> Value:
    pattern = _pattern(call)
    return Value(f"len(regexp_extract_all({_searched(call, pattern)}, {text_sql(pattern.duckdb)}))", BIGINT)


@scalar("regexp_position", arguments=2)
def _regexp_position(call: Call) -> Value:
    pattern, text = _pattern(call), call.text(0)
    before = text_sql(rf"(?s)\A(.*?)(?:(?-s){pattern.duckdb})")
    sql = f"CASE WHEN regexp_matches({text}, {before}) THEN length(regexp_extract({text}, {before}, 1)) + 1"
    return Value(f"CAST({sql} WHEN {text} IS NOT NULL THEN -1 END AS INTEGER)", INTEGER)


@scalar("regexp_replace", arguments=(2, 3))
def _regexp_replace(call: Call) -> Value:
    pattern = _pattern(call)
    replacement = call.required_text(2, "a replacement") if len(call) == 3 else ""
    replaced = text_sql(pattern.replacement(replacement))
    return Value(f"regexp_replace({_searched(call, pattern)}, {text_sql(pattern.duckdb)}, {replaced}, 'g')", VARCHAR)


@scalar("regexp_split", arguments=2)
def _regexp_split(call: Call) -> Value:
    pattern = _pattern(call)
    return Value(f"string_split_regex({_searched(call, pattern)}, {text_sql(pattern.duckdb)})", array(VARCHAR))
