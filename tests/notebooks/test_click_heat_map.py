"""The heat map puts every click that has a place into its cell, and never passes made-up clicks off as the table's."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from notebooks.click_heat_map import heat_map, synthetic_submissions
from tests.notebooks.running import drawn_rows, run_notebook

NAME = "click_heat_map"


def test_clicks_are_counted_in_their_cells(clicks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_notebook(monkeypatch, NAME, "--data", clicks, "--bin", 50)
    assert found["cells"].rows() == [(100.0, 200.0, 41, 5), (300.0, 0.0, 20, 5)]
    assert found["said"].endswith("62 clicks of 5 users; 1 of them without a place.")
    assert "made up" not in found["said"]
    drawn = drawn_rows(found["clicks_chart"])
    assert [(row["x"], row["x_end"], row["y"], row["y_end"], row["clicks"]) for row in drawn] == [
        (100.0, 150.0, 200.0, 250.0, 41),
        (300.0, 350.0, 0.0, 50.0, 20),
    ]
    assert "type=click" in found["cells_query"].explain()


def test_one_page_can_be_chosen(clicks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_notebook(monkeypatch, NAME, "--data", clicks, "--page", "/cart")
    assert found["cells"].rows() == [(300.0, 20.0, 20, 5)]


def test_a_table_without_clicks_is_not_filled_with_made_up_ones(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_notebook(monkeypatch, NAME, "--data", sample)
    assert "There are no clicks in" in found["said"]
    assert "--synthetic" in found["said"]
    assert found["cells"].is_empty()


def test_made_up_clicks_come_through_the_import_and_are_called_made_up(
    sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run_notebook(monkeypatch, NAME, "--data", sample, "--synthetic")
    sent = [one["properties"] for each in synthetic_submissions() for one in each["actions"]]  # type: ignore[attr-defined]
    assert len(sent) == 4_000
    assert found["said"].startswith("These clicks are made up: they are not in your table. 4,000 clicks")
    assert found["cells"]["clicks"].sum() == 4_000
    hottest = found["cells"].row(0, named=True)
    within = [
        place
        for place in sent
        if hottest["x"] <= place["locationX"] < hottest["x"] + 20
        and hottest["y"] <= place["locationY"] < hottest["y"] + 20
    ]
    assert hottest["clicks"] == len(within) > 40
    assert Path(found["source"]).parent == Path(found["made_up"].name)
    found["made_up"].cleanup()


@pytest.mark.parametrize("width", [0, -5])
def test_a_cell_without_width_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        heat_map(pl.LazyFrame({"location_x": [1.0], "location_y": [1.0]}), width)
