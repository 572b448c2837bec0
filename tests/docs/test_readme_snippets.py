"""The README tells the truth: a newcomer who copies its snippets in their order gets the answers that it shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.docs.snippets import ROOT, Snippet, as_documented, broken_links, prepare_folder, read_page, run_snippet
from tests.service.running_service import RunningService, running_service

PAGE = ROOT / "README.md"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service over `./data` of what looks like a checkout, as `make run` starts it but for the port."""
    folder = tmp_path_factory.mktemp("checkout")
    prepare_folder(folder)
    with running_service(folder / "data") as running:
        yield running


@pytest.mark.parametrize("snippet", read_page(PAGE).snippets, ids=str)
def test_a_snippet_prints_what_the_readme_says(snippet: Snippet, service: RunningService) -> None:
    output = run_snippet(snippet, service.data.parent, service.url)
    assert snippet.output is not None
    assert as_documented(output, snippet.output), output


def test_nothing_but_the_start_of_the_service_is_shown_only() -> None:
    assert read_page(PAGE).shown_only == ["make run\n"]


def test_make_run_serves_where_the_readme_says() -> None:
    make = shutil.which("make")
    assert make is not None
    done = subprocess.run([make, "-n", "run"], capture_output=True, text=True, check=True, cwd=ROOT, timeout=120)
    assert "actionlake serve --port 8080 --data ./data" in done.stdout


def test_five_lines_of_pyathena_are_five_lines() -> None:
    (snippet,) = [one for one in read_page(PAGE).snippets if one.language == "python"]
    assert len(snippet.code.strip().splitlines()) == 5


def test_its_links_and_make_targets_are_there() -> None:
    assert broken_links(PAGE) == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", PAGE.read_text(), re.MULTILINE))
    assert {"run", "help"} <= named <= targets
