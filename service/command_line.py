"""What all commands share: settings from flags and file, the folder's store, and errors as one line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from service.settings import Settings, SettingsError
from service.sources import Sources, load_settings

if TYPE_CHECKING:
    from storage.store import Store

F = TypeVar("F", bound=Callable[..., Any])

FOLDER_SETTINGS: Final = ("data", "state")


@contextmanager
def errors_told() -> Iterator[None]:
    """Turn foreseen errors into one line and exit code 1."""
    from storage.errors import StoreError

    try:
        yield
    except BrokenPipeError:
        # Whoever read the output has enough; click ends the command in silence.
        raise
    except (StoreError, SettingsError, OSError) as error:
        raise click.ClickException(str(error)) from error


def settings_of(config: Path | None, flags: dict[str, Any]) -> Settings:
    """Read the settings of a command; flags that were not given are None.

    Raises:
        SettingsError: as `load_settings`.
    """
    return load_settings(config=config, environ=os.environ, flags=_given(flags))


def sources_of(config: Path | None, flags: dict[str, Any]) -> Sources:
    """Look where the settings of a command come from; flags that were not given are None.

    Raises:
        SettingsError: as `Sources.of`.
    """
    return Sources.of(config=config, environ=os.environ, flags=_given(flags))


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def config_option(function: F) -> F:
    """Decorate a command with `--config`."""
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Settings file; ./actionlake.toml if there is one.",
    )(function)


def store_to_read(settings: Settings) -> Store:
    """Open the folder's store for reading, whether or not a service holds it; to be closed.

    Raises:
        FileNotFoundError, CorruptData: as `read_store`.
    """
    from service.store_settings import store_paths
    from storage.opening import read_store

    return read_store(store_paths(settings), settings.action_schema())
