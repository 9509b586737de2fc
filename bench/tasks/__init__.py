"""Tasks of lm-evaluation-harness, loaded with no code of theirs and run over a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llx.lazy import hand_on

if TYPE_CHECKING:
    from llx.bench.tasks.files import Finding as Finding
    from llx.bench.tasks.files import refuse_code as refuse_code
    from llx.bench.tasks.lm import SessionLM as SessionLM
    from llx.bench.tasks.load import load_tasks as load_tasks
    from llx.bench.tasks.run import run_tasks as run_tasks

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "files": "Finding refuse_code",
        "lm": "SessionLM",
        "load": "load_tasks",
        "run": "run_tasks",
    },
)
