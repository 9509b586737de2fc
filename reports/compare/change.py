"""A change of one measure, and how its gate, its limit and what is missing make a verdict of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llx.errors import EXIT_BUG, EXIT_GATE_FAILED
from llx.reports.compare.gates import USUAL, Gate, Kind, gate_for
from llx.reports.compare.judged import Judge, Judged, Verdict, by_gate, within_limit
from llx.result import Result

NOT_MEASURED = "it was not measured"


@dataclass(frozen=True, kw_only=True)
class Change:
    """A measure of one engine and artifact, before and after.

    `ratio`: after by before, with its 95 % interval where it has one. `threshold`: the change of a
    speed that matters, as a share. `apart`: whether it rests on wall clocks of two runs that were
    not in turns. `gated`: whether a gate fits it. `why`: what the verdict rests on, in words.
    """

    engine: str
    precision: str
    artifact: str
    metric: str
    kind: Kind
    unit: str
    before: float | None
    after: float | None
    ratio: float | None = None
    ci95: tuple[float, float] | None = None
    threshold: float | None = None
    apart: bool = False
    verdict: Verdict
    gated: bool = True
    why: str = ""

    @property
    def fails(self) -> bool:
        """Whether it fails the comparison."""
        return self.verdict == "regressed" and self.gated

    @property
    def ungated(self) -> bool:
        """Whether it is worse, and fails nothing because no gate is about it."""
        return self.verdict == "regressed" and not self.gated


class Judging:
    """Measures of a result by the gates; against what they are held is for those who inherit."""

    def __init__(self, after: Result, gates: Sequence[Gate]) -> None:
        self._after, self._gates = after, gates

    def change_of(
        self,
        metric: str,
        kind: Kind,
        unit: str,
        numbers: tuple[float | None, float | None],
        judge: Judge,
        invalid: str | None = None,
        more_is_better: bool = True,
    ) -> Change:
        """A change, judged by the first gate that fits, or else by the usual one.

        `invalid`: why the number after counts as none for a gate that requires it.
        """
        engine = self._after.engine
        gate = gate_for(self._gates, metric, kind, engine)
        usual = gate_for(USUAL, metric, kind, engine)
        assert usual is not None
        judged = within_limit(judge(gate or usual), gate, numbers[1], more_is_better, invalid)
        lost = judged.why if numbers[1] is None else invalid
        if lost and gate and gate.required:
            judged = replace(judged, verdict="regressed", why=f"required: {lost}")
        return Change(
            engine=engine,
            precision=self._after.precision,
            artifact=self._after.artifact.name,
            metric=metric,
            kind=kind,
            unit=unit,
            before=numbers[0],
            after=numbers[1],
            ratio=judged.ratio,
            ci95=judged.ci95,
            threshold=judged.threshold,
            apart=judged.apart,
            verdict=judged.verdict,
            gated=gate is not None,
            why=judged.why,
        )

    def missing(self, test: str, why: str | None = None) -> Judged:
        """What the baseline has and this one has not: a crash or a hang is a regression."""
        errors = (failed.error for failed in self._after.failed if failed.test == test)
        error = next(errors, self._after.error)
        if error is None:
            return Judged("inconclusive", why or NOT_MEASURED)
        broke = error.exit_code in (EXIT_BUG, EXIT_GATE_FAILED)
        return Judged("regressed" if broke else "inconclusive", error.message)

    def deterministic(
        self,
        metric: str,
        unit: str,
        numbers: tuple[float, float | None],
        more_is_better: bool = False,
        unlike: str | None = None,
        *,
        missing: Judged,
        judge: Judge | None = None,
    ) -> Change:
        """A number that does not vary.

        `unlike`: why the two are not of the same thing. `missing`: what to say where it is gone.
        `judge`: of two numbers of the same thing; by the numbers alone where it is None.
        """
        before, after = numbers

        def judged(gate: Gate) -> Judged:
            if after is None:
                return missing
            ratio = after / before if before else None
            if unlike:
                return Judged("not comparable", unlike, ratio)
            if judge:
                return judge(gate)
            return Judged(*by_gate(before, after, gate, more_is_better), ratio)

        return self.change_of(
            metric, "deterministic", unit, numbers, judged, more_is_better=more_is_better
        )
