"""`llx reference`."""

from __future__ import annotations

from typing import Annotated

import typer

from llx.cli.arguments import ArtifactFolder


def reference(
    folder: ArtifactFolder = None,
    window: Annotated[int, typer.Option(min=3, help="Tokens of a window.")] = 512,
    windows: Annotated[int, typer.Option(min=1, help="How many windows.")] = 5,
) -> None:
    """Capture the PyTorch fp32 reference once; engines are judged against it anywhere."""
    from llx.api.reference import captured
    from llx.artifact import open_artifact
    from llx.bench.fidelity.reference import read_reference
    from llx.reports.console import say

    artifact, made = captured(open_artifact(folder), window, windows)
    protocol = read_reference(artifact).protocol
    state = "captured" if made else "is there already"
    say(
        f"reference {state}: {protocol.windows} windows of {protocol.window} tokens, stride "
        f"{protocol.stride}, BOS {protocol.bos}, from {protocol.weights}"
    )
    say(f"corpus: {protocol.corpus}, sha256 {protocol.corpus_sha256}")
