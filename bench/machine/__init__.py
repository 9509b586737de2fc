"""The machine while it is measured: clocks, power, load, limits, and what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llx.lazy import hand_on

if TYPE_CHECKING:
    from llx.bench.machine.energy import Counter as Counter
    from llx.bench.machine.energy import Gauge as Gauge
    from llx.bench.machine.energy import Missing as Missing
    from llx.bench.machine.environment import fingerprint as fingerprint
    from llx.bench.machine.environment import installed_versions as installed_versions
    from llx.bench.machine.environment import read_environment as read_environment
    from llx.bench.machine.kernel import read_machine as read_machine
    from llx.bench.machine.threads import usable_threads as usable_threads
    from llx.bench.machine.watch import State as State
    from llx.bench.machine.watch import Watch as Watch
    from llx.bench.machine.watch import find_source as find_source
    from llx.bench.machine.watch import read_state as read_state

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "energy": "Counter Gauge Missing",
        "environment": "fingerprint installed_versions read_environment",
        "kernel": "read_machine",
        "threads": "usable_threads",
        "watch": "State Watch find_source read_state",
    },
)
