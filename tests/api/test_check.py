"""What a check says where it cannot look, and of an artifact that is damaged as a whole."""

from __future__ import annotations

import json
import shutil

import msgspec
import onnxruntime
import pytest

import llx
from llx.api.check import findings
from llx.artifact import open_artifact
from llx.checks import Checked
from llx.errors import BadInput, GateFailed, Lacking
from llx.manifest import MANIFEST
from tests.conftest import export_tiny
from tests.test_any_value import vouch_for

OF_MEMORY = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"
OF_THREADS = "[ONNXRuntimeError] : 1 : FAIL : pthread_create failed, error code: 11"


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny.folder, tmp_path / "copy")


def refusing(monkeypatch, words):
    """ONNX Runtime as it is where the system gives it nothing."""

    def refuse(*_, **settings):
        assert not settings.get("enable_fallback", 1), "it would print a banner, and try again"
        raise RuntimeError(words)

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)


@pytest.mark.parametrize("words", [OF_MEMORY, OF_THREADS])
@pytest.mark.parametrize("precision", ["fp32", "int8-wo"])
def test_an_engine_that_was_asked_for_and_gets_no_memory_fails_the_check(
    llx, tmp_path, tiny, monkeypatch, precision, words
):
    made = tiny if precision == "fp32" else export_tiny(tmp_path, precision)
    refusing(monkeypatch, words)
    ended = llx("check", made.folder, "--engine", "ort", "-o", "json")
    assert ended.code == 3
    assert "the system starts no more threads" in ended.stderr or "used up" in ended.stderr
    assert "llx check" not in ended.stderr
    told = json.loads(ended.stdout)
    assert told["passed"] is False
    assert told["failed"] in ended.stderr


def test_where_no_engine_can_be_compared_the_check_has_not_passed(tiny, monkeypatch):
    refusing(monkeypatch, OF_MEMORY)
    monkeypatch.setattr("llx.bench.sessions.torch.TorchSession.open", _lacking)
    monkeypatch.setattr("llx.bench.sessions.openvino.OpenVinoSession.__init__", _lacking)
    record = Checked(artifact="", precision="")
    with pytest.raises(Lacking, match="no engine could be compared"):
        list(findings(tiny, record=record))
    assert not record.passed


def _lacking(*_):
    raise Lacking("there is none", "bring one")


def test_an_engine_that_nobody_asked_for_is_left_out_with_a_line(tiny, monkeypatch):
    refusing(monkeypatch, OF_MEMORY)
    record = Checked(artifact="", precision="")
    lines = list(findings(tiny, record=record))
    assert any(line.startswith("parity of ort: not checked: the memory") for line in lines)
    assert record.passed


@pytest.mark.parametrize("asked", [None, "ort"])
def test_a_graph_that_is_not_loaded_fails_the_check(tiny, monkeypatch, asked):
    refusing(monkeypatch, "[ONNXRuntimeError] : 10 : INVALID_GRAPH : a shape")
    with pytest.raises(GateFailed, match=r"does not load .*: export again with --overwrite"):
        llx.check(tiny, engines=asked)


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("norm_eps",), 1e-3, r"norm_eps 0\.001, there 1e-05"),
        (("rope", "theta"), 500000.0, r"theta 500000\.0, there 10000\.0"),
    ],
)
def test_an_edited_manifest_is_named_and_nothing_else(copy, where, value, said):
    manifest = json.loads((copy / MANIFEST).read_bytes())
    inner = manifest["spec"]
    for name in where[:-1]:
        inner = inner[name]
    inner[where[-1]] = value
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(GateFailed, match=rf"manifest's spec is not the checkpoint's \({said}\)"):
        llx.check(copy)


def test_a_configuration_that_was_edited_after_the_export_fails_no_check(tmp_path):
    made = export_tiny(tmp_path)
    config = tmp_path / "checkpoint" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_bytes()) | {"rms_norm_eps": 1e-3}))
    lines = llx.check(made, engines="torch")
    assert any("the manifest's spec is not the checkpoint's (norm_eps" in line for line in lines)


def garbage(folder):
    (folder / "standard.onnx").write_bytes(b"no graph" * 50)
    vouch_for(folder, "standard.onnx")


def no_weights(folder):
    (folder / "weights.safetensors").write_bytes(b"no weights" * 50)
    vouch_for(folder, "weights.safetensors")


def node_removed(folder):
    import onnx

    model = onnx.load(folder / "standard.onnx", load_external_data=False)
    del model.graph.node[7]
    (folder / "standard.onnx").write_bytes(model.SerializeToString())
    vouch_for(folder, "standard.onnx")


DAMAGE = {
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "no JSON": lambda folder: (folder / MANIFEST).write_text("{"),
    "no graph": lambda folder: (folder / "standard.onnx").unlink(),
    "a cut": lambda folder: (folder / "weights.safetensors").write_bytes(b"short"),
    "garbage for a graph": garbage,
    "garbage for weights": no_weights,
    "a node less": node_removed,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("engine", [(), ("--engine", "ort")])
def test_every_damage_to_an_artifact_is_exit_code_1(llx, copy, damage, engine):
    DAMAGE[damage](copy)
    ended = llx("check", copy, *engine)
    assert ended.code == 1, ended.stderr
    assert ended.stderr.count("\n") == 1


def test_what_is_no_artifact_is_bad_input(llx, copy, tmp_path):
    (tmp_path / "empty").mkdir()
    assert llx("check", tmp_path / "empty").code == 2
    ended = llx("check", copy / MANIFEST)
    assert ended.code == 2
    assert f"is a file of an artifact, which is a folder: name {copy}" in ended.stderr


def test_a_manifest_of_a_version_to_come_is_not_called_damaged(copy):
    manifest = json.loads((copy / MANIFEST).read_bytes())
    (copy / MANIFEST).write_text(json.dumps(manifest | {"schema": "llx.artifact/2"}))
    for look in (llx.check, open_artifact):
        with pytest.raises(BadInput, match=r"by a newer llx \(llx.artifact/2\): upgrade") as told:
            look(copy)
        assert not isinstance(told.value, GateFailed)


def test_a_check_in_json_says_that_it_passed(llx, copy):
    ended = llx("check", copy, "--engine", "torch", "-o", "json")
    assert ended.code == 0
    told = msgspec.json.decode(ended.stdout, type=Checked)
    assert told.passed
    assert told.failed is None
