"""Fidelity: an engine's logits against the captured reference, with uncertainty.

Names and formulas are those of the field. Standard errors take tokens as independent; tokens of
one window are not quite, so windows' effects make the true error somewhat larger.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llx.bench.fidelity.observed import Observed, observe_decode, observe_prefill
from llx.bench.fidelity.reference import TAIL_SAMPLES, Reference, Scores
from llx.bench.speed.samples import OpenSession
from llx.errors import BadInput
from llx.progress import Progress, silent
from llx.result import Divergence, Estimate, Fidelity, PhaseFidelity, SpanDivergence

# A rest that is less is rounding; taken as this much, it makes the bound smaller, never too large.
EPSILON = 1e-12
SPANS = 16  # of positions, of which each has a KLD of its own
NLL_DIGITS = 5  # of what a token costs, in nats: a hundredth of what fp16 rounds


@dataclass
class _Tokens:
    """What one phase measured, a value per scored token, [W, S] each."""

    nll: NDArray[np.float64]
    kld: NDArray[np.float64]
    bound: NDArray[np.float64]
    same: NDArray[np.bool_]
    worst: NDArray[np.float64]
    mean_abs: NDArray[np.float64]

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> _Tokens:
        """Not a number everywhere, until measured."""
        nll, kld, bound, worst, mean_abs = (np.full(shape, np.nan) for _ in range(5))
        return cls(nll, kld, bound, np.zeros(shape, np.bool_), worst, mean_abs)


def judge_session(
    open_session: OpenSession, reference: Reference, progress: Progress = silent
) -> Fidelity:
    """Run a reference's windows through an engine, by prefill and by decode."""
    tokens, ids = reference.scores.tokens, reference.scores.ids
    prefill = observe_prefill(open_session, tokens, ids, progress)
    return verdict(reference, prefill, observe_decode(open_session, tokens, ids, progress))


def judge_beside(
    open_session: OpenSession, scores: Scores, progress: Progress = silent
) -> PhaseFidelity:
    """Run the windows that another engine's scores are of, by prefill, and compare the two."""
    observed = observe_prefill(open_session, scores.tokens, scores.ids, progress)
    top_k = scores.ids.shape[-1] - TAIL_SAMPLES
    return _summary(_compare(observed, scores, top_k), scores)


def verdict(
    reference: Reference, prefill_observed: Observed, decode_observed: Observed
) -> Fidelity:
    """Fidelity from what was observed, here or on another machine."""
    protocol, scores = reference.protocol, reference.scores
    of_prefill, of_decode = (
        _compare(observed, scores, protocol.top_k)
        for observed in (prefill_observed, decode_observed)
    )
    prefill, decode = _summary(of_prefill, scores), _summary(of_decode, scores)
    nll = np.clip(of_prefill.nll.ravel(), 0, None).round(NLL_DIGITS)
    tokens_sha256 = hashlib.sha256(scores.tokens.astype("<i8").tobytes()).hexdigest()
    return Fidelity(
        reference_weights=protocol.weights,
        corpus=protocol.corpus,
        corpus_sha256=protocol.corpus_sha256,
        window=protocol.window,
        windows=protocol.windows,
        stride=protocol.stride,
        bos=protocol.bos,
        text=protocol.text,
        scored=protocol.scored,
        tokens=prefill.tokens,
        tokens_sha256=tokens_sha256,
        top_k=protocol.top_k,
        tail_samples=protocol.tail_samples,
        ppl=prefill.ppl,
        ppl_se=prefill.ppl_se,
        ppl_reference=float(np.exp(-scores.true_logprob.mean())),
        ppl_ratio=prefill.ppl_ratio,
        kld=prefill.kld,
        same_top1=prefill.same_top1,
        rms_dp=prefill.rms_dp,
        prefill=replace(prefill, nll=nll.tolist()),
        decode=decode,
    )


def _compare(observed: Observed, scores: Scores, top_k: int) -> _Tokens:
    """What each token shows, a window at a time."""
    found = _Tokens.empty(scores.true_logprob.shape)
    for w in range(len(scores.tokens)):
        wanted, here = (x[w].astype(np.float64) for x in (scores.logits, observed.at_ids))
        sums = observed.log_sum_exp[w]
        error = np.abs(here - wanted)
        found.nll[w] = sums - observed.true_logit[w]
        p_log, q_log = wanted - scores.log_sum_exp[w][:, None], here - sums[:, None]
        found.kld[w] = divergence(p_log, q_log, top_k)
        found.bound[w] = least_divergence(p_log[:, :top_k], q_log[:, :top_k])
        found.same[w] = observed.best[w] == scores.ids[w, :, 0]
        found.worst[w], found.mean_abs[w] = error.max(-1), error.mean(-1)
    return found


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
    terms = np.maximum(np.expm1(log_ratio) - log_ratio, 0)  # but for the last bit of a rounding
    p_top = np.exp(p_log[:, :top_k])
    rest = np.clip(1 - p_top.sum(-1), 0, None)
    tail = terms[:, top_k:].mean(-1) if terms.shape[-1] > top_k else 0.0
    return np.asarray((p_top * terms[:, :top_k]).sum(-1) + rest * tail)


def least_divergence(p_log: NDArray[np.float64], q_log: NDArray[np.float64]) -> NDArray[np.float64]:
    """What KL(p ‖ q) is at least, from log-probabilities of some tokens [n, k]; no sample in it.

    All others count as one token, and merging outcomes never increases a divergence: the log sum
    inequality (Cover and Thomas, Elements of Information Theory, 2nd edition, theorem 2.7.1).
    """
    p_rest, q_rest = (np.clip(1 - np.exp(x).sum(-1), 0, None) for x in (p_log, q_log))
    tiny = np.finfo(np.float64).tiny
    rest = p_rest * (np.log(np.maximum(p_rest, tiny)) - np.log(np.maximum(q_rest, EPSILON)))
    return np.asarray(np.clip((np.exp(p_log) * (p_log - q_log)).sum(-1) + rest, 0, None))


def _summary(found: _Tokens, scores: Scores) -> PhaseFidelity:
    n = found.nll.size
    if n < 2:
        raise BadInput(
            "the captured reference scores a single token: no uncertainty can be told of that",
            "capture it with `llx reference --window 3` or more",
        )
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
        kld_bound=float(found.bound.mean()),
        kld_by_position=by_position(found.kld, scores.tokens.shape[1] - 1 - found.kld.shape[1]),
        same_top1=Estimate(value=same, se=float(np.sqrt(same * (1 - same) / (n - 1)))),
        # The delta method: se(√m) = se(m) / (2·√m).
        rms_dp=Estimate(value=rms, se=_se(squares) / (2 * rms) if rms else 0.0),
        max_abs_logit_error=float(found.worst.max()),
        mean_abs_logit_error=float(found.mean_abs.mean()),
    )


def by_position(kld: NDArray[np.float64], unscored: int = 0) -> list[SpanDivergence]:
    """The KLD of [W, S] tokens over the position in the window: where a cache goes wrong.

    Spans are of equal length, but for one position, and as many as `SPANS` at most. `unscored`: how
    many positions of a window come before those.
    """
    count = kld.shape[1]
    return [
        SpanDivergence(
            first=unscored + int(span[0]),
            last=unscored + int(span[-1]),
            mean=float(kld[:, span].mean()),
            se=_se(kld[:, span]) if kld[:, span].size > 1 else 0.0,
        )
        for span in np.array_split(np.arange(count), min(SPANS, count))
    ]


def _se(values: NDArray[np.float64]) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(values.size))
