"""Fidelity as `llx.check` sees it: weights, ops and engines beside PyTorch; if one is off, why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llx.api.check_engines import check_engines
from llx.api.check_ops import check_linears, check_ops
from llx.api.check_weights import check_weights
from llx.artifact import WEIGHTS, Artifact
from llx.checks import Checked
from llx.errors import LlxError, require_modules
from llx.progress import Progress


def check_fidelity(
    artifact: Artifact,
    engines: Sequence[str] | None,
    record: Checked,
    every_op: bool,
    progress: Progress,
) -> Iterator[str]:
    """The weights, every engine, and op by op what is off. Raises `GateFailed` with the cause."""
    if not artifact.has(WEIGHTS):
        yield "parity: not checked: the artifact holds graphs only"
        return
    try:
        require_modules("the PyTorch reference", "export", "torch", "gguf")
    except LlxError as error:
        yield f"parity: not checked: {error}"
        return
    from llx.exporter.original import original_of

    original = original_of(artifact)
    yield from check_weights(original, record, progress)
    precision = artifact.manifest.precision
    if precision.linear != "dense":
        yield from check_linears(artifact)
    if precision.linear == "int8":
        # One input that falls to the other side of a rounding moves by a step: logits of two right
        # engines differ by as much as logits do, so each op is looked at by itself instead.
        yield from check_ops(artifact, record, progress)
        yield "fidelity is not checked here: `llx bench` measures what int8 costs"
        return
    yield from check_engines(artifact, original, engines, record, every_op, progress)
    if precision.linear != "dense":
        yield f"fidelity is not checked here: `llx bench` measures what {precision.linear} costs"
