"""`llx.reference`: PyTorch's fp32 logits of a text, which every engine is judged against."""

from __future__ import annotations

from llx.api.watching import AnyArtifact, Tell, opened, telling, watched
from llx.arguments import door
from llx.artifact import Artifact
from llx.bench.fidelity.reference import capture
from llx.bench.session import Session
from llx.corpus import WINDOW, WINDOWS
from llx.errors import Lacking, NotExported, require_modules
from llx.manifest import REFERENCE
from llx.progress import Progress


@door
def reference(
    artifact: AnyArtifact = None,
    *,
    window: int = WINDOW,
    windows: int = WINDOWS,
    progress: Progress | None = None,
) -> Artifact:
    """Capture the PyTorch fp32 reference once; engines are judged against it anywhere.

    Args:
        artifact: An artifact or its folder. None: the one exported last.
        window: Tokens of a window, at least 3.
        windows: How many windows of the evaluation text.
        progress: Called with what is done, how much of how much, and the unit. None: bars.

    Returns:
        The artifact with its reference. One captured by the same protocol is kept.

    Raises:
        BadInput: A window that the cache does not hold, another protocol's reference that is there.
        NotExported: The artifact has no tokenizer, which is a `BadInput`.
        Lacking: No PyTorch, or no checkpoint.

    """
    return captured(opened(artifact), window, windows, progress)[0]


def captured(
    artifact: Artifact, window: int, windows: int, progress: Progress | None = None
) -> tuple[Artifact, bool]:
    """The artifact with its reference, and whether it was captured now; see `reference`."""
    with watched(progress) as news:
        return capture(artifact, open_reference, window, windows, news)


def with_reference(
    artifact: Artifact,
    tell: Tell | None = None,
    protocol: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """The artifact with a reference: captured now where it can be, else as it is, and told.

    `protocol`: tokens of a window, and how many windows, where they are not the usual ones. Windows
    are shorter where the cache holds no more.
    """
    if artifact.has(REFERENCE):
        return artifact
    if protocol is None:
        protocol = min(WINDOW, artifact.manifest.contract.limits.capacity), WINDOWS
    try:
        return captured(artifact, *protocol, progress)[0]
    except (Lacking, NotExported, OSError) as error:
        telling(tell)(f"fidelity is not measured: {error}")
        return artifact


def open_reference(artifact: Artifact) -> Session:
    """PyTorch in fp32 over the checkpoint itself, else over the artifact's own fp32 weights.

    A checkpoint that has changed since the export is not used. Raises `Lacking` where there is no
    PyTorch, or neither checkpoint nor fp32 weights.
    """
    require_modules("the PyTorch reference", "export", "torch", "gguf")
    from llx.bench.sessions.torch import TorchSession
    from llx.exporter.load import exported_source, llama_from_source

    manifest = artifact.manifest
    limits = manifest.contract.limits
    try:
        source = exported_source(manifest.source, manifest.spec)
        model = llama_from_source(source, limits.capacity)
    except Lacking as why:
        if manifest.precision.compute == "fp32" and manifest.precision.linear == "dense":
            return TorchSession.open(artifact)
        raise Lacking(
            f"{why.message}, and the artifact's weights are not fp32",
            f"{why.remedy}, or export it with --precision fp32",
        ) from None
    weights = f"the checkpoint {manifest.source.label}, {manifest.source.format}"
    return TorchSession(model, limits, weights=weights)
