"""What a caller sees of long work: progress, notices, and the call as it stands in the record."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from llx.artifact import Artifact, open_artifact
from llx.errors import utf8
from llx.progress import Progress
from llx.reports.plain import visible
from llx.reports.terminal import progress_bars

Tell = Callable[[str], None]
"""Called with a line that the caller should know of: what was built on the way, what is lacking."""

AnyArtifact = Artifact | str | Path | None
"""An artifact, its folder, or None for the one exported last from this working directory."""

NOT_IN_A_CALL = ("progress", "tell", "command")


def opened(artifact: AnyArtifact) -> Artifact:
    """The artifact that is meant. Raises `BadInput` where a folder holds no whole one."""
    if isinstance(artifact, Artifact):
        return artifact
    return open_artifact(Path(artifact) if artifact is not None else None)


def telling(tell: Tell | None) -> Tell:
    """`tell`, or where it is None the logger `llx`, at the level of warnings."""
    return tell or (lambda text: logging.getLogger("llx").warning("%s", visible(text)))


@contextmanager
def watched(progress: Progress | None, prefix: str = "") -> Iterator[Progress]:
    """`progress`, or where it is None bars in a terminal and in a notebook, and silence elsewhere.

    `prefix` stands before what is being done.
    """
    if progress is None:
        with progress_bars(prefix) as bars:
            yield bars
        return
    known = progress
    yield lambda what, done, total, unit: known(prefix + what, done, total, unit)


def call_in_words(function: Callable[..., object], given: Mapping[str, object]) -> str:
    """A call of a public function as it would be typed, without what is its default."""
    usual = inspect.signature(function).parameters
    parts = [
        f"{name}={_typed(given[name])}"
        for name in usual
        if name not in NOT_IN_A_CALL and given[name] != usual[name].default
    ]
    return utf8(f"llx.{function.__name__}({', '.join(parts)})")


def _typed(value: object) -> str:
    if isinstance(value, Artifact):
        return repr(str(value.folder))
    if isinstance(value, (list, tuple)) and any(isinstance(one, (Artifact, Path)) for one in value):
        return f"[{', '.join(map(_typed, value))}]"
    return repr(str(value) if isinstance(value, Path) else value)
