"""Settings come from four sources in order, wrong ones are named, and the documentation is the code's own."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.live_settings import LiveSettings
from service.settings import LIVE, Settings, SettingsError, document
from service.settings_flags import settings_options
from service.sources import Sources, load_settings, unknown_variables

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_documentation_is_what_the_code_says() -> None:
    assert DOCS.read_text() == document()
    for name in Settings.__struct_fields__:
        assert f"| `{name}` |" in DOCS.read_text()


def test_the_example_in_the_documentation_loads(tmp_path: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found
    assert tomllib.loads(found.group(1))
    path = tmp_path / "actionlake.toml"
    path.write_text(found.group(1))
    settings = load_settings(config=path, environ={}, flags={})
    assert "amount_cents" in settings.action_schema().table_schema.names


def test_durations_and_sizes_say_their_unit() -> None:
    for name in Settings.__struct_fields__:
        if re.search(r"timeout|interval|retention|age|ahead", name):
            assert re.search(r"_ms_|_ms$|_hours$|_days$|_days_|_s$", name), name


def test_later_sources_win(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("port = 1\nworkers = 2\nhost = 'localhost'\n")
    environ = {"ACTIONLAKE_WORKERS": "3", "ACTIONLAKE_HOST": "::1"}
    settings = load_settings(config=path, environ=environ, flags={"host": "127.0.0.1"})
    assert (settings.port, settings.workers, settings.host) == (1, 3, "127.0.0.1")
    named = load_settings(config=None, environ={"ACTIONLAKE_CONFIG": str(path)}, flags={})
    assert named.workers == 2


@pytest.mark.parametrize(
    ("file", "environ", "flags", "words"),
    [
        ("prot = 1", {}, {}, ["prot", "s.toml", "port"]),
        ("port = '1'", {}, {}, ["port", "s.toml"]),
        ("port = 70000", {}, {}, ["port", "70000", "65535"]),
        ("", {"ACTIONLAKE_PORT": "x"}, {}, ["port", "ACTIONLAKE_PORT", "'x'"]),
        ("", {"ACTIONLAKE_LOG_LEVEL": "loud"}, {}, ["log_level", "loud"]),
        ("", {"ACTIONLAKE_ACTION_TYPES": "{"}, {}, ["action_types", "JSON"]),
        ("", {}, {"workers": "0"}, ["workers", "--workers"]),
        ("[action_types.Click]", {}, {}, ["Click"]),
        ("[action_types.a]\nx = {column = 'user_id', type = 'double'}", {}, {}, ["user_id"]),
        ("[action_types.a]\nx = {column = 'x', type = 'float'}", {}, {}, ["float"]),
        ("not toml", {}, {}, ["s.toml"]),
        ("", {"ACTIONLAKE_STATE": ""}, {}, ["state", "ACTIONLAKE_STATE"]),
        ("", {}, {"data": ""}, ["data", "--data"]),
        ('data = "a\\u0000b"', {}, {}, ["data", "s.toml"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_source(
    tmp_path: Path, file: str, environ: dict[str, str], flags: dict[str, object], words: list[str]
) -> None:
    path = tmp_path / "s.toml"
    path.write_text(file)
    with pytest.raises(SettingsError) as caught:
        load_settings(config=path, environ=environ, flags=flags)
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_variable_is_pointed_out() -> None:
    environ = {"ACTIONLAKE_FLUSH_ROW_MAX": "1", "ACTIONLAKE_TEST_LONG": "1", "ACTIONLAKE_CONFIG": "x", "OTHER": "y"}
    assert unknown_variables(environ) == {"ACTIONLAKE_FLUSH_ROW_MAX": "; did you mean flush_rows_max?"}


names = st.from_regex(r"[a-z0-9_-]{1,12}", fullmatch=True)
promoted = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.fixed_dictionaries({"type": st.sampled_from(["double", "bigint", "varchar", "boolean"])}),
    max_size=3,
)


@given(
    workers=st.integers(1, 64),
    data=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    insecure=st.booleans(),
    types=st.dictionaries(names, promoted, min_size=1, max_size=3),
)
def test_a_worker_gets_exactly_the_supervisors_settings(
    workers: int, data: str, insecure: bool, types: dict[str, Any]
) -> None:
    for number, properties in enumerate(types.values()):
        for place, one in enumerate(properties.values()):
            one["column"] = f"c{number}_{place}"
    flags = {"workers": workers, "data": data, "insecure": insecure, "action_types": types}
    sources = Sources.of(config=None, environ={"ACTIONLAKE_FLUSH_ROWS_MAX": "7"}, flags=flags)
    supervisor = LiveSettings(sources, sources.resolve(b"port = 1"), b"port = 1", now_us=int)
    worker = LiveSettings.take_over(supervisor.hand_over(), now_us=int)
    assert worker.in_force == supervisor.in_force
    assert worker.in_force.settings.flush_rows_max == 7


def test_what_is_called_live_is_a_setting() -> None:
    assert set(Settings.__struct_fields__) > LIVE


def test_a_flag_turns_on_and_off() -> None:
    """One of the file, or one that is on by default, could not be turned off for a single start otherwise."""
    taken: dict[str, Any] = {}
    command = click.command()(settings_options(["insecure", "sql_when_idle"])(lambda **given: taken.update(given)))
    command.main(["--no-insecure", "--sql-when-idle"], standalone_mode=False)
    assert taken == {"insecure": False, "sql_when_idle": True}
    command.main(["--no-sql-when-idle"], standalone_mode=False)
    assert taken == {"insecure": None, "sql_when_idle": False}
