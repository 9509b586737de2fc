"""The results of a page as runs: each by the label, the colour and the shape that it always has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llx.result import Result, SpeedRow

Row = dict[str, str | float | int | bool | None]

# Engines that llx knows have their colour on every page; others take those that are left.
KNOWN_ENGINES = (
    *("torch", "ort", "trt", "trt-rtx"),
    *("torch-compile", "ort-cuda", "ort-tensorrt", "openvino"),
)
COLOURS = 8
SHAPES = 6


@dataclass(frozen=True, kw_only=True)
class Run:
    """A result of a model, by the label, the colour and the shape that it has in every plot."""

    result: Result
    label: str
    part: str  # baseline or candidate; or a number among those of the same engine and precision
    colour: int
    shape: int

    @property
    def fields(self) -> Row:
        """What each row of a plot begins with."""
        return {
            "label": self.label,
            "engine": self.result.engine,
            "precision": self.result.precision,
            "colour": self.colour,
            "shape": self.shape,
        }


def colours_of(engines: Sequence[str]) -> dict[str, int]:
    """A colour for each engine, the same one on every page where llx knows it."""
    known = [engine for engine in KNOWN_ENGINES if engine in engines]
    taken = {engine: KNOWN_ENGINES.index(engine) for engine in known}
    free = [i for i in range(COLOURS) if i not in taken.values()] or list(range(COLOURS))
    others = [engine for engine in dict.fromkeys(engines) if engine not in taken]
    return taken | {engine: free[i % len(free)] for i, engine in enumerate(others)}


@dataclass(frozen=True)
class Looks:
    """How a page draws its engines and precisions: the same in each of its plots."""

    colours: dict[str, int]  # of engines
    shapes: dict[str, int]  # of precisions

    @classmethod
    def of(cls, engines: Sequence[str], precisions: Sequence[str]) -> Looks:
        """Looks of what a page shows."""
        shapes = {name: i % SHAPES for i, name in enumerate(dict.fromkeys(precisions))}
        return cls(colours_of(engines), shapes)

    def fields(self, engine: str, precision: str) -> Row:
        """The colour and the shape of a mark."""
        return {"colour": self.colours[engine], "shape": self.shapes[precision]}


def runs_of(
    results: Sequence[Result], looks: Looks, pairs: Sequence[tuple[Result, Result]] = ()
) -> list[Run]:
    """The results of one model, told apart by engine, precision, part, or else by a number.

    `pairs`: those that are compared, each of a baseline and what is held against it.
    """
    met: dict[str, int] = {}
    runs = []
    for result in results:
        part = next((part for pair in pairs if (part := _part(result, pair))), "")
        label = f"{result.engine} {result.precision}" + (" baseline" if part == "baseline" else "")
        met[label] = met.get(label, 0) + 1
        number = f"#{met[label]}" if met[label] > 1 else ""
        runs.append(
            Run(
                result=result,
                label=f"{label} {number}".strip(),
                part=f"{part} {number}".strip(),
                colour=looks.colours[result.engine],
                shape=looks.shapes[result.precision],
            )
        )
    return runs


def _part(result: Result, pair: tuple[Result, Result]) -> str:
    before, after = pair
    return "baseline" if result is before else "candidate" if result is after else ""


def kind_of(row: SpeedRow) -> str:
    """What a test measures: prefill, decode, or a request, which is both."""
    return "prefill" if not row.osl else "request" if row.isl else "decode"


def headline(result: Result, kind: str) -> SpeedRow | None:
    """The test of a kind that stands for a result: of batch 1, on an empty cache, the longest."""
    rows = [row for row in result.speed if kind_of(row) == kind]
    return min(rows, key=lambda row: (row.batch, row.depth, -row.isl - row.osl), default=None)
