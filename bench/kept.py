"""What a run has measured so far, kept in the user's state folder until the run is complete.

A run that was cut off, by Ctrl-C or with its machine, goes on there with `--resume`. Without it
what was kept is thrown away: a measurement is not to be completed on another day by surprise.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from llx.artifact import Artifact
from llx.bench.machine.environment import installed_versions
from llx.bench.machine.kernel import cpu_name
from llx.bench.worker import Job, Outcome, Scenario
from llx.errors import Lacking, LlxError, one_line
from llx.files import (
    empty,
    locked_folder,
    make_folder,
    read_sealed,
    remove,
    state_folder,
    write_sealed,
)
from llx.result import Ceiling

OUTCOME, CEILING = "outcome", "ceiling"  # how names of files end
Value = TypeVar("Value")


class Kept:
    """The outcomes of a run's scenarios, a file for each.

    `problem`: why nothing more can be kept, if so. A measurement is worth more than that it can be
    gone on with: nothing here fails for want of a place.
    """

    def __init__(self, folder: Path | None, problem: str | None = None) -> None:
        self._folder, self.problem = folder, problem

    @classmethod
    @contextmanager
    def opened(cls, job: Job, artifact: Artifact) -> Iterator[Kept]:
        """What is kept of this very run: artifact, engine, workload, versions and machine.

        Raises `BadInput` where the same is being measured at this moment: both would be disturbed.
        """
        with contextlib.ExitStack() as held:
            try:
                folder = _folder(job, artifact)
                make_folder(folder)
            except (OSError, LlxError) as error:
                yield cls(None, one_line(error))
                return
            taken = f"{job.engine} is being measured by another run"
            try:
                held.enter_context(locked_folder(folder, taken))
                if not job.resume:
                    empty(folder)
                kept = cls(folder)
            except OSError as error:
                kept = cls(None, one_line(error))
            yield kept

    def outcome(self, scenario: Scenario) -> Outcome | None:
        """What a scenario found in the run that was cut off, if it came that far."""
        return self._read(scenario, OUTCOME, Outcome)

    def ceiling(self, scenario: Scenario) -> Ceiling | None:
        """What the machine could do when a scenario was measured, in the run that was cut off."""
        return self._read(scenario, CEILING, Ceiling)

    def _read(self, scenario: Scenario, kind: str, of: type[Value]) -> Value | None:
        if self._folder is None:
            return None
        data = read_sealed(self._path(scenario, kind, self._folder))
        try:
            return msgspec.json.decode(data, type=of) if data is not None else None
        except msgspec.DecodeError:
            return None

    def keep(self, scenario: Scenario, outcome: Outcome) -> None:
        """Keep what a scenario found."""
        self._write(scenario, OUTCOME, outcome)

    def keep_ceiling(self, scenario: Scenario, ceiling: Ceiling) -> None:
        """Keep what the machine can do now, beside what a scenario found."""
        self._write(scenario, CEILING, ceiling)

    def _write(self, scenario: Scenario, kind: str, value: object) -> None:
        if self._folder is None or self.problem:
            return
        try:
            path = self._path(scenario, kind, self._folder)
            write_sealed(path, msgspec.json.encode(value))
        except (OSError, LlxError) as error:
            self.problem = one_line(error)

    def discard(self) -> None:
        """The run is complete."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                remove(self._folder)

    def _path(self, scenario: Scenario, kind: str, folder: Path) -> Path:
        name = "fidelity" if scenario.index is None else f"{scenario.index:04}"
        return folder / f"{name}.{kind}"


def kept_anything(job: Job, artifact: Artifact) -> bool:
    """Whether anything is kept of this very run."""
    try:
        found = _folder(job, artifact).glob(f"*.{OUTCOME}")
        return any(read_sealed(path) is not None for path in found)
    except (OSError, Lacking):
        return False


def _folder(job: Job, artifact: Artifact) -> Path:
    return state_folder() / "bench" / _key(job, artifact)


def _key(job: Job, artifact: Artifact) -> str:
    identity = (
        artifact.sha256,
        [artifact.manifest.files.get(name) for name in job.judged_by(artifact)],
        job.engine,
        str(job.built.folder),
        msgspec.json.encode(job.workload).decode(),
        sorted(installed_versions().items()),
        cpu_name(),
    )
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
