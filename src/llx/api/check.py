"""`llx.check`: whether an artifact is what was exported and says what PyTorch says; if not, why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from llx.api.check_engines import check_engines
from llx.api.check_faults import at_fault
from llx.api.check_ops import check_linears, check_ops
from llx.api.check_weights import check_weights
from llx.api.engines import engines_named
from llx.api.watching import AnyArtifact, watched
from llx.arguments import door
from llx.artifact import Artifact, is_artifact, latest, open_artifact
from llx.checks import Checked
from llx.engine import engines_of
from llx.errors import BadInput, GateFailed, LlxError, require_modules
from llx.graphs.dialects import DIALECTS, dialect_named
from llx.graphs.inspect import problems
from llx.graphs.settings import settings_of, wrong_settings
from llx.manifest import MANIFEST, WEIGHTS
from llx.progress import Progress
from llx.typed import NewerSchema


@door
def check(
    artifact: AnyArtifact = None,
    *,
    engines: str | Sequence[str] | None = None,
    verbose: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Check every byte, the graphs' structure, and fidelity; where that is off, find the cause.

    Args:
        artifact: An artifact or its folder. None: the one exported last.
        engines: Names, such as ["torch", "ort"]. None: all that are here and do not compile.
        verbose: Look at every op of every graph, whether or not anything is off.
        progress: Called with what is done, how much of how much, and the unit. None: bars.

    Returns:
        What was found right, and what could not be checked, a line each.

    Raises:
        GateFailed: Something is not what was exported, or not what PyTorch says.
        BadInput: No artifact, an unknown engine.
        Lacking: An engine that was named is not here.

    """
    return list(findings(artifact, engines=engines, verbose=verbose, progress=progress))


def findings(
    artifact: AnyArtifact = None,
    *,
    engines: str | Sequence[str] | None = None,
    verbose: bool = False,
    progress: Progress | None = None,
    record: Checked | None = None,
) -> Iterator[str]:
    """The lines of `check`, each as soon as it is known; `record` is filled with what they say.

    With `verbose` every op is looked at, whether or not anything is off.
    """
    named = engines_named(engines) if engines is not None else None
    found = artifact if isinstance(artifact, Artifact) else _opened(artifact)
    kept = record or Checked(artifact="", precision="")
    kept.artifact, kept.precision = found.manifest.name, found.manifest.precision.name
    try:
        for line in _lines(found, named, kept, verbose, progress):
            kept.lines.append(line)
            yield line
    except LlxError as error:
        kept.failed = str(error)
        raise
    kept.passed = True


def _lines(
    found: Artifact,
    engines: Sequence[str] | None,
    record: Checked,
    every_op: bool,
    progress: Progress | None,
) -> Iterator[str]:
    with watched(progress) as news:
        damaged = found.damaged()
        if damaged:
            raise GateFailed(
                f"{', '.join(damaged)} of {found.folder} is not what was exported",
                "export again with --overwrite",
            )
        manifest = found.manifest
        yield f"bytes: {len(manifest.files)} files are what the manifest vouches for"
        yield from _check_built(found)
        odd = []
        with at_fault():  # all of them before any is opened by a library
            paths = {dialect: found.trusted_graph(dialect) for dialect in found.dialects}
        for dialect, path in paths.items():
            wrong = _check_graph(found, dialect, path)
            odd += wrong
            model = "" if wrong else ", the model's numbers"
            yield f"{dialect}: the ONNX checker, the contract{model} and the weights file agree"
        # What a number does is said by the op that it is of, where that is seen to be off.
        yield from _check_fidelity(found, engines, record, every_op, bool(odd), news)
        if odd:
            raise GateFailed(odd[0], "export again with --overwrite")


def _check_graph(artifact: Artifact, dialect: str, path: Path) -> list[str]:
    """A graph by ONNX's checker and the contract; what of the numbers in it is not the model's."""
    manifest = artifact.manifest
    with at_fault():
        wrong = problems(path, manifest.contract, dialect_named(dialect), manifest.precision)
    if wrong:
        raise GateFailed(f"{dialect}.onnx: {wrong[0]}", "export again with --overwrite")
    other = wrong_settings(settings_of(path), manifest.spec)
    return [f"{dialect}.onnx: {words}" for words in other]


def _opened(folder: str | Path | None) -> Artifact:
    """The artifact; one with a file missing, cut off or unreadable has failed the check."""
    path = Path(folder) if folder is not None else None
    try:
        return open_artifact(path)
    except NewerSchema:
        raise
    except BadInput as error:
        if is_artifact(path or latest()):
            raise GateFailed(error.message, error.remedy) from None
        if path and any((path / f"{dialect}.onnx").is_file() for dialect in DIALECTS):
            raise GateFailed(
                f"{path} has lost its {MANIFEST}: its graphs are there",
                "export again with --overwrite",
            ) from None
        raise


def _check_built(artifact: Artifact) -> Iterator[str]:
    """Every byte of the engines that were built."""
    engines = engines_of(artifact)
    for engine in engines:
        if not engine.intact:
            raise GateFailed(
                f"{engine.folder} is not what was built",
                "build it again with `llx build --overwrite`",
            )
    if engines:
        yield f"engines: {len(engines)} are what their manifests vouch for"


def _check_fidelity(
    artifact: Artifact,
    engines: Sequence[str] | None,
    record: Checked,
    every_op: bool,
    odd: bool,
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
    try:
        with at_fault():
            yield from check_weights(original, record, progress)
    except GateFailed:
        if not original.other_model:
            raise
        odd = True
    if odd and original.other_model:  # graphs and tables are the checkpoint's: the manifest is not
        record.fault = None
        raise GateFailed(original.why, "export again with --overwrite")
    precision, asked = artifact.manifest.precision, engines is not None
    if precision.linear != "dense":
        yield from check_linears(artifact, asked)
    if precision.rounds_inputs:
        # One input that falls to the other side of a rounding moves by a step: logits of two right
        # engines differ by as much as logits do, so each op is looked at by itself instead.
        yield from check_ops(artifact, record, asked, progress)
        yield f"fidelity is not checked here: `llx bench` measures what {precision.linear} costs"
        return
    yield from check_engines(artifact, original, engines, record, every_op, progress)
    if precision.linear != "dense":
        yield f"fidelity is not checked here: `llx bench` measures what {precision.linear} costs"
