"""The plot of the comparison, as SVG, drawn without a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import altair as alt

from bench.comparison.battery import ASKED
from bench.comparison.catalogue import CONTENDERS
from bench.comparison.workload import SIZES
from bench.runs import Piece

_COLUMNS: Final = 2
_WIDTH: Final = 330
_ROW_HEIGHT: Final = 15


def write_plot(pieces: Sequence[Piece], path: Path) -> bool:
    """Draw the warm medians of all contenders by question and size; return whether there was anything to draw."""
    points = plotted(pieces)
    if not points:
        return False
    sizes = list(dict.fromkeys(point["actions"] for point in points))
    contenders = [one.title for one in CONTENDERS if any(point["contender"] == one.title for point in points)]
    charts = []
    for one in ASKED:
        of_question = [point for point in points if point["question"] == one.title]
        if of_question:
            charts.append(_chart(one.title, of_question, contenders, sizes))
    whole = alt.concat(*charts, columns=_COLUMNS).resolve_scale(x="independent")
    path.parent.mkdir(exist_ok=True)
    whole.properties(title="Warm medians in ms; less is better; the scale is logarithmic").save(str(path), format="svg")
    return True


def plotted(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    """One point for each question, size and contender."""
    by_name = {piece.workload: piece.figures for piece in pieces}
    return [
        {
            "question": asked.title,
            "actions": size.upper(),
            "contender": one.title,
            "ms": by_name[name][f"{one.name}.warm_p50_ms"],
        }
        for asked in ASKED
        for size in SIZES
        if (name := f"compare-{size}.{asked.name}") in by_name
        for one in CONTENDERS
        if f"{one.name}.warm_p50_ms" in by_name[name]
    ]


def _chart(title: str, points: list[dict[str, Any]], contenders: Sequence[str], sizes: Sequence[str]) -> alt.Chart:
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=points), title=title, width=_WIDTH, height=_ROW_HEIGHT * len(contenders))
        .mark_point(filled=True, size=70, opacity=0.9)
        .encode(
            x=alt.X("ms:Q", scale=alt.Scale(type="log"), title="ms"),
            y=alt.Y("contender:N", sort=list(contenders), title=None, axis=alt.Axis(grid=True)),
            color=alt.Color("actions:N", sort=list(sizes), title="actions"),
            shape=alt.Shape("actions:N", sort=list(sizes), title="actions"),
        )
    )
    return chart
