"""What one user did, and how far sessions get.

    marimo edit notebooks/user_timelines_and_funnels.py -- --data ./data
    python notebooks/user_timelines_and_funnels.py --data ./data --user u-1 --steps "view > navigate:/files/"

Parameters: `--data` (a folder or s3:// address; else ACTIONLAKE_DATA, else ./data), `--since` and `--until` (UTC dates,
both inclusive), `--user` (the busiest unless given), `--steps` (a funnel; how to write one stands beside it).
"""

# marimo writes the signature and the last line of a cell itself, without types. The functions have theirs.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# ruff: noqa: PLR1711

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="User timelines and funnels")

with app.setup:
    import os
    from datetime import date

    import altair as alt
    import marimo as mo
    import polars as pl


@app.function
def busiest_users(actions: pl.LazyFrame) -> pl.LazyFrame:
    """Count what each user did: `user_id, actions, sessions, first_at, last_at`, the busiest first."""
    return (
        actions.group_by("user_id")
        .agg(
            actions=pl.len(),
            sessions=pl.col("session_id").drop_nulls().n_unique(),
            first_at=pl.col("time").min(),
            last_at=pl.col("time").max(),
        )
        .sort("actions", "user_id", descending=[True, False])
    )


@app.function
def timeline(actions: pl.LazyFrame, user_id: str) -> pl.LazyFrame:
    """List one user's actions in order of time.

    Columns: `time`, `local_time` (by the offset it was submitted with), `type, session_id, page`, and
    `minutes_in`, the minutes since the session's first action (null without a session).
    """
    ordered = actions.filter(pl.col("user_id") == user_id).sort("time", "journal", "position")
    since_start = pl.col("time") - pl.col("time").min().over("session_id")
    return ordered.select(
        "time",
        "type",
        "session_id",
        page=pl.coalesce("viewed_id", "page_to"),
        local_time=(pl.col("time") + pl.duration(minutes=pl.col("utc_offset_minutes"))).dt.replace_time_zone(None),
        minutes_in=pl.when(pl.col("session_id").is_not_null()).then(since_start.dt.total_seconds(fractional=True) / 60),
    )


@app.function
def type_colour(rows: pl.DataFrame) -> alt.Color:
    """Give each type of the user's actions one colour, the same in every chart."""
    types = rows["type"].unique().sort().to_list()
    return alt.Color("type:N", title=None, scale=alt.Scale(domain=types), legend=alt.Legend(orient="top"))


@app.function
def activity_chart(rows: pl.DataFrame) -> alt.Chart:
    """Draw how many actions of which type a user did, by the hour, or by the day where there are many."""
    days = (rows["local_time"].max() - rows["local_time"].min()).days  # type: ignore[operator,union-attr]
    every, unit, text = ("1h", "yearmonthdatehours", "an hour") if days < 15 else ("1d", "yearmonthdate", "a day")
    counted = rows.group_by(pl.col("local_time").dt.truncate(every), "type").agg(actions=pl.len())
    chart: alt.Chart = (
        alt.Chart(counted)
        .mark_bar()
        .encode(
            x=alt.X(
                f"{unit}(local_time):T", title="local time", axis=alt.Axis(format="%d %b %H:%M", labelOverlap=True)
            ),
            y=alt.Y("actions:Q", title=f"actions {text}"),
            color=type_colour(rows),
            tooltip=[f"{unit}(local_time):T", "type:N", "actions:Q"],
        )
        .properties(width=640, height=150)
    )
    return chart


@app.function
def sessions_chart(rows: pl.DataFrame, sessions_max: int = 20) -> alt.Chart:
    """Draw the user's latest sessions, a row each, the newest on top: a tick an action, from the session's start.

    At most 5,000 ticks, the most that Altair puts into a chart.
    """
    begun = (
        rows.filter(pl.col("session_id").is_not_null())
        .group_by("session_id")
        .agg(start=pl.col("local_time").min(), actions=pl.len())
        .sort("start", "session_id", descending=True)
        .head(sessions_max)
        .with_row_index("row")
    )
    # The row's number in front keeps two sessions of one second apart; it is not shown.
    labelled = begun.with_columns(
        session=pl.format("{} {}, {} actions", "row", pl.col("start").dt.strftime("%d %b %H:%M:%S"), "actions")
    )
    ticks = (
        rows.join(labelled, on="session_id")
        .sort("row", "minutes_in")
        .head(5_000)
        .select("session", "minutes_in", "type", "page", at=pl.col("local_time").dt.strftime("%F %T"))
    )
    label = alt.Axis(labelExpr="slice(datum.label, indexof(datum.label, ' ') + 1)", labelLimit=220)
    chart: alt.Chart = (
        alt.Chart(ticks)
        .mark_tick(thickness=2, size=14)
        .encode(
            x=alt.X("minutes_in:Q", title="minutes since the session began"),
            y=alt.Y("session:N", sort=labelled["session"].to_list(), title=None, axis=label),
            color=type_colour(rows),
            tooltip=["at:N", "type:N", "page:N"],
        )
        .properties(width=520, height=alt.Step(20))
    )
    return chart


@app.function
def step_condition(step: str) -> pl.Expr:
    """Turn one step of a funnel, such as `view` or `navigate:/files/` or `*:/about`, into a condition on actions.

    Raises:
        ValueError: the step names no type.
    """
    wanted_type, _, text = (part.strip() for part in step.partition(":"))
    if not wanted_type:
        raise ValueError(f"step {step!r} must begin with an action type, or with * for any")
    conditions = [] if wanted_type == "*" else [pl.col("type") == wanted_type.lower()]
    if text:
        conditions.append(pl.coalesce("viewed_id", "page_to").str.contains(text, literal=True).fill_null(value=False))
    return pl.all_horizontal(*conditions) if conditions else pl.col("type").is_not_null()


@app.function
def funnel(actions: pl.LazyFrame, steps: list[str]) -> pl.DataFrame:
    """Count the sessions that took *steps* in this order, other actions in between allowed.

    A session takes a step at its first matching action after the one that counted for the step before.
    Actions without a session are left out.

    Returns:
        One row a step: `number, step, sessions, share` (of those that took the first step), `of_previous`, and
        `median_s`, seconds since the step before, at the median of the sessions that took both.

    Raises:
        ValueError: there are no steps, or one is not written right.
    """
    if not steps:
        raise ValueError("a funnel needs at least one step")
    session = ["user_id", "session_id"]
    ordered = (
        actions.filter(pl.col("session_id").is_not_null())
        .select(*session, "time", "journal", "position", "type", "viewed_id", "page_to")
        .sort("time", "journal", "position")
        .with_row_index("place")
    )
    reached: list[pl.LazyFrame] = []
    for step in steps:
        candidates = ordered.filter(step_condition(step))
        if reached:
            before = reached[-1].select(*session, "place", "time")
            candidates = candidates.join(before, on=session, suffix="_before").filter(
                pl.col("place") > pl.col("place_before")
            )
        else:
            candidates = candidates.with_columns(time_before=pl.col("time"))
        reached.append(
            candidates.group_by(session).agg(
                pl.col("place", "time", "time_before").sort_by("place").first(),
            )
        )
    seconds = (pl.col("time") - pl.col("time_before")).dt.total_microseconds() / 1_000_000
    counted = pl.collect_all([one.select(sessions=pl.len(), median_s=seconds.median()) for one in reached])
    return (
        pl.concat(counted)
        .with_row_index("number", offset=1)
        .with_columns(step=pl.Series(steps))
        .select(
            "number",
            "step",
            "sessions",
            share=pl.when(pl.col("sessions").first() > 0).then(pl.col("sessions") / pl.col("sessions").first()),
            of_previous=pl.when(pl.col("sessions").shift() > 0).then(pl.col("sessions") / pl.col("sessions").shift()),
            median_s=pl.when(pl.col("number") > 1).then(pl.col("median_s")),
        )
    )


@app.function
def funnel_chart(counted: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Draw a bar a step, with its sessions and its share of those that took the first step."""
    labelled = counted.with_columns(
        label=pl.format("{}. {}", "number", "step"),
        text=pl.Series([f"{row['sessions']:,} ({row['share'] or 0:.1%})" for row in counted.iter_rows(named=True)]),
    )
    # Room for the text beside the longest bar.
    width = max(1, labelled["sessions"][0]) * 1.25
    base = alt.Chart(labelled).encode(
        x=alt.X("sessions:Q", title="sessions", scale=alt.Scale(domain=[0, width], nice=False)),
        y=alt.Y("label:N", sort=None, title=None, axis=alt.Axis(labelLimit=300)),
    )
    bars = base.mark_bar(color="#4c78a8").encode(tooltip=["step:N", "sessions:Q", "of_previous:Q", "median_s:Q"])
    texts = base.mark_text(align="left", dx=4).encode(text="text:N")
    return alt.layer(bars, texts).properties(width=520, height=alt.Step(34))


@app.cell
def _():
    _arguments = mo.cli_args()
    data = str(_arguments.get("data") or os.environ.get("ACTIONLAKE_DATA") or "./data").rstrip("/")
    since = date.fromisoformat(str(_arguments.get("since") or "1970-01-01"))
    until = date.fromisoformat(str(_arguments.get("until") or "9999-12-31"))
    user = str(_arguments.get("user") or "")
    steps = str(_arguments.get("steps") or "view > navigate > navigate > navigate")
    return data, since, steps, until, user


@app.cell
def _(data, since, until):
    # Nothing is read here: Polars takes from the table what the queries below ask for.
    actions = pl.scan_delta(f"{data}/actions").filter(pl.col("date").is_between(since, until))
    return (actions,)


@app.cell
def _(actions, data):
    users = busiest_users(actions).head(50).collect()
    if users.is_empty():
        _nothing = f"There are no actions in {data} in these days."
        print(_nothing)
        mo.stop(True, mo.md(_nothing))  # noqa: FBT003 - marimo's own signature
    mo.vstack([mo.md("# User timelines and funnels\n\n## The busiest users"), mo.ui.table(users, selection=None)])
    return (users,)


@app.cell
def _(user, users):
    _choices = list(dict.fromkeys([*([user] if user else []), *users["user_id"]]))
    user_choice = mo.ui.dropdown(_choices, value=_choices[0], label="User")
    mo.vstack([mo.md("## One user's actions"), user_choice])
    return (user_choice,)


@app.cell
def _(actions, user_choice):
    user_query = timeline(actions, user_choice.value)
    user_actions = user_query.collect()
    if user_actions.is_empty():
        _nothing = f"{user_choice.value} has no actions in these days."
        print(_nothing)
        mo.stop(True, mo.md(_nothing))  # noqa: FBT003 - marimo's own signature
    hours_chart = activity_chart(user_actions)
    lanes_chart = sessions_chart(user_actions)
    mo.vstack(
        [
            mo.md(f"{user_actions.height:,} actions."),
            hours_chart,
            mo.md("The latest sessions, from their start; a tick is an action."),
            lanes_chart,
            mo.accordion(
                {
                    "All of them": mo.ui.table(user_actions, selection=None),
                    "What Polars reads for this": mo.plain_text(user_query.explain()),
                }
            ),
        ]
    )
    return hours_chart, lanes_chart, user_actions


@app.cell
def _(steps):
    steps_choice = mo.ui.text(value=steps, label="Steps", full_width=True)
    mo.vstack(
        [
            mo.md(
                """
                ## A funnel

                Steps are divided by `>`. A step is an action's type (`*` is any), and after a colon a text that its
                page must contain: `view > navigate:/files/ > *:/about`. They are taken in this order within one
                session, with anything else in between.
                """
            ),
            steps_choice,
        ]
    )
    return (steps_choice,)


@app.cell
def _(actions, steps_choice):
    funnel_counts = funnel(actions, [step.strip() for step in steps_choice.value.split(">")])
    counts_chart = funnel_chart(funnel_counts)
    mo.vstack([counts_chart, mo.ui.table(funnel_counts, selection=None)])
    return counts_chart, funnel_counts


@app.cell
def _(funnel_counts, user_actions, user_choice, users):
    if mo.app_meta().mode == "script":
        with pl.Config(tbl_rows=20, tbl_hide_dataframe_shape=True):
            print("The busiest users", users.head(10), sep="\n")
            print(
                f"{user_choice.value}: {user_actions.height} actions, the last of them", user_actions.tail(10), sep="\n"
            )
            print("Funnel", funnel_counts, sep="\n")
    return


if __name__ == "__main__":
    app.run()
