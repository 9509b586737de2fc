"""An artifact's tokenizer."""

from __future__ import annotations

from tokenizers import Tokenizer

from llx.artifact import TOKENIZER, Artifact
from llx.errors import Lacking


def tokenizer_of(artifact: Artifact) -> Tokenizer:
    """The artifact's tokenizer. Raises `Lacking` where its checkpoint had none."""
    if not artifact.has(TOKENIZER):
        raise Lacking(
            f"{artifact.folder} has no tokenizer: its checkpoint had none that llx reads",
            "generation and fidelity need one; export from a checkpoint with a tokenizer.json",
        )
    return Tokenizer.from_file(str(artifact.path(TOKENIZER)))
