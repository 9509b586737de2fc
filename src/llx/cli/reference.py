"""`llx reference`."""

from __future__ import annotations

from typing import Annotated

import typer

from llx.cli.arguments import ArtifactFolder, Texts


def reference(
    folder: ArtifactFolder = None,
    text: Texts = None,
    window: Annotated[
        int | None,
        typer.Option(
            min=3,
            metavar="N",
            help="Tokens of a window. [default: 512, or what the cache holds]",
            show_default=False,
        ),
    ] = None,
    windows: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="How many of each text; 0 for all that it has. [default: up to 5]",
            show_default=False,
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Tokens from one window to the next; where they overlap, each token is scored "
            "once. [default: spread over the text]",
            show_default=False,
        ),
    ] = None,
    bos: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Where the tokenizer's BOS stands: each window, first, or none."
        ),
    ] = "each",
) -> None:
    """Capture the PyTorch fp32 reference once; engines are judged against it anywhere."""
    from llx.api.reference import captured, cut_for
    from llx.artifact import open_artifact
    from llx.bench.fidelity.reference import read_reference
    from llx.reports.console import say

    artifact = open_artifact(folder)
    cut = cut_for(artifact, window, windows, stride, bos)
    for one in captured(artifact, text or (), cut):
        protocol = read_reference(one.artifact, one.name).protocol
        state = "captured" if one.made else "is there already"
        scored = f", the last {protocol.scored} of each scored" if protocol.scored else ""
        say(
            f"reference {state}: {protocol.windows} windows of {protocol.window} tokens, stride "
            f"{protocol.stride}{scored}, BOS {protocol.bos}, from {protocol.weights}"
        )
        say(f"corpus: {protocol.corpus}, sha256 {protocol.corpus_sha256}")
