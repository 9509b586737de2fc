"""`llx check -o FILE.html`: what a check said, and its error over depth, on a page of its own.

As `page` it needs nothing beside itself, and lets no script run but those that it was written with.
"""

from __future__ import annotations

from pathlib import Path

from llx.checks import Checked
from llx.errors import require_modules
from llx.files import write_whole
from llx.reports.html.charts import specification
from llx.reports.html.plots import Plot
from llx.reports.html.runs import Row
from llx.reports.html.shell import rendered
from llx.reports.html.tables import plot_table
from llx.reports.notes import model_name
from llx.reports.plain import visible

NAME = "error-over-depth"


def require_page() -> None:
    """Raise `Lacking` where the packages that draw the plot are not installed."""
    require_modules("the page", "report", "altair", "vl_convert")


def write_depth(record: Checked, path: Path) -> None:
    """Write the page, whole or not at all."""
    write_whole(path, depth_html(record).encode())


def depth_html(record: Checked) -> str:
    """The page as text."""
    plot = depth_plot(record)
    specs = {NAME: specification(plot)} if plot.rows else {}
    failed = record.failed
    return rendered(
        "check.html",
        "check",
        specs,
        title=visible(f"{model_name(record.artifact, record.precision)} {record.precision}"),
        kind="bad" if failed else "good",
        summary=visible(failed or "Nothing is off."),
        lines=[visible(line) for line in record.lines],
        graphs={visible(graph): place for graph, place in _places(record).items()},
        plot=(NAME, plot, plot_table(f"data-{NAME}", plot)) if plot.rows else None,
    )


def _places(record: Checked) -> dict[str, int]:
    """Each graph with the colour and shape that it has in the plot."""
    graphs = dict.fromkeys(depth.graph for depth in record.depth)
    return {graph: place for place, graph in enumerate(graphs)}


def depth_plot(record: Checked) -> Plot:
    """The graph's error after each layer, and what rounding explains; what is not finite is not."""
    places = _places(record)
    rows: list[Row] = []
    for depth in record.depth:
        place = places[depth.graph]
        for kind, value in (("error", depth.error), ("explained", depth.explained)):
            if value:  # a logarithm shows no zero
                rows.append(
                    {
                        "series": f"{visible(depth.graph)}, {kind}",
                        "kind": kind,
                        "layer": depth.layer,
                        "value": value,
                        "y": value,
                        "colour": place,
                        "shape": place,
                    }
                )
    return Plot(
        kind="blocks",
        title="Error over depth",
        caption="Of the hidden state after each layer, -1 being the embedding: solid, the graph's "
        "in ONNX Runtime; dashed, what rounding to its type explains. Both as shares of it.",
        columns={"series": "graph", "layer": "after layer", "value": "error"},
        rows=rows,
        most_rows=len(rows),
    )
