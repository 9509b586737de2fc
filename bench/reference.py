"""The PyTorch fp32 reference, captured once per artifact and judged against everywhere.

`reference.safetensors` holds, for each scored position of each window, the log-sum-exp of the
logits, the true token's log-probability, and the largest logits with their tokens: enough for
perplexity, KLD, top-1 and logit errors on a machine with neither PyTorch nor the checkpoint.

KLD from it counts the tokens beyond the top k as one event. By the data-processing inequality that
is a lower bound of the full KLD; how close, `reports/LOG.md` says.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tokenizers import Tokenizer

from llx.artifact import REFERENCE, TOKENIZER, WEIGHTS, Artifact
from llx.bench import steps
from llx.bench.corpus import WINDOW, WINDOWS, cut_windows, pydoc_topics
from llx.bench.sessions.base import Session, Tokens
from llx.errors import BadInput, Lacking
from llx.files import write_whole
from llx.progress import Progress, silent

TOP_K = 256
PARTIAL = ".reference.partial"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the reference was captured: what a number needs beside it to be repeated."""

    corpus: str
    corpus_sha256: str
    window: int
    windows: int
    stride: int
    bos: str
    top_k: int
    weights: str
    spec: str  # hash of the model's specification and the weights' identity
    torch: str


@dataclass(frozen=True)
class Scores:
    """The reference of one or several windows; the last two axes are [N - 1, top_k].

    `log_sum_exp` and `true_logprob` are float64, [W, N - 1]; `top_ids` and `top_logits` are
    sorted, the likeliest first.
    """

    tokens: Tokens
    log_sum_exp: NDArray[np.float64]
    true_logprob: NDArray[np.float64]
    top_ids: NDArray[np.int32]
    top_logits: NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """A captured reference and its protocol."""

    protocol: Protocol
    scores: Scores


def log_sum_exp(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log of the sum of exponentials over the vocabulary, in float64: [..., V] → [...]."""
    wide = logits.astype(np.float64)
    most = wide.max(-1, keepdims=True)
    np.exp(np.subtract(wide, most, out=wide), out=wide)
    return np.asarray(np.log(wide.sum(-1)) + most[..., 0])


def score_window(session: Session, tokens: Tokens, top_k: int) -> Scores:
    """Prefill one window [N] and keep of its logits what the reference needs."""
    session.reset()
    lse, top_ids, top_logits, true = [], [], [], []
    targets = iter(tokens[1:])
    for logits in steps.prefill_logits(session, tokens[None, :-1]):
        rows = logits[0]  # [T, V]
        top = np.argpartition(-rows, top_k - 1, axis=-1)[:, :top_k]
        order = np.argsort(-np.take_along_axis(rows, top, -1), axis=-1, kind="stable")
        top = np.take_along_axis(top, order, -1)
        sums = log_sum_exp(rows)
        here = np.array([next(targets) for _ in range(len(rows))])
        lse.append(sums)
        true.append(rows[np.arange(len(rows)), here].astype(np.float64) - sums)
        top_ids.append(top.astype(np.int32))
        top_logits.append(np.take_along_axis(rows, top, -1))
    return Scores(
        tokens,
        np.concatenate(lse),
        np.concatenate(true),
        np.concatenate(top_ids),
        np.concatenate(top_logits),
    )


def capture(
    artifact: Artifact,
    open_reference: Callable[[Artifact], Session],
    window: int = WINDOW,
    windows: int = WINDOWS,
    progress: Progress = silent,
) -> tuple[Artifact, bool]:
    """Write an artifact's reference; return the artifact, and whether anything was captured.

    `open_reference` opens PyTorch in fp32. Each window is kept as it is done, so an interrupted
    capture goes on where it stopped. Raises `Lacking` where the artifact has no tokenizer.
    """
    tokenizer = Tokenizer.from_file(str(artifact.path(TOKENIZER)))
    corpus = pydoc_topics()
    cut = cut_windows(tokenizer, corpus, window, windows)
    if window - 1 > artifact.manifest.contract.limits.capacity:
        raise BadInput(
            f"windows of {window} tokens do not fit the artifact's cache of "
            f"{artifact.manifest.contract.limits.capacity}",
            f"choose --window {artifact.manifest.contract.limits.capacity} or less",
        )
    session = open_reference(artifact)
    protocol = Protocol(
        corpus=corpus.name,
        corpus_sha256=corpus.sha256,
        window=window,
        windows=windows,
        stride=cut.stride,
        bos=cut.bos,
        top_k=min(TOP_K, session.limits.vocab),
        weights=session.weights,
        spec=artifact.manifest.files[WEIGHTS].sha256,
        torch=str(session.details().get("torch", "")),
    )
    if artifact.has(REFERENCE) and read_reference(artifact).protocol == protocol:
        session.close()
        return artifact, False
    partial = artifact.folder / PARTIAL
    partial.mkdir(exist_ok=True)
    header = {"protocol": msgspec.json.encode(protocol).decode()}
    for i, tokens in enumerate(cut.tokens):
        progress("reference", i, windows, "window")
        piece = partial / f"{i:04}.safetensors"
        if _read_piece(piece, header) is None:
            write_whole(piece, save(asdict(score_window(session, tokens, protocol.top_k)), header))
    progress("reference", windows, windows, "window")
    session.close()
    pieces = [_read_piece(partial / f"{i:04}.safetensors", header) for i in range(windows)]
    whole = {
        name: np.stack([piece[name] for piece in pieces if piece]) for name in pieces[0] or {}
    }
    write_whole(artifact.folder / REFERENCE, save(whole, header))
    shutil.rmtree(partial)
    return artifact.with_file(REFERENCE), True


def _read_piece(path: Path, header: dict[str, str]) -> dict[str, NDArray[np.generic]] | None:
    """One window of an earlier, interrupted capture, if it was made by the same protocol."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            if file.metadata() != header:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError:
        return None


def read_reference(artifact: Artifact) -> Reference:
    """The artifact's captured reference. Raises `Lacking` where there is none."""
    if not artifact.has(REFERENCE):
        raise Lacking(
            f"{artifact.folder} has no captured reference", "run `llx reference` where PyTorch is"
        )
    path = artifact.path(REFERENCE)
    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            protocol = msgspec.convert(json.loads(file.metadata()["protocol"]), Protocol)
        return Reference(protocol, Scores(**tensors))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"{path} is not a reference that this version reads ({error})",
            "delete it and run `llx reference`",
        ) from None
