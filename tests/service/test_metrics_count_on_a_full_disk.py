"""Counting never needs room on a disk that may be full by then: a mapped hole in a file would kill the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.service.forked_service import ENVIRONMENT, ROOT

_COUNT = """
import os, sys
from pathlib import Path
from service.metrics import Metrics, share_metrics
share_metrics(Path(sys.argv[1]))
metrics = Metrics()
for number in range(200):
    metrics.submissions.labels(str(number)).inc()
text = metrics.render([]).decode()
assert 'actionlake_submissions_total{status="199"} 1.0' in text, text
"""


def holes(folder: Path) -> list[str]:
    files = list(folder.iterdir())
    assert len(files) >= 2
    return [one.name for one in files if one.stat().st_blocks * 512 < one.stat().st_size]


def test_files_of_metrics_have_no_holes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _COUNT, str(tmp_path)], cwd=ROOT, env=ENVIRONMENT, check=True)
    assert holes(tmp_path) == []


def test_the_control_notices_a_hole(tmp_path: Path) -> None:
    careless = _COUNT.replace("metrics = M", "import service.metrics\nservice.metrics._KINDS = ()\nmetrics = M")
    subprocess.run([sys.executable, "-c", careless, str(tmp_path)], cwd=ROOT, env=ENVIRONMENT, check=True)
    assert holes(tmp_path)
