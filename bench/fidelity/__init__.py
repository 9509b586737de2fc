"""Fidelity: what an engine's logits are worth beside PyTorch's, with uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llx.lazy import hand_on

if TYPE_CHECKING:
    from llx.bench.fidelity.judge import judge_session as judge_session
    from llx.bench.fidelity.linears import LinearParity as LinearParity
    from llx.bench.fidelity.linears import linear_parities as linear_parities
    from llx.bench.fidelity.observed import Observed as Observed
    from llx.bench.fidelity.observed import observe_decode as observe_decode
    from llx.bench.fidelity.observed import observe_prefill as observe_prefill
    from llx.bench.fidelity.reference import Protocol as Protocol
    from llx.bench.fidelity.reference import Reference as Reference
    from llx.bench.fidelity.reference import capture as capture
    from llx.bench.fidelity.reference import read_reference as read_reference

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "judge": "judge_session",
        "linears": "LinearParity linear_parities",
        "observed": "Observed observe_decode observe_prefill",
        "reference": "Protocol Reference capture read_reference",
    },
)
