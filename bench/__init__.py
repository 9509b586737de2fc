"""The harness: sessions, one clock, speed and fidelity. Called as `llx.bench(…)`, it measures."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llx.api.results import Results


class _Harness(ModuleType):
    """The package that is also the public function of its name, `llx.api.bench.bench`."""

    def __call__(self, *arguments: Any, **named: Any) -> Results:
        from llx.api.bench import bench

        return bench(*arguments, **named)

    @property
    def __signature__(self) -> inspect.Signature:
        from llx.api.bench import bench

        return inspect.signature(bench)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        """What `help` shows: how it is called, and what its arguments are."""
        from llx.api.bench import bench

        return f"bench{self.__signature__}\n\n{inspect.getdoc(bench)}"


sys.modules[__name__].__class__ = _Harness
