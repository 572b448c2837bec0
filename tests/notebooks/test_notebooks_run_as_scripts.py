"""Each notebook runs as a script: on the sample, on clicks, on a store without actions, by flag and by environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.opening import open_store
from storage.paths import StorePaths
from storage.schema import ActionSchema
from storage.store_options import StoreOptions
from tests.notebooks.running import NOTEBOOKS, run_notebook, run_script
from tests.notebooks.stores import ROOT

SAID_ABOUT_THE_SAMPLE = {
    "click_heat_map": "There are no clicks in",
    "navigation_flow": "870 navigations, from page to page",
    "user_timelines_and_funnels": "u-ecc23c4848f8: 482 actions",
    "weekly_retention": "Actions from 2015-05-17 to 2015-05-20, by the day.",
}


def test_all_notebooks_are_tested() -> None:
    assert sorted(SAID_ABOUT_THE_SAMPLE) == NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_on_the_sample(
    name: str, sample: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACTIONLAKE_DATA", str(sample))
    run_notebook(monkeypatch, name)
    told = capsys.readouterr()
    assert SAID_ABOUT_THE_SAMPLE[name] in told.out
    assert told.err == ""


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_a_script(name: str) -> None:
    """It ends as the one that is started as such below: with a run of its cells."""
    source = (ROOT / "notebooks" / f"{name}.py").read_text()
    assert source.endswith('\n\nif __name__ == "__main__":\n    app.run()\n')


def test_a_flag_wins_over_the_environment_also_after_two_dashes(clicks: Path, sample: Path) -> None:
    environ = {**os.environ, "ACTIONLAKE_DATA": str(sample)}
    done = run_script("click_heat_map", ["--", "--data", clicks, "--bin", 50], environ)
    assert done.returncode == 0, done.stderr
    assert "62 clicks of 5 users; 1 of them without a place." in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_says_that_a_store_is_empty(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, _ = open_store(StorePaths.of(tmp_path), ActionSchema(), StoreOptions(), holder="test")
    store.close(flush=False)
    run_notebook(monkeypatch, name, "--data", tmp_path)
    assert f"in {tmp_path} in these days." in capsys.readouterr().out


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_says_that_there_is_no_store(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_notebook(monkeypatch, name, "--data", tmp_path / "nowhere")


def test_marimo_finds_nothing_to_improve() -> None:
    files = [str(ROOT / "notebooks" / f"{name}.py") for name in NOTEBOOKS]
    marimo = [str(Path(sys.executable).parent / "marimo"), "check", "--strict", *files]
    done = subprocess.run(marimo, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
