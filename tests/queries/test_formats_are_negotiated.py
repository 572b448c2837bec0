"""`format=` and `Accept` choose the format of an answer as RFC 9110 says, or the request is told what there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queries.formats import Format, NotAcceptable, UnknownFormat, negotiate
from storage.errors import InvalidInput


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, Format.JSON),
        ("", Format.JSON),
        ("*/*", Format.JSON),
        ("application/json", Format.JSON),
        ("application/x-ndjson", Format.NDJSON),
        ("text/csv", Format.CSV),
        ("TEXT/CSV; header=present", Format.CSV),
        ("text/*", Format.CSV),
        ("application/*", Format.JSON),
        ("application/vnd.apache.arrow.stream", Format.ARROW),
        ("application/vnd.apache.parquet", Format.PARQUET),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format.JSON),
        ("application/json;q=0.5, text/csv;q=0.8", Format.CSV),
        ("application/json;q=0.5, text/csv;q=0.5", Format.JSON),
        ("*/*, application/json;q=0", Format.NDJSON),
        ("application/*;q=0.2, text/*;q=0.1, application/vnd.apache.parquet;q=0.3", Format.PARQUET),
        ("text/*;q=0.3, text/csv;q=0.1, application/json;q=0.2", Format.JSON),
        (" text/csv ;q=1.000 , ,application/json; q=0.999", Format.CSV),
        ("image/png, application/x-ndjson;q=0.001", Format.NDJSON),
    ],
)
def test_accept_chooses(accept: str | None, expected: Format) -> None:
    assert negotiate(accept, None) is expected


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "application/json;q=0",
        "*/*;q=0",
        "json",
        "/",
        "text/",
        "*/json",
        "application/json;q=2",
        "application/json;q=1.001",
        "application/json;q=-1",
        "application/json;q=0.1234",
        "application/json;q=",
        "application/json;q=nan",
        "application/json;q=1e0",
    ],
)
def test_what_cannot_be_given_or_read_lists_what_there_is(accept: str) -> None:
    with pytest.raises(NotAcceptable) as caught:
        negotiate(accept, None)
    for one in Format:
        assert one.media_type in str(caught.value)


def test_the_parameter_beats_accept() -> None:
    assert negotiate("text/csv", "parquet") is Format.PARQUET
    assert negotiate("text/html", "ARROW") is Format.ARROW


@pytest.mark.parametrize("given_format", ["xml", "", "application/json", "json "])
def test_an_unknown_format_names_the_parameter_and_the_choices(given_format: str) -> None:
    with pytest.raises(UnknownFormat) as caught:
        negotiate(None, given_format)
    assert caught.value.parameter == "format"
    assert str(caught.value) == f"format: {given_format!r} is not one of json, ndjson, csv, arrow, parquet"
    assert isinstance(caught.value, InvalidInput)


def test_every_format_has_its_own_names() -> None:
    assert {one.value for one in Format} == {"json", "ndjson", "csv", "arrow", "parquet"}
    assert len({one.media_type for one in Format}) == len({one.suffix for one in Format}) == len(Format)
    for one in Format:
        assert negotiate(one.media_type, None) is one
        assert one.content_type.split(";")[0] == one.media_type


@given(st.text())
def test_no_accept_is_too_strange(accept: str) -> None:
    try:
        assert negotiate(accept, None) in Format
    except NotAcceptable as error:
        assert str(error)  # noqa: PT017 - either outcome is right
