"""Stores for the notebooks' tests, made by `actionlake import`, and the sample as plain Python sees it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SAMPLE: Final = ROOT / "tests" / "data" / "semicomplete-2015.ndjson.gz"
ACTIONLAKE: Final = str(Path(sys.executable).parent / "actionlake")


def import_file(file: Path, data: Path) -> str:
    """Import *file* into a store in *data*; return the command's last line."""
    command = [ACTIONLAKE, "import", str(file), "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180)
    return done.stdout.splitlines()[-1]


@dataclass(frozen=True, slots=True)
class Sent:
    """An action of the sample as it was sent, in its place in the file."""

    user: str
    session: str
    time: datetime
    type: str
    page_from: str | None
    page: str


def sent() -> list[Sent]:
    """Read the sample without anything of the project, in the order of the file."""
    found: list[Sent] = []
    with gzip.open(SAMPLE, "rt") as lines:
        for line in lines:
            submission = json.loads(line)
            for action in submission["actions"]:
                properties = action["properties"]
                found.append(
                    Sent(
                        user=submission["userId"],
                        session=submission["sessionId"],
                        time=datetime.fromisoformat(action["time"]),
                        type=action["type"].lower(),
                        page_from=properties.get("pageFrom"),
                        page=properties["pageTo"] if action["type"] == "NAVIGATE" else properties["viewedId"],
                    )
                )
    return found
