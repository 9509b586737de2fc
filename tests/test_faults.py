"""Whatever fails or ends a command, what opens afterwards is the old or the new, whole.

System calls fail, signals and power cuts come at calls that a seed draws. The failed run says so in
a line; the next one completes, and leaves nothing that should not be there.

    make test-slow                                          a few minutes
    LLX_FAULTS=20 pytest -m slow tests/test_faults.py       twenty times as many
    LLX_TEST_SEED=1 …                                       others
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llx.artifact import open_artifact
from llx.bench.fidelity.reference import read_reference
from llx.engine import engines_of
from llx.errors import LlxError
from llx.exporter.readback import require_opens
from llx.files import remove
from llx.reports.history import read_history
from llx.result import read_results
from tests.bounded import Ended
from tests.checkpoints import SEED, write_checkpoint
from tests.faults import ERRORS, SIGNALS, Fault, Faulty, library
from tests.powercut import cuts

TIMES = int(os.environ.get("LLX_FAULTS", "1"))
FAILURES, ENDS, CUTS = 6 * TIMES, 4 * TIMES, 4 * TIMES  # of each scenario
INT8 = ["--precision", "int8", "--compute", "fp32", "--calibration-windows", "4"]
# What a run may or may not leave, as it likes: notes of what was seen.
NOTES = {Path("state"), Path("state/llx"), Path("state/llx/seen.json")}
SHARED = Path("cache/llx/references")  # what can be made again


class Broken(Exception):
    """What opens is neither the old nor the new."""


@dataclass(frozen=True)
class Scenario:
    """A command, after others, and what it leaves: `state` says "old", "new" or "none"."""

    words: list[str]
    state: Callable[[Path], str]
    before: list[list[str]] = field(default_factory=list)
    touched: tuple[str, ...] = ()  # files that stand there
    killed_at: float | None = None  # the command was killed once already, after this share of it


def export(*words: str) -> list[str]:
    return ["export", "--weights", "../checkpoint", "-o", "out", *words]


def exported(capacity: int, linear: str = "dense") -> Callable[[Path], str]:
    """Of an export into `out`: the new has this capacity and precision."""

    def state(root: Path) -> str:
        if not os.path.lexists(root / "out"):
            return "none"
        try:
            require_opens(root / "out")
        except LlxError as error:
            raise Broken(str(error)) from None
        manifest = open_artifact(root / "out").manifest
        new = (manifest.contract.limits.capacity, manifest.precision.linear)
        return "new" if new == (capacity, linear) else "old"

    return state


def captured(window: int) -> Callable[[Path], str]:
    def state(root: Path) -> str:
        artifact = open_artifact(root / "out")
        if artifact.damaged():
            raise Broken(f"{artifact.damaged()} are damaged")
        found = [
            read_reference(artifact, name).protocol.window for name in artifact.manifest.references
        ]
        return "new" if window in found else "old" if found else "none"

    return state


def built(root: Path) -> str:
    engines = engines_of(open_artifact(root / "out"))
    if not all(engine.intact for engine in engines):
        raise Broken("an engine is damaged")
    folders = list((root / "out" / "engines").glob("[!.]*"))
    if len(folders) != len(engines):
        raise Broken("an engine does not open")
    return "new" if engines else "none"


def written(root: Path) -> str:
    """Of a results file, a history and a report: each is old or new by itself."""
    found = []
    for name, read in (("results.json", read_results), ("history.jsonl", read_history)):
        if (root / name).exists():
            found.append(len(read(root / name)))
    report = root / "page" / "report.md"
    if report.exists() and not report.read_text().startswith("# "):
        raise Broken("the report is cut short")
    return "new" if found == [1, 1] and report.exists() else "old" if found else "none"


SCENARIOS = {
    "an export": Scenario(export(), exported(96)),
    "an export over another": Scenario(
        export("--overwrite"), exported(96), [export("--context", "32")]
    ),
    "a calibrated export": Scenario(export(*INT8), exported(96, "int8")),
    "a calibrated export that goes on, over another": Scenario(
        export(*INT8, "--overwrite"), exported(96, "int8"), [export()], killed_at=0.5
    ),
    "a reference": Scenario(
        ["reference", "out", "--window", "64", "--windows", "2"], captured(64), [export()]
    ),
    "a reference beside another": Scenario(
        ["reference", "out", "--window", "48", "--windows", "2"],
        captured(48),
        [export(), ["reference", "out", "--window", "64", "--windows", "2"]],
    ),
    "a build": Scenario(["build"], built, [export()]),
    "a build over another": Scenario(["build"], built, [export(), ["build"]], ("overwrite",)),
    "results": Scenario(["write results"], written),
    "results over others": Scenario(["write results"], written, [["write results"]]),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    folder = tmp_path_factory.mktemp("faults")
    made = library(folder)
    if made is None:
        pytest.skip("no C compiler, or no Linux, to let system calls fail with")
    with Faulty(folder, made) as process:
        yield process


@dataclass
class Trial:
    """A scenario in its folder, as often as it is asked for."""

    faulty: Faulty
    scenario: Scenario
    folder: Path
    names: set[Path] = field(default_factory=set)
    calls: int = 0
    begins: str = ""  # the state before

    def prepare(self) -> None:
        """Make what stands there before, and see what a run that nothing disturbs makes of it."""
        root, ready = self.folder / "ready", self.folder / "root"
        root.mkdir()
        write_checkpoint(self.folder / "checkpoint")
        for words in self.scenario.before:
            ended, _ = self.faulty.run(root, words)
            assert ended.code == 0, ended.err
        for name in self.scenario.touched:
            (root / name).touch()
        self.begins = self.scenario.state(root)
        if self.scenario.killed_at is not None:
            calls = self._undisturbed(root)
            fault = Fault(int(calls * self.scenario.killed_at), SIGNALS["SIGKILL"])
            self.faulty.run(root, self.scenario.words, fault)
        self.calls = self._undisturbed(root)
        shutil.copytree(root, ready, symlinks=True)
        self.names = names_in(self.folder / "undisturbed")

    def _undisturbed(self, root: Path) -> int:
        copy = self.folder / "undisturbed"
        remove(copy)
        shutil.copytree(root, copy, symlinks=True)
        ended, calls = self.faulty.run(copy, self.scenario.words, Fault())
        assert ended.code == 0, ended.err
        assert self.scenario.state(copy) == "new"
        return calls

    def root(self) -> Path:
        """A fresh copy of what stands there before."""
        root = self.folder / "root"
        remove(root)
        shutil.copytree(self.folder / "ready", root, symlinks=True)
        return root

    def wrong_with(self, root: Path) -> str | None:
        """What is wrong with what stands there now."""
        try:
            state = self.scenario.state(root)
        except (Broken, LlxError, OSError) as error:
            return f"neither old nor new: {error}"
        return None if state in (self.begins, "new", "old") else f"{self.begins} became {state}"

    def wrong_after_the_next(self, root: Path) -> str | None:
        """What is wrong when the same command has run once more."""
        ended, _ = self.faulty.run(root, self.scenario.words)
        if ended.code != 0:
            return f"the next run ends with {ended.code}: {ended.err[-300:]}"
        wrong = self.wrong_with(root)
        if wrong or self.scenario.state(root) != "new":
            return wrong or "the next run left the old"
        left = names_in(root) ^ self.names
        return f"the next run leaves {sorted(map(str, left))}" if left else None


def names_in(root: Path) -> set[Path]:
    """What lies there, but for notes, and for whole files that other artifacts may take."""
    found = {path.relative_to(root) for path in root.rglob("*")} - NOTES - {SHARED, *SHARED.parents}
    return {path for path in found if path.parent != SHARED or path.name.startswith(".")}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_what_opens_is_the_old_or_the_new(scenario, tmp_path, faulty, capsys):
    trial = Trial(faulty, scenario, tmp_path)
    trial.prepare()
    dice = random.Random(SEED)
    found = [f"{calls} of {trial.calls}: {what}" for calls, what in _every(trial, dice)]
    with capsys.disabled():
        print(
            f"\n{trial.calls} calls: {FAILURES} failed, {ENDS} signals, {CUTS} power cuts; "
            f"{len(found)} survived wrongly",
            end=" ",
        )
    assert not found, "\n".join(found)


def _every(trial: Trial, dice: random.Random) -> Iterator[tuple[int, str]]:
    for i in range(FAILURES):
        name, code = list(ERRORS.items())[i % len(ERRORS)]
        at = dice.randint(1, trial.calls)
        yield from ((at, f"{name}: {what}") for what in _fails(trial, Fault(at, code)))
    for i in range(ENDS):
        name, number = list(SIGNALS.items())[i % len(SIGNALS)]
        at = dice.randint(1, trial.calls)
        yield from ((at, f"{name}: {what}") for what in _ends(trial, Fault(at, number)))
    yield from ((trial.calls, f"a power cut after it: {what}") for what in _is_lost(trial))
    for _ in range(CUTS):
        at = dice.randint(1, trial.calls)
        yield from ((at, f"a power cut: {what}") for what in _is_cut(trial, at, dice))


def _fails(trial: Trial, fault: Fault) -> Iterator[str]:
    """A call fails: the command says so in a line, or does without it."""
    root = trial.root()
    ended, _ = trial.faulty.run(root, trial.scenario.words, fault)
    wrong = ended.fault if ended.code else None
    yield from filter(None, (wrong, _lines(ended), trial.wrong_with(root)))
    yield from filter(None, (trial.wrong_after_the_next(root),))


def _lines(ended: Ended) -> str | None:
    """More said than a line for each thing."""
    strange = [line for line in ended.err.splitlines() if not line.startswith("llx: ")]
    return f"said {strange[:3]}" if strange or ended.code == 1 else None


def _ends(trial: Trial, fault: Fault) -> Iterator[str]:
    """A signal ends the command: by itself, or in a line."""
    root = trial.root()
    ended, _ = trial.faulty.run(root, trial.scenario.words, fault)
    if ended.code not in (0, fault.what, 130):
        yield f"exit {ended.code}: {ended.err[-300:]}"
    yield from filter(None, (_lines(ended), trial.wrong_with(root)))
    yield from filter(None, (trial.wrong_after_the_next(root),))


def _is_cut(trial: Trial, at: int, dice: random.Random) -> Iterator[str]:
    """The power goes: whatever of the last writes the disk has, the old or the new opens."""
    root, kept = trial.root(), trial.folder / "cut off"
    trial.faulty.run(root, trial.scenario.words, Fault(at, SIGNALS["SIGKILL"]))
    remove(kept)
    shutil.copytree(trial.faulty.logged, kept)
    chosen = dice.randrange(4)
    for i, (how, copy) in enumerate(cuts(root, kept, trial.folder)):
        wrong = trial.wrong_with(copy)
        if not wrong and i == chosen:  # each takes as long as a run
            wrong = trial.wrong_after_the_next(copy)
        if wrong:
            yield f"{how}: {wrong}"


def _is_lost(trial: Trial) -> Iterator[str]:
    """What a command has said is done, no power cut takes back."""
    root, kept = trial.root(), trial.folder / "cut off"
    trial.faulty.run(root, trial.scenario.words, Fault())
    remove(kept)
    shutil.copytree(trial.faulty.logged, kept)
    for how, copy in cuts(root, kept, trial.folder):
        try:
            state = trial.scenario.state(copy)
        except (Broken, LlxError, OSError) as error:
            state = str(error)
        if state != "new":
            yield f"{how}: {state}"
