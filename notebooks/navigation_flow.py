"""From which page people go to which.

    marimo edit notebooks/navigation_flow.py -- --data ./data
    python notebooks/navigation_flow.py --data ./data --top 8 --assets

Parameters: `--data` (a folder or s3:// address; else ACTIONLAKE_DATA, else ./data), `--since` and `--until` (UTC dates,
both inclusive), `--top` (pages that are named, 10, at most 12; the others are taken together), `--assets` (style
sheets, scripts, images and fonts count as pages too).
"""

# marimo writes the signature and the last line of a cell itself, without types. The functions have theirs.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# ruff: noqa: PLR1711

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Navigation flow")

with app.setup:
    import os
    from datetime import date

    import altair as alt
    import marimo as mo
    import polars as pl

    ASSET = r"(?i)\.(css|js|map|png|jpe?g|gif|svg|ico|webp|ttf|otf|woff2?|eot)$"
    OTHERS = "(other pages)"
    # Altair draws 5,000 rows at the most: 13 pages on either side, 25 points for each of their ribbons.
    PAGES_MAX = 12


@app.function
def transitions(actions: pl.LazyFrame, *, with_assets: bool = False) -> pl.LazyFrame:
    """Count the navigations from page to page: `page_from, page_to, navigations, users`, the most frequent first.

    What follows a `?` or `#` in a page is left out. Unless *with_assets*, so are navigations from or to a page that
    is a style sheet, a script, an image or a font by its name, and, always, those without both pages.
    """
    both = pl.col("page_from", "page_to")
    counted = (
        actions.filter(pl.col("type") == "navigate")
        .select(both.str.replace(r"[?#].*$", ""), "user_id")
        .filter(pl.all_horizontal(both.is_not_null()))
    )
    if not with_assets:
        counted = counted.filter(~pl.any_horizontal(both.str.contains(ASSET)))
    return (
        counted.group_by("page_from", "page_to")
        .agg(navigations=pl.len(), users=pl.col("user_id").n_unique())
        .sort("navigations", "page_from", "page_to", descending=[True, False, False])
    )


@app.function
def page_balance(counted: pl.LazyFrame) -> pl.LazyFrame:
    """Add up the *counted* transitions by page: `page, arrivals, departures, reloads`, the busiest first.

    A navigation from a page to itself is a reload, and neither an arrival nor a departure.
    """
    reload = pl.col("page_from") == pl.col("page_to")

    def ends(page: str, moved: str) -> pl.LazyFrame:
        return counted.filter(~reload).group_by(page=page).agg(pl.col("navigations").sum().alias(moved))

    reloads = counted.filter(reload).select(page="page_from", reloads="navigations")
    figures = pl.col("arrivals", "departures", "reloads")
    return (
        ends("page_to", "arrivals")
        .join(ends("page_from", "departures"), on="page", how="full", coalesce=True)
        .join(reloads, on="page", how="full", coalesce=True)
        .with_columns(figures.fill_null(0))
        .sort(pl.sum_horizontal(figures), "page", descending=[True, False])
    )


@app.function
def grouped(counted: pl.DataFrame, top: int) -> pl.DataFrame:
    """Keep the names of the *top* pages on either side, and take the other pages of that side together.

    Raises:
        ValueError: *top* is below 1, or more than a chart can hold.
    """
    if not 1 <= top <= PAGES_MAX:
        raise ValueError(f"1 to {PAGES_MAX} pages can be named, not {top}")
    for side in ("page_from", "page_to"):
        totals = counted.group_by(side).agg(pl.col("navigations").sum())
        kept = totals.sort("navigations", side, descending=[True, False]).head(top)[side].to_list()
        counted = counted.with_columns(pl.when(pl.col(side).is_in(kept)).then(pl.col(side)).otherwise(pl.lit(OTHERS)))
    return counted.group_by("page_from", "page_to").agg(pl.col("navigations").sum())


@app.function
def placed(flows: pl.DataFrame, side: str, other: str) -> pl.DataFrame:
    """Stack the *flows* on one side of the drawing, busiest page first and the other pages last.

    Adds `{side}_low` and `{side}_high`, between which a flow begins or ends, in navigations, with gaps between pages.
    """
    gap = pl.lit(0.015) * flows["navigations"].sum()
    pages = (
        flows.group_by(side)
        .agg(total=pl.col("navigations").sum())
        .sort(pl.col(side) == OTHERS, -pl.col("total").cast(pl.Int64), side)
        .with_row_index("rank")
    )
    return (
        flows.join(pages, on=side)
        .sort("rank", pl.col(other) == OTHERS, "navigations", other, descending=[False, False, True, False])
        .with_columns((pl.col("navigations").cum_sum() + pl.col("rank") * gap).alias(f"{side}_high"))
        .with_columns((pl.col(f"{side}_high") - pl.col("navigations")).alias(f"{side}_low"))
        .drop("rank", "total")
    )


@app.function
def flow_chart(flows: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Draw *flows* as ribbons from the pages on the left to the pages on the right, as thick as they are frequent."""
    both = placed(placed(flows, "page_from", "page_to"), "page_to", "page_from")
    # A ribbon follows the curve 3t² - 2t³ from its place on the left to its place on the right.
    steps = pl.DataFrame({"t": [n / 24 for n in range(25)]})
    eased = 3 * pl.col("t") ** 2 - 2 * pl.col("t") ** 3
    ribbons = both.join(steps, how="cross").select(
        "page_from",
        "page_to",
        "navigations",
        "t",
        flow=pl.format("{} → {}", "page_from", "page_to"),
        low=pl.col("page_from_low") + (pl.col("page_to_low") - pl.col("page_from_low")) * eased,
        high=pl.col("page_from_high") + (pl.col("page_to_high") - pl.col("page_from_high")) * eased,
    )
    y = alt.Scale(reverse=True, zero=True, nice=False)
    hidden = alt.Axis(labels=False, ticks=False, domain=False, grid=False, title=None)
    areas = (
        alt.Chart(ribbons)
        .mark_area(opacity=0.55)
        .encode(
            x=alt.X("t:Q", axis=hidden, scale=alt.Scale(domain=[0, 1], nice=False)),
            y=alt.Y("low:Q", axis=hidden, scale=y),
            y2="high:Q",
            detail="flow:N",
            color=alt.Color("page_from:N", legend=None, scale=alt.Scale(scheme="tableau20")),
            tooltip=["page_from:N", "page_to:N", "navigations:Q"],
        )
    )
    layers: list[alt.Chart] = [areas]
    for side, end in (("page_from", 0), ("page_to", 1)):
        low, high, total = pl.col(f"{side}_low").min(), pl.col(f"{side}_high").max(), pl.col("navigations").sum()
        name = pl.when(pl.col(side).str.len_chars() > 48).then(pl.col(side).str.head(47) + "…").otherwise(pl.col(side))
        pages = (
            both.group_by(side)
            .agg(low=low, high=high, middle=(low + high) / 2, navigations=total)
            .with_columns(t=pl.lit(end), text=pl.format("{} ({})", name, "navigations"))
        )
        base = alt.Chart(pages).encode(x=alt.X("t:Q"), tooltip=[f"{side}:N", "navigations:Q"])
        outside = base.mark_text(align="left", dx=8) if end else base.mark_text(align="right", dx=-8)
        layers.append(base.mark_rule(strokeWidth=5, color="#555555").encode(y=alt.Y("low:Q", scale=y), y2="high:Q"))
        layers.append(outside.encode(y=alt.Y("middle:Q", scale=y), text="text:N"))
    chart: alt.LayerChart | alt.FacetChart = alt.layer(*layers).configure_view(stroke=None)
    return chart.properties(width=360, height=560)


@app.cell
def _():
    _arguments = mo.cli_args()
    data = str(_arguments.get("data") or os.environ.get("ACTIONLAKE_DATA") or "./data").rstrip("/")
    since = date.fromisoformat(str(_arguments.get("since") or "1970-01-01"))
    until = date.fromisoformat(str(_arguments.get("until") or "9999-12-31"))
    top = int(str(_arguments.get("top") or 10))
    with_assets = _arguments.get("assets") not in (None, False, "false", "no", 0)
    return data, since, top, until, with_assets


@app.cell
def _(data, since, until):
    # Nothing is read here: Polars takes from the table what the queries below ask for.
    actions = pl.scan_delta(f"{data}/actions").filter(pl.col("date").is_between(since, until))
    return (actions,)


@app.cell
def _(top, with_assets):
    top_choice = mo.ui.slider(1, PAGES_MAX, value=top, label="Pages that are named", show_value=True)
    assets_choice = mo.ui.switch(value=with_assets, label="style sheets, scripts, images and fonts too")
    mo.vstack([mo.md("# Navigation flow"), mo.hstack([top_choice, assets_choice], justify="start")])
    return assets_choice, top_choice


@app.cell
def _(actions, assets_choice, data):
    transitions_query = transitions(actions, with_assets=assets_choice.value)
    counted = transitions_query.collect()
    if counted.is_empty():
        _nothing = f"There are no navigations in {data} in these days."
        print(_nothing)
        mo.stop(True, mo.md(_nothing))  # noqa: FBT003 - marimo's own signature
    return counted, transitions_query


@app.cell
def _(counted, top_choice):
    drawn_chart = flow_chart(grouped(counted, top_choice.value))
    mo.vstack([mo.md(f"{counted['navigations'].sum():,} navigations, from the left to the right."), drawn_chart])
    return (drawn_chart,)


@app.cell
def _(counted, transitions_query):
    balance = page_balance(counted.lazy()).collect()
    mo.ui.tabs(
        {
            "From page to page": mo.ui.table(counted, selection=None),
            "Page by page": mo.ui.table(balance, selection=None),
            "What Polars reads for this": mo.plain_text(transitions_query.explain()),
        }
    )
    return (balance,)


@app.cell
def _(balance, counted):
    if mo.app_meta().mode == "script":
        with pl.Config(fmt_str_lengths=60, tbl_width_chars=160):
            print(f"{counted['navigations'].sum()} navigations, from page to page", counted.head(10), sep="\n")
            print("Page by page", balance.head(10), sep="\n")
    return


if __name__ == "__main__":
    app.run()
