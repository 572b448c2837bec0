"""How many users come back, week after week.

    marimo edit notebooks/weekly_retention.py -- --data ./data
    python notebooks/weekly_retention.py --data ./data --granularity day

Parameters: `--data` (a folder or s3:// address; else ACTIONLAKE_DATA, else ./data), `--since` and `--until` (UTC dates,
both inclusive), `--granularity` (`week`, `day`, or `auto`: weeks where there are at least 14 days of them, else days).
"""

# marimo writes the signature and the last line of a cell itself, without types. The functions have theirs.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# ruff: noqa: PLR1711

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Retention")

with app.setup:
    import os
    from datetime import date
    from typing import Literal

    import altair as alt
    import marimo as mo
    import polars as pl

    EVERY = {"day": "1d", "week": "1w"}
    DAYS = {"day": 1, "week": 7}


@app.function
def granularity_for(first: date, last: date, wanted: str) -> Literal["day", "week"]:
    """Choose weeks or days for actions from *first* to *last*.

    Raises:
        ValueError: *wanted* is none of `auto`, `day` and `week`.
    """
    match wanted:
        case "day" | "week":
            return wanted
        case "auto":
            return "week" if (last - first).days >= 13 else "day"
        case _:
            raise ValueError(f"the granularity must be auto, day or week, not {wanted!r}")


@app.function
def retention(actions: pl.LazyFrame, granularity: Literal["day", "week"]) -> pl.DataFrame:
    """Follow each cohort, the users whose first action is of one period, through the periods after it.

    Periods are UTC days, or weeks that begin on Monday. A user who was there before the first of *actions* counts as
    new in the first period. Periods in which nobody of a cohort came back are rows too.

    Returns:
        One row a cohort and period: `cohort` (its first day), `age` (periods since), `users` of it that were active,
        `size` of the cohort, `share`, and `complete`: false in the period of the last action, which may go on, so
        that the share can still rise.
    """
    every = EVERY[granularity]
    active = actions.select("user_id", period=pl.col("date").dt.truncate(every)).unique()
    counted = (
        active.with_columns(cohort=pl.col("period").min().over("user_id"))
        .group_by("cohort", "period")
        .agg(users=pl.len())
        .collect()
    )
    last = pl.col("period").max()
    periods = counted.select(period=pl.date_ranges(pl.col("period").min(), last, every).explode())
    grid = counted.select("cohort").unique().join(periods.unique(), how="cross")
    # The first row of a cohort is its first period, in which all of it was active.
    size = pl.col("users").sort_by("period").first().over("cohort")
    return (
        grid.filter(pl.col("period") >= pl.col("cohort"))
        .join(counted, on=["cohort", "period"], how="left")
        .with_columns(pl.col("users").fill_null(0))
        .select(
            "cohort",
            "users",
            age=(pl.col("period") - pl.col("cohort")).dt.total_days() // DAYS[granularity],
            size=size,
            share=pl.col("users") / size,
            complete=pl.col("period") < last,
        )
        .select("cohort", "age", "users", "size", "share", "complete")
        .sort("cohort", "age")
    )


@app.function
def average(cohorts: pl.DataFrame) -> pl.DataFrame:
    """Average the shares by age over complete periods, weighted by size: `age, share, users, cohorts`."""
    return (
        cohorts.filter("complete")
        .group_by("age")
        .agg(share=pl.col("users").sum() / pl.col("size").sum(), users=pl.col("size").sum(), cohorts=pl.len())
        .sort("age")
    )


@app.function
def cohorts_chart(cohorts: pl.DataFrame, granularity: str, cohorts_max: int = 26) -> alt.LayerChart | alt.FacetChart:
    """Draw the latest *cohorts_max* cohorts, a row each, and the share that was active at each age; … is incomplete."""
    unfinished = pl.when("complete").then(pl.lit("")).otherwise(pl.lit("…"))
    latest = cohorts["cohort"].unique().sort().tail(cohorts_max)
    drawn = cohorts.filter(pl.col("cohort").is_in(latest.implode())).with_columns(
        label=pl.format("{}  ({} users)", pl.col("cohort").dt.strftime("%d %b %Y"), "size"),
        text=pl.format("{}%{}", (pl.col("share") * 100).round(0).cast(pl.Int64), unfinished),
    )
    base = alt.Chart(drawn).encode(
        x=alt.X("age:O", title=f"{granularity}s since the first action", axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("label:N", sort=alt.EncodingSortField("cohort", order="ascending"), title=None),
        tooltip=["cohort:T", "age:O", "users:Q", "size:Q", alt.Tooltip("share:Q", format=".1%"), "complete:N"],
    )
    # Everybody is active at age 0; the colours are for the ages after it.
    later = drawn.filter(pl.col("age") > 0)["share"]
    most = max(0.01, float(later.max() or 0.01))  # type: ignore[arg-type]
    colour = alt.Color(
        "share:Q",
        title="came back",
        scale=alt.Scale(scheme="blues", domain=[0, most], clamp=True),
        legend=alt.Legend(format=".0%"),
    )
    cells = base.mark_rect(stroke="white").encode(
        color=alt.when("datum.age == 0").then(alt.value("#eeeeee")).otherwise(colour)
    )
    on_dark = f"datum.age > 0 && datum.share > {most / 2}"
    texts = base.mark_text().encode(
        text="text:N", color=alt.when(on_dark).then(alt.value("white")).otherwise(alt.value("#333333"))
    )
    return alt.layer(cells, texts).properties(width=alt.Step(46), height=alt.Step(26))


@app.function
def average_chart(averaged: pl.DataFrame, granularity: str) -> alt.Chart:
    """Draw the average share by age, from age 1 on."""
    chart: alt.Chart = (
        alt.Chart(averaged.filter(pl.col("age") > 0))
        .mark_line(point=True)
        .encode(
            x=alt.X("age:O", title=f"{granularity}s since the first action", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("share:Q", title="came back, all cohorts", axis=alt.Axis(format=".0%"), scale=alt.Scale(zero=True)),
            tooltip=["age:O", alt.Tooltip("share:Q", format=".1%"), "users:Q", "cohorts:Q"],
        )
        .properties(width=420, height=180)
    )
    return chart


@app.cell
def _():
    _arguments = mo.cli_args()
    data = str(_arguments.get("data") or os.environ.get("ACTIONLAKE_DATA") or "./data").rstrip("/")
    since = date.fromisoformat(str(_arguments.get("since") or "1970-01-01"))
    until = date.fromisoformat(str(_arguments.get("until") or "9999-12-31"))
    granularity = str(_arguments.get("granularity") or "auto")
    return data, granularity, since, until


@app.cell
def _(data, since, until):
    # Nothing is read here: Polars takes from the table what the queries below ask for.
    actions = pl.scan_delta(f"{data}/actions").filter(pl.col("date").is_between(since, until))
    return (actions,)


@app.cell
def _(granularity):
    granularity_choice = mo.ui.dropdown(["auto", "day", "week"], value=granularity, label="Granularity")
    mo.vstack([mo.md("# Retention"), granularity_choice])
    return (granularity_choice,)


@app.cell
def _(actions, data, granularity_choice):
    first_day, last_day = actions.select(pl.col("date").min(), last=pl.col("date").max()).collect().row(0)
    if first_day is None:
        _nothing = f"There are no actions in {data} in these days."
        print(_nothing)
        mo.stop(True, mo.md(_nothing))  # noqa: FBT003 - marimo's own signature
    chosen = granularity_for(first_day, last_day, granularity_choice.value)
    cohorts = retention(actions, chosen)
    averaged = average(cohorts)
    return averaged, chosen, cohorts, first_day, last_day


@app.cell
def _(averaged, chosen, cohorts, first_day, last_day):
    said = (
        f"Actions from {first_day} to {last_day}, by the {chosen}. Users who were there before {first_day} count as"
        f" new in the first {chosen}; … marks the last {chosen}, which may not be over."
    )
    grid_chart = cohorts_chart(cohorts, chosen)
    curve_chart = average_chart(averaged, chosen)
    mo.vstack(
        [
            mo.md(said),
            grid_chart,
            curve_chart if averaged["age"].max() else mo.md(f"No cohort has a whole {chosen} after its first one yet."),
            mo.ui.table(cohorts, selection=None),
        ]
    )
    return curve_chart, grid_chart, said


@app.cell
def _(actions):
    # Columns are read as needed: a table of a thousand columns would cost no more.
    mo.accordion({"What Polars reads for this": mo.plain_text(actions.select("user_id", "date").explain())})
    return


@app.cell
def _(averaged, cohorts, said):
    if mo.app_meta().mode == "script":
        with pl.Config(tbl_rows=30):
            print(said, cohorts, "All cohorts", averaged, sep="\n")
    return


if __name__ == "__main__":
    app.run()
