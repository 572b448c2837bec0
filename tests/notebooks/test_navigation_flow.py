"""The navigation flow counts what plain Python counts, and its drawing loses no navigation."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from notebooks.navigation_flow import OTHERS, PAGES_MAX, flow_chart, grouped, placed, transitions
from tests.notebooks.running import drawn_rows, run_notebook
from tests.notebooks.stores import sent

NAME = "navigation_flow"


def counted_by_hand(*, with_assets: bool) -> Counter[tuple[str, str]]:
    asset = re.compile(r"\.(css|js|map|png|jpe?g|gif|svg|ico|webp|ttf|otf|woff2?|eot)$", re.IGNORECASE)
    counts: Counter[tuple[str, str]] = Counter()
    for one in sent():
        if one.type == "navigate" and one.page_from is not None:
            pages = re.split(r"[?#]", one.page_from)[0], re.split(r"[?#]", one.page)[0]
            if with_assets or not any(map(asset.search, pages)):
                counts[pages] += 1
    return counts


@pytest.mark.parametrize("with_assets", [False, True])
def test_transitions_are_as_plain_python_counts(
    with_assets: bool, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run_notebook(monkeypatch, NAME, "--data", sample, *(["--assets"] if with_assets else []))
    expected = counted_by_hand(with_assets=with_assets)
    assert {(row[0], row[1]): row[2] for row in found["counted"].iter_rows()} == expected
    assert expected.total() == (5_039 if with_assets else 870)
    assert "type=view" not in found["transitions_query"].explain()


def test_arrivals_departures_and_reloads_add_up(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    balance = run_notebook(monkeypatch, NAME, "--data", sample)["balance"]
    assert balance["arrivals"].sum() == balance["departures"].sum()
    assert balance["arrivals"].sum() + balance["reloads"].sum() == 870
    assert balance.filter(page="/blog/tags/puppet").rows() == [("/blog/tags/puppet", 0, 0, 115)]


@pytest.mark.parametrize("top", [1, 5, PAGES_MAX])
def test_the_drawing_loses_no_navigation(top: int, sample: Path) -> None:
    counted = transitions(pl.scan_delta(sample / "actions"), with_assets=True).collect()
    flows = grouped(counted, top)
    assert flows["navigations"].sum() == 5_039
    assert flows["page_from"].n_unique() == flows["page_to"].n_unique() == top + 1
    assert OTHERS in flows["page_to"]
    for side, other in (("page_from", "page_to"), ("page_to", "page_from")):
        stacked = placed(flows, side, other).sort(f"{side}_low")
        thickness = stacked[f"{side}_high"] - stacked[f"{side}_low"]
        assert thickness.to_list() == pytest.approx(stacked["navigations"].to_list())
        # No ribbon lies on another at its ends.
        assert (stacked[f"{side}_low"][1:] >= stacked[f"{side}_high"][:-1] - 1e-6).all()
        # Pages are apart by a gap.
        assert stacked[f"{side}_high"].max() == pytest.approx(5_039 * (1 + 0.015 * top))
    drawn = drawn_rows(flow_chart(flows))
    assert sum(row["navigations"] for row in drawn if row.get("t") == 0 and "flow" in row) == 5_039


def test_empty_pages_and_self_links_are_kept_apart() -> None:
    actions = pl.LazyFrame(
        {
            "type": ["navigate"] * 4 + ["view"],
            "page_from": ["/a?x=1", "/a#top", None, "/style.css", "/a"],
            "page_to": ["/b", "/b?y", "/b", "/a", "/b"],
            "user_id": ["u", "v", "u", "u", "u"],
        }
    )
    assert transitions(actions).collect().rows() == [("/a", "/b", 2, 2)]


@pytest.mark.parametrize("top", [0, PAGES_MAX + 1])
def test_a_number_of_pages_that_cannot_be_drawn_is_refused(top: int) -> None:
    with pytest.raises(ValueError, match="1 to 12"):
        grouped(pl.DataFrame({"page_from": ["a"], "page_to": ["b"], "navigations": [1]}), top)
