"""docs/exploring.md tells the truth: what it shows is run against a real service and prints what it says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.snippets import ROOT, Snippet, as_documented, broken_links, prepare_folder, read_page, run_snippet
from tests.service.running_service import RunningService, running_service

PAGE = ROOT / "docs" / "exploring.md"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose folder is `data`, beside what a checkout has; the page's first snippet imports the sample."""
    folder = tmp_path_factory.mktemp("checkout")
    prepare_folder(folder)
    # Flushed when the page says so, and not before.
    with running_service(folder / "data") as running:
        yield running


@pytest.mark.parametrize("snippet", read_page(PAGE).snippets, ids=str)
def test_a_snippet_prints_what_the_page_says(snippet: Snippet, service: RunningService) -> None:
    output = run_snippet(snippet, service.data.parent, service.url)
    assert snippet.output is not None
    assert as_documented(output, snippet.output), output


def test_every_block_of_code_is_run() -> None:
    page = read_page(PAGE)
    text = PAGE.read_text(encoding="utf-8")
    assert page.shown_only == []
    assert len(page.snippets) == text.count("```sh\n") + text.count("```python\n") > 10


def test_its_links_lead_somewhere() -> None:
    assert broken_links(PAGE) == []


def test_the_stand_in_for_curl_answers_as_curl_does(service: RunningService) -> None:
    (snippet,) = [
        one for one in read_page(PAGE).snippets if one.code.startswith("curl -s 'http://127.0.0.1:8080/api/sql")
    ]
    assert snippet.output is not None
    stand_in = snippet.code.replace("curl ", f"'{sys.executable}' -m tests.docs.curl ", 1)
    output = run_snippet(Snippet(snippet.line, "sh", stand_in, None), service.data.parent, service.url)
    assert as_documented(output, snippet.output), output


@pytest.mark.parametrize(
    ("output", "documented", "agrees"),
    [
        ("a\nb \n\n", "a\nb\n", True),
        ("a\nx\ny\nb\n", "a\n…\nb\n", True),
        ("part-17.parquet\n", "part-….parquet", True),
        ("a\nc\n", "a\nb\n", False),
        ("a\nb\nc\n", "a\nb\n", False),
        ("a.b\n", "aXb\n", False),
        ("", "…\nSUCCEEDED", False),
        ("\n100% ▕████▏ (00:00:02.19 elapsed)     \na\nb\n", "a\nb\n", True),
        ("\n100% ▕████▏ (00:00:02.19 elapsed)     \nb\n", "a\nb\n", False),
    ],
)
def test_the_comparison_can_fail(output: str, documented: str, agrees: bool) -> None:
    assert as_documented(output, documented) is agrees


def test_a_block_that_would_not_be_run_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```text\nnobody prints this\n```\n")
    with pytest.raises(ValueError, match="neither run nor the output"):
        read_page(page)
