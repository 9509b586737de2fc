"""Why an op of a graph is off: each known cause is tried, and named only where it explains all.

A hypothesis is the op computed otherwise. It holds where what the graph gave lies within rounding
of it, at every value; what it looks like is no evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llx.bench.fidelity import common_causes, linear_causes, position_causes, value_causes
from llx.bench.fidelity.case import Case, Cause, Hypothesis, cause_among
from llx.errors import LlxError

OF_KIND: dict[str, Callable[[Case], Iterator[Hypothesis]]] = {
    "linear": linear_causes.linear,
    "rms_norm": value_causes.norm,
    "rope": position_causes.rope,
    "attention": position_causes.attention,
    "kv_update": position_causes.kv_update,
    "add": value_causes.add,
    "silu": value_causes.silu,
    "pick": position_causes.pick,
    "embedding": value_causes.table,
    "unembed": value_causes.table,
}
"""By the kind of an op (`Site.kind`), what it may be off by."""


def cause_of(case: Case) -> Cause:
    """The cause of what is off, as far as one is known and fits; else what was ruled out."""
    return cause_among(_hypotheses(case), (LlxError, KeyError))  # what it would need is not here


def _hypotheses(case: Case) -> Iterator[Hypothesis]:
    yield from common_causes.overflow(case)
    yield from OF_KIND.get(case.site.kind, _none)(case)
    yield from common_causes.of_any(case)


def _none(case: Case) -> Iterator[Hypothesis]:
    return iter(())
