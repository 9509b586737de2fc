"""Read back what was exported, as everyone does who uses it, before it takes another's place."""

from __future__ import annotations

from pathlib import Path

from llx.artifact import Artifact, open_artifact
from llx.errors import BadInput, Lacking
from llx.graphs.inspect import load, weight_problems
from llx.intact import seen
from llx.manifest import CHAT_TEMPLATE, TOKENIZER, WEIGHTS
from llx.progress import Progress, silent
from llx.templates import MOST_TEMPLATE_BYTES
from llx.tokenizer import parse_tokenizer


def require_opens(folder: Path, progress: Progress = silent) -> None:
    """Open an artifact in every way that it is used but running it: no session is opened.

    Raises `BadInput` where the manifest, the tokenizer, the chat template, a graph or the weights'
    header cannot be read: damage to the checkpoint that nothing else has found. Raises `Lacking`
    where the disk gives other bytes than were written.
    """
    try:
        artifact = open_artifact(folder)
        _require_bytes(artifact, progress)
        _open_all(artifact)
    except BadInput as error:
        raise BadInput(
            f"what was exported cannot be opened, and is not kept ({error.message})",
            "export an undamaged checkpoint; where it is none, report it with the file that "
            "`llx doctor --bundle` writes",
        ) from None


def _require_bytes(artifact: Artifact, progress: Progress) -> None:
    for name, record in artifact.manifest.files.items():
        if seen(artifact.folder / name, record.sha256, progress)[0] != record.sha256:
            raise Lacking(
                f"{name} of {artifact.folder} is not on the disk as it was written",
                "check the disk, or export to another with -o",
            )


def _open_all(artifact: Artifact) -> None:
    if artifact.has(TOKENIZER):
        parse_tokenizer(artifact.read(TOKENIZER), Path(TOKENIZER))
    if artifact.has(CHAT_TEMPLATE):
        _open_template(artifact.read(CHAT_TEMPLATE))
    for dialect in artifact.dialects:
        if not artifact.has(WEIGHTS):
            load(artifact.trusted_graph(dialect))
        elif wrong := weight_problems(artifact.graph(dialect)):
            raise BadInput(f"{dialect}.onnx: {wrong[0]}", "")


def _open_template(data: bytes) -> None:
    if len(data) > MOST_TEMPLATE_BYTES:
        raise BadInput(f"{CHAT_TEMPLATE} is longer than {MOST_TEMPLATE_BYTES >> 20} MiB", "")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{CHAT_TEMPLATE} is not UTF-8 ({error})", "") from None
