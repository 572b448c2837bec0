"""The code blocks of a documentation page, and running them as a reader would.

Blocks in `sh` and `python` are run, each in a process of its own, in the order of the page and in one folder. A block
in `text` or `json` that follows one is what it prints; `…` in it stands for any text. A block after a comment
`<!-- shown only -->` is not run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DOCUMENTED_URL: Final = "http://127.0.0.1:8080"

_BLOCK: Final = re.compile(r"^(<!-- shown only -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RUN: Final = ("sh", "python")
_OUTPUT: Final = ("text", "json")
_PROGRESS: Final = re.compile(r"^ *\d+% ▕.*▏.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A block that is run.

    Attributes:
        line: of the page on which its code begins.
        language: `sh` or `python`.
        code: what to run.
        output: what it prints; None where the page does not say.
    """

    line: int
    language: str
    code: str
    output: str | None

    def __str__(self) -> str:
        return f"line {self.line}, {self.language}"


@dataclass(frozen=True, slots=True)
class Page:
    """The snippets of a page, and the code of the blocks that are shown only."""

    snippets: list[Snippet]
    shown_only: list[str]


def read_page(path: Path) -> Page:
    """Find the code blocks of a page.

    Raises:
        ValueError: a block is neither run, nor the output of one before it, nor shown only.
    """
    text = path.read_text(encoding="utf-8")
    snippets: list[Snippet] = []
    shown_only: list[str] = []
    may_have_output = False
    for block in _BLOCK.finditer(text):
        shown, language, code = block.groups()
        line = text.count("\n", 0, block.start(3)) + 1
        if shown:
            shown_only.append(code)
            may_have_output = False
        elif language in _RUN:
            snippets.append(Snippet(line, language, code, None))
            may_have_output = True
        elif language in _OUTPUT and may_have_output:
            last = snippets.pop()
            snippets.append(Snippet(last.line, last.language, last.code, code))
            may_have_output = False
        else:
            raise ValueError(f"{path}:{line}: a block in {language!r} that is neither run nor the output of one")
    return Page(snippets, shown_only)


def prepare_folder(folder: Path) -> None:
    """Lay out *folder* as a checkout looks after `make install`: its virtual environment, tests and notebooks."""
    (folder / ".venv").symlink_to(sys.prefix)
    for name in ("tests", "notebooks"):
        (folder / name).symlink_to(ROOT / name)
    if shutil.which("curl") is None:
        commands = folder / "commands"
        commands.mkdir()
        (commands / "curl").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.docs.curl "$@"\n')
        (commands / "curl").chmod(0o755)


def run_snippet(snippet: Snippet, folder: Path, url: str) -> str:
    """Run a snippet in a prepared *folder* against the service at *url*; return its output.

    Raises:
        AssertionError: it failed; the message holds what it wrote to standard error.
    """
    code = snippet.code.replace(DOCUMENTED_URL, url)
    command = ["sh", "-eu", "-c", code] if snippet.language == "sh" else [sys.executable, "-c", code]
    path = os.pathsep.join([str(Path(sys.executable).parent), str(folder / "commands"), os.environ["PATH"]])
    # Nothing of whoever runs the tests: no AWS profile, no settings of the service.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "ACTIONLAKE_"))}
    environ = {**kept, "PATH": path, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, cwd=folder, env=environ, encoding="utf-8"
    )
    assert done.returncode == 0, f"{snippet} failed:\n{done.stderr}\n{done.stdout}"
    return done.stdout


def as_documented(output: str, documented: str) -> bool:
    """Tell whether *output* is what the page says, blanks at the ends of lines and empty lines at its ends aside.

    DuckDB shows how far it is with a query that takes more than two seconds, which on a busy machine any may.
    """
    output = _PROGRESS.sub("", output)
    parts = [re.escape(part) for part in _trimmed(documented).split("…")]
    return re.fullmatch(".*".join(parts), _trimmed(output), re.DOTALL) is not None


def broken_links(path: Path) -> list[str]:
    """Find the links of a page to files, and to headings of the page itself, that lead nowhere."""
    text = path.read_text(encoding="utf-8")
    headings = {
        "#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            if target not in headings:
                found.append(target)
        elif "://" not in target and not (path.parent / target.partition("#")[0]).exists():
            found.append(target)
    return found


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").split("\n"))
