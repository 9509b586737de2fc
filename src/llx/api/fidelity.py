"""Fidelity as `llx.check` sees it: engines beside PyTorch, and where one is off, why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from llx.artifact import REFERENCE, WEIGHTS, Artifact
from llx.bench.session import Session, Tokens
from llx.bench.sessions import ENGINES, Engine
from llx.checks import Checked, Depth, Fault, Subject
from llx.errors import GateFailed, Lacking, LlxError, require_modules
from llx.gpu import find_gpu
from llx.precision import Compute
from llx.progress import Progress

if TYPE_CHECKING:
    from llx.bench.fidelity.case import Cause
    from llx.bench.fidelity.expected import Weights
    from llx.bench.fidelity.lesson import Learned, Lesson
    from llx.bench.fidelity.localise import Found
    from llx.exporter.original import Original
    from llx.llama.teacher import Taught

REPORT = "report it with the file that `llx doctor --bundle` writes"
AGAIN = "export again with --overwrite"


class Candidate(NamedTuple):
    """What is compared: an engine, and the graph that it runs, or an engine of."""

    name: str
    engine: Engine
    dialect: str | None
    open: Callable[[], Session]


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
    yield from _check_weights(original, record, progress)
    precision = artifact.manifest.precision
    if precision.linear != "dense":
        yield from _check_linears(artifact)
    if precision.linear == "int8":
        # One input that falls to the other side of a rounding moves by a step: logits of two right
        # engines differ by as much as logits do, so each op is looked at by itself instead.
        yield from _check_ops(artifact, record, progress)
        yield "fidelity is not checked here: `llx bench` measures what int8 costs"
        return
    yield from _check_engines(artifact, original, engines, record, every_op, progress)
    if precision.linear != "dense":
        yield f"fidelity is not checked here: `llx bench` measures what {precision.linear} costs"


def _check_weights(original: Original, record: Checked, progress: Progress) -> Iterator[str]:
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
    from llx.bench.fidelity.case import FEW, Cause

    wrong = next(original.rescaled(progress), None)
    if wrong is None:
        return
    of = f"{wrong.part} of it" if wrong.part else "it"
    words = f"one scale: all of {of} is {wrong.factor:.2g} times the checkpoint's, folds aside"
    if wrong.channels:
        listed = ", ".join(map(str, wrong.channels[:FEW]))
        more = " …" if len(wrong.channels) > FEW else ""
        words = (
            f"a channel's scale: output channel {listed}{more} of {of} is {wrong.factor:.2g} times "
            "the checkpoint's, folds aside"
        )
    before = {"o": " (or v before it)", "down": " (or up before it)"}
    words += before.get(wrong.module.rpartition(".")[2], "")
    cause = Cause(words.partition(": ")[2], AGAIN)
    name = f"{wrong.module}.weight"
    _fail_weight(
        record, name, "the checkpoint's, rounded", abs(wrong.factor - 1), cause, wrong.allowed
    )


def _check_rope(artifact: Artifact, record: Checked) -> None:
    """RoPE's tables follow from the specification, whatever the checkpoint."""
    from llx.bench.fidelity.case import Cause
    from llx.bench.fidelity.rope_table_causes import cause_of_rope
    from llx.bench.fidelity.tolerance import UNIT
    from llx.exporter.original import ROPE, made_rope, stored_rope

    spec, compute = artifact.manifest.spec, artifact.manifest.precision.compute
    tables = stored_rope(artifact)
    for name, found in zip(ROPE, tables, strict=True):
        if found.shape != tables[0].shape or found.ndim != 2 or found.shape[1] * 2 != spec.head_dim:
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
        error=_finite(error),
        allowed=allowed,
        cause=cause.words,
        ruled_out=list(cause.ruled_out),
        seen_in=WEIGHTS,
    )
    raise GateFailed(
        f"{name} of {WEIGHTS} is not {whose}: off by {error:.1e} of its largest value, of "
        f"{allowed:.1g} allowed: {_because(cause.words, cause.ruled_out)}",
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


def _because(words: str | None, ruled_out: Sequence[str]) -> str:
    if words is not None:
        return words
    tried = f", ruled out: {', '.join(ruled_out)}" if ruled_out else ""
    return f"no known cause explains it{tried}"


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _check_linears(artifact: Artifact) -> Iterator[str]:
    """Compare each quantized layer with the formula, on its own input."""
    from llx.bench.fidelity.tolerance import rounding_steps

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
    steps = rounding_steps(precision.compute)
    for linear in found:
        if not ((linear.rounding or 0) <= steps and linear.beyond <= 1):
            off = None if linear.rounding is None else f"{linear.rounding:.2g} steps of {steps:.2f}"
            inputs = f"inputs are off by {off} allowed, " if off else ""
            raise GateFailed(
                f"{linear.module} in ort is not what its {precision.linear} weights and scales "
                f"say: {inputs}its product is off by {linear.product:.1e} of {linear.allowed:.1e} "
                "allowed",
                f"export again with --overwrite, and if that changes nothing, {REPORT}",
            )
    worst = max(found, key=lambda one: one.beyond, default=None)
    roundings = [one.rounding for one in found if one.rounding is not None]
    inputs = (
        f"inputs off by {max(roundings):.2f} steps of {steps:.2f} allowed, " if roundings else ""
    )
    left = f", {len(artifact.manifest.dense)} left dense" if artifact.manifest.dense else ""
    product, allowed = (worst.beyond * worst.allowed, worst.allowed) if worst else (0.0, 0.0)
    yield (
        f"parity of ort: {len(found)} {precision.linear} layers{left}, each on its own input: "
        f"{inputs}products off by at most {product:.1e} of {allowed:.1e} allowed"
    )


def _check_ops(artifact: Artifact, record: Checked, progress: Progress) -> Iterator[str]:
    """Every op of every graph by itself, on random tokens."""
    from llx.bench.fidelity.lesson import random_windows

    tokens = random_windows(artifact.manifest.contract.limits)
    for dialect in artifact.dialects:
        try:
            ENGINES["ort"].require()
            found = _walk(artifact, dialect, tokens, record, None, progress)
            _require_right(artifact, dialect, found, record)
            line = _within(artifact, dialect, found)
        except GateFailed:
            raise
        except LlxError as error:
            line = f"op by op, {dialect}: not looked at: {error}"
        yield line


def _check_engines(
    artifact: Artifact,
    original: Original,
    engines: Sequence[str] | None,
    record: Checked,
    every_op: bool,
    progress: Progress,
) -> Iterator[str]:
    """Each engine's logits beside PyTorch's, prefill and decode apart."""
    from llx.bench.fidelity.lesson import learn

    lesson, taught, record.reference = _lesson(artifact, original, progress)
    compute = artifact.manifest.precision.compute
    walked: set[str] = set()
    for candidate in _candidates(artifact, engines):
        try:
            candidate.engine.require()
            progress(candidate.name, 0, 1, "")
            session = candidate.open()
        except LlxError as error:
            if engines is not None and isinstance(error, Lacking):
                raise
            yield f"parity of {candidate.name}: not checked: {error}"
            continue
        learned = learn(session, lesson, compute, _wider(artifact, candidate))
        session.close()
        progress(candidate.name, 1, 1, "")
        record.subjects.append(
            Subject(
                name=candidate.name,
                prefill=learned.prefill,
                decode=learned.decode,
                allowed=learned.allowed,
            )
        )
        dialect = candidate.dialect
        if not learned.right:
            yield from _find(artifact, candidate, learned, lesson, record, taught, progress)
        yield (
            f"parity of {candidate.name}: logits off by {learned.prefill:.1e} in prefill, "
            f"{learned.decode:.1e} in decode, of {learned.allowed:.1e} allowed"
        )
        if every_op and dialect and dialect not in walked and _runs_in_ort(compute):
            walked.add(dialect)
            found = _walk(artifact, dialect, lesson.tokens, record, taught, progress)
            _require_right(artifact, dialect, found, record)
            yield _within(artifact, dialect, found)
    if engines is None:
        left = [e.name for e in ENGINES.values() if e.compiles and not e.gpu and _here(e)]
        if left:
            yield f"{', '.join(left)}: left out, it compiles for a minute: --engine asks for it"


def _here(engine: Engine) -> bool:
    try:
        engine.require()
    except LlxError:
        return False
    return True


def _runs_in_ort(compute: Compute) -> bool:
    from llx.bench.sessions.ort import require_computed

    try:
        ENGINES["ort"].require()
        require_computed(compute)
    except LlxError:
        return False
    return True


def _wider(artifact: Artifact, candidate: Candidate) -> float:
    """By how much more an engine's kernels may err than PyTorch's on this CPU."""
    from llx.bench.fidelity.tolerance import summed_in_own_type

    if not candidate.engine.gpu:
        return 1.0
    spec = artifact.manifest.spec
    widest = max(spec.ffn_dim, spec.q_dim, spec.dim)
    return summed_in_own_type(artifact.manifest.precision.compute, widest)


def _lesson(
    artifact: Artifact, original: Original, progress: Progress
) -> tuple[Lesson, Taught, str]:
    """What the engines are compared with: the checkpoint, else what was captured of it, else the
    artifact's own weights; and which it is.
    """
    from llx.bench.fidelity.lesson import (
        Lesson,
        captured_lesson,
        captured_windows,
        random_windows,
        rms,
    )
    from llx.bench.fidelity.reference import read_reference

    manifest = artifact.manifest
    dense = manifest.precision.linear == "dense"
    scores = None
    if original.source is None and dense and artifact.has(REFERENCE):
        captured = read_reference(artifact)
        scores = captured.scores
    own = original if dense else replace(original, source=None)  # few bits stand for themselves
    tokens = captured_windows(scores) if scores else random_windows(manifest.contract.limits)
    taught = own.taught(tokens, progress)
    explained = rms(taught.rounded, taught.logits)
    if scores is None:
        return Lesson(tokens, taught.logits, explained), taught, own.words
    lesson = captured_lesson(scores, explained)
    _require_captured(artifact, lesson, taught)
    return lesson, taught, f"the captured {REFERENCE}"


def _require_captured(artifact: Artifact, lesson: Lesson, taught: Taught) -> None:
    """Fail where PyTorch over the artifact's own weights is off from what was captured."""
    from llx.bench.fidelity.lesson import allowed_for

    error = max(lesson.error(window, 0, logits) for window, logits in enumerate(taught.logits))
    allowed = allowed_for(lesson, artifact.manifest.precision.compute)
    if not error <= allowed:
        raise GateFailed(
            f"PyTorch over the artifact's own weights is off from {REFERENCE} by {error:.1e}, of "
            f"{allowed:.1e} allowed: the weights are not those that it was captured "
            "from, and which is wrong shows only beside the checkpoint, which is not here",
            "bring the checkpoint back and check again, or export it again",
        )


def _candidates(artifact: Artifact, engines: Sequence[str] | None) -> Iterator[Candidate]:
    """Every engine that does not compile, or those named, and ONNX Runtime over each graph.

    Where there is no GPU, nothing is said of the engines that need one, unless they are named.
    """
    for engine in ENGINES.values():
        if engines is None and (engine.compiles or (engine.gpu and not find_gpu())):
            continue
        if engines is not None and engine.name not in engines:
            continue
        opens = partial(engine.open, artifact, 1)
        yield Candidate(engine.name, engine, _dialect_of(artifact, engine), opens)
    ort = ENGINES["ort"]
    if engines is None or ort.name in engines:
        for dialect in artifact.dialects:
            if dialect != ort.dialect:
                name = f"ort, {dialect}"
                yield Candidate(name, ort, dialect, partial(_open_ort, artifact, dialect))


def _dialect_of(artifact: Artifact, engine: Engine) -> str | None:
    """The graph that an engine runs; of one that is built, the graph that it was built of."""
    if engine.runtime is None:
        return engine.dialect
    from llx.bench.session import Built
    from llx.bench.sessions.trt import chosen_engine

    try:
        return chosen_engine(artifact, engine.runtime, 1, Built()).manifest.key.dialect
    except LlxError:  # said when it is opened
        return None


def _open_ort(artifact: Artifact, dialect: str) -> Session:
    from llx.bench.sessions.ort import OrtSession

    return OrtSession(artifact, 1, dialect)


def _find(
    artifact: Artifact,
    candidate: Candidate,
    learned: Learned,
    lesson: Lesson,
    record: Checked,
    taught: Taught,
    progress: Progress,
) -> Iterator[str]:
    """Look for the op that is off. Raises `GateFailed` unless rounding explains all of it."""
    # PyTorch runs no graph, and shows no values in between: a graph of the same weights does.
    dialect = candidate.dialect or next(iter(artifact.dialects[::-1]), None)
    compute = artifact.manifest.precision.compute
    off = (
        f"{candidate.name} is off by {learned.worst:.1e} from PyTorch in {learned.phase}, of "
        f"{learned.allowed:.1e} allowed"
    )
    if dialect is None or not _runs_in_ort(compute):
        _fail(off, f"ONNX Runtime does not run {compute} here, so no op can be looked at", REPORT)
    found = _walk(artifact, dialect, lesson.tokens, record, taught, progress)
    _require_right(artifact, dialect, found, record, off, candidate)
    if candidate.engine.name == "ort" and learned.worst <= _amplified(found, lesson):
        yield (
            f"{off}, and every op of {dialect}.onnx is right by itself: this model makes that much "
            "of its rounding"
        )
        return
    _fail(
        off,
        f"every op of {dialect}.onnx is right by itself in ONNX Runtime, so it is the engine that "
        "computes otherwise",
        "build it again with `llx build --overwrite`" if candidate.engine.runtime else REPORT,
    )


def _fail(off: str, why: str, remedy: str) -> NoReturn:
    raise GateFailed(f"{off}: {why}", remedy)


def _amplified(found: Found, lesson: Lesson) -> float:
    """What the model makes of errors that are right op by op: its own, drawn anew."""
    from llx.bench.fidelity.tolerance import DRAWS

    at, worst = 0, 0.0
    for logits in found.logits:
        worst, at = max(worst, lesson.error(0, at, logits)), at + len(logits)
    return DRAWS * worst


def _walk(
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
            error=_finite(error),
            explained=_finite(taught.explained[layer]),
        )


def _require_right(
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

    first = found.first
    if first is None:
        return
    manifest = artifact.manifest
    with artifact.opened_weights("np") as file:
        case = Case(first, manifest.spec, _stored(file), Arithmetic.of(manifest.precision.compute))
        cause = cause_of(case)
    own = candidate is None or candidate.engine.name == "ort"
    seen = f"{dialect}.onnx" if own else f"{dialect}.onnx, run in ONNX Runtime op by op"
    shows = "" if own else ", since the engine shows no values in between,"
    site = first.site
    record.fault = Fault(
        op=site.name,
        layer=site.layer,
        phase=site.step.phase,
        error=_finite(first.error),
        allowed=_finite(first.allowed),
        cause=cause.words,
        ruled_out=list(cause.ruled_out),
        seen_in=seen,
    )
    raise GateFailed(
        f"{off}{': ' if off else ''}{site.name} of {seen}{shows} errs by {first.error:.1e} of "
        f"{first.allowed:.1e} allowed in {site.step.phase}: "
        f"{_because(cause.words, cause.ruled_out)}",
        cause.remedy,
    )


def _within(artifact: Artifact, dialect: str, found: Found) -> str:
    precision = artifact.manifest.precision
    return (
        f"op by op, {dialect}: {found.ops} results, each within what {precision.compute} explains "
        "of its own op"
    )
