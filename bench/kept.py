"""What a run has measured so far, kept in the user's state folder until the run is complete.

A run that was cut off, by Ctrl-C or with its machine, goes on there with `--resume`. Without it
what was kept is thrown away: a measurement is not to be completed on another day by surprise.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from llx.artifact import Artifact
from llx.bench.machine.environment import installed_versions
from llx.bench.machine.kernel import cpu_name
from llx.bench.worker import Job, Outcome, Scenario
from llx.files import locked_folder, state_folder, write_whole


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
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked_folder(folder, f"{job.engine} is being measured by another run"):
            if not job.resume:
                for path in folder.iterdir():
                    path.unlink()
            yield cls(folder)

    def outcome(self, scenario: Scenario) -> Outcome | None:
        """What a scenario found in the run that was cut off, if it came that far."""
        path = self._path(scenario)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Outcome)
        except (OSError, msgspec.DecodeError):
            return None

    def keep(self, scenario: Scenario, outcome: Outcome) -> None:
        """Keep what a scenario found."""
        write_whole(self._path(scenario), msgspec.json.encode(outcome))

    def discard(self) -> None:
        """The run is complete."""
        shutil.rmtree(self._folder)

    def _path(self, scenario: Scenario) -> Path:
        name = "fidelity" if scenario.index is None else f"{scenario.index:04}"
        return self._folder / f"{name}.json"


def kept_anything(job: Job, artifact: Artifact) -> bool:
    """Whether anything is kept of this very run."""
    return any(_folder(job, artifact).glob("*.json"))


def _folder(job: Job, artifact: Artifact) -> Path:
    return state_folder() / "bench" / _key(job, artifact)


def _key(job: Job, artifact: Artifact) -> str:
    identity = (
        artifact.sha256,
        job.engine,
        str(job.built.folder),
        msgspec.json.encode(job.workload).decode(),
        sorted(installed_versions().items()),
        cpu_name(),
    )
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
