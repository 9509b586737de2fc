"""Engines built by TensorRT-RTX on a machine with no GPU: built, whole, kept, and not run."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace

import msgspec
import onnx
import pytest

from llx.artifact import open_artifact
from llx.engine import ENGINES, PLAN, EngineManifest, engines_of, note_built, open_engine
from llx.errors import EXIT_BUG, BadInput, Lacking, LlxError
from llx.exporter.engines import build as building
from llx.exporter.engines.build import BuildRequest, build_engine
from llx.processes import ProcessDied
from llx.tensorrt import BuildOptions, profiles_of, targets
from tests.conftest import export_tiny, vouched

SM86 = BuildRequest(runtime="trt-rtx", sm=86, context=64, max_prefill=16)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """What this user has built is noted in a folder of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_tiny(tmp_path_factory.mktemp("build"), "fp16")


@pytest.fixture(scope="module")
def once(exported, tmp_path_factory):
    """One engine for all tests that only look at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        return build_engine(exported, SM86)[0]


@pytest.fixture
def artifact(exported, tmp_path):
    """An artifact that a test may change."""
    shutil.copytree(exported.folder, tmp_path / "copy", ignore=lambda *_: [ENGINES])
    return open_artifact(tmp_path / "copy")


@pytest.fixture
def engine(artifact, once, tmp_path):
    """An engine that a test may change."""
    folder = artifact.folder / ENGINES / once.folder.name
    shutil.copytree(once.folder, folder)
    return open_engine(folder)


def test_the_manifest_says_what_was_built_and_what_it_cost(once, exported):
    manifest = once.manifest
    assert manifest.key.artifact_sha256 == exported.sha256
    assert (manifest.key.sm, manifest.key.dialect) == (86, "standard")
    assert manifest.key.contract.limits.capacity == 64
    assert manifest.layers["KV_CACHE_UPDATE"] == 2 * exported.manifest.spec.layers
    assert manifest.build_s > 0
    assert manifest.peak_host_bytes > 2**26
    assert once.plan_bytes > 2 * exported.manifest.spec.parameters
    assert "sm86" in once.folder.name


def test_an_engine_that_another_built_is_no_ones_and_is_built_again(engine, artifact):
    assert not engine.own
    again, made = build_engine(artifact, SM86)
    assert made
    assert again.own


def test_a_damaged_engine_hides_no_other(engine, artifact):
    broken = engine.folder.with_name("broken")
    shutil.copytree(engine.folder, broken)
    (broken / "manifest.json").write_text("{")
    assert [found.folder for found in engines_of(artifact)] == [engine.folder]


def test_the_same_build_again_is_a_no_op(engine, artifact):
    note_built(engine.manifest.files[PLAN].sha256)
    before = (engine.folder / PLAN).stat().st_mtime_ns
    again, made = build_engine(artifact, SM86)
    assert not made
    assert again.folder == engine.folder
    assert (engine.folder / PLAN).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "other",
    [
        replace(SM86, sm=89),
        replace(SM86, sm=None),
        replace(SM86, context=65),
        replace(SM86, batch=2),
        replace(SM86, max_prefill=17),
        replace(SM86, dialect="primitive"),
        replace(SM86, options=BuildOptions(profiles=2)),
        replace(SM86, options=BuildOptions(workspace_mib=64)),
        replace(SM86, options=BuildOptions(opt_level=2)),
    ],
    ids=["sm", "portable", "context", "batch", "prefill", "dialect", "profiles", "space", "effort"],
)
def test_whatever_decides_an_engine_is_in_its_key(exported, other):
    assert building.key_of(exported, other).name != building.key_of(exported, SM86).name


def test_a_primitive_graph_builds_with_its_delta_cache(artifact):
    engine, _ = build_engine(artifact, replace(SM86, dialect="primitive"))
    assert engine.manifest.key.dialect == "primitive"
    assert "KV_CACHE_UPDATE" not in engine.manifest.layers


def test_what_this_user_built_is_loaded_and_nothing_else(engine):
    with pytest.raises(BadInput, match=r"not built by you here.*--trust-engine"):
        engine.plan()
    assert len(engine.plan(trust=True)) == engine.plan_bytes
    note_built(engine.manifest.files[PLAN].sha256)
    assert len(engine.plan()) == engine.plan_bytes


def test_a_build_is_noted_as_this_users(artifact):
    engine, made = build_engine(artifact, SM86)
    assert made
    assert len(engine.plan()) == engine.plan_bytes


@pytest.mark.parametrize("trust", [False, True])
def test_an_engine_with_a_changed_byte_is_never_loaded(engine, trust):
    note_built(engine.manifest.files[PLAN].sha256)
    with (engine.folder / PLAN).open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(BadInput, match=r"engine\.plan is not what was built.*--overwrite"):
        engine.plan(trust)


def test_a_graph_with_a_changed_byte_is_not_built(artifact):
    path = artifact.path("standard.onnx")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"standard\.onnx is not what was exported"):
        build_engine(artifact, SM86)
    assert not (artifact.folder / ENGINES).exists()


def test_a_graph_with_a_contrib_op_is_refused_before_tensorrt_is_asked(artifact):
    path = artifact.path("standard.onnx")
    model = onnx.load(path, load_external_data=False)
    norm = next(node for node in model.graph.node if node.op_type == "RMSNormalization")
    norm.domain = "com.microsoft"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    with pytest.raises(BadInput, match="not of opset 24 of ONNX itself and nothing else") as raised:
        build_engine(vouched(artifact, "standard.onnx"), SM86)
    assert raised.value.remedy
    assert not (artifact.folder / ENGINES).exists()


def test_fp32_builds_from_the_decomposed_graph_since_attention_has_no_fp32_kernel(tmp_path):
    artifact = export_tiny(tmp_path)
    with pytest.raises(BadInput, match=r"Attention .*fp32"):
        build_engine(artifact, replace(SM86, dialect="standard"))
    assert build_engine(artifact, SM86)[0].manifest.key.dialect == "primitive"


def test_weights_with_a_changed_byte_are_not_built(artifact):
    with artifact.path("weights.safetensors").open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-5, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(BadInput, match=r"weights\.safetensors is not what was exported"):
        build_engine(artifact, SM86)


def test_an_engine_of_a_newer_llx_is_not_built_over_unless_asked_to(engine, artifact):
    path = engine.folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"llx.engine/1", b"llx.engine/2"))
    kept = path.read_bytes()
    with pytest.raises(BadInput, match="was written by a newer llx"):
        build_engine(artifact, SM86)
    assert path.read_bytes() == kept
    assert build_engine(artifact, SM86, overwrite=True)[1]


def test_a_damaged_engine_is_built_again(engine, artifact):
    (engine.folder / PLAN).write_bytes(b"short")
    again, made = build_engine(artifact, SM86)
    assert made
    assert again.plan_bytes > 1000


REFUSED = {
    "a context over the capacity": (
        replace(SM86, context=97),
        BadInput,
        r"--context 97 is outside the artifact's capacity of 1…96.*with a larger --context",
    ),
    "no context": (replace(SM86, context=0), BadInput, "--context 0 is outside"),
    "a prefill over the context": (replace(SM86, max_prefill=65), BadInput, "--max-prefill 65"),
    "too many rows": (replace(SM86, batch=9), BadInput, "--batch 9 is outside the artifact's 1…8"),
    "an unknown chip": (
        replace(SM86, sm=87),
        BadInput,
        "builds nothing for SM 87 alone: choose among 75, 80, 86, 89, 120, 121",
    ),
    "version compatible": (
        replace(SM86, options=BuildOptions(version_compatible=True)),
        BadInput,
        "TensorRT-RTX has no --version-compatible",
    ),
    "stripped without a GPU": (
        replace(SM86, options=BuildOptions(strip=True)),
        Lacking,
        "to strip an engine, needs an NVIDIA GPU",
    ),
    "too little scratch memory": (
        replace(SM86, options=BuildOptions(workspace_mib=0)),
        BadInput,
        r"trt-rtx .* cannot build standard\.onnx: .*more --workspace",
    ),
    "an unknown dialect": (replace(SM86, dialect="ort"), LlxError, "ort"),
    "TensorRT that is not here": (
        BuildRequest(runtime="trt"),
        Lacking,
        r"trt needs tensorrt, not installed here: .*--engine trt-rtx --sm 86",
    ),
}


@pytest.mark.parametrize(("request_", "error", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_built_says_why_and_leaves_nothing(artifact, request_, error, says):
    with pytest.raises(error, match=says):
        build_engine(artifact, request_)
    engines = artifact.folder / ENGINES
    assert not engines.exists() or not list(engines.iterdir())


def _die(job, progress):
    (job.folder / PLAN).write_bytes(b"half")
    with building._stderr_into(job.folder / building.SAID):
        os.write(2, b"the library's last words\n")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_builder_that_is_killed_is_an_error_and_leaves_nothing(artifact, monkeypatch, capfd):
    monkeypatch.setattr(building, "_build", _die)
    with pytest.raises(ProcessDied, match="builder was ended by SIGKILL") as raised:
        build_engine(artifact, SM86)
    assert raised.value.exit_code == EXIT_BUG
    assert capfd.readouterr().err == "the library's last words\n"
    assert not list((artifact.folder / ENGINES).iterdir())


def test_engines_of_another_export_are_not_this_artifacts(engine, artifact):
    assert [found.folder for found in engines_of(artifact, "trt-rtx")] == [engine.folder]
    assert engines_of(artifact, "trt") == []
    key = replace(engine.manifest.key, artifact_sha256="0" * 64)
    (engine.folder / "manifest.json").write_bytes(
        msgspec.json.encode(replace(engine.manifest, key=key))
    )
    assert engines_of(artifact, "trt-rtx") == []


@pytest.mark.parametrize("name", ["../evil.plan", "/etc/passwd", "a\\b"])
def test_a_manifest_whose_files_leave_the_folder_is_refused(engine, name):
    content = msgspec.to_builtins(engine.manifest)
    content["files"][name] = content["files"][PLAN]
    with pytest.raises(msgspec.ValidationError, match="leaves the folder"):
        msgspec.convert(content, EngineManifest)


def test_one_profile_covers_every_step_and_two_keep_decoding_apart(exported):
    contract = building.engine_contract(exported.manifest.contract, replace(SM86, batch=3))
    (every,) = profiles_of(contract, 1)
    assert every["input_ids"] == ((1, 1), (3, 1), (3, 16))
    assert every["past.0.key"] == ((1, 2, 64, 10), (3, 2, 64, 10), (3, 2, 64, 10))
    decode, prefill = profiles_of(contract, 2)
    assert decode["input_ids"] == ((1, 1), (3, 1), (3, 1))
    assert prefill["input_ids"] == ((1, 1), (3, 16), (3, 16))


def test_progress_comes_from_the_builders_process(artifact):
    news = []
    build_engine(artifact, SM86, progress=lambda *what: news.append(what))
    assert {what for what, *_ in news} >= {"Building engine", "Cloning network graph"}


def test_rtx_names_the_chips_that_it_builds_for():
    import tensorrt_rtx_bindings

    assert targets(tensorrt_rtx_bindings) == [75, 80, 86, 89, 120, 121]
