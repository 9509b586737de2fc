"""The terminal's two streams, and bars on one of them, which make way for lines on the other.

Results go to stdout. Progress goes to stderr, where that is a terminal or the log of a CI job.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.progress import Task as Bar
from rich.text import Text

from llx.progress import Progress, in_minutes, silent
from llx.reports.plain import visible
from llx.reports.units import binary_bytes, counted, significant
from llx.streams import tell

NOTEBOOK_PERIOD_S = 0.5
LOG_PERIOD_S = 60.0
SPARE_LINES = 3  # of a terminal, that bars leave: what scrolls out of it cannot be erased


class _Pipe(Console):
    """A console whose reader may go away early, as `head` does: the command line answers that."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


STDOUT = _Pipe(soft_wrap=False, highlight=False)
STDERR = Console(stderr=True, highlight=False)


class _Amount(ProgressColumn):
    """Done of total and rate, in the task's own unit."""

    def render(self, task: Bar) -> Text:
        unit, total = task.fields["unit"], task.total or 0
        if unit == "B":
            rate = f", {binary_bytes(task.speed)}/s" if task.speed else ""
            return Text(f"{binary_bytes(task.completed)} of {binary_bytes(total)}{rate}")
        rate = f", {significant(task.speed, 3)}/s" if task.speed else ""
        return Text(f"{task.completed:.0f} of {total:.0f} {unit}{'s' if unit else ''}{rate}")


class _Shown:
    """Bars at the end of the terminal, one for each kind of work.

    They are drawn over and over where the cursor is, so a line that is printed among them would be
    drawn over: they are taken away first, and come back, with what is unfinished, at the next news.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(10, complete_style="cyan", finished_style="green"),
            _Amount(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=STDERR,
            auto_refresh=False,
        )
        self._tasks: dict[str, TaskID] = {}
        self._live: Live | None = None
        self._lock = threading.RLock()

    def report(self, what: str, done: int, total: int, unit: str) -> None:
        """A `Progress`."""
        with self._lock:
            if what not in self._tasks:
                self._forget(STDERR.height - SPARE_LINES)
                words = visible(self._prefix + what)
                self._tasks[what] = self._bars.add_task(words, total=total, unit=visible(unit))
            self._bars.update(self._tasks[what], completed=done, total=total)
            if self._live is None:
                self._live = Live(
                    get_renderable=self._bars.get_renderable,
                    console=STDERR,
                    transient=True,
                    refresh_per_second=4,
                    # Of a pipe, what is printed is data: it stays where it goes.
                    redirect_stdout=STDOUT.is_terminal,
                )
                self._live.start(refresh=True)

    def hide(self) -> None:
        """Take the bars away, and forget those that are done."""
        with self._lock:
            if self._live is not None:
                self._live.stop()
                self._live = None
            self._forget(0)

    def _forget(self, most: int) -> None:
        """Forget what is done, the oldest first, until no more than so many bars are left."""
        done = {task.id for task in self._bars.tasks if task.finished}
        for what, task in list(self._tasks.items()):
            if task in done and len(self._tasks) > most:
                self._bars.remove_task(task)
                del self._tasks[what]


_shown: list[_Shown] = []  # by this process, now


@contextmanager
def progress_bars(prefix: str = "") -> Iterator[Progress]:
    """Bars for what is reported, one for each kind of work; silent where nobody watches.

    In the log of a CI job, which `CI` in the environment tells of, a line a minute instead.
    """
    if STDERR.is_jupyter:
        with _notebook_bars(prefix) as report:
            yield report
        return
    if not STDERR.is_terminal:
        yield _log_lines(prefix) if os.environ.get("CI") else silent
        return
    bars = _Shown(prefix)
    _shown.append(bars)
    try:
        yield bars.report
    finally:
        bars.hide()
        _shown.remove(bars)


def _log_lines(prefix: str, now_s: Callable[[], float] = time.monotonic) -> Progress:
    """A line on stderr for work that goes on for longer than `LOG_PERIOD_S`, and each time again.

    It says how far the work is and how long what is left will take, by what was done so far.
    """
    begun: dict[str, tuple[float, int]] = {}
    last = now_s()

    def report(what: str, done: int, total: int, unit: str) -> None:
        nonlocal last
        now = now_s()
        since, first = begun.setdefault(what, (now, done))
        if now - last < LOG_PERIOD_S or done >= total:
            return
        last = now
        amount = f"{binary_bytes(done)} of {binary_bytes(total)}"
        if unit != "B":
            amount = f"{done} of {counted(total, unit)}"
        left = (now - since) * (total - done) / (done - first) if done > first else None
        ahead = f", at most {in_minutes(left)} more" if left else ""
        tell(f"llx: {visible(prefix + what)}: {visible(amount)}{ahead}")

    return report


def remark(text: str) -> None:
    """A dim line to stderr, for whoever sits there: where it is no terminal there is none."""
    if STDERR.is_terminal:
        STDERR.print(Text(visible(text), style="dim"))


def make_way() -> None:
    """Take all bars out of the terminal, before something is printed there."""
    if STDOUT.is_terminal:
        for bars in _shown:
            bars.hide()


@contextmanager
def _notebook_bars(prefix: str) -> Iterator[Progress]:
    """The same in a notebook: a bar of HTML for each kind of work, gone when all is done.

    Rich's own would need ipywidgets. Where nothing is reported, nothing is displayed.
    """
    from IPython.display import HTML, DisplayHandle

    bars: dict[str, str] = {}
    shown = DisplayHandle()
    last = time.monotonic()

    def report(what: str, done: int, total: int, unit: str) -> None:
        nonlocal last
        if not bars:
            shown.display(HTML(""))
        amount = binary_bytes(done) if unit == "B" else f"{done} of {counted(total, unit)}"
        named = escape(visible(prefix + what))
        bars[what] = f'{named} <progress value="{done}" max="{total}"></progress> '
        bars[what] += escape(visible(amount))
        if done >= total or time.monotonic() - last > NOTEBOOK_PERIOD_S:
            last = time.monotonic()
            shown.update(HTML("<br>".join(bars.values())))

    try:
        yield report
    finally:
        if bars:
            shown.update(HTML(""))
