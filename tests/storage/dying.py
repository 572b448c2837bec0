"""Deaths in the middle of what a store does: at whichever of its steps a test asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.storage.building import Crash


class Dying:
    """Counts steps, and dies before the one that is asked for.

    Attributes:
        steps: how many were begun.
        died: whether the one that was asked for came; nothing dies after it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: Sequence[tuple[Any, str]], *, at: int) -> None:
        """Replace *steps*, each a function by its owner and name; the first to be called is number 1."""
        self.steps = 0
        self.died = False
        self._at = at
        for owner, name in steps:
            monkeypatch.setattr(owner, name, self._dying(getattr(owner, name)))

    def _dying(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if not self.died:
                self.steps += 1
                if self.steps == self._at:
                    self.died = True
                    raise Crash
            return step(*args, **kwargs)

        return run
