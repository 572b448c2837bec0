"""Runs a notebook in this process, and as a script of its own."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.notebooks.stores import ROOT

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))


def run_notebook(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> Mapping[str, Any]:
    """Run a notebook with command-line *arguments* and return what its cells defined."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    _, definitions = importlib.import_module(f"notebooks.{name}").app.run()
    return dict(definitions)


def run_script(name: str, arguments: Sequence[object], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `python notebooks/NAME.py ARGUMENTS` and return what it printed."""
    command = [sys.executable, "-W", "error", str(ROOT / "notebooks" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=180, env=dict(environ))


def drawn_rows(chart: Any) -> list[dict[str, Any]]:
    """Validate a chart against Vega-Lite's schema and return the rows of all data that it carries."""
    specification = chart.to_dict(validate=True)
    return [row for rows in specification["datasets"].values() for row in rows]
