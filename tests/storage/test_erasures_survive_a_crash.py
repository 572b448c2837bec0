"""An erasure that dies at any step is done by whoever comes next, and everybody else keeps every row."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.eraser import Eraser
from storage.journal import Journal
from storage.lake import Lake
from tests.faults.effort import repetitions
from tests.storage.building import Crash, store_in
from tests.storage.erasing import USER, fill, finish, visible
from tests.storage.what_is_left import traces

# Everything that an erasure does to the outside, where it is called.
STEPS: list[tuple[Any, str]] = [
    *(
        ("storage.eraser", name)
        for name in (
            "insert_erasure",
            "erase_letters",
            "erase_from_rejects",
            "enter_phase",
            "write_without",
            "make_durable",
            "forget_files",
            "forget_rows",
            "require_version",
            "make_names_durable",
            "remove_unreferenced_rejects",
        )
    ),
    (Lake, "rewrite"),
    (Journal, "scrub"),
    (Eraser, "_enter"),
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that every test copies."""
    folder = tmp_path_factory.mktemp("erasure") / "data"
    with store_in(folder) as store:
        fill(store)
    return folder


def _dying(step: Callable[..., Any], *, call: int, after: bool) -> Callable[..., Any]:
    """Die at the *call*-th call of a step, before it or after it."""
    calls = 0

    def die(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            raise Crash
        result = step(*given, **named)
        if calls == call:
            raise Crash
        return result

    return die


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[1])
def test_an_erasure_goes_on_after_dying(
    filled: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str]
) -> None:
    owner, name = step
    place = owner if not isinstance(owner, str) else importlib.import_module(owner)
    # To die before a step is to die after the one before it, so that the suite leaves that to the long form.
    deaths = [(1, True), (1, False), *((call, True) for call in range(2, 8))]
    for call, after in deaths[: repetitions(suite=1, long=len(deaths))]:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(filled, folder)
        with store_in(folder, erasure_grace_ms=0) as store, monkeypatch.context() as patched:
            others = [row for row in visible(store) if row[0] != USER]
            patched.setattr(place, name, _dying(getattr(place, name), call=call, after=after))
            died = False
            try:
                store.erase(USER)
                finish(store)
            except Crash:
                died = True
            assert died or call > 1, "the step is one of an erasure"
        with store_in(folder, erasure_grace_ms=0) as store:
            if not store.erasures(limit=1):
                # It was not acknowledged.
                store.erase(USER)
            assert visible(store) == others, "hidden from the first moment on"
            finish(store)
            assert visible(store) == others
            assert traces(folder, USER) == []
