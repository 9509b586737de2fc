"""Vega-Lite specifications of the plots, by Altair.

What a result says is data and nothing else: fields, titles and expressions are all named here, and
engines and precisions are numbers to the scales. Colours are the page's own CSS variables, so that
a chart is light or dark as the page is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llx.refused import require_room
from llx.reports.html.plots import Plot
from llx.reports.html.runs import COLOURS, Row

if TYPE_CHECKING:
    import altair as alt

PALETTE = [f"var(--e{i})" for i in range(COLOURS)]
SHAPES = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross"]
INK, SOFT, LINE, TRACK = "var(--ink)", "var(--soft)", "var(--line)", "var(--track)"
PAGE_COLOUR = "var(--paper)"
# What V8 reserves, and uses to put the script together: it ends the process where it has less.
V8_ADDRESSES, V8_BYTES = 66 << 30, 1 << 30
STEP = 28  # pixels a row: Vega-Lite's own steps warn where the width is fitted
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
PERCENT = ".0%"
FIT = {"type": "fit-x", "contains": "padding"}

CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "domain": False,
        "ticks": False,
        "gridColor": LINE,
        "labelColor": SOFT,
        "labelFontSize": 12,
        "labelOverlap": True,
        "labelPadding": 8,
        "titleColor": SOFT,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 12,
    },
    "axisY": {"titleAlign": "left", "titleAngle": 0, "titleAnchor": "start"},
    "axisYBand": {"grid": False, "labelColor": INK, "labelLimit": 210},
}


def specification(plot: Plot) -> dict[str, Any]:
    """A plot as Vega-Lite, with its rows inside."""
    import altair as alt

    chart = DRAWN[plot.kind](alt.Chart(alt.NamedData("rows")), plot.rows)
    chart = chart.properties(width="container", autosize=FIT).configure(**CONFIG)
    # The rows are put in afterwards: Altair would copy each of them for every layer. Whether all is
    # by the schema is held by a test, since that takes most of the time.
    drawn = {**chart.to_dict(validate=False), "datasets": {"rows": plot.rows}}
    # Altair for Python 3.10 writes for an older Vega-Lite than the script: nothing here differs.
    del drawn["$schema"]
    return drawn


def vega_script() -> str:
    """Vega, the newest Vega-Lite that there is for it, and Vega-Embed, in one script."""
    require_room("what draws the plots", V8_ADDRESSES, V8_BYTES)
    import vl_convert

    version = vl_convert.get_vegalite_versions()[-1]
    # Its stub demands a snippet; the default one, which is there already, makes vegaEmbed global.
    return str(vl_convert.javascript_bundle(vl_version=version))  # type: ignore[call-arg]


def _x(field: str, title: str, **more: Any) -> alt.X:
    import altair as alt

    return alt.X(field=field, type="quantitative", title=title, **more)


def _end(field: str) -> alt.X2:
    import altair as alt

    return alt.X2(field=field)


def _names() -> alt.Y:
    import altair as alt

    return alt.Y(field="name", type="nominal", sort=None, title=None)


def _colour() -> alt.Color:
    import altair as alt

    scale = alt.Scale(domain=list(range(COLOURS)), range=PALETTE)
    return alt.Color(field="colour", type="nominal", scale=scale, legend=None)


def _shape() -> alt.Shape:
    import altair as alt

    domain = list(range(len(SHAPES)))
    return alt.Shape(
        field="shape", type="nominal", scale=alt.Scale(domain=domain, range=SHAPES), legend=None
    )


def _tips(*fields: tuple[str, str, str]) -> list[alt.Tooltip]:
    """What is shown where a pointer rests: field, heading, format, which a text has none of."""
    import altair as alt

    return [
        alt.Tooltip(field=field, type="quantitative", title=title, format=number)
        if number
        else alt.Tooltip(field=field, type="nominal", title=title)
        for field, title, number in fields
    ]


SPEED = (
    ("speed", "tok/s", ".4~g"),
    ("speed_low", "CI95 from", ".4~g"),
    ("speed_high", "to", ".4~g"),
)
SAMPLES = ("samples", "samples", "")


def _log(rows: list[Row], *fields: str, **axis: Any) -> dict[str, Any]:
    """A logarithmic axis with some room on both sides of what is drawn, and a line a decade."""
    import altair as alt

    drawn = [float(row[field] or 0) for row in rows for field in fields]
    low, high = min(drawn) / 1.6, max(drawn) * 1.6
    decades = [10.0**power for power in range(-300, 300) if low <= 10.0**power <= high]
    return {
        "scale": alt.Scale(type="log", domain=[low, high], nice=False),
        "axis": alt.Axis(format="~e", grid=True, values=decades[:: len(decades) // 8 + 1], **axis),
    }


# Where a label stands, how it is aligned there, and by how many pixels it is off its point.
LABELS = (("above", "left", 10, -9), ("right", "left", 8, 14), ("left", "right", -8, 14))


def _fidelity(base: alt.Chart, rows: list[Row]) -> alt.LayerChart:
    import altair as alt

    x = _x("x", "KLD of decode, nats per token", **_log(rows, "x_low", "x_high"))
    y = alt.Y(
        field="speed",
        type="quantitative",
        title="decode, tok/s",
        scale=alt.Scale(zero=True, nice=True),
        axis=alt.Axis(tickCount=6, titleY=-14),
    )
    tips = _tips(
        ("label", "run", ""),
        ("test", "test", ""),
        *SPEED,
        ("kld", "KLD", ".3~g"),
        ("kld_se", "its SE", ".2~g"),
        SAMPLES,
    )
    front = base.transform_filter("datum.front").mark_line(
        interpolate="step-after", color=SOFT, strokeDash=[3, 4], strokeWidth=1.5, tooltip=None
    )
    line = {"strokeWidth": 1.5, "opacity": 0.7}
    across = base.mark_rule(**line).encode(x=_x("x_low", ""), x2=_end("x_high"), color=_colour())
    upright = base.mark_rule(**line).encode(
        y=alt.Y(field="speed_low", type="quantitative"),
        y2=alt.Y2(field="speed_high"),
        color=_colour(),
    )
    points = base.mark_point(filled=True, size=110, opacity=1, stroke=PAGE_COLOUR, strokeWidth=1.5)
    layers = [
        front.encode(x=x, y=y),
        across.encode(y=y),
        upright.encode(x=x),
        points.encode(x=x, y=y, color=_colour(), shape=_shape(), tooltip=tips),
    ]
    if len(rows) <= 12:
        # A layer that nothing is left in makes Vega warn of its scales.
        places = {row["label_at"] for row in rows}
        label = alt.Text(field="label", type="nominal")
        layers += [
            base.transform_filter(f"datum.label_at == '{at}'")
            .mark_text(align=align, dx=dx, dy=dy, color=INK, fontSize=12)
            .encode(x=x, y=y, text=label)
            for at, align, dx, dy in LABELS
            if at in places
        ]
    return alt.layer(*layers).properties(height=320)


def _roofline(base: alt.Chart, rows: list[Row]) -> alt.LayerChart:
    import altair as alt

    most = max(1.0, *(float(row["share_high"] or 0) for row in rows))
    axis = alt.Axis(format=PERCENT, tickCount=5, grid=True)
    x = _x("share", "of the roofline", scale=alt.Scale(domain=[0, most], nice=False), axis=axis)
    tips = _tips(
        ("name", "run", ""),
        ("share", "share", ".1%"),
        *SPEED,
        ("ceiling", "tok/s at 100 %", ".4~g"),
        SAMPLES,
    )
    track = base.mark_bar(color=TRACK, height=12, cornerRadius=3).encode(
        x=alt.X(datum=0), x2=alt.X2(datum=1), y=_names()
    )
    bars = base.mark_bar(height=12, cornerRadius=3).encode(
        x=x, y=_names(), color=_colour(), tooltip=tips
    )
    errors = base.mark_rule(color=INK, strokeWidth=1.5).encode(
        x=_x("share_low", ""), x2=_end("share_high"), y=_names()
    )
    return alt.layer(track, bars, errors).properties(height=STEP * len(rows))


def _latency(base: alt.Chart, rows: list[Row]) -> alt.LayerChart:
    import altair as alt

    tips = _tips(
        ("name", "run", ""),
        ("steps", "steps", "d"),
        *((name, f"{name} ms", ".4~g") for name in ("p1", "p5", "p25", "p50", "p75", "p95", "p99")),
        ("max", "max ms", ".4~g"),
    )
    spread = max(float(row["max"] or 0) for row in rows) / max(
        min(float(row["p1"] or 0) for row in rows), 1e-9
    )
    scale = alt.Scale(type="log", nice=False) if spread > 20 else alt.Scale(zero=False, nice=True)
    axis = alt.Axis(grid=True, tickCount=6, format=".4~g")
    y, colour = _names(), _colour()

    def from_to(low: str, high: str, **mark: Any) -> alt.Chart:
        x = _x(low, "ms per step", scale=scale, axis=axis)
        return base.mark_bar(**mark).encode(x=x, x2=_end(high), y=y, color=colour, tooltip=tips)

    return alt.layer(
        from_to("p1", "p99", height=2, opacity=0.6),
        from_to("p5", "p95", height=10, opacity=0.3, cornerRadius=2),
        from_to("p25", "p75", height=10, opacity=0.9, cornerRadius=2),
        base.mark_tick(thickness=2, size=18, color=INK).encode(
            x=_x("p50", "ms per step"), y=y, tooltip=tips
        ),
        base.mark_point(filled=True, size=22, opacity=0.8).encode(
            x=_x("max", "ms per step"), y=y, color=colour, tooltip=tips
        ),
    ).properties(height=STEP * len(rows))


def _depth(base: alt.Chart, rows: list[Row]) -> alt.LayerChart:
    import altair as alt

    depths = sorted({int(row["depth"] or 0) for row in rows})
    ticks = {"values": depths} if len(depths) <= 8 else {"tickCount": 6}
    axis = alt.Axis(grid=False, format="d", **ticks)
    x = _x("depth", "positions filled beforehand", axis=axis)
    y = alt.Y(
        field="speed",
        type="quantitative",
        title="decode, tok/s",
        scale=alt.Scale(zero=True),
        axis=alt.Axis(tickCount=6, titleY=-14),
    )
    tips = _tips(("series", "run", ""), ("depth", "depth", "d"), *SPEED, SAMPLES)
    return _lines(base, x, y, ("speed_low", "speed_high"), tips, 80).properties(height=300)


def _lines(
    base: alt.Chart,
    x: alt.X,
    y: alt.Y,
    ends: tuple[str, str],
    tips: list[alt.Tooltip],
    size: int,
    **more: Any,
) -> alt.LayerChart:
    """A line for each series, with a point and its interval at each place."""
    import altair as alt

    series = alt.Detail(field="series", type="nominal")
    lines = base.mark_line(strokeWidth=2, opacity=0.8).encode(
        x=x, y=y, color=_colour(), detail=series, **more
    )
    errors = base.mark_rule(strokeWidth=1.5, opacity=0.7).encode(
        x=x,
        y=alt.Y(field=ends[0], type="quantitative"),
        y2=alt.Y2(field=ends[1]),
        color=_colour(),
    )
    points = base.mark_point(filled=True, size=size, opacity=1, stroke=PAGE_COLOUR, strokeWidth=1.5)
    marks = points.encode(x=x, y=y, color=_colour(), shape=_shape(), tooltip=tips)
    return alt.layer(lines, errors, marks)


def _against(base: alt.Chart, rows: list[Row]) -> alt.LayerChart:
    import altair as alt

    axis = alt.Axis(format="+.0%", tickCount=6, grid=True)
    x = _x("change", "change of speed", scale=alt.Scale(zero=True, nice=True), axis=axis)
    tips = _tips(
        ("name", "run", ""),
        ("verdict", "verdict", ""),
        ("change", "change", "+.2%"),
        ("change_low", "CI95 from", "+.2%"),
        ("change_high", "to", "+.2%"),
        ("threshold", "threshold", ".1%"),
        ("before", "baseline", ".4~g"),
        ("after", "this", ".4~g"),
        ("unit", "unit", ""),
        ("why", "why", ""),
    )
    band = base.mark_bar(color=TRACK, height=STEP).encode(
        x=_x("threshold_low", ""), x2=_end("threshold"), y=_names()
    )
    none = base.mark_rule(color=SOFT, strokeWidth=1).encode(x=alt.X(datum=0))
    errors = base.mark_rule(strokeWidth=2).encode(
        x=_x("change_low", ""), x2=_end("change_high"), y=_names(), color=_colour()
    )
    points = base.mark_point(filled=True, size=90, opacity=1, stroke=PAGE_COLOUR, strokeWidth=1.5)
    marks = points.encode(x=x, y=_names(), color=_colour(), shape=_shape(), tooltip=tips)
    return alt.layer(band, none, errors, marks).properties(height=STEP * len(rows))


def _phases(base: alt.Chart, rows: list[Row]) -> alt.LayerChart:
    import altair as alt

    x = _x("x", "nats per token", **_log(rows, "x_low", "x_high", "x_p90", "x_p99"))
    tips = _tips(
        ("name", "run", ""),
        ("tokens", "tokens", "d"),
        ("kld", "KLD", ".3~g"),
        ("kld_se", "its SE", ".2~g"),
        *((name, name, ".3~g") for name in ("p50", "p90", "p99", "max")),
    )
    tail = base.mark_rule(strokeWidth=1, opacity=0.5).encode(
        x=_x("x", ""), x2=_end("x_p99"), y=_names(), color=_colour()
    )
    ninety, last = (
        base.mark_tick(thickness=2, size=12, opacity=0.7).encode(
            x=_x(field, ""), y=_names(), color=_colour(), tooltip=tips
        )
        for field in ("x_p90", "x_p99")
    )
    errors = base.mark_rule(color=INK, strokeWidth=2).encode(
        x=_x("x_low", ""), x2=_end("x_high"), y=_names()
    )
    points = base.mark_point(filled=True, size=90, opacity=1, stroke=PAGE_COLOUR, strokeWidth=1.5)
    marks = points.encode(x=x, y=_names(), color=_colour(), shape=_shape(), tooltip=tips)
    return alt.layer(tail, ninety, last, errors, marks).properties(height=STEP * len(rows))


def _positions(base: alt.Chart, rows: list[Row]) -> alt.LayerChart:
    import altair as alt

    x = _x("position", "position in the window", axis=alt.Axis(grid=False, tickCount=8))
    scaled = _log(rows, "y_low", "y_high", titleY=-14)
    y = alt.Y(field="y", type="quantitative", title="nats per token", **scaled)
    tips = _tips(
        ("series", "run", ""),
        ("first", "positions from", "d"),
        ("last", "to", "d"),
        ("kld", "KLD", ".3~g"),
        ("kld_se", "its SE", ".2~g"),
    )
    dash = _dash("phase", "prefill", "decode")
    lines = _lines(base, x, y, ("y_low", "y_high"), tips, 50, strokeDash=dash)
    return lines.properties(height=260)


def _dash(field: str, solid: str, dashed: str) -> alt.StrokeDash:
    """How lines of two kinds are told apart."""
    import altair as alt

    scale = alt.Scale(domain=[solid, dashed], range=[[1, 0], [5, 4]])
    return alt.StrokeDash(field=field, type="nominal", scale=scale, legend=None)


def _blocks(base: alt.Chart, rows: list[Row]) -> alt.LayerChart:
    import altair as alt

    x = _x("layer", "layer", axis=alt.Axis(grid=False, tickCount=8, tickMinStep=1))
    scaled = _log(rows, "y", titleY=-14)
    y = alt.Y(field="y", type="quantitative", title="of the hidden state", **scaled)
    tips = _tips(
        ("series", "graph", ""),
        ("layer", "after layer", "d"),
        ("value", "error", ".3~g"),
        ("kind", "", ""),
    )
    dash = _dash("kind", "error", "explained")
    return _lines(base, x, y, ("y", "y"), tips, 50, strokeDash=dash).properties(height=260)


def _history(base: alt.Chart, rows: list[Row]) -> alt.LayerChart:
    import altair as alt

    commits = list(dict.fromkeys(row["commit"] for row in rows))
    axis = alt.Axis(grid=False, labelAngle=-35, labelOverlap="greedy", labelLimit=90)
    x = alt.X(field="commit", type="ordinal", sort=commits, title=None, axis=axis)
    y = alt.Y(
        field="value",
        type="quantitative",
        title=None,
        scale=alt.Scale(zero=False, padding=8),
        axis=alt.Axis(tickCount=4, format=".8~g"),
    )
    tips = _tips(
        ("series", "run", ""),
        ("label", "of", ""),
        ("at", "at", ""),
        ("value", "value", ".4~g"),
        ("low", "from", ".4~g"),
        ("high", "to", ".4~g"),
        ("level", "level", ".4~g"),
    )
    level = alt.Detail(field="of_level", type="nominal")
    bands = base.mark_area(opacity=0.12).encode(
        x=x,
        y=alt.Y(field="band_low", type="quantitative"),
        y2=alt.Y2(field="band_high"),
        color=_colour(),
        detail=level,
    )
    levels = base.mark_line(strokeWidth=2.5).encode(
        x=x, y=alt.Y(field="level", type="quantitative"), color=_colour(), detail=level
    )
    errors = base.mark_rule(strokeWidth=1.5, opacity=0.5).encode(
        x=x, y=alt.Y(field="low", type="quantitative"), y2=alt.Y2(field="high"), color=_colour()
    )
    points = base.mark_point(filled=True, size=40, opacity=0.9, stroke=PAGE_COLOUR, strokeWidth=1)
    marks = points.encode(x=x, y=y, color=_colour(), shape=_shape(), tooltip=tips)
    layers = [bands, errors, levels, marks]
    if any(row["step"] is not None for row in rows):
        begun = base.transform_filter(alt.FieldValidPredicate(field="step", valid=True))
        layers.insert(1, begun.mark_rule(strokeDash=[3, 3], color=INK, opacity=0.6).encode(x=x))
        words = begun.mark_text(align="left", dx=5, dy=-9, color=INK, fontSize=11)
        layers.append(
            words.encode(
                x=x,
                y=alt.Y(field="level", type="quantitative"),
                text=alt.Text(field="step_words", type="nominal"),
            )
        )
    return alt.layer(*layers).properties(height=180)


DRAWN: dict[str, Callable[[alt.Chart, list[Row]], alt.LayerChart]] = {
    "fidelity": _fidelity,
    "against": _against,
    "roofline": _roofline,
    "latency": _latency,
    "depth": _depth,
    "phases": _phases,
    "positions": _positions,
    "blocks": _blocks,
    "history": _history,
}
