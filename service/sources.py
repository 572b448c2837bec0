"""Where settings come from: defaults, then `actionlake.toml`, then `ACTIONLAKE_*` variables, then flags.

`flush_interval_ms_max` is `ACTIONLAKE_FLUSH_INTERVAL_MS_MAX` in the environment and `--flush-interval-ms-max` as a
flag. A value of any source is checked against the same type and bounds. An unknown name is an error in the file and as
a flag; an unknown variable is warned of, since other programs may use the prefix.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from service.settings import SETTING_TYPES, STRUCTURED, Settings, SettingsError

ENVIRONMENT_PREFIX: Final = "ACTIONLAKE_"
DEFAULT_CONFIG: Final = Path("actionlake.toml")
CONFIG_VARIABLE: Final = "ACTIONLAKE_CONFIG"
SUPERVISED_VARIABLE: Final = "ACTIONLAKE_SUPERVISED"
HANDED_OVER_VARIABLE: Final = "ACTIONLAKE_HANDED_OVER"
# The key that `actionlake import --url` sends.
KEY_VARIABLE: Final = "ACTIONLAKE_KEY"
# Set by the service for its own processes, or read elsewhere; no settings.
_OTHER_VARIABLES: Final = frozenset({CONFIG_VARIABLE, KEY_VARIABLE, SUPERVISED_VARIABLE, HANDED_OVER_VARIABLE})
_TEST_PREFIX: Final = "ACTIONLAKE_TEST_"

Origin = Literal["default", "file", "environment", "flag"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings, and for each where its value is from."""

    settings: Settings
    origins: Mapping[str, Origin]


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """All sources but the file's content, which may change: the rest of them stays as it was at the start.

    Attributes:
        config: the settings file, absolute.
        required: whether the file was named, so that it must be there.
        flags: name → value of the flags that were given, checked.
        variables: name → value of the settings that the environment gives, checked.
    """

    config: str
    required: bool
    flags: dict[str, Any]
    variables: dict[str, Any]

    @classmethod
    def of(cls, *, config: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Sources:
        """Look at all sources but the file.

        Args:
            config: the settings file; where it is None, the one named by `ACTIONLAKE_CONFIG`, else
                `./actionlake.toml` if there is one.
            environ: the environment.
            flags: name → value, for the flags that were given.

        Raises:
            SettingsError: a name is unknown, or a value is not allowed.
        """
        if config is None and CONFIG_VARIABLE in environ:
            config = Path(environ[CONFIG_VARIABLE])
        checked = {
            name: _checked(name, value, f"--{name.replace('_', '-')}", strict=False) for name, value in flags.items()
        }
        return cls(
            config=str((config or DEFAULT_CONFIG).absolute()),
            required=config is not None,
            flags=checked,
            variables=_from_environ(environ),
        )

    def read_file(self) -> bytes | None:
        """Read the settings file; None where there is none and none was named.

        Raises:
            SettingsError: it cannot be read.
        """
        try:
            return Path(self.config).read_bytes()
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not self.required:
                return None
            raise SettingsError(f"{self.config}: {error.strerror}") from error

    def resolve(self, file: bytes | None) -> Resolved:
        """Put all sources together, with *file* as the file's content.

        Raises:
            SettingsError: the file is no TOML, a name in it is unknown, or a value is not allowed.
        """
        from_file = {} if file is None else _from_file(file, self.config)
        origins: dict[str, Origin] = dict.fromkeys(Settings.__struct_fields__, "default")
        values: dict[str, Any] = {}
        layers: tuple[tuple[Origin, dict[str, Any]], ...] = (
            ("file", from_file),
            ("environment", self.variables),
            ("flag", self.flags),
        )
        for origin, given in layers:
            values.update(given)
            origins.update(dict.fromkeys(given, origin))
        try:
            return Resolved(Settings(**values), origins)
        except ValueError as error:
            raise SettingsError(str(error)) from error


def load_settings(*, config: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Settings:
    """Read settings from all sources; the arguments are those of `Sources.of`.

    Raises:
        SettingsError: a name is unknown, or a value is not allowed.
    """
    sources = Sources.of(config=config, environ=environ, flags=flags)
    return sources.resolve(sources.read_file()).settings


def unknown_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the `ACTIONLAKE_*` variables that are no setting, each with a hint; they are ignored, but not silently."""
    return {variable: _hint(name) for variable, name in _variables(environ) if name not in SETTING_TYPES}


def _from_file(content: bytes, path: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    return {name: _checked(name, value, path, strict=True) for name, value in values.items()}


def _variables(environ: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    for variable in environ:
        ours = variable.startswith(ENVIRONMENT_PREFIX) and not variable.startswith(_TEST_PREFIX)
        if ours and variable not in _OTHER_VARIABLES:
            yield variable, variable.removeprefix(ENVIRONMENT_PREFIX).lower()


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, name in _variables(environ):
        if name not in SETTING_TYPES:
            # Other programs may use the prefix; `unknown_variables` lets the service warn of a misspelt setting.
            continue
        value: Any = environ[variable]
        if name in STRUCTURED:
            try:
                value = msgspec.json.decode(value)
            except msgspec.DecodeError as error:
                raise SettingsError(f"{name} (from {variable}): not JSON: {error}") from error
        values[name] = _checked(name, value, variable, strict=False)
    return values


def _checked(name: str, value: object, source: str, *, strict: bool) -> Any:
    """Check one value; texts of the environment and of flags are read as the type that is wanted."""
    if name not in SETTING_TYPES:
        raise SettingsError(f"{name} (from {source}) is not a setting{_hint(name)}")
    try:
        return msgspec.convert(value, SETTING_TYPES[name], strict=strict)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{name} (from {source}): {value!r} is not allowed: {error}") from error


def _hint(name: str) -> str:
    close = difflib.get_close_matches(name, Settings.__struct_fields__, n=1)
    return f"; did you mean {close[0]}?" if close else ""
