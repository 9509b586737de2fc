"""What engines are compared with: the checkpoint, what was captured of it, or the own weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llx.artifact import Artifact
from llx.errors import GateFailed
from llx.manifest import REFERENCE
from llx.progress import Progress

if TYPE_CHECKING:
    from llx.bench.fidelity.lesson import Lesson
    from llx.exporter.original import Original
    from llx.llama.teacher import Taught


def lesson_of(
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
