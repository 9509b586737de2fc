"""What a run has measured so far, kept in the user's state folder until the run is complete.

A run that was cut off, by Ctrl-C or with its machine, goes on there with `--resume`. Without it
what was kept is thrown away: a measurement is not to be completed on another day by surprise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from llx.artifact import REFERENCE, Artifact
from llx.bench.machine.environment import installed_versions
from llx.bench.machine.kernel import cpu_name
from llx.bench.worker import Job, Outcome, Scenario
from llx.files import (
    empty,
    locked_folder,
    make_folder,
    read_sealed,
    remove,
    state_folder,
    write_sealed,
)


class Kept:
    """The outcomes of a run's scenarios, a file for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    @contextmanager
    def opened(cls, job: Job, artifact: Artifact) -> Iterator[Kept]:
        """What is kept of this very run: artifact, engine, workload, versions and machine.

        Raises `BadInput` where the same is being measured at this moment: both would be disturbed.
        """
        folder = _folder(job, artifact)
        make_folder(folder.parent)
        with locked_folder(folder, f"{job.engine} is being measured by another run"):
            if not job.resume:
                empty(folder)
            yield cls(folder)

    def outcome(self, scenario: Scenario) -> Outcome | None:
        """What a scenario found in the run that was cut off, if it came that far."""
        data = read_sealed(self._path(scenario))
        try:
            return msgspec.json.decode(data, type=Outcome) if data is not None else None
        except msgspec.DecodeError:
            return None

    def keep(self, scenario: Scenario, outcome: Outcome) -> None:
        """Keep what a scenario found."""
        write_sealed(self._path(scenario), msgspec.json.encode(outcome))

    def discard(self) -> None:
        """The run is complete."""
        remove(self._folder)

    def _path(self, scenario: Scenario) -> Path:
        name = "fidelity" if scenario.index is None else f"{scenario.index:04}"
        return self._folder / f"{name}.outcome"


def kept_anything(job: Job, artifact: Artifact) -> bool:
    """Whether anything is kept of this very run."""
    found = _folder(job, artifact).glob("*.outcome")
    return any(read_sealed(path) is not None for path in found)


def _folder(job: Job, artifact: Artifact) -> Path:
    return state_folder() / "bench" / _key(job, artifact)


def _key(job: Job, artifact: Artifact) -> str:
    identity = (
        artifact.sha256,
        artifact.manifest.files.get(REFERENCE),
        job.engine,
        str(job.built.folder),
        msgspec.json.encode(job.workload).decode(),
        sorted(installed_versions().items()),
        cpu_name(),
    )
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
