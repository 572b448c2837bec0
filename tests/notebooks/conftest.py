from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.notebooks.stores import SAMPLE, import_file


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a store that holds the sample."""
    data = tmp_path_factory.mktemp("sample") / "data"
    assert import_file(SAMPLE, data) == "accepted=9999 rejected=0"
    return data


@pytest.fixture(scope="session")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a store with 62 clicks: 40 and 20 in two places, one at an edge, one without a place."""
    folder = tmp_path_factory.mktemp("clicks")
    places: list[dict[str, object]] = [{"locationX": 105, "locationY": 210.5, "page": "/"}] * 40
    places += [{"locationX": 300.0, "locationY": 39, "page": "/cart"}] * 20
    places += [{"locationX": 120, "locationY": 200}, {"locationX": "105", "locationY": 210}]
    lines = [
        json.dumps(
            {
                "userId": f"u-{n % 5}",
                "actions": [{"time": f"2024-03-01T10:{n % 60:02}:00Z", "type": "CLICK", "properties": place}],
            }
        )
        for n, place in enumerate(places)
    ]
    (folder / "clicks.ndjson").write_text("\n".join(lines) + "\n")
    assert import_file(folder / "clicks.ndjson", folder / "data") == "accepted=62 rejected=0"
    return folder / "data"
