"""Whether an artifact's weights are the checkpoint's, and its RoPE tables the model's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from llx.api.check_faults import because, finite
from llx.artifact import Artifact
from llx.checks import Checked, Fault
from llx.errors import GateFailed
from llx.manifest import WEIGHTS
from llx.progress import Progress

if TYPE_CHECKING:
    from llx.bench.fidelity.case import Cause
    from llx.exporter.original import Original


def check_weights(original: Original, record: Checked, progress: Progress) -> Iterator[str]:
    """RoPE's tables beside the model's own frequencies, and the weights beside the checkpoint's."""
    from llx.bench.fidelity.weight_causes import cause_of_weight

    artifact = original.artifact
    manifest = artifact.manifest
    _check_rope(artifact, record)
    if original.source is None:
        yield f"weights: not compared, so that what is wrong with them is not seen: {original.why}"
        return
    different = next(original.different(progress), None)
    if different is not None:
        name, found, wanted = different.name, different.found, different.wanted
        cause = cause_of_weight(
            name, found, wanted, manifest.spec, manifest.precision.compute, original.wanted
        )
        _fail_weight(record, name, "the checkpoint's", _share(found, wanted), cause)
    if manifest.quantization is not None:
        _check_scales(original, record, progress)
    compared = len(original.compared())
    compute, left = manifest.precision.compute, _left_out(artifact)
    yield f"weights: {compared} are those of {original.words}, in {compute}{left}"


def _check_scales(original: Original, record: Checked, progress: Progress) -> None:
    """Weights in few bits differ from the checkpoint's by rounding and folds, not in size."""
    from llx.bench.fidelity.case import AGAIN, FEW, Cause

    wrong = next(original.rescaled(progress), None)
    if wrong is None:
        return
    of = f"{wrong.part} of it" if wrong.part else "it"
    words = f"all of {of} is {wrong.factor:.2g} times the checkpoint's, folds aside"
    if wrong.channels:
        listed = ", ".join(map(str, wrong.channels[:FEW]))
        more = " …" if len(wrong.channels) > FEW else ""
        words = (
            f"output channel {listed}{more} of {of} is {wrong.factor:.2g} times "
            "the checkpoint's, folds aside"
        )
    before = {"o": " (or v before it)", "down": " (or up before it)"}
    words += before.get(wrong.module.rpartition(".")[2], "")
    cause = Cause(words, AGAIN)
    name = f"{wrong.module}.weight"
    _fail_weight(
        record, name, "the checkpoint's, rounded", abs(wrong.factor - 1), cause, wrong.allowed
    )


def _check_rope(artifact: Artifact, record: Checked) -> None:
    """RoPE's tables follow from the specification, whatever the checkpoint."""
    from llx.bench.fidelity.case import AGAIN, Cause
    from llx.bench.fidelity.rope_table_causes import cause_of_rope
    from llx.bench.fidelity.tolerance import UNIT
    from llx.exporter.original import ROPE, made_rope, stored_rope

    spec, compute = artifact.manifest.spec, artifact.manifest.precision.compute
    tables = stored_rope(artifact)
    for name, found in zip(ROPE, tables, strict=True):
        if found.shape != tables[0].shape or found.ndim != 2 or found.shape[1] * 2 != spec.rotated:
            cause = Cause(f"its shape is {found.shape}", AGAIN)
            _fail_weight(record, name, "the model's", np.inf, cause)
    wanted = made_rope(artifact, spec.rope, np.arange(len(tables[0])))
    for name, found, right in zip(ROPE, tables, wanted, strict=True):
        # A sine near zero is as wrong as its angle's own rounding is: of the size of one.
        slack = 4 * UNIT[compute] * np.maximum(np.abs(right), 1)
        if found.shape != right.shape or not (np.abs(found - right) <= slack).all():
            cause = cause_of_rope(*tables, spec, compute, partial(made_rope, artifact))
            _fail_weight(record, name, "the model's", _share(found, right), cause)


def _fail_weight(
    record: Checked, name: str, whose: str, error: float, cause: Cause, allowed: float = 0.0
) -> NoReturn:
    layer = int(name.split(".")[1]) if name.startswith("layers.") else None
    record.fault = Fault(
        op=name,
        layer=layer,
        phase="weights",
        error=finite(error),
        allowed=allowed,
        cause=cause.words,
        ruled_out=list(cause.ruled_out),
        seen_in=WEIGHTS,
    )
    raise GateFailed(
        f"{name} of {WEIGHTS} is not {whose}: off by {error:.1e} of its largest value, of "
        f"{allowed:.1g} allowed: {because(cause.words, cause.ruled_out)}",
        cause.remedy,
    )


def _share(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Largest error as a share of the largest value."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    largest = float(np.abs(wanted).max()) or 1.0
    return float(np.abs(found.astype(np.float64) - wanted).max()) / largest


def _left_out(artifact: Artifact) -> str:
    how = artifact.manifest.quantization
    return "" if how is None else "; those in few bits, or folded into, are as large as theirs"
