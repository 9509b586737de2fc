"""What is used of an artifact is what was exported, to the last bit, or nothing is shown of it."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from llx import intact, noted
from llx.api.bench import bench
from llx.api.evaluate import evaluate
from llx.api.export import export
from llx.api.generate import generate
from llx.artifact import Artifact, open_artifact
from llx.bench.fidelity.reference import read_reference
from llx.bench.run import Measurement
from llx.bench.sessions.ort import OrtSession
from llx.bench.speed.samples import Workload
from llx.bench.worker import Job
from llx.errors import BadInput, Lacking, is_installed
from llx.files import sha256_of, state_folder
from llx.manifest import CHAT_TEMPLATE, REFERENCE, TOKENIZER, WEIGHTS
from tests.conftest import export_tiny, vouched

TEMPLATE = b"{% for m in messages %}{{ m['content'] }}{% endfor %}"
SHORT = {"prompts": (4,), "generated": (), "repetitions": 1, "roofline": False}


@pytest.fixture
def copy(judged, tmp_path) -> Artifact:
    """An artifact with all that one can have, to be damaged."""
    folder = shutil.copytree(judged.folder, tmp_path / "copy")
    (folder / CHAT_TEMPLATE).write_bytes(TEMPLATE)
    return vouched(Artifact(folder, judged.manifest), CHAT_TEMPLATE)


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch, tmp_path):
    """As a process that has just begun, of a user who has used nothing yet."""
    monkeypatch.setattr(intact, "_seen", {})
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def flip(path, at=-9, bit=1):
    """Flip one bit, and let the file look as old and as large as it was."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def asks(artifact):
    return "".join(generate(artifact.folder, "hi", tokens=1, chat=True))


USES = {
    "bench": (lambda a: bench(a.folder, **SHORT), (WEIGHTS, "ort.onnx", REFERENCE)),
    "bench on torch": (lambda a: bench(a.folder, engines="torch", **SHORT), (WEIGHTS,)),
    "generate": (asks, (WEIGHTS, "ort.onnx", TOKENIZER, CHAT_TEMPLATE)),
    "session": (lambda a: a.session().close(), (WEIGHTS, "ort.onnx")),
    "session on torch": (lambda a: a.session("torch").close(), (WEIGHTS,)),
    "a graph in ONNX Runtime": (OrtSession, (WEIGHTS, "ort.onnx")),
    "a judge": (read_reference, (REFERENCE,)),
}
if is_installed("lm_eval"):
    USES["eval"] = (lambda a: evaluate(a.folder, "x"), (WEIGHTS, "ort.onnx", TOKENIZER))


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_flipped_bit_is_found_before_anything_is_shown(copy, use):
    run, files = use
    for name in files:
        whole = (copy.folder / name).read_bytes()
        for at in (-9, len(whole) // 2):
            flip(copy.folder / name, at)
            with pytest.raises(BadInput, match=f"{name} is not what was exported"):
                run(copy)
            (copy.folder / name).write_bytes(whole)


def test_a_file_is_read_once_for_every_state(copy, monkeypatch):
    monkeypatch.setattr(intact, "TICK_NS", 0)
    reads = []
    hashed = intact._hashed
    monkeypatch.setattr(intact, "_hashed", lambda *a: reads.append(a[0].name) or hashed(*a))
    for _ in range(3):
        copy.intact(WEIGHTS)
        monkeypatch.setattr(intact, "_seen", {})  # another process
    assert reads == [WEIGHTS]
    (copy.folder / WEIGHTS).touch()
    copy.intact(WEIGHTS)
    assert reads == [WEIGHTS] * 2
    flip(copy.folder / WEIGHTS)
    with pytest.raises(BadInput, match="is not what was exported"):
        copy.intact(WEIGHTS)


def test_what_was_written_a_moment_ago_is_not_noted(copy):
    copy.intact(WEIGHTS)
    assert not (state_folder() / intact.NOTES).exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda note: note.write_bytes(note.read_bytes()[:9]),
        lambda note: note.write_text(note.read_text().replace("a", "b")),
        lambda note: note.write_bytes(b"[1]"),
        lambda note: (note.unlink(), note.mkdir()),
        lambda note: (shutil.rmtree(note.parent), note.parent.write_text("a file")),
    ],
)
def test_damaged_notes_accuse_no_file_and_pass_none(copy, monkeypatch, damage):
    monkeypatch.setattr(intact, "TICK_NS", 0)
    copy.intact(WEIGHTS, "ort.onnx")
    damage(state_folder() / intact.NOTES)
    monkeypatch.setattr(intact, "_seen", {})
    copy.intact(WEIGHTS, "ort.onnx")
    flip(copy.folder / WEIGHTS)
    with pytest.raises(BadInput):
        copy.intact(WEIGHTS)


def test_without_a_home_files_are_read_again_and_nothing_else(copy, monkeypatch):
    def homeless():
        raise Lacking("this user has no home folder", "set HOME")

    monkeypatch.setattr(intact, "TICK_NS", 0)
    monkeypatch.setattr(noted, "state_folder", homeless)
    assert copy.intact(WEIGHTS) == copy.folder / WEIGHTS


def test_notes_do_not_grow_without_end(copy, monkeypatch, tmp_path):
    monkeypatch.setattr(intact, "TICK_NS", 0)
    monkeypatch.setattr(intact, "MOST_NOTES", 3)
    for i in range(5):
        (tmp_path / f"{i}").write_text(str(i))
        intact.seen(tmp_path / f"{i}", "")
    assert len(json.loads((state_folder() / intact.NOTES).read_bytes())) == 3


def test_a_file_that_is_written_while_it_is_read_is_not_believed(copy, monkeypatch):
    path = copy.folder / WEIGHTS

    def writes(*_):
        with path.open("r+b") as file:
            file.write(b"x")

    monkeypatch.setattr(intact, "SHOWN_BYTES", 0)
    with pytest.raises(BadInput, match="was written while it was read"):
        intact.seen(path, "", writes)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Artifact:
    """Another export, whose files are as large."""
    return export_tiny(tmp_path_factory.mktemp("other"), context=32)


def take_the_place(other, artifact):
    shutil.rmtree(artifact.folder)
    shutil.copytree(other.folder, artifact.folder)


def job_of(artifact, **more):
    """Two short tests on ONNX Runtime."""
    work = Workload(prompts=(4, 8), generated=(), repetitions=1, warmup=0)
    given = {"folder": artifact.folder, "engine": "ort", "workload": work, "fidelity": False}
    return Job(**given, command="", roofline=False, **more)


@pytest.mark.slow
def test_a_number_is_filed_under_what_it_was_measured_on(copy, other):
    """Another export takes the artifact's place after the first test."""
    measurement = Measurement(job_of(copy))
    take = measurement.take

    def and_then(*ended):
        found = take(*ended)
        take_the_place(other, copy)
        return found

    measurement.take = and_then
    measurement.run()
    result = measurement.result()
    assert result.artifact.sha256 == copy.sha256
    assert [row.name for row in result.speed] == ["pp4"]
    (failed,) = result.failed
    assert failed.test == "pp8"
    assert "was replaced while it was used" in failed.error.message


def test_what_is_opened_is_what_was_checked(copy, other):
    with pytest.raises(BadInput, match="was replaced while it was used"), copy.held(WEIGHTS):
        take_the_place(other, copy)
    with pytest.raises(BadInput, match="was replaced while it was used"):
        copy.read("standard.onnx")
    with pytest.raises(BadInput, match="was replaced"):
        job_of(copy, sha256=copy.sha256).artifact()


def test_a_reference_is_not_written_into_another_export(copy, other):
    take_the_place(other, copy)
    with pytest.raises(BadInput, match="was replaced while it was used"):
        copy.with_new_file(REFERENCE, b"new")
    assert open_artifact(copy.folder).damaged() == []


def test_a_reference_and_its_record_are_both_old_or_both_new(copy, monkeypatch):
    """A kill at each of the steps that write them."""
    from llx import artifact as module

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    steps = {
        "write_whole": kill,
        "write_manifest": kill,
        "_finish": kill,
    }
    for step, killed in steps.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, step, killed)
            with pytest.raises(Killed):
                copy.with_new_file(REFERENCE, b"new")
        found = open_artifact(copy.folder)
        assert found.damaged() == []
    assert found.read(REFERENCE) == b"new"


def test_the_same_export_mends_a_damaged_artifact(tmp_path):
    artifact = export_tiny(tmp_path)
    flip(artifact.folder / WEIGHTS)
    again = {"weights": tmp_path / "checkpoint", "output": artifact.folder}
    with pytest.raises(BadInput, match="is not what was exported"):
        export(**again)
    mended = export(**again, overwrite=True)
    assert mended.damaged() == []
    assert sha256_of(mended.folder / WEIGHTS) == artifact.manifest.files[WEIGHTS].sha256
