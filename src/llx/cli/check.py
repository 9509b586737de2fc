"""`llx check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llx.cli.arguments import ArtifactFolder
from llx.errors import GateFailed, LlxError

if TYPE_CHECKING:
    from llx.artifact import Artifact

# Largest absolute logit error that passes, by what the graph computes in.
TOLERANCE = {"fp32": 1e-3, "fp16": 0.5, "bf16": 4.0}


def check(folder: ArtifactFolder = None) -> None:
    """Check every byte, the graphs' structure, and parity with the PyTorch reference."""
    from llx.artifact import open_artifact
    from llx.graphs.inspect import problems
    from llx.reports.console import say

    artifact = open_artifact(folder)
    damaged = artifact.damaged()
    if damaged:
        raise GateFailed(
            f"{', '.join(damaged)} of {artifact.folder} is not what was exported",
            "export again with --overwrite",
        )
    say(f"bytes: {len(artifact.manifest.files)} files are what the manifest vouches for")
    for dialect in artifact.dialects:
        found = problems(artifact.path(f"{dialect}.onnx"), artifact.manifest.contract)
        if found:
            raise GateFailed(f"{dialect}.onnx: {found[0]}", "export again with --overwrite")
        say(f"{dialect}: the ONNX checker, the contract and the weights file agree")
    _check_parity(artifact)


def _check_parity(artifact: Artifact) -> None:
    """Compare each engine that is here with the reference, on a few steps."""
    from llx.bench.parity import compare
    from llx.bench.sessions import ENGINES
    from llx.cli.reference import open_reference
    from llx.reports.console import say

    try:
        reference = open_reference(artifact)
    except LlxError as error:
        say(f"parity: not checked: {error}")
        return
    tolerance = TOLERANCE[artifact.manifest.precision.compute]
    for engine in ENGINES.values():
        try:
            engine.require()
            session = engine.open(artifact, 1)
        except LlxError as error:
            say(f"parity of {engine.name}: not checked: {error}")
            continue
        parity = compare(session, reference)
        session.close()
        worst = max(parity.prefill_error, parity.decode_error)
        if not worst <= tolerance:
            raise GateFailed(
                f"{engine.name} is off by {worst:.1e} from PyTorch fp32, more than {tolerance:g}",
                "report it with the output of `llx doctor`: the export is wrong",
            )
        say(
            f"parity of {engine.name}: largest logit error {parity.prefill_error:.1e} in prefill, "
            f"{parity.decode_error:.1e} in decode, of {tolerance:g} allowed"
        )
