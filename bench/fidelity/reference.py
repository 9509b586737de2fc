"""The PyTorch fp32 reference, captured once per checkpoint and text, judged against everywhere.

`reference.safetensors`, of an artifact's first text, and `reference-KEY.safetensors`, of any other,
hold for each scored position of each window the log-sum-exp of the logits, the true token's
log-probability, and the largest logits with their tokens: enough for perplexity, KLD, top-1 and
logit errors on a machine with neither PyTorch nor the checkpoint.

The tail beyond the top k is sampled from the reference's own distribution, so that KLD over the
whole vocabulary can be estimated without bias (`llx.bench.fidelity.judge`) from less than a
hundredth of the logits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

import llx
from llx.artifact import Artifact
from llx.bench.fidelity.observed import log_sum_exp
from llx.bench.session import Session, Tokens
from llx.bench.speed import steps
from llx.bench.text import tokenizer_of
from llx.corpus import Corpus, Cut, cut_windows, evaluation_text, require_known
from llx.errors import BadInput, Lacking, LlxError, NotExported
from llx.files import (
    beside,
    cache_folder,
    locked_folder,
    make_folder,
    read_sealed,
    remove,
    write_sealed,
)
from llx.manifest import REFERENCE, REFERENCES, WEIGHTS
from llx.progress import Progress, silent

TOP_K = 256
TAIL_SAMPLES = 64
MOST_SHARED = 1 << 28  # bytes of a reference that is kept for a checkpoint's other artifacts
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
    spec: str  # hash of the artifact's weights
    torch: str
    text: str | None = None  # the name of a user's text; None is llx's own
    scored: int | None = None  # the last tokens of each window; None is all but its first

    @property
    def cut(self) -> tuple[object, ...]:
        """Which tokens it is of, but for the tokenizer."""
        return (self.corpus_sha256, self.window, self.windows, self.stride, self.bos, self.scored)


@dataclass(frozen=True)
class Scores:
    """The reference of one or several windows of N tokens, of whose last S were scored.

    `tokens`: [W, N]. `log_sum_exp` and `true_logprob`: [W, S]. `ids` and `logits`: [W, S, k + m],
    the k likeliest tokens, likeliest first, then m drawn from the others by their probability.
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


def score_window(
    session: Session, tokens: Tokens, top_k: int, tail_samples: int, scored: int | None = None
) -> Scores:
    """Prefill one window [N] and keep of its logits what the reference needs.

    `scored`: how many of its last tokens count; None is all but the first.
    """
    rng = np.random.default_rng(0)
    session.reset()
    sums, true, ids, kept = [], [], [], []
    at, first = 1, 1 if scored is None else len(tokens) - scored
    for step in steps.prefill_logits(session, tokens[None, :-1]):
        rows = step[0][max(first - at, 0) :]  # [T, V]
        at += len(step[0])
        targets = tokens[at - len(rows) : at]
        if not len(rows):
            continue
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


def score_windows(
    open_session: Callable[[int], Session], tokens: Tokens, progress: Progress = silent
) -> Scores:
    """What an engine's prefill of windows [W, N] shows, as a reference keeps it."""
    session = open_session(1)
    pieces = []
    for i, window in enumerate(tokens):
        progress("fidelity: baseline", i, len(tokens), "window")
        top_k = min(TOP_K, session.limits.vocab)
        pieces.append(vars(score_window(session, window, top_k, TAIL_SAMPLES)))
    session.close()
    return Scores(**{name: np.stack([piece[name] for piece in pieces]) for name in pieces[0]})


def write_scores(path: Path, scores: Scores) -> None:
    """Keep scores for another process, whole or not at all."""
    write_sealed(path, save(vars(scores)))


def read_scores(path: Path) -> Scores:
    """Scores that another process kept. Raises `BadInput` where they are not there whole."""
    data = read_sealed(path)
    if data is None:
        raise BadInput(f"{path} holds no scores", "run the command again")
    return Scores(**load(data))


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


class Captured(NamedTuple):
    """The artifact with its reference, whether that was captured now, and its file's name."""

    artifact: Artifact
    made: bool
    name: str


def capture(
    artifact: Artifact,
    open_reference: Callable[[Artifact], Session],
    cut: Cut | None = None,
    corpus: Corpus | None = None,
    checkpoint: str | None = None,
    progress: Progress = silent,
) -> Captured:
    """Write an artifact's reference, unless it has the very one.

    Each window is kept as it is done, so an interrupted capture goes on where it stopped. Another
    text's or another cut's is kept beside.

    Args:
        artifact: What is to be judged.
        open_reference: Opens PyTorch in fp32; not called where nothing is to be captured.
        cut: How windows are cut out of the text.
        corpus: A text; None is llx's own.
        checkpoint: What the weights are, in any artifact of theirs: what was captured of them for
            another one is taken. None: nothing is known of them.
        progress: Called with what is done, how much of how much, and the unit.

    Raises:
        NotExported: The artifact has no tokenizer.
        BadInput: Windows that fit neither the text nor the cache, weights that are not finite.

    """
    tokens, protocol = _asked(artifact, cut or Cut(), corpus or evaluation_text())
    name, standing = _place_of(artifact, protocol)
    if standing and _same(standing, protocol, tokens):
        _clear_leftovers(artifact.folder, name)
        return Captured(artifact, False, name)
    shared = _Shared.of(checkpoint, protocol, tokens)
    if data := shared.read(protocol):
        artifact = artifact.with_new_file(name, data)
        _clear_leftovers(artifact.folder, name)
        return Captured(artifact, True, name)
    session = open_reference(artifact)
    protocol = replace(
        protocol, weights=session.weights, torch=str(session.details().get("torch", ""))
    )
    partial = artifact.folder / PARTIAL
    with locked_folder(partial, f"another capture is writing into {artifact.folder}"):
        data = _capture_windows(session, tokens, protocol, artifact.folder, progress)
        shared.write(data)  # first: what a kill leaves of it is then found by the next run
        artifact = artifact.with_new_file(name, data)
        remove(partial)
    session.close()
    return Captured(artifact, True, name)


def _asked(artifact: Artifact, cut: Cut, corpus: Corpus) -> tuple[Tokens, Protocol]:
    """The windows, and the protocol but for who computes it. Raises as `capture` does."""
    found = cut_windows(tokenizer_of(artifact), corpus, cut)
    limits, window = artifact.manifest.contract.limits, cut.window
    if window - 1 > limits.capacity:
        raise BadInput(
            f"windows of {window} tokens do not fit the artifact's cache of {limits.capacity}",
            f"choose --window {limits.capacity} or less",
        )
    if found.tokens.shape[0] * (found.scored or window - 1) < 2:
        raise BadInput(
            f"a window of {window} tokens scores {window - 1}: no uncertainty can be told of that",
            "choose --window 3 or more",
        )
    require_known(int(found.tokens.max()), limits.vocab)
    return found.tokens, Protocol(
        corpus=corpus.name,
        corpus_sha256=corpus.sha256,
        window=window,
        windows=len(found.tokens),
        stride=found.stride,
        bos=found.bos,
        top_k=min(TOP_K, limits.vocab),
        tail_samples=TAIL_SAMPLES,
        weights="",
        spec=artifact.manifest.files[WEIGHTS].sha256 if artifact.has(WEIGHTS) else "",
        torch="",
        text=None if corpus.own else corpus.name,
        scored=found.scored,
    )


def _place_of(artifact: Artifact, wanted: Protocol) -> tuple[str, Reference | None]:
    """The file's name for a reference, and the one of the same text and cut that stands there.

    The first that an artifact gets is `REFERENCE`; one that cannot be read gives way.
    """
    found = {name: _readable(artifact, name) for name in artifact.manifest.references}
    for name, reference in found.items():
        if reference and reference.protocol.cut == wanted.cut:
            return name, reference
    if not found.get(REFERENCE):
        return REFERENCE, None
    key = hashlib.sha256(repr(wanted.cut).encode()).hexdigest()[:12]
    return REFERENCES.replace("*", key), None


def _same(standing: Reference, wanted: Protocol, tokens: Tokens) -> bool:
    """Whether a reference is the wanted one; which PyTorch computed it does not matter."""
    found = standing.protocol
    return replace(
        found, weights="", torch="", corpus=wanted.corpus, text=wanted.text
    ) == wanted and np.array_equal(standing.scores.tokens, tokens)


@dataclass(frozen=True)
class _Shared:
    """Where what was captured of a checkpoint lies for all of its artifacts, if anywhere."""

    path: Path | None

    @classmethod
    def of(cls, checkpoint: str | None, wanted: Protocol, tokens: Tokens) -> _Shared:
        if checkpoint is None:
            return cls(None)
        # Another version may compute, or keep, another thing.
        of = (llx.__version__, checkpoint, wanted.cut, wanted.top_k, wanted.tail_samples)
        key = hashlib.sha256(repr(of).encode() + tokens.tobytes()).hexdigest()
        try:
            return cls(cache_folder() / "references" / f"{key}.sealed")
        except Lacking:
            return cls(None)

    def read(self, wanted: Protocol) -> bytes | None:
        """The file for an artifact, with its own weights' hash and text's name; None without."""
        data = read_sealed(self.path) if self.path else None
        if data is None:
            return None
        try:
            protocol = msgspec.json.decode(_metadata(data)["protocol"], type=Protocol)
            protocol = replace(protocol, spec=wanted.spec, corpus=wanted.corpus, text=wanted.text)
            return save(load(data), _header(protocol))
        except (SafetensorError, msgspec.DecodeError, ValueError, KeyError, TypeError):
            return None

    def write(self, data: bytes) -> None:
        """Keep what was captured. Where that cannot be, the next artifact captures it again."""
        if self.path and len(data) <= MOST_SHARED:
            with contextlib.suppress(OSError, BadInput):
                make_folder(self.path.parent)
                write_sealed(self.path, data)


def _clear_leftovers(folder: Path, name: str) -> None:
    """Remove what a killed capture left, where none is at work and it may be removed."""
    partial, following = folder / PARTIAL, beside(folder / name, "next")
    with contextlib.suppress(BadInput, OSError):
        if partial.exists() or following.exists():
            with locked_folder(partial, ""):
                remove(following)
                remove(partial)


def _capture_windows(
    session: Session, windows: Tokens, protocol: Protocol, folder: Path, progress: Progress
) -> bytes:
    """Score every window that an earlier capture has not; return all as one file."""
    header = _header(protocol)
    pieces = []
    for i, tokens in enumerate(windows):
        progress("reference", i, len(windows), "window")
        path = folder / PARTIAL / f"{i:04}"
        piece = _read_piece(path, header)
        if piece is None:
            scores = score_window(
                session, tokens, protocol.top_k, protocol.tail_samples, protocol.scored
            )
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


def _readable(artifact: Artifact, name: str) -> Reference | None:
    """A reference that is there, if it can be read."""
    try:
        return read_reference(artifact, name)
    except LlxError:
        return None


def _header(protocol: Protocol) -> dict[str, str]:
    return {"protocol": msgspec.json.encode(protocol).decode()}


def _read_piece(path: Path, header: dict[str, str]) -> dict[str, NDArray[np.generic]] | None:
    """One window of an earlier, interrupted capture, if it is whole and of the same protocol."""
    data = read_sealed(path)
    return load(data) if data is not None and _metadata(data) == header else None


def _metadata(data: bytes) -> dict[str, str]:
    """What the header of a safetensors file says beside its tensors."""
    length = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    return found


def read_reference(artifact: Artifact, name: str = REFERENCE) -> Reference:
    """A captured reference of the artifact's. Raises `NotExported` where there is none."""
    if not artifact.has(name):
        raise NotExported(
            f"{artifact.folder} has no captured reference", "run `llx reference` where PyTorch is"
        )
    path = artifact.path(name)
    try:
        tensors = load(data := artifact.read(name))
        protocol = msgspec.convert(json.loads(_metadata(data)["protocol"]), Protocol)
        return Reference(protocol, Scores(**tensors))
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            f"{path} is not a reference that this version reads ({error})",
            "capture it anew with `llx reference`",
        ) from None
