"""Whether each op is right by itself, on the input that it was given; the first that is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llx.api.check_candidates import Candidate
from llx.api.check_faults import REPORT, because, finite, require_excused
from llx.artifact import Artifact
from llx.bench.session import Tokens
from llx.bench.sessions import ENGINES, Engine
from llx.checks import Checked, Depth, Fault
from llx.errors import GateFailed, LlxError
from llx.graphs.dialects import dialect_named
from llx.progress import Progress

if TYPE_CHECKING:
    from llx.bench.fidelity.expected import Weights
    from llx.bench.fidelity.localise import Found
    from llx.llama.teacher import Taught


def check_linears(artifact: Artifact, asked: bool) -> Iterator[str]:
    """Compare each quantized layer with the formula, on its own input, in each graph of `ort`."""
    looked_at: set[str | None] = {None}
    for engine in (ENGINES["ort"], ENGINES["ort-standard"]):
        dialect = engine.dialect_of(artifact)
        if dialect not in looked_at:
            looked_at.add(dialect)
            try:
                yield _linears(artifact, engine, str(dialect))
            except LlxError as error:
                require_excused(error, asked)
                yield f"parity of {engine.name}: not checked: {error}"


def _linears(artifact: Artifact, engine: Engine, dialect: str) -> str:
    from llx.bench.fidelity.tolerance import rounding_steps

    engine.require()
    from llx.bench.fidelity.linears import linear_parities

    found = list(linear_parities(artifact, dialect))
    precision = artifact.manifest.precision
    compute = dialect_named(dialect).computes_in(precision.compute)
    steps = rounding_steps(compute, precision.linear)
    for linear in found:
        if not ((linear.rounding or 0) <= steps and linear.beyond <= 1):
            off = None if linear.rounding is None else f"{linear.rounding:.2g} steps of {steps:.2f}"
            inputs = f"inputs are off by {off} allowed, " if off else ""
            raise GateFailed(
                f"{linear.module} in {engine.name} is not what its {precision.linear} weights and "
                f"scales say: {inputs}its product is off by {linear.product:.1e} of "
                f"{linear.allowed:.1e} allowed",
                f"export again with --overwrite, and if that changes nothing, {REPORT}",
            )
    worst = max(found, key=lambda one: one.beyond, default=None)
    roundings = [one.rounding for one in found if one.rounding is not None]
    inputs = (
        f"inputs off by {max(roundings):.2f} steps of {steps:.2f} allowed, " if roundings else ""
    )
    left = f", {len(artifact.manifest.dense)} left dense" if artifact.manifest.dense else ""
    product, allowed = (worst.beyond * worst.allowed, worst.allowed) if worst else (0.0, 0.0)
    return (
        f"parity of {engine.name}: {len(found)} {precision.linear} layers{left}, each on its own "
        f"input: {inputs}products off by at most {product:.1e} of {allowed:.1e} allowed"
    )


def check_ops(
    artifact: Artifact, record: Checked, asked: bool, progress: Progress
) -> Iterator[str]:
    """Every op of every graph by itself, on random tokens."""
    from llx.bench.fidelity.lesson import random_windows

    tokens = random_windows(artifact.manifest.contract.limits)
    for dialect in artifact.dialects:
        try:
            ENGINES["ort"].require()
            line = op_by_op(artifact, dialect, tokens, record, None, progress)
        except LlxError as error:
            require_excused(error, asked)
            line = f"op by op, {dialect}: not looked at: {error}"
        yield line


def op_by_op(
    artifact: Artifact,
    dialect: str,
    tokens: Tokens,
    record: Checked,
    taught: Taught | None,
    progress: Progress,
) -> str:
    """Every op of a graph by itself, in a line. Raises `GateFailed` with the first that is off."""
    found = walk_graph(artifact, dialect, tokens, record, taught, progress)
    require_right(artifact, dialect, found, record)
    precision = artifact.manifest.precision
    return (
        f"op by op, {dialect}: {found.ops} results, each within what {precision.compute} explains "
        "of its own op"
    )


def walk_graph(
    artifact: Artifact,
    dialect: str,
    tokens: Tokens,
    record: Checked,
    taught: Taught | None,
    progress: Progress,
) -> Found:
    """Every op of a graph by itself, over the first window; its error over depth is noted."""
    from llx.bench.fidelity.localise import walk
    from llx.bench.fidelity.taps import Tapped, steps_of

    limits = artifact.manifest.contract.limits
    steps = steps_of(tokens[0], limits.max_new_tokens)
    with artifact.opened_weights("np") as file:
        found = walk(Tapped(artifact, dialect), steps, _stored(file), progress, taught is not None)
    if taught is not None:
        record.depth += _depths(dialect, found, taught)
    return found


def _stored(file: Any) -> Weights:
    """The artifact's own weights; `KeyError` for those in few bits."""
    held = set(file.keys())

    def read(name: str) -> NDArray[Any]:
        if name not in held or f"{name}_scale" in held:
            raise KeyError(name)
        found: NDArray[Any] = file.get_tensor(name)
        return found

    return read


def _depths(dialect: str, found: Found, taught: Taught) -> Iterator[Depth]:
    """The hidden state after each layer beside PyTorch's, over all steps that were run."""
    for layer, states in found.hidden.items():
        here = np.concatenate(states).astype(np.float64)
        wanted = taught.hidden[layer][: len(here)].astype(np.float64)
        size = float(np.sqrt(np.square(wanted).mean())) or 1.0
        with np.errstate(invalid="ignore", over="ignore"):
            error = float(np.sqrt(np.square(here - wanted).mean())) / size
        yield Depth(
            graph=dialect,
            layer=layer,
            error=finite(error),
            explained=finite(taught.explained[layer]),
        )


def require_right(
    artifact: Artifact,
    dialect: str,
    found: Found,
    record: Checked,
    off: str = "",
    candidate: Candidate | None = None,
) -> None:
    """Raise `GateFailed` with the first op that is off, and its cause."""
    from llx.bench.fidelity.case import Case
    from llx.bench.fidelity.causes import cause_of
    from llx.bench.fidelity.oracle import Arithmetic
    from llx.graphs.settings import settings_of

    first = found.first
    if first is None:
        return
    manifest = artifact.manifest
    with artifact.opened_weights("np") as file:
        stored = manifest.precision.compute
        arithmetic = Arithmetic.of(dialect_named(dialect).computes_in(stored), stored)
        settings = settings_of(artifact.graph(dialect))
        case = Case(first, manifest.spec, _stored(file), arithmetic, settings)
        cause = cause_of(case)
    own = candidate is None or candidate.engine.name == "ort"
    seen = f"{dialect}.onnx" if own else f"{dialect}.onnx, run in ONNX Runtime op by op"
    shows = "" if own else ", since the engine shows no values in between,"
    site = first.site
    record.fault = Fault(
        op=site.name,
        layer=site.layer,
        phase=site.step.phase,
        error=finite(first.error),
        allowed=finite(first.allowed),
        cause=cause.words,
        ruled_out=list(cause.ruled_out),
        seen_in=seen,
    )
    raise GateFailed(
        f"{off}{': ' if off else ''}{site.name} of {seen}{shows} errs by {first.error:.1e} of "
        f"{first.allowed:.1e} allowed in {site.step.phase}: "
        f"{because(cause.words, cause.ruled_out)}",
        cause.remedy,
    )
