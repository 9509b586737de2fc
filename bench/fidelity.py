"""Fidelity: an engine's logits against the captured reference, with uncertainty.

Names and formulas are those of the field. Standard errors take tokens as independent; tokens of
one window are not quite, so windows' effects make the true error somewhat larger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llx.bench import steps
from llx.bench.reference import Reference, Scores, log_sum_exp
from llx.bench.sessions.base import Session
from llx.errors import GateFailed
from llx.progress import Progress, silent
from llx.result import Divergence, Estimate, Fidelity, PhaseFidelity

OpenSession = Callable[[int], Session]
"""Opens a session of an engine for the given number of rows."""


@dataclass
class _Tokens:
    """What one phase measured, a value per scored token, [W, N - 1] each."""

    nll: NDArray[np.float64]
    kld: NDArray[np.float64]
    same: NDArray[np.bool_]
    worst: NDArray[np.float64]
    mean_abs: NDArray[np.float64]

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> _Tokens:
        """Not a number everywhere, until measured."""
        nll, kld, worst, mean_abs = (np.full(shape, np.nan) for _ in range(4))
        return cls(nll, kld, np.zeros(shape, np.bool_), worst, mean_abs)


def judge(open_session: OpenSession, reference: Reference, progress: Progress = silent) -> Fidelity:
    """Run the reference's windows through an engine, by prefill and by decode.

    Prefill: one window at a time, chunks as long as the engine takes. Decode: every token a step
    of its own from an empty cache, the windows being rows that go in lockstep.
    """
    protocol, scores = reference.protocol, reference.scores
    prefill = _summary(_prefill(open_session, reference, progress), scores)
    decode = _summary(_decode(open_session, reference, progress), scores)
    return Fidelity(
        reference_weights=protocol.weights,
        corpus=protocol.corpus,
        corpus_sha256=protocol.corpus_sha256,
        window=protocol.window,
        windows=protocol.windows,
        stride=protocol.stride,
        bos=protocol.bos,
        tokens=prefill.tokens,
        top_k=protocol.top_k,
        tail_samples=protocol.tail_samples,
        ppl=prefill.ppl,
        ppl_se=prefill.ppl_se,
        ppl_reference=float(np.exp(-scores.true_logprob.mean())),
        ppl_ratio=prefill.ppl_ratio,
        kld=prefill.kld,
        same_top1=prefill.same_top1,
        rms_dp=prefill.rms_dp,
        prefill=prefill,
        decode=decode,
    )


def _prefill(open_session: OpenSession, reference: Reference, progress: Progress) -> _Tokens:
    scores, top_k = reference.scores, reference.protocol.top_k
    found = _Tokens.empty(scores.true_logprob.shape)
    session = open_session(1)
    windows = len(scores.tokens)
    for w in range(windows):
        progress("fidelity: prefill", w, windows, "window")
        session.reset()
        at = 0
        for logits in steps.prefill_logits(session, scores.tokens[w : w + 1, :-1]):
            span = np.s_[w, at : at + logits.shape[1]]
            _compare(found, span, logits[0], scores, scores.tokens[w, 1:][span[1]], top_k)
            at += logits.shape[1]
    progress("fidelity: prefill", windows, windows, "window")
    session.close()
    return found


def _decode(open_session: OpenSession, reference: Reference, progress: Progress) -> _Tokens:
    scores, top_k = reference.scores, reference.protocol.top_k
    found = _Tokens.empty(scores.true_logprob.shape)
    windows, length = scores.true_logprob.shape
    rows = 1
    session = open_session(rows)
    most = session.limits.max_rows
    for first in range(0, windows, most):
        group = np.s_[first : min(first + most, windows)]
        tokens = scores.tokens[group]
        if len(tokens) != rows:
            session.close()
            rows = len(tokens)
            session = open_session(rows)
        session.reset()
        for at in range(length):
            progress("fidelity: decode", first * length + at * rows, windows * length, "token")
            steps.decode_step(session, np.ascontiguousarray(tokens[:, at : at + 1]), at)
            span = (group, at)
            _compare(found, span, session.logits()[:, 0], scores, tokens[:, at + 1], top_k)
    progress("fidelity: decode", windows * length, windows * length, "token")
    session.close()
    return found


def _compare(
    found: _Tokens,
    span: tuple[int | slice, int | slice],
    logits: NDArray[np.float32],
    scores: Scores,
    targets: NDArray[np.int64],
    top_k: int,
) -> None:
    """Compare logits [n, V] with the reference at `span`, and note what each token shows."""
    ids, wanted = scores.ids[span], scores.logits[span].astype(np.float64)
    here = np.take_along_axis(logits, ids.astype(np.int64), -1).astype(np.float64)
    sums = log_sum_exp(logits)
    if not np.isfinite(sums).all():
        raise GateFailed(
            "the engine's logits are not finite, where PyTorch's in fp32 are",
            "the precision cannot hold this model: export with --precision fp32 or bf16",
        )
    p_log = wanted - scores.log_sum_exp[span][:, None]
    q_log = here - sums[:, None]
    error = np.abs(here - wanted)
    found.nll[span] = sums - logits[np.arange(len(logits)), targets]
    found.kld[span] = divergence(p_log, q_log, top_k)
    found.same[span] = logits.argmax(-1) == ids[:, 0]
    found.worst[span], found.mean_abs[span] = error.max(-1), error.mean(-1)


def divergence(
    p_log: NDArray[np.float64], q_log: NDArray[np.float64], top_k: int
) -> NDArray[np.float64]:
    """KL(p ‖ q) from log-probabilities of the top k tokens and of samples of the rest: [n, k + m].

    Since both sum to one, KL(p ‖ q) = Σ p·(q/p - 1 - log(q/p)), whose terms are never negative and
    vanish quadratically. The top k are summed; the rest is the mean over samples drawn from p,
    times their mass: unbiased, and quiet even where the divergence is tiny (the estimator "k3" of
    J. Schulman, Approximating KL Divergence, 2020).
    """
    log_ratio = q_log - p_log
    terms = np.expm1(log_ratio) - log_ratio
    p_top = np.exp(p_log[:, :top_k])
    rest = np.clip(1 - p_top.sum(-1), 0, None)
    tail = terms[:, top_k:].mean(-1) if terms.shape[-1] > top_k else 0.0
    return np.asarray((p_top * terms[:, :top_k]).sum(-1) + rest * tail)


def _summary(found: _Tokens, scores: Scores) -> PhaseFidelity:
    n = found.nll.size
    nll, kld = found.nll.ravel(), found.kld.ravel()
    reference_nll = -scores.true_logprob.ravel()
    ppl = float(np.exp(nll.mean()))
    delta = nll - reference_nll
    ratio = float(np.exp(delta.mean()))
    same = float(found.same.mean())
    squares = (np.exp(-nll) - np.exp(-reference_nll)) ** 2
    rms = float(np.sqrt(squares.mean()))
    p50, p90, p99 = (float(x) for x in np.percentile(kld, (50, 90, 99)))
    kl = Divergence(
        mean=float(kld.mean()), se=_se(kld), p50=p50, p90=p90, p99=p99, max=float(kld.max())
    )
    return PhaseFidelity(
        tokens=n,
        ppl=ppl,
        ppl_se=ppl * _se(nll),
        ppl_ratio=Estimate(value=ratio, se=ratio * _se(delta)),
        kld_mean=kl.mean,
        kld=kl,
        same_top1=Estimate(value=same, se=float(np.sqrt(same * (1 - same) / (n - 1)))),
        # The delta method: se(√m) = se(m) / (2·√m).
        rms_dp=Estimate(value=rms, se=_se(squares) / (2 * rms) if rms else 0.0),
        max_abs_logit_error=float(found.worst.max()),
        mean_abs_logit_error=float(found.mean_abs.mean()),
    )


def _se(values: NDArray[np.float64]) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(values.size))
