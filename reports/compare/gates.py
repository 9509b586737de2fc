"""Gates: which metric may get how much worse. A file of them, or those that always hold."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import msgspec

from llx.errors import BadInput
from llx.reports.units import share_of

Kind = Literal["deterministic", "roofline share", "wall clock"]
"""The same anywhere; across machines; only where the device fingerprint is the same."""
OF_ROOFLINE = " of the roofline"  # what a test's share is called after the test

# Runs of one thing, apart, on a virtual machine that others share: speeds were up to 1.8 times as
# high in ten pairs, shares of the roofline up to 1.5 times in six (reports/LOG.md, 2026-11-25).
APART: dict[Kind, float] = {"wall clock": 1.0, "roofline share": 0.5}


IN_PERCENT = "a threshold in percent, such as 5%"  # of what varies
MOST = 1e15  # of a difference that matters: more than any number of a result, and all would pass


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change that matters. The first gate that fits a metric counts; others are shown only.

    `metric`: a test or a measure by its name, such as `tg128`, `KLD prefill`, `TTFT p50, pp512`;
    `*` stands for anything; a share of the roofline goes by its test's name too. `kind`: what of a
    name alone, such as a test's speed or its share; None: all that the name fits. `threshold`: a
    share of the baseline's, such as "5%", or a difference, such as 0.005; None where the limit
    alone counts. `negligible`: a difference that never matters. `limit`: what a number must not
    cross, whatever the baseline: a floor of what is better when larger, else a ceiling. `apart`: by
    how much two runs of one thing differ on the machine where they are not measured in turns, as a
    share; what is less decides nothing. `required`: whether it fails where the baseline has a
    number and the results have none, or an INVALID one. `optional`: whether it may be about nothing
    that these results have; else that is an error.
    """

    metric: str
    kind: Kind | None = None
    threshold: str | float | None = None
    engine: str = "*"
    negligible: float = 0.0
    limit: float | None = None
    apart: str | None = None
    required: bool = False
    optional: bool = False

    def __post_init__(self) -> None:
        for name in ("threshold", "negligible", "limit"):
            value = getattr(self, name)
            if isinstance(value, float) and not 0 <= value <= MOST:  # NaN is not, either
                raise ValueError(f"the {name} {value:g} is no number from 0 to {MOST:g}")
        if not self.metric or not self.engine:
            raise ValueError("a gate without a name is about nothing")
        for threshold in (self.threshold, self.apart):
            if isinstance(threshold, str):
                share_of(threshold)
        if self.threshold is None and self.limit is None:
            raise ValueError("a gate has a threshold, such as 5%, or a limit")
        if self.required and self.optional:
            raise ValueError("a gate is required or optional, not both")
        if self.kind not in ("deterministic", None) and self.by_difference:
            raise ValueError(f"a gate of kind {self.kind} has {IN_PERCENT}")

    @property
    def by_difference(self) -> bool:
        """Whether its threshold is a difference, and no share."""
        return isinstance(self.threshold, float | int)

    @property
    def share(self) -> float:
        """The threshold in percent as a share; where the limit alone counts, one past all."""
        return MOST if self.threshold is None else share_of(str(self.threshold))

    def noise_apart(self, kind: Kind) -> float:
        """The noise between two runs, as a share."""
        return share_of(self.apart) if self.apart else APART[kind]

    @property
    def names(self) -> bool:
        """Whether it names anything: what stands for all means what is compared without a gate."""
        return bool(self.metric.strip("*"))

    def fits(self, metric: str, kind: Kind, engine: str) -> bool:
        """Whether the gate is about a metric of an engine."""
        names = {metric, metric.removesuffix(OF_ROOFLINE)}
        return (
            self.kind in (kind, None)
            and any(fnmatchcase(name, self.metric) for name in names)
            and fnmatchcase(engine, self.engine)
        )


def gate_for(gates: Sequence[Gate], metric: str, kind: Kind, engine: str) -> Gate | None:
    """The gate that counts: the first that fits."""
    return next((gate for gate in gates if gate.fits(metric, kind, engine)), None)


GATES = (
    Gate(metric="KLD *", kind="deterministic", threshold="10%", negligible=1e-4),
    Gate(metric="PPL ratio *", kind="deterministic", threshold=0.005),
    Gate(metric="PPL *", kind="deterministic", threshold="0.5%"),
    Gate(metric="same top-1 *", kind="deterministic", threshold=0.005),
    Gate(metric="score, *", kind="deterministic", threshold="2%"),
    Gate(metric="artifact bytes", kind="deterministic", threshold="1%"),
    Gate(metric="engine bytes", kind="deterministic", threshold="2%"),
    Gate(metric="bytes a step, *", kind="deterministic", threshold="1%"),
    Gate(metric="*", kind="roofline share", threshold="10%"),
    Gate(metric="*", kind="wall clock", threshold="5%"),
)
# What a measure is judged by that no gate is about: it is shown, and fails nothing.
USUAL = (
    *GATES,
    Gate(metric="graph nodes", kind="deterministic", threshold="1%"),
    Gate(metric="*", kind="deterministic", threshold="10%"),
)


class _GateFile(msgspec.Struct, forbid_unknown_fields=True):
    gate: list[dict[str, object]]


def read_gates(path: Path) -> tuple[Gate, ...]:
    """The gates of a TOML file, each a `[[gate]]`. Raises `BadInput` with all that is wrong."""
    try:
        found = msgspec.toml.decode(path.read_bytes(), type=_GateFile)
        gates, wrong = [], []
        for number, content in enumerate(found.gate, 1):
            try:
                gates.append(msgspec.convert(content, Gate))
            except msgspec.ValidationError as error:
                of = f"gate {number}, {content.get('metric', '')!r}: "
                wrong.append(f"{of if len(found.gate) > 1 else ''}{error}")
        if wrong:
            raise ValueError("; ".join(wrong))
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror})", "name a file of gates"
        ) from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadInput(
            f"{path} is no file of gates ({error})",
            'write [[gate]], metric = "tg*", threshold = "5%"',
        ) from None
    return tuple(gates)
