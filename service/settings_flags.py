"""Command-line flags made from the settings, so that a flag and its help never differ from the setting."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from service.settings import Settings, describe_type, description

F = TypeVar("F", bound=Callable[..., Any])


def settings_options(names: Iterable[str]) -> Callable[[F], F]:
    """Decorate a click command with a flag for each setting; one that was not given is passed as None."""
    defaults = Settings()

    def decorate(function: F) -> F:
        for name in reversed(list(names)):
            default = getattr(defaults, name)
            flag = f"--{name.replace('_', '-')}"
            shown = "" if default is None else f"  [default: {default}]"
            help_text = f"{description(name)}{shown}"
            if isinstance(default, bool):
                # The other one is for what the file or a variable says, and for what is on by default.
                option = click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=help_text)
            else:
                option = click.option(flag, name, default=None, metavar=_metavar(name), help=help_text)
            function = option(function)
        return function

    return decorate


def _metavar(name: str) -> str:
    kind = describe_type(name)
    return "N" if kind.startswith(("whole number", "number")) else "CHOICE" if kind.startswith("`") else "TEXT"
