"""`llx.check`: whether an artifact is what was exported, and says what PyTorch says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from llx.api.reference import open_reference
from llx.api.watching import AnyArtifact
from llx.arguments import door
from llx.artifact import Artifact, is_artifact, latest, open_artifact
from llx.bench.session import Session
from llx.bench.sessions import ENGINES, Engine
from llx.engine import engines_of
from llx.errors import BadInput, GateFailed, LlxError
from llx.gpu import find_gpu
from llx.graphs.dialects import dialect_named
from llx.graphs.inspect import problems

# Largest logit error that passes, by what the graph computes in: absolute for fp32, for the others
# in standard deviations of the reference's logits. SmolLM2-135M on random tokens shows 1e-4 in
# fp32, 0.04 in fp16 and 0.8 in bf16 (reports/LOG.md, 2026-11-24).
ABSOLUTE_TOLERANCE = 1e-3
RELATIVE_TOLERANCE = {"fp16": 0.2, "bf16": 2.0}
# A quantized layer: half a step of its input is rounding, the rest is fp16's of a value up to 127
# steps; the product is a share of the largest one. SmolLM2-135M shows 0.53, and 6.8e-4 in fp16.
ROUNDING_TOLERANCE = 0.6
PRODUCT_TOLERANCE = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 5e-2}


@door
def check(artifact: AnyArtifact = None) -> list[str]:
    """Check every byte, the graphs' structure, and parity with the PyTorch reference.

    Args:
        artifact: An artifact or its folder. None: the one exported last.

    Returns:
        What was found right, and what could not be checked, a line each.

    Raises:
        GateFailed: Something is not what was exported, or not what PyTorch says.
        BadInput: No artifact.

    """
    return list(findings(artifact))


def findings(artifact: AnyArtifact = None) -> Iterator[str]:
    """The lines of `check`, each as soon as it is known."""
    found = artifact if isinstance(artifact, Artifact) else _opened(artifact)
    damaged = found.damaged()
    if damaged:
        raise GateFailed(
            f"{', '.join(damaged)} of {found.folder} is not what was exported",
            "export again with --overwrite",
        )
    manifest = found.manifest
    yield f"bytes: {len(manifest.files)} files are what the manifest vouches for"
    yield from _check_engines(found)
    for dialect in found.dialects:
        path = found.path(f"{dialect}.onnx")
        wrong = problems(path, manifest.contract, dialect_named(dialect), manifest.precision)
        if wrong:
            raise GateFailed(f"{dialect}.onnx: {wrong[0]}", "export again with --overwrite")
        yield f"{dialect}: the ONNX checker, the contract and the weights file agree"
    dense = manifest.precision.linear == "dense"
    yield from _check_parity(found) if dense else _check_linears(found)


def _opened(folder: str | Path | None) -> Artifact:
    """The artifact; one with a file missing, cut off or unreadable has failed the check."""
    path = Path(folder) if folder is not None else None
    try:
        return open_artifact(path)
    except BadInput as error:
        if is_artifact(path or latest()):
            raise GateFailed(error.message, error.remedy) from None
        raise


def _check_engines(artifact: Artifact) -> Iterator[str]:
    """Every byte of the engines that were built."""
    engines = engines_of(artifact)
    for engine in engines:
        if not engine.intact:
            raise GateFailed(
                f"{engine.folder} is not what was built",
                "build it again with `llx build --overwrite`",
            )
    if engines:
        yield f"engines: {len(engines)} are what their manifests vouch for; none was run"


def _check_linears(artifact: Artifact) -> Iterator[str]:
    """Compare each quantized layer with the formula: logits of plain int8 are no judge of it."""
    try:
        ENGINES["ort"].require()
        from llx.bench.fidelity.linears import linear_parities

        found = list(linear_parities(artifact))
    except GateFailed:
        raise
    except LlxError as error:
        yield f"parity: not checked: {error}"
        return
    precision = artifact.manifest.precision
    tolerance = PRODUCT_TOLERANCE[precision.compute]
    for linear in found:
        if not ((linear.rounding or 0) <= ROUNDING_TOLERANCE and linear.product <= tolerance):
            off = None if linear.rounding is None else _off(linear.rounding, ".2g")
            inputs = f"inputs are {off}, " if off else ""
            raise GateFailed(
                f"{linear.module} in ort is not what its {precision.linear} weights and scales "
                f"say: {inputs}its product is off by {linear.product:.1e} of {tolerance} allowed",
                "the export is wrong: report it with the output of `llx doctor`",
            )
    product = max((one.product for one in found), default=0.0)
    roundings = [one.rounding for one in found if one.rounding is not None]
    inputs = f"inputs {_off(max(roundings), '.2f')}, " if roundings else ""
    left = f", {len(artifact.manifest.dense)} left dense" if artifact.manifest.dense else ""
    yield (
        f"parity of ort: {len(found)} {precision.linear} layers{left}, each on its own input: "
        f"{inputs}products off by at most {product:.1e} of {tolerance} allowed"
    )
    yield f"fidelity is not checked here: `llx bench` measures what {precision.linear} costs"


def _off(rounding: float, digits: str) -> str:
    return f"off by {rounding:{digits}} steps of {ROUNDING_TOLERANCE} allowed"


def _check_parity(artifact: Artifact) -> Iterator[str]:
    """Compare each engine and dialect that is here with the reference, on a few steps."""
    from llx.bench.fidelity.parity import compare

    try:
        reference = open_reference(artifact)
    except LlxError as error:
        yield f"parity: not checked: {error}"
        return
    for name, engine, open_session in _subjects(artifact):
        try:
            engine.require()
            session = open_session()
        except LlxError as error:
            yield f"parity of {name}: not checked: {error}"
            continue
        parity = compare(session, reference)
        session.close()
        worst = max(parity.prefill_error, parity.decode_error)
        relative = RELATIVE_TOLERANCE.get(artifact.manifest.precision.compute)
        tolerance = relative * parity.spread if relative else ABSOLUTE_TOLERANCE
        if not worst <= tolerance:
            raise GateFailed(
                f"{name} is off by {worst:.1e} from PyTorch fp32, more than {tolerance:.2g}",
                "if the weights hold no NaN and fit the precision, the export is wrong: report it "
                "with the output of `llx doctor`",
            )
        yield (
            f"parity of {name}: largest logit error {parity.prefill_error:.1e} in prefill, "
            f"{parity.decode_error:.1e} in decode, of {tolerance:.2g} allowed"
        )


def _subjects(artifact: Artifact) -> Iterator[tuple[str, Engine, Callable[[], Session]]]:
    """What is compared: every engine, and ONNX Runtime over the graphs that are not its own.

    Where there is no GPU, nothing is said of the engines that need one.
    """
    for engine in ENGINES.values():
        if engine.gpu and not find_gpu():
            continue
        yield engine.name, engine, partial(engine.open, artifact, 1)
    ort = ENGINES["ort"]
    for dialect in artifact.dialects:
        if dialect != ort.dialect:
            yield f"ort, {dialect}", ort, partial(_open_ort, artifact, dialect)


def _open_ort(artifact: Artifact, dialect: str) -> Session:
    from llx.bench.sessions.ort import OrtSession

    return OrtSession(artifact, 1, dialect)
