"""`llx reference`, and the session that the reference comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llx.cli.arguments import ArtifactFolder
from llx.errors import Lacking, require_modules

if TYPE_CHECKING:
    from llx.artifact import Artifact
    from llx.bench.sessions import Session


def reference(
    folder: ArtifactFolder = None,
    window: Annotated[int, typer.Option(min=2, help="Tokens of a window.")] = 512,
    windows: Annotated[int, typer.Option(min=1, help="How many windows.")] = 5,
) -> None:
    """Capture the PyTorch fp32 reference once; engines are judged against it anywhere."""
    from llx.artifact import open_artifact
    from llx.bench.fidelity.reference import capture, read_reference
    from llx.reports.console import progress_bars, say

    artifact = open_artifact(folder)
    with progress_bars() as progress:
        artifact, captured = capture(artifact, open_reference, window, windows, progress)
    protocol = read_reference(artifact).protocol
    state = "captured" if captured else "is there already"
    say(
        f"reference {state}: {protocol.windows} windows of {protocol.window} tokens, stride "
        f"{protocol.stride}, BOS {protocol.bos}, from {protocol.weights}"
    )
    say(f"corpus: {protocol.corpus}, sha256 {protocol.corpus_sha256}")


def open_reference(artifact: Artifact) -> Session:
    """PyTorch in fp32 over the checkpoint itself, else over the artifact's own fp32 weights.

    Raises `Lacking` where there is no PyTorch, or neither checkpoint nor fp32 weights.
    """
    require_modules("the PyTorch reference", "export", "torch", "gguf")
    from llx.bench.sessions.torch import TorchSession
    from llx.exporter.load import llama_from_checkpoint

    source, precision = artifact.manifest.source, artifact.manifest.precision
    if source.path and Path(source.path).exists():
        model = llama_from_checkpoint(Path(source.path), artifact.manifest.spec)
        weights = f"the checkpoint {source.label}, {source.format}"
        return TorchSession(model, artifact.manifest.contract.limits, weights=weights)
    if precision.compute != "fp32" or precision.linear != "dense":
        raise Lacking(
            f"the checkpoint {source.path or source.label} is not here, and the artifact's "
            "weights are not fp32",
            "bring the checkpoint back, or export it with --precision fp32",
        )
    return TorchSession.open(artifact)
