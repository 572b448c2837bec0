"""A process that does without a module is as if it were not installed; everything else is imported as before."""

from __future__ import annotations

import importlib
import sys

import pytest

from storage.absent_modules import do_without


@pytest.fixture(autouse=True)
def _only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for name in ("colorsys", "wave"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_what_is_absent_is_not_found_and_the_rest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert importlib.import_module("colorsys"), "it is there before"
    monkeypatch.delitem(sys.modules, "colorsys")
    do_without("colorsys")
    with pytest.raises(ModuleNotFoundError) as refused:
        importlib.import_module("colorsys")
    assert refused.value.name == "colorsys"
    assert importlib.import_module("wave"), "it was not named"


def test_what_is_imported_already_stays() -> None:
    imported = importlib.import_module("colorsys")
    do_without("colorsys")
    assert importlib.import_module("colorsys") is imported
