"""When an erasure says that it is done, no power cut brings a file back that it, or somebody before it, has removed."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.interrupted_sweep import MISTAKE
from tests.faults.power_loss import power_cuts, read_trace, tracer
from tests.faults.traced_faults import can_trace
from tests.service.forked_service import ROOT
from tests.storage.erasing import USER
from tests.storage.what_is_left import traces

pytestmark = pytest.mark.skipif(not can_trace(), reason="strace is not installed, or may not trace here")

_CUTS = 5


def test_what_is_removed_is_synced_though_the_sweep_died_before(tmp_path: Path) -> None:
    reports, trace = tmp_path / "reports", tmp_path / "trace"
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    command = [*tracer(trace), sys.executable, "-m", "tests.faults.interrupted_sweep", str(reports)]
    subprocess.run([*command, str(right), f"{wrong}={MISTAKE}"], check=True, cwd=ROOT)
    calls = list(read_trace(trace))
    ends = {call.strings[0].decode(): place for place, call in enumerate(calls) if call.path == str(reports)}
    choose = random.Random(4711)
    left: dict[Path, list[str]] = {}
    for folder in (right, wrong):
        found = left[folder] = []
        for _, disk in power_cuts(calls, folder, {ends[f"E {folder}\n"]}):
            for number in range(_CUTS):
                cut = tmp_path / f"{folder.name}-{number}"
                disk.after_power_loss(choose, cut, harsh=number == 0)
                found += [one for one in traces(cut, USER) if one.startswith(("actions/", "rejects/"))]
    assert left[right] == []
    assert left[wrong], "the control brings nothing back"
