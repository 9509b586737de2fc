"""Whether each engine says what PyTorch says, and where it does not, which op is off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from llx.api.check_candidates import Candidate, candidates
from llx.api.check_faults import REPORT, at_fault, require_excused
from llx.api.check_lesson import lesson_of
from llx.api.check_ops import op_by_op, require_right, walk_graph
from llx.artifact import Artifact
from llx.bench.sessions import ENGINES, Engine
from llx.checks import Checked, Subject
from llx.errors import GateFailed, Lacking, LlxError
from llx.graphs.dialects import dialect_named
from llx.precision import Compute
from llx.progress import Progress

if TYPE_CHECKING:
    from llx.bench.fidelity.lesson import Learned, Lesson
    from llx.bench.fidelity.localise import Found
    from llx.exporter.original import Original
    from llx.llama.teacher import Taught


def check_engines(
    artifact: Artifact,
    original: Original,
    engines: Sequence[str] | None,
    record: Checked,
    every_op: bool,
    progress: Progress,
) -> Iterator[str]:
    """Each engine's logits beside PyTorch's, prefill and decode apart."""
    from llx.bench.fidelity.lesson import learn

    with at_fault():
        lesson, taught, record.reference = lesson_of(artifact, original, progress)
    compute = artifact.manifest.precision.compute
    walked: set[str] = set()
    left: LlxError | None = None
    for candidate in candidates(artifact, engines):
        dialect = candidate.dialect
        if dialect and _rounds_inputs(artifact, candidate.engine, dialect):
            yield (
                f"parity of {candidate.name}: it rounds inputs to int8, which PyTorch does not: "
                "each of its ops is held by itself"
            )
            with at_fault():
                line = op_by_op(artifact, dialect, lesson.tokens, record, taught, progress)
            yield line
            continue
        try:
            candidate.engine.require()
            progress(candidate.name, 0, 1, "")
            with contextlib.closing(candidate.open()) as session:
                learned = learn(session, lesson, compute, _wider(artifact, candidate))
        except LlxError as error:
            require_excused(error, asked=engines is not None)
            left = left or error
            yield f"parity of {candidate.name}: not checked: {error}"
            continue
        progress(candidate.name, 1, 1, "")
        record.subjects.append(
            Subject(
                name=candidate.name,
                prefill=learned.prefill,
                decode=learned.decode,
                allowed=learned.allowed,
            )
        )
        if not learned.right:
            with at_fault():
                yield from _find(artifact, candidate, learned, lesson, record, taught, progress)
        yield (
            f"parity of {candidate.name}: logits off by {learned.prefill:.1e} in prefill, "
            f"{learned.decode:.1e} in decode, of {learned.allowed:.1e} allowed"
        )
        if every_op and dialect and dialect not in walked and _runs_in_ort(compute):
            walked.add(dialect)
            with at_fault():
                line = op_by_op(artifact, dialect, lesson.tokens, record, taught, progress)
            yield line
    if left is not None and not record.subjects:
        raise Lacking(f"no engine could be compared ({left.message})", left.remedy)
    if engines is None:
        yield from _left_out()


def _left_out() -> Iterator[str]:
    """What could be compared here, and is where it is asked for by its name."""
    slow = [e.name for e in ENGINES.values() if e.compiles and not e.gpu and _here(e)]
    if slow:
        yield f"{', '.join(slow)}: left out, it compiles for a minute: --engine asks for it"
    rounding = [e.name for e in ENGINES.values() if e.rounds and _here(e)]
    if rounding:
        yield (
            f"{', '.join(rounding)}: left out, as OpenVINO computes in other types than the graph: "
            "`llx bench` judges that by KLD"
        )


def _rounds_inputs(artifact: Artifact, engine: Engine, dialect: str) -> bool:
    """Whether an engine multiplies other inputs than its graph shows."""
    precision = artifact.manifest.precision
    if not precision.weight_only or not dialect_named(dialect).domains:
        return False
    from llx.bench.sessions.ort_arithmetic import rounds_inputs

    return _here(engine) and rounds_inputs(4 if precision.linear == "int4" else 8)


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
    found = walk_graph(artifact, dialect, lesson.tokens, record, taught, progress)
    require_right(artifact, dialect, found, record, off, candidate)
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
