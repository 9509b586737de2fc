"""An artifact's tokenizer, and what keeps its tokens within the model's vocabulary."""

from __future__ import annotations

from tokenizers import Tokenizer

from llx.artifact import TOKENIZER, Artifact
from llx.errors import BadInput, Lacking
from llx.graphs.contract import Limits


def tokenizer_of(artifact: Artifact) -> Tokenizer:
    """The artifact's tokenizer. Raises `Lacking` where its checkpoint had none."""
    if not artifact.has(TOKENIZER):
        raise Lacking(
            f"{artifact.folder} has no tokenizer: its checkpoint had none that llx reads",
            "generation and fidelity need one; export from a checkpoint with a tokenizer.json",
        )
    return Tokenizer.from_file(str(artifact.path(TOKENIZER)))


def require_known(highest: int, limits: Limits) -> None:
    """Raise `BadInput` where a token is beyond the model's vocabulary."""
    if highest >= limits.vocab:
        raise BadInput(
            f"the tokenizer gives token {highest}, and the model knows {limits.vocab}",
            "export with the tokenizer that belongs to the weights",
        )
