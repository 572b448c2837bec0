"""A promoted column holds a value only where the property is exactly of its type; everything else is null there."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.columns import JournalRow, rows_to_table
from storage.schema import ActionSchema, PromotedProperty
from storage.submission import SubmissionLimits, SubmissionParser

NOW_US = 1_709_294_400_000_000
SCHEMA = ActionSchema(
    {
        "all": (
            PromotedProperty("d", "d", "double"),
            PromotedProperty("i", "i", "bigint"),
            PromotedProperty("v", "v", "varchar"),
            PromotedProperty("b", "b", "boolean"),
        ),
        "one": (PromotedProperty("other name", "d", "double"),),
        "none": (),
    }
)
PARSER = SubmissionParser(SCHEMA, SubmissionLimits())


def promoted(*actions: tuple[str, str]) -> list[dict[str, Any]]:
    """The promoted columns of actions, each given by its type and the text of its properties."""
    texts = [f'{{"time": "2024-03-01T11:00:00Z", "type": "{kind}", "properties": {text}}}' for kind, text in actions]
    body = f'{{"userId": "u", "actions": [{", ".join(texts)}]}}'
    parsed = PARSER.parse_json(body.encode(), now_us=NOW_US)
    assert parsed.rejections == ()
    (one,) = parsed.submissions
    row = JournalRow(1, one.actions, NOW_US, one.user_id, one.session_id, one.payload)
    rows: list[dict[str, Any]] = rows_to_table([row], "j", SCHEMA).select(["d", "i", "v", "b"]).to_pylist()
    return rows


@pytest.mark.parametrize(
    ("column", "text", "value"),
    [
        ("d", "52", 52.0),
        ("d", "52.5", 52.5),
        ("d", "-1e-3", -0.001),
        ("d", '"52"', None),
        ("d", "true", None),
        ("d", "null", None),
        ("d", "[52]", None),
        ("d", '{"d": 52}', None),
        ("d", "1e999", None),
        ("d", "-1e999", None),
        ("d", "9" * 5_000, None),
        ("d", "9007199254740993", 9007199254740992.0),
        ("i", "52", 52),
        ("i", "-0", 0),
        ("i", "9223372036854775807", 2**63 - 1),
        ("i", "-9223372036854775808", -(2**63)),
        ("i", "9223372036854775808", None),
        ("i", "-9223372036854775809", None),
        ("i", "9" * 30, None),
        ("i", "9" * 5_000, None),
        ("i", "52.0", None),
        ("i", "5e1", None),
        ("i", "true", None),
        ("i", "false", None),
        ("i", '"52"', None),
        ("v", '"52"', "52"),
        ("v", '""', ""),
        ("v", '"\\u0000\\ud83d\\ude00"', "\0😀"),
        ("v", "52", None),
        ("v", "true", None),
        ("v", "null", None),
        ("v", '["a"]', None),
        ("b", "true", True),
        ("b", "false", False),
        ("b", "1", None),
        ("b", "0", None),
        ("b", '"true"', None),
    ],
)
def test_a_value_is_promoted_where_it_is_exactly_of_the_type(column: str, text: str, value: Any) -> None:
    nothing: dict[str, Any] = {"d": None, "i": None, "v": None, "b": None}
    assert promoted(("all", f'{{"{column}": {text}}}')) == [nothing | {column: value}]
    # Beside others of its type, right and wrong, and of other types.
    rows = promoted(
        ("all", '{"d": 1, "i": 2, "v": "3", "b": true}'),
        ("none", f'{{"{column}": {text}}}'),
        ("all", f'{{"{column}": {text}}}'),
        ("one", '{"other name": 4, "i": 5}'),
        ("all", "{}"),
    )
    assert rows == [
        {"d": 1.0, "i": 2, "v": "3", "b": True},
        nothing,
        nothing | {column: value},
        nothing | {"d": 4.0},
        nothing,
    ]


@pytest.mark.parametrize(
    ("text", "value"), [('{"i": "x", "i": 1}', 1), ('{"i": 1, "i": "x"}', None), ('{"i": 1, "i": 2}', 2)]
)
def test_of_a_property_given_twice_the_last_counts(text: str, value: int | None) -> None:
    assert promoted(("all", text))[0]["i"] == value


def test_names_are_compared_as_text_and_not_as_it_is_escaped() -> None:
    assert promoted(("all", '{"\\u0069": 7}'))[0]["i"] == 7
    assert promoted(("one", '{"other\\u0020name": 7}'))[0]["d"] == 7.0
    assert promoted(("all", '{"I": 7}'))[0]["i"] is None


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
)


def exactly(value: Any) -> dict[str, Any]:
    """The model: what each of the four columns holds where its property has *value*."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return {
        "d": float(value) if number else None,
        "i": value if whole and -(2**63) <= value < 2**63 else None,
        "v": value if isinstance(value, str) else None,
        "b": value if isinstance(value, bool) else None,
    }


@given(st.lists(st.tuples(st.sampled_from(["all", "one", "none"]), _VALUES), min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_mixture_of_types_and_values_equals_the_model(given_actions: list[tuple[str, Any]]) -> None:
    texts, expected = [], []
    for kind, value in given_actions:
        names = {"all": ["d", "i", "v", "b"], "one": ["other name"], "none": ["d"]}[kind]
        texts.append((kind, json.dumps(dict.fromkeys(names, value))))
        model = exactly(value)
        if kind == "one":
            model = {"d": model["d"], "i": None, "v": None, "b": None}
        expected.append(model if kind != "none" else dict.fromkeys(model))
    rows = promoted(*texts)
    assert rows == expected
    signs = [math.copysign(1, row["d"]) for row in rows if row["d"] is not None]
    assert signs == [math.copysign(1, row["d"]) for row in expected if row["d"] is not None]


# The declarations themselves


@pytest.mark.parametrize(
    "types",
    [
        {},
        {"Click": ()},
        {"": ()},
        {"x" * 65: ()},
        {"a/b": ()},
        {"..": ()},
        {"a=b": ()},
        {"a\n": ()},
        {"a": (PromotedProperty("x", "c", "double"), PromotedProperty("y", "c", "double"))},
        {"a": (PromotedProperty("x", "c", "double"), PromotedProperty("x", "e", "double"))},
        {"a": (PromotedProperty("x", "c", "double"),), "b": (PromotedProperty("x", "c", "bigint"),)},
    ],
)
def test_declarations_that_cannot_be_are_refused(types: dict[str, tuple[PromotedProperty, ...]]) -> None:
    with pytest.raises(ValueError, match=r"type|column"):
        ActionSchema(types)


@pytest.mark.parametrize(
    "column", ["", "Camel", "1st", "with space", "x" * 64, "time", "position", "date", "a\n", 'a"']
)
def test_columns_that_cannot_be_are_refused(column: str) -> None:
    with pytest.raises(ValueError, match="column"):
        PromotedProperty("x", column, "double")


def test_a_type_that_is_none_of_the_four_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of"):
        PromotedProperty("x", "x", "json")  # type: ignore[arg-type]  # the mistake under test
