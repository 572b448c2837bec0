"""Imports run service → queries → storage, and what talks to the disk, the table and the network stays in its place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_LAYERS = ("storage", "queries", "service")
# Library → the only modules that may import it.
_ONLY_IN = {
    "deltalake": {"storage/lake.py", "storage/rejects_table.py"},
    "apsw": {"storage/journal_file.py"},
}
_ONLY_IN_SERVICE = {"litestar", "uvicorn", "starlette", "httpx", "httptools", "uvloop", "click", "prometheus_client"}


def imports_of(source: str, package: str) -> Iterator[str]:
    """Every module that *source*, a module of *package*, imports anywhere in it, by its full name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            within = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield ".".join([*within, *([node.module] if node.module else [])])


def violations(path: str, source: str) -> list[str]:
    """What is wrong with the imports of the module at *path*, which is relative to the root."""
    layer = path.split("/", maxsplit=1)[0]
    above = _LAYERS[_LAYERS.index(layer) + 1 :]
    found = []
    for name in imports_of(source, ".".join(path.split("/")[:-1])):
        top = name.split(".")[0]
        if top in above:
            found.append(f"{path} imports {name}, which is above it")
        if path not in _ONLY_IN.get(top, {path}):
            found.append(f"{path} imports {top}, which belongs to {_ONLY_IN[top]}")
        if layer != "service" and top in _ONLY_IN_SERVICE:
            found.append(f"{path} imports {top}, which belongs to service")
        if top == "tests":
            found.append(f"{path} imports tests")
    return found


@pytest.mark.parametrize("layer", _LAYERS)
def test_imports_run_one_way(layer: str) -> None:
    modules = sorted((_ROOT / layer).rglob("*.py"))
    assert len(modules) > 5
    found = [
        problem
        for module in modules
        for problem in violations(module.relative_to(_ROOT).as_posix(), module.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("storage/store.py", "import queries.engine"),
        ("storage/store.py", "from service.app import create_app"),
        ("queries/engine.py", "def late():\n    from service import settings"),
        ("queries/sql/worker.py", "from ...service import settings"),
        ("storage/store.py", "from deltalake import DeltaTable"),
        ("queries/engine.py", "import deltalake.table"),
        ("service/app.py", "import apsw"),
        ("storage/flush.py", "if True:\n    import apsw.ext"),
        ("queries/engine.py", "from litestar import Response"),
        ("storage/paths.py", "import httpx"),
        ("storage/paths.py", "from tests.storage import building"),
    ],
)
def test_the_control_finds_each_kind_of_violation(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("service/app.py", "from storage.store import Store\nimport queries.engine, litestar"),
        ("queries/engine.py", "from storage import errors\nfrom . import paging\nimport duckdb"),
        ("storage/lake.py", "import deltalake"),
        ("storage/rejects_table.py", "from deltalake import DeltaTable"),
        ("storage/journal_file.py", "import apsw\nfrom storage.columns import JournalRow"),
        ("queries/sql/worker.py", "from ..engine import Engine"),
    ],
)
def test_the_control_lets_pass_what_is_right(path: str, source: str) -> None:
    assert violations(path, source) == []
