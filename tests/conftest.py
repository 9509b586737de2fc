"""Fixtures: a tiny artifact, and the real SmolLM2-135M where meaning matters."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llx.__main__ import main
from llx.api.reference import open_reference
from llx.artifact import Artifact
from llx.bench.fidelity.reference import capture
from llx.bench.speed.steps import prefill_logits
from llx.corpus import Cut, evaluation_text
from llx.exporter.export import export
from llx.exporter.locate import locate
from llx.exporter.quantization.budget import QuantizationRequest
from llx.exporter.request import ExportRequest
from llx.gpu import find_gpu
from llx.llama.presets import preset_of_size
from llx.manifest import MANIFEST, record_of, write_manifest
from llx.precision import PRECISIONS, Precision
from tests.checkpoints import TINY, byte_tokenizer, write_checkpoint

# No test asks the network, wherever it runs.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"


NOT_RUN = pytest.StashKey[int]()


# A worker takes a file after the other: one that takes minutes must not be the last to begin.
# (xdist would begin with those of most tests: `make test` says --no-loadscope-reorder.)
LONGEST = (
    *("test_commands.py", "test_real_checkpoint.py", "test_run.py", "test_against.py"),
    *("test_options.py", "test_action.py", "test_int8.py", "test_build.py"),
    *("test_tensorrt_rtx.py", "test_from_anywhere.py", "test_words.py", "test_left_out.py"),
    "test_any_value.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count the GPU tests that are left out."""
    if items:
        stash = items[0].config.stash
        left_out = sum("gpu" in item.keywords for item in items)
        stash[NOT_RUN] = stash.get(NOT_RUN, 0) + left_out


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that prints how many this worker has left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["gpu tests not run"] = session.config.stash.get(NOT_RUN, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each worker collects all tests, and leaves out the same."""
    if hasattr(node, "workeroutput"):  # it did not crash
        node.config.stash[NOT_RUN] = node.workeroutput["gpu tests not run"]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was not run, a line for each reason: a test that was skipped has not passed."""
    skipped = terminalreporter.stats.get("skipped", [])
    of_gpu = [report for report in skipped if "gpu" in report.keywords]
    causes = Counter(_cause(report) for report in skipped if report not in of_gpu)
    for cause, number in causes.most_common():
        tests = "test" if number == 1 else "tests"
        terminalreporter.write_line(f"{number} {tests} not run: {cause}", yellow=True)
    count = config.stash.get(NOT_RUN, 0) + len(of_gpu)
    if count:
        where = "`make test-gpu` runs them" if find_gpu() else "no GPU here (make test-gpu)"
        terminalreporter.write_line(f"{count} GPU tests not run: {where}", yellow=True)


def _cause(report: pytest.TestReport) -> str:
    """Why a test was skipped, in a line."""
    told = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return " ".join(told.removeprefix("Skipped: ").split())


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests keep what they remember to themselves: not the user's, and no other worker's.

    That is under the state folder, and under ./artifacts, which artifact was exported last.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        for kind in ("STATE", "CACHE"):
            patch.setenv(f"XDG_{kind}_HOME", str(tmp_path_factory.mktemp(kind.lower())))
        yield


def vouched(artifact, name):
    """The artifact with a file as it stands now: who can change one can change its manifest."""
    files = artifact.manifest.files | {name: record_of(artifact.folder / name)}
    manifest = replace(artifact.manifest, files=files)
    write_manifest(artifact.folder, manifest)
    return Artifact(artifact.folder, manifest)


def export_tiny(
    folder: Path,
    precision: str | Precision = "fp32",
    spec=TINY,
    context=None,
    dense_share=0.0,
    tensors=None,
) -> Artifact:
    checkpoint = write_checkpoint(folder / "checkpoint", spec, tensors)
    chosen = PRECISIONS[precision] if isinstance(precision, str) else precision
    request = ExportRequest(
        weights=checkpoint,
        folder=folder / f"tiny-{chosen.name}",
        precision=chosen,
        context=context,
        quantization=QuantizationRequest(windows=4, dense_share=dense_share),
        command="llx export",
    )
    return export(request)[0]


SHARED: dict[Path, bytes] = {}  # folders of the artifacts that tests share, and their manifests


@pytest.fixture(autouse=True)
def no_log_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands print is tested as a terminal or a pipe has it, also in CI."""
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture(autouse=True)
def what_is_shared_stays() -> Iterator[None]:
    """A test that writes into what all read fails itself, and not the one that reads it next."""
    yield
    for folder, manifest in list(SHARED.items()):
        if (folder / MANIFEST).read_bytes() != manifest:
            SHARED[folder] = (folder / MANIFEST).read_bytes()  # fails once
            pytest.fail(f"{folder} is shared by tests, and this one wrote into it")


def shared(artifact: Artifact) -> Artifact:
    SHARED[artifact.folder] = (artifact.folder / MANIFEST).read_bytes()
    return artifact


def logits_on_text(session) -> np.ndarray:
    """Logits of what calibration is not on but knows the like of, [64, V]."""
    tokens = np.array(byte_tokenizer(300).encode(evaluation_text().text[:400]).ids[:64])
    session.reset()
    return np.concatenate([part[0].copy() for part in prefill_logits(session, tokens[None])])


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A random two-layer artifact in fp32, with a tokenizer. Read it, never write into it."""
    return shared(export_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A tiny artifact with a reference that fits its small cache. Read it, never write into it."""
    artifact = export_tiny(tmp_path_factory.mktemp("judged"))
    return shared(capture(artifact, open_reference, Cut(window=64, windows=3))[0])


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """SmolLM2-135M-Instruct in fp32, exported by the command, with a cache of 768 positions."""
    folder = tmp_path_factory.mktemp("smollm2") / "artifact"
    preset = preset_of_size("135m")
    request = ExportRequest(
        weights=locate(None, preset),
        folder=folder,
        precision=PRECISIONS["fp32"],
        context=768,
        preset=preset,
        command="llx export --size 135m --context 768",
    )
    return shared(export(request)[0])


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


Llx = Callable[..., Ended]


@pytest.fixture
def llx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Llx:
    """Run `llx` with arguments, in an empty folder and in this process, as the console would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["llx", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    return run
