"""What `llx check` shows: its lines, the error over depth as a table, as JSON, or on a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table

from llx.checks import Checked, Depth, checked_json
from llx.errors import BadInput, LlxError
from llx.files import require_writable, write_whole
from llx.reports.console import say, show, simple_table

MOST_ROWS = 12  # of the table: a model has up to 126 layers
FORMATS = "json, or a file to write: FILE.json, FILE.html"


@contextmanager
def reporting(output: str | None, verbose: bool) -> Iterator[tuple[Checked, Callable[[str], None]]]:
    """A record for a check to fill, and what prints its lines; both are written when it ends.

    Also where it ends with what is off, or early. Raises `BadInput` for an unknown format.
    """
    write = _writer(output)
    record = Checked(artifact="", precision="")
    try:
        yield record, (_silent if output == "json" else say)
    except LlxError:
        if record.artifact:
            write(record)
        if output != "json":
            show_depth(record)
        raise
    write(record)
    if verbose and output != "json":
        show_depth(record)


def _silent(line: str) -> None:
    """Nothing but JSON goes to stdout."""


def _writer(output: str | None) -> Callable[[Checked], None]:
    if output is None:
        return lambda record: None
    if output == "json":
        return lambda record: print(checked_json(record))
    path = Path(output)
    if path.suffix in (".json", ".html"):
        require_writable(path)  # before minutes of work
    if path.suffix == ".json":
        return lambda record: write_whole(path, checked_json(record).encode())
    if path.suffix == ".html":
        from llx.reports.html.depth import require_page, write_depth

        require_page()
        return lambda record: write_depth(record, path)
    raise BadInput(f"unknown format {output!r}", f"choose {FORMATS}")


def show_depth(record: Checked) -> None:
    """The error of the hidden state after some layers, a table for each graph, 80 columns."""
    for graph in dict.fromkeys(depth.graph for depth in record.depth):
        rows = [depth for depth in record.depth if depth.graph == graph]
        say("")
        show(_table(graph, _some(rows, record.fault.layer if record.fault else None)))


def _table(graph: str, rows: list[Depth]) -> Table:
    cells = [
        (
            "embedding" if row.layer < 0 else f"layer {row.layer}",
            _share(row.error),
            _share(row.explained),
            _ratio(row),
        )
        for row in rows
    ]
    return simple_table(
        f"{graph}: error of the hidden state, as a share of it",
        ("after", ">error", ">explained by rounding", ">ratio"),
        cells,
    )


def _share(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1e}"


def _ratio(row: Depth) -> str:
    if row.error is None or not row.explained:
        return "–"
    return f"{row.error / row.explained:.3g}"


def _some(rows: list[Depth], layer: int | None) -> list[Depth]:
    """At most `MOST_ROWS`: spread over the depth, with the layer that is off and the one before."""
    if len(rows) <= MOST_ROWS:
        return rows
    wanted = {-1, rows[-1].layer} | ({layer, layer - 1} if layer is not None else set())
    step = len(rows) / (MOST_ROWS - len(wanted))
    spread = (rows[int(i * step)].layer for i in range(MOST_ROWS - len(wanted)))
    wanted |= set(spread)
    return [row for row in rows if row.layer in wanted]
