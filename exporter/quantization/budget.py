"""Which linear layers stay as they are computed in, so that the rest costs no more than it may.

Layers are ordered by what they cost for each multiply-add that their quantization saves
(`llx.exporter.quantization.sensitivity`); the first of that order are left. How many is found by
halving, each time judging the mixture itself: costs do not quite add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llx.corpus import OwnText
from llx.errors import BadInput, GateFailed
from llx.llama.spec import LlamaSpec
from llx.llama.weights import weights_of
from llx.precision import Precision

LEAST_SHARE = (
    0.5  # of the multiply-adds that must stay quantized: below, another precision is meant
)


# More than any model has that says anything: a budget beyond limits nothing.
MOST_KLD, MOST_PPL_RATIO = 100.0, 1e6
MOST_WINDOWS = 100_000


@dataclass(frozen=True)
class Distance:
    """Mean KLD in nats a token, and perplexity over the checkpoint's."""

    kld: float
    ppl_ratio: float


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that a quantized model may cost; `None` limits nothing."""

    max_kld: float | None = None
    max_ppl_ratio: float | None = None

    def __post_init__(self) -> None:
        for name, most in (("max_kld", MOST_KLD), ("max_ppl_ratio", MOST_PPL_RATIO)):
            value, option = getattr(self, name), name.replace("_", "-")
            if value is not None and not value <= most:  # NaN is not, either
                raise BadInput(
                    f"--{option} {value:g} limits nothing",
                    f"give {most:g} at most, or leave it out",
                )

    def __bool__(self) -> bool:
        return self.max_kld is not None or self.max_ppl_ratio is not None

    def holds(self, distance: Distance, margin: float = 1.0) -> bool:
        """Whether a model at such a distance is within `margin` of the budget."""
        kld, ratio = self.max_kld, self.max_ppl_ratio
        return (kld is None or distance.kld <= kld * margin) and (
            ratio is None or distance.ppl_ratio - 1 <= (ratio - 1) * margin
        )

    def require(self, distance: Distance, share: float) -> None:
        """Raise `GateFailed` where the best that was found, with so much quantized, is beyond."""
        if not self.holds(distance):
            raise GateFailed(
                f"the budget of {self} is not met: the best that was found is a KLD of "
                f"{distance.kld:.4f} and a perplexity ratio of {distance.ppl_ratio:.4f}, with "
                f"{100 * share:.0f} % of the linear layers' work quantized",
                "allow more, or export with int8-wo or fp16",
            )

    def __str__(self) -> str:
        kld = "" if self.max_kld is None else f"a KLD of {self.max_kld:g}"
        ratio = (
            "" if self.max_ppl_ratio is None else f"a perplexity ratio of {self.max_ppl_ratio:g}"
        )
        return " and ".join(filter(None, (kld, ratio)))


@dataclass(frozen=True, kw_only=True)
class QuantizationRequest:
    """What was asked for beside the precision; `None`: what suits the weights.

    `windows` of calibration, 0 for none: then weights are rounded to nearest. `text`: what to
    calibrate on, a file of the user's or one of our own. `dense_share`: of the multiply-adds, left
    as they are computed in, where no budget decides.
    """

    windows: int | None = None
    text: Path | OwnText | None = None
    dense_share: float | None = None
    budget: Budget = field(default_factory=Budget)

    def require_for(self, precision: Precision) -> None:
        """Raise `BadInput` where a precision has no use for what was asked, or none could do it."""
        kld, ratio = self.budget.max_kld, self.budget.max_ppl_ratio
        if precision.linear == "dense" and self != QuantizationRequest():
            raise BadInput(
                f"--precision {precision.name} quantizes nothing",
                "leave the options of quantization out, or choose int8, int8-wo, int4 or fp8",
            )
        if self.budget and self.dense_share is not None:
            raise BadInput("a budget decides what is left dense", "leave out --dense-share")
        if self.dense_share is not None and not 0 <= self.dense_share < 1:
            raise BadInput(f"--dense-share {self.dense_share:g} is no share", "give 0 to 0.99")
        if kld is not None and not kld > 0:
            raise BadInput(f"--max-kld {kld:g} is not above 0", "give nats a token, such as 0.02")
        if ratio is not None and not ratio > 1:
            raise BadInput(f"--max-ppl-ratio {ratio:g} is not above 1", "give one such as 1.02")
        if self.windows is not None and not 0 <= self.windows <= MOST_WINDOWS:
            raise BadInput(
                f"{self.windows} windows are outside 0…{MOST_WINDOWS}", "give some tens of them"
            )
        if self.windows == 0:
            self._require_none(precision)

    def _require_none(self, precision: Precision) -> None:
        """Raise `BadInput` where something needs a calibration."""
        if precision.rounds_inputs:
            raise BadInput(
                f"{precision.linear} needs a calibration: its inputs have scales",
                "give one window or more",
            )
        if self.budget or self.dense_share or self.text:
            raise BadInput(
                "what is left dense, and a text, need a calibration", "give one window or more"
            )


def multiply_adds(spec: LlamaSpec) -> dict[str, int]:
    """Multiply-adds a token of each linear layer, by module."""
    return {w.module: w.shape[0] * w.shape[1] for w in weights_of(spec) if w.kind == "projection"}


def quantized_share(spec: LlamaSpec, dense: frozenset[str]) -> float:
    """Share of the linear layers' multiply-adds that is quantized."""
    all_of_them = multiply_adds(spec)
    return 1 - sum(all_of_them[module] for module in dense) / sum(all_of_them.values())


def costliest_first(spec: LlamaSpec, sensitivities: Mapping[str, float]) -> list[str]:
    """Modules by their cost for each multiply-add."""
    work = multiply_adds(spec)
    return sorted(sensitivities, key=lambda module: sensitivities[module] / work[module])[::-1]


def keep_share(spec: LlamaSpec, sensitivities: Mapping[str, float], kept: float) -> frozenset[str]:
    """The costliest modules that hold at most a share `kept` of the multiply-adds."""
    dense: frozenset[str] = frozenset()
    for module in costliest_first(spec, sensitivities):
        if quantized_share(spec, dense | {module}) >= 1 - kept:
            dense |= {module}
    return dense


def keep_within(
    spec: LlamaSpec,
    sensitivities: Mapping[str, float],
    distance_of: Callable[[frozenset[str]], Distance],
    budget: Budget,
    margin: float = 1.0,
) -> tuple[frozenset[str], Distance]:
    """The fewest of the costliest modules without which `margin` of the budget holds, and how well.

    Where it cannot hold with `LEAST_SHARE` of the work quantized, the nearest that there is.
    """
    order = costliest_first(spec, sensitivities)
    judged: dict[int, Distance] = {}

    def holds(count: int) -> bool:
        judged[count] = distance_of(frozenset(order[:count]))
        return budget.holds(judged[count], margin)

    low, high = 0, len(order)
    while quantized_share(spec, frozenset(order[:high])) < LEAST_SHARE:
        high -= 1
    if holds(low):
        high = low
    elif holds(high):
        while high - low > 1:  # low does not hold, high does
            middle = (low + high) // 2
            low, high = (low, middle) if holds(middle) else (middle, high)
    return frozenset(order[:high]), judged[high]
