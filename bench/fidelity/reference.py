"""The PyTorch fp32 reference, captured once per artifact and judged against everywhere.

`reference.safetensors` holds, for each scored position of each window, the log-sum-exp of the
logits, the true token's log-probability, and the largest logits with their tokens: enough for
perplexity, KLD, top-1 and logit errors on a machine with neither PyTorch nor the checkpoint.

The tail beyond the top k is sampled from the reference's own distribution, so that KLD over the
whole vocabulary can be estimated without bias (`llx.bench.fidelity.judge`) from less than a
hundredth of the logits.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from llx.artifact import Artifact
from llx.bench.fidelity.observed import log_sum_exp
from llx.bench.session import Session, Tokens
from llx.bench.speed import steps
from llx.bench.text import tokenizer_of
from llx.corpus import WINDOW, WINDOWS, cut_windows, evaluation_text, require_known
from llx.errors import BadInput, LlxError, NotExported
from llx.files import beside, locked_folder, read_sealed, remove, write_sealed
from llx.manifest import REFERENCE, WEIGHTS
from llx.progress import Progress, silent

TOP_K = 256
TAIL_SAMPLES = 64
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
    tail_samples: int
    weights: str
    spec: str  # hash of the model's specification and the weights' identity
    torch: str


@dataclass(frozen=True)
class Scores:
    """The reference of one or several windows of N tokens.

    `log_sum_exp` and `true_logprob`: [W, N - 1]. `ids` and `logits`: [W, N - 1, k + m], the k
    likeliest tokens, likeliest first, then m tokens drawn from the others by their probability.
    """

    tokens: Tokens
    log_sum_exp: NDArray[np.float64]
    true_logprob: NDArray[np.float64]
    ids: NDArray[np.int32]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """A captured reference and its protocol."""

    protocol: Protocol
    scores: Scores


def score_window(session: Session, tokens: Tokens, top_k: int, tail_samples: int) -> Scores:
    """Prefill one window [N] and keep of its logits what the reference needs."""
    rng = np.random.default_rng(0)
    session.reset()
    sums, true, ids, kept = [], [], [], []
    at = 1
    for step in steps.prefill_logits(session, tokens[None, :-1]):
        rows = step[0]  # [T, V]
        targets = tokens[at : at + len(rows)]
        at += len(rows)
        row_sums = log_sum_exp(rows)
        top = np.argpartition(-rows, top_k - 1, axis=-1)[:, :top_k]
        order = np.argsort(-np.take_along_axis(rows, top, -1), axis=-1, kind="stable")
        top = np.take_along_axis(top, order, -1)
        chosen = np.concatenate([top, _draw_tail(rows, top, tail_samples, rng)], -1)
        sums.append(row_sums)
        true.append(rows[np.arange(len(rows)), targets].astype(np.float64) - row_sums)
        ids.append(chosen.astype(np.int32))
        kept.append(np.take_along_axis(rows, chosen, -1))
    parts = (np.concatenate(part) for part in (sums, true, ids, kept))
    return Scores(tokens, *parts)


def _draw_tail(
    rows: NDArray[np.float32], top: NDArray[np.intp], count: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Draw tokens outside `top` by their probability, with replacement: [T, V] → [T, count].

    Where no other token has any probability, the last of `top` stands in; its weight is nil.
    """
    p = np.exp(rows.astype(np.float64) - rows.max(-1, keepdims=True))
    np.put_along_axis(p, top, 0.0, -1)
    drawn = np.tile(top[:, -1:], (1, count))
    for row, cumulative in enumerate(np.cumsum(p, -1)):
        if cumulative[-1] > 0:
            points = rng.uniform(0, cumulative[-1], count)
            drawn[row] = np.searchsorted(cumulative, points, side="right")
    return drawn


def capture(
    artifact: Artifact,
    open_reference: Callable[[Artifact], Session],
    window: int = WINDOW,
    windows: int = WINDOWS,
    progress: Progress = silent,
) -> tuple[Artifact, bool]:
    """Write an artifact's reference; return the artifact, and whether anything was captured.

    `open_reference` opens PyTorch in fp32. Each window is kept as it is done, so an interrupted
    capture goes on where it stopped. Raises `NotExported` where the artifact has no tokenizer.
    """
    tokenizer = tokenizer_of(artifact)
    corpus = evaluation_text()
    cut = cut_windows(tokenizer, corpus, window, windows)
    if window - 1 > artifact.manifest.contract.limits.capacity:
        raise BadInput(
            f"windows of {window} tokens do not fit the artifact's cache of "
            f"{artifact.manifest.contract.limits.capacity}",
            f"choose --window {artifact.manifest.contract.limits.capacity} or less",
        )
    if window < 3:
        raise BadInput(
            f"a window of {window} tokens scores {window - 1}: no uncertainty can be told of that",
            "choose --window 3 or more",
        )
    limits = artifact.manifest.contract.limits
    require_known(int(cut.tokens.max()), limits.vocab)
    session = open_reference(artifact)
    protocol = Protocol(
        corpus=corpus.name,
        corpus_sha256=corpus.sha256,
        window=window,
        windows=windows,
        stride=cut.stride,
        bos=cut.bos,
        top_k=min(TOP_K, session.limits.vocab),
        tail_samples=TAIL_SAMPLES,
        weights=session.weights,
        spec=artifact.manifest.files[WEIGHTS].sha256,
        torch=str(session.details().get("torch", "")),
    )
    if _captured_by(artifact) == protocol:
        session.close()
        _clear_leftovers(artifact.folder)
        return artifact, False
    partial = artifact.folder / PARTIAL
    with locked_folder(partial, f"another capture is writing into {artifact.folder}"):
        data = _capture_windows(session, cut.tokens, protocol, artifact.folder, progress)
        captured = artifact.with_new_file(REFERENCE, data)
        remove(partial)
    session.close()
    return captured, True


def _clear_leftovers(folder: Path) -> None:
    """Remove what a killed capture left, where none is at work and it may be removed."""
    partial, following = folder / PARTIAL, beside(folder / REFERENCE, "next")
    with contextlib.suppress(BadInput, OSError):
        if partial.exists() or following.exists():
            with locked_folder(partial, ""):
                remove(following)
                remove(partial)


def _capture_windows(
    session: Session, windows: Tokens, protocol: Protocol, folder: Path, progress: Progress
) -> bytes:
    """Score every window that an earlier capture has not; return all as one file."""
    header = {"protocol": msgspec.json.encode(protocol).decode()}
    pieces = []
    for i, tokens in enumerate(windows):
        progress("reference", i, len(windows), "window")
        path = folder / PARTIAL / f"{i:04}"
        piece = _read_piece(path, header)
        if piece is None:
            scores = score_window(session, tokens, protocol.top_k, protocol.tail_samples)
            if not np.isfinite(scores.log_sum_exp).all():
                raise BadInput(
                    "PyTorch's own fp32 logits are not finite: the weights hold NaN or infinity",
                    "export from an undamaged checkpoint",
                )
            piece = asdict(scores)
            write_sealed(path, save(piece, header))
        pieces.append(piece)
    progress("reference", len(windows), len(windows), "window")
    whole = {name: np.stack([piece[name] for piece in pieces]) for name in pieces[0]}
    return save(whole, header)


def _captured_by(artifact: Artifact) -> Protocol | None:
    """The protocol of the reference that is there, if there is one and it can be read."""
    try:
        return read_reference(artifact).protocol
    except LlxError:
        return None


def _read_piece(path: Path, header: dict[str, str]) -> dict[str, NDArray[np.generic]] | None:
    """One window of an earlier, interrupted capture, if it is whole and of the same protocol."""
    data = read_sealed(path)
    return load(data) if data is not None and _metadata(data) == header else None


def _metadata(data: bytes) -> dict[str, str]:
    """What the header of a safetensors file says beside its tensors."""
    length = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    return found


def read_reference(artifact: Artifact) -> Reference:
    """The artifact's captured reference. Raises `NotExported` where there is none."""
    if not artifact.has(REFERENCE):
        raise NotExported(
            f"{artifact.folder} has no captured reference", "run `llx reference` where PyTorch is"
        )
    path = artifact.path(REFERENCE)
    try:
        tensors = load(data := artifact.read(REFERENCE))
        protocol = msgspec.convert(json.loads(_metadata(data)["protocol"]), Protocol)
        return Reference(protocol, Scores(**tensors))
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            f"{path} is not a reference that this version reads ({error})",
            "capture it anew with `llx reference`",
        ) from None
