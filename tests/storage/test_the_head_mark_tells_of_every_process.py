"""What one process has acknowledged, every other one knows at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.head_mark import HeadMark, noted


def test_the_last_position_that_any_process_noted_is_known_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mark"
    marks = []
    for pid in (1, 2, 3):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        marks.append(HeadMark(path))
    marks[0].begin("journal", 7)
    assert [one.noted() for one in marks] == [7, 7, 7]
    marks[1].note(20)
    marks[2].note(19)
    assert [one.noted() for one in marks] == [20, 20, 20]
    assert noted(path) == ("journal", 20)
    for one in marks:
        one.close()


def test_what_another_process_notes_is_known_here(tmp_path: Path) -> None:
    mark = HeadMark(tmp_path / "mark")
    mark.begin("journal", 7)
    script = "import sys; from pathlib import Path; from storage.head_mark import HeadMark;"
    script += " HeadMark(Path(sys.argv[1])).note(20)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "mark")], check=True, cwd=Path(__file__).parents[2])
    assert mark.noted() == 20
    mark.close()
