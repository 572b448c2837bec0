"""Where people click.

    marimo edit notebooks/click_heat_map.py -- --data ./data
    python notebooks/click_heat_map.py --data ./data --bin 40
    python notebooks/click_heat_map.py --synthetic

Parameters: `--data` (a folder or s3:// address; else ACTIONLAKE_DATA, else ./data), `--since` and `--until` (UTC dates,
both inclusive), `--bin` (width of a cell in the unit of the locations, 20), `--page` (only the clicks whose properties
hold this text as `page`), `--synthetic` (made-up clicks instead of the table's, to see what the map looks like).
"""

# marimo writes the signature and the last line of a cell itself, without types. The functions have theirs.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# ruff: noqa: PLR1711

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Click heat map")

with app.setup:
    import json
    import os
    import random
    import subprocess
    import sys
    import tempfile
    from datetime import UTC, date, datetime, timedelta
    from pathlib import Path

    import altair as alt
    import marimo as mo
    import polars as pl


@app.function
def clicks_in(actions: pl.LazyFrame) -> pl.LazyFrame:
    """Select the clicks: `time, user_id, location_x, location_y`, and the property `page` where there is one."""
    return actions.filter(pl.col("type") == "click").select(
        "time", "user_id", "location_x", "location_y", page=pl.col("properties").str.json_path_match("$.page")
    )


@app.function
def heat_map(clicks: pl.LazyFrame, bin_width: float) -> pl.LazyFrame:
    """Count the clicks in square cells: `x, y` (the corner nearest to the origin), `clicks, users`.

    Clicks without a number as locationX and locationY have no place and are left out.

    Raises:
        ValueError: *bin_width* is not above zero.
    """
    if bin_width <= 0:
        raise ValueError(f"the width of a cell must be above zero, not {bin_width}")
    return (
        clicks.filter(pl.col("location_x").is_finite() & pl.col("location_y").is_finite())
        .group_by(
            x=(pl.col("location_x") / bin_width).floor() * bin_width,
            y=(pl.col("location_y") / bin_width).floor() * bin_width,
        )
        .agg(clicks=pl.len(), users=pl.col("user_id").n_unique())
        .sort("clicks", "x", "y", descending=[True, False, False])
    )


@app.function
def heat_chart(cells: pl.DataFrame, bin_width: float, cells_max: int = 5_000) -> alt.Chart:
    """Draw the cells with the most clicks, *cells_max* at the most; the origin is on top and left, as on a screen."""
    drawn = cells.head(cells_max).with_columns(x_end=pl.col("x") + bin_width, y_end=pl.col("y") + bin_width)
    top = alt.Axis(orient="top", grid=False)
    chart: alt.Chart = (
        alt.Chart(drawn)
        .mark_rect(stroke=None)
        .encode(
            x=alt.X("x:Q", scale=alt.Scale(nice=False), axis=top, title="locationX"),
            x2="x_end:Q",
            y=alt.Y("y:Q", scale=alt.Scale(reverse=True, nice=False), axis=alt.Axis(grid=False), title="locationY"),
            y2="y_end:Q",
            color=alt.Color("clicks:Q", scale=alt.Scale(type="log", scheme="orangered"), title="clicks"),
            tooltip=["x:Q", "y:Q", "clicks:Q", "users:Q"],
        )
        .properties(width=640, height=400)
    )
    return chart


@app.function
def synthetic_submissions(clicks: int = 4_000, seed: int = 7) -> list[dict[str, object]]:
    """Make up submissions of clicks on two pages of a shop, 40 clicks each: most on a few hot spots, some anywhere."""
    made = random.Random(seed)  # noqa: S311 - nothing here is secret
    spots = {
        "/": [(640, 40, 160, 8, 5), (980, 300, 40, 14, 3), (250, 420, 60, 60, 2)],
        "/cart": [(1050, 560, 45, 12, 6), (1050, 640, 45, 12, 1), (640, 40, 160, 8, 2)],
    }
    begin = datetime(2024, 3, 1, 8, tzinfo=UTC)
    submissions: list[dict[str, object]] = []
    for first in range(0, clicks, 40):
        page = made.choices(list(spots), weights=[3, 1])[0]
        actions = []
        for n in range(first, min(first + 40, clicks)):
            if made.random() < 0.15:
                x, y = made.uniform(0, 1280), made.uniform(0, 720)
            else:
                weights = [spot[4] for spot in spots[page]]
                centre_x, centre_y, wide, high, _ = made.choices(spots[page], weights)[0]
                x, y = made.gauss(centre_x, wide), made.gauss(centre_y, high)
            place = {"locationX": round(min(max(x, 0), 1279)), "locationY": round(min(max(y, 0), 719)), "page": page}
            actions.append(
                {"time": (begin + timedelta(seconds=7 * n)).isoformat(), "type": "CLICK", "properties": place}
            )
        user = f"made-up-{made.randrange(60)}"
        submissions.append({"userId": user, "sessionId": f"{user}-{first}", "actions": actions})
    return submissions


@app.function
def import_submissions(submissions: list[dict[str, object]], folder: Path) -> Path:
    """Import *submissions* with `actionlake import` into a new store below *folder*; return the store's folder.

    Raises:
        subprocess.CalledProcessError: the import failed; its message is on standard error.
    """
    file, data = folder / "submissions.ndjson", folder / "data"
    file.write_text("".join(json.dumps(one) + "\n" for one in submissions))
    command = [sys.executable, "-m", "service.cli", "import", str(file), "--data", str(data)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own command and file
    return data


@app.cell
def _():
    _arguments = mo.cli_args()
    data = str(_arguments.get("data") or os.environ.get("ACTIONLAKE_DATA") or "./data").rstrip("/")
    since = date.fromisoformat(str(_arguments.get("since") or "1970-01-01"))
    until = date.fromisoformat(str(_arguments.get("until") or "9999-12-31"))
    bin_width = float(str(_arguments.get("bin") or 20))
    page = str(_arguments.get("page") or "")
    synthetic = _arguments.get("synthetic") not in (None, False, "false", "no", 0)
    return bin_width, data, page, since, synthetic, until


@app.cell
def _(synthetic):
    synthetic_choice = mo.ui.switch(value=synthetic, label="made-up clicks instead of the table's")
    mo.vstack([mo.md("# Click heat map"), synthetic_choice])
    return (synthetic_choice,)


@app.cell
def _(data, since, synthetic_choice, until):
    if synthetic_choice.value:
        # The folder lives as long as this variable: Polars reads from it when a query runs.
        made_up = tempfile.TemporaryDirectory(prefix="made-up-clicks-")
        source = str(import_submissions(synthetic_submissions(), Path(made_up.name)))
    else:
        made_up = None
        source = data
    clicks = clicks_in(pl.scan_delta(f"{source}/actions").filter(pl.col("date").is_between(since, until)))
    return clicks, made_up, source


@app.cell
def _(clicks, data, synthetic_choice):
    figures = clicks.select(
        clicks=pl.len(),
        placed=(pl.col("location_x").is_finite() & pl.col("location_y").is_finite()).sum(),
        users=pl.col("user_id").n_unique(),
        pages=pl.col("page").drop_nulls().unique().sort().implode(),
    ).collect()
    _count, _placed, _users = figures.select("clicks", "placed", "users").row(0)
    if synthetic_choice.value:
        _source = "These clicks are made up: they are not in your table."
    elif _count == 0:
        _source = (
            f"There are no clicks in {data} in these days."
            " Switch to made-up clicks (--synthetic) to see what the map looks like."
        )
    else:
        _source = f"Clicks of {data}."
    said = f"{_source} {_count:,} clicks of {_users:,} users; {_count - _placed:,} of them without a place."
    mo.callout(mo.md(said), kind="neutral" if _count and not synthetic_choice.value else "warn")
    return figures, said


@app.cell
def _(figures, page):
    _pages = list(dict.fromkeys([*([page] if page else []), *figures["pages"][0]]))
    page_choice = mo.ui.dropdown(_pages, value=page or None, label="Page")
    mo.vstack([page_choice] if _pages else [])
    return (page_choice,)


@app.cell
def _(bin_width):
    bin_choice = mo.ui.number(start=1, stop=1_000, value=bin_width, label="Width of a cell")
    mo.vstack([bin_choice])
    return (bin_choice,)


@app.cell
def _(bin_choice, clicks, page_choice):
    cells_query = heat_map(
        clicks.filter(pl.col("page") == page_choice.value) if page_choice.value else clicks, bin_choice.value
    )
    cells = cells_query.collect()
    clicks_chart = heat_chart(cells, bin_choice.value)
    mo.vstack(
        [
            clicks_chart if cells.height else mo.md("No cell holds a click."),
            mo.accordion(
                {
                    "The cells": mo.ui.table(cells, selection=None),
                    "What Polars reads for this": mo.plain_text(cells_query.explain()),
                }
            ),
        ]
    )
    return cells, clicks_chart


@app.cell
def _(cells, said):
    if mo.app_meta().mode == "script":
        print(said)
        if cells.height:
            print("The cells with the most clicks", cells.head(10), sep="\n")
    return


if __name__ == "__main__":
    app.run()
