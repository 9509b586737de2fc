"""A graph that llx would not write reaches no runtime, whatever it holds and wherever it stands."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from dataclasses import replace

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import llx
from llx.api.inspect import inspect
from llx.artifact import open_artifact
from llx.bench.sessions.ort import OrtSession
from llx.errors import BadInput, GateFailed
from llx.graphs.dialects import DIALECTS, PLAIN
from llx.graphs.trust import FIELDS, LISTED
from llx.manifest import WEIGHTS, record_of, write_manifest
from llx.precision import PRECISIONS, precision_named
from tests.checkpoints import KIN_SPECS, SEED, SIXTEENS, TINY
from tests.conftest import export_tiny
from tests.mutations import mutated

EXTERNAL = TensorProto(name="c", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
EXTERNAL.external_data.add(key="location", value="/etc/passwd")
BODY = helper.make_graph([], "body", [], [], [EXTERNAL])


@pytest.fixture
def artifact(tiny, tmp_path):
    shutil.copytree(tiny.folder, tmp_path / "copy")
    return open_artifact(tmp_path / "copy")


def with_graph(artifact, data, dialect="standard"):
    """The artifact whose manifest vouches for other bytes of a graph: who writes it can do both."""
    path = artifact.folder / f"{dialect}.onnx"
    path.write_bytes(data)
    files = artifact.manifest.files | {path.name: record_of(path)}
    write_manifest(artifact.folder, replace(artifact.manifest, files=files))
    return open_artifact(artifact.folder)


def model_of(artifact, dialect="standard"):
    return onnx.load(artifact.folder / f"{dialect}.onnx", load_external_data=False)


def context(domain="com.microsoft", **attributes):
    """An engine in a node, or its path, as ONNX Runtime's providers read them."""

    def change(model):
        graph = model.graph
        names = [value.name for value in graph.output]
        node = helper.make_node(
            *("EPContext", [value.name for value in graph.input], names),
            domain=domain,
            main_context=1,
            **attributes,
        )
        del graph.node[:], graph.initializer[:]
        graph.node.append(node)
        if domain:
            model.opset_import.add(domain=domain, version=1)

    return change


def node(op_type, domain="", **attributes):
    made = helper.make_node(op_type, ["input_ids"], ["more"], domain=domain, **attributes)
    return lambda model: model.graph.node.append(made)


def attribute(**attributes):
    def change(model):
        first = next(iter(model.graph.node))
        first.attribute.extend(
            helper.make_attribute(name, value) for name, value in attributes.items()
        )

    return change


def sparse(model):
    values, indices = onnx.TensorProto(), onnx.TensorProto()
    values.CopyFrom(EXTERNAL)
    made = model.graph.sparse_initializer.add(values=values, indices=indices)
    made.dims.append(4)


def function(model):
    made = helper.make_function("", "Add", ["a"], ["b"], [], [helper.make_opsetid("", 24)])
    made.node.append(helper.make_node("Constant", [], ["b"], value=EXTERNAL))
    model.functions.append(made)


def training(model):
    model.training_info.add().algorithm.CopyFrom(BODY)


def unknown(model):
    model.MergeFromString(bytes([0xFA, 0x3F, 3]) + b"abc")  # field 1023, of bytes


def unknown_within(model):
    model.graph.node[0].MergeFromString(bytes([0xFA, 0x3F, 3]) + b"abc")


def metadata(model):
    model.metadata_props.add(key="ort_config", value="{}")


def metadata_of_a_node(model):
    model.graph.node[0].metadata_props.add(key="a", value="b")


def data_within(model):
    model.graph.initializer[0].float_data.append(1)


def other_key(model):
    model.graph.initializer[0].external_data.add(key="basepath", value="/etc")


def twice(model):
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


def large(model):
    made = helper.make_tensor("n", TensorProto.INT64, [1], [1 << 40])
    model.graph.initializer.append(made)


HOSTILE = {
    "an engine in a node": context(embed_mode=1, ep_cache_context=b"engine"),
    "an engine's path": context(embed_mode=0, ep_cache_context=b"../engine.plan"),
    "such a node without a domain": context("", embed_mode=0, ep_cache_context=b"x"),
    "a TensorRT plugin": node("TRT_PluginV2", "trt.plugins", plugin=b"x"),
    "a custom op": node("BiasGelu", "com.microsoft"),
    "a python op": node("PyOp", "ai.onnx.contrib"),
    "a loop": node("Loop", body=BODY),
    "a branch": node("If", then_branch=BODY, else_branch=BODY),
    "a graph where a number belongs": attribute(axis=BODY),
    "a constant of a file": node("Constant", value=EXTERNAL),
    "a path beside": attribute(ep_cache_context=b"x"),
    "a sparse constant of a file": sparse,
    "a function of that name": function,
    "a graph for training": training,
    "a field that is not known": unknown,
    "such a field of a node": unknown_within,
    "settings for the runtime": metadata,
    "settings of a node": metadata_of_a_node,
    "values beside those of the file": data_within,
    "another key of a place": other_key,
    "a second place": twice,
    "a number beyond all sizes": large,
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_what_llx_does_not_write_is_refused(artifact, change, dialect):
    model = model_of(artifact, dialect)
    change(model)
    changed = with_graph(artifact, model.SerializeToString(), dialect)
    with pytest.raises(BadInput, match="do not use it: llx writes no such graph"):
        changed.graph(dialect)


@pytest.mark.parametrize("provider", ["cpu", "cuda", "tensorrt"])
def test_no_provider_sees_a_graph_that_holds_an_engine(artifact, provider, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("it was run"))
    model = model_of(artifact)
    context(embed_mode=1, ep_cache_context=b"engine")(model)
    with pytest.raises(BadInput, match="llx writes no such graph"):
        OrtSession(with_graph(artifact, model.SerializeToString()), 1, "standard", provider)


def test_every_field_of_onnx_that_is_not_listed_is_refused(artifact):
    """Those of other versions of ONNX too, which may well be new ways to name a file."""
    model = model_of(artifact)
    messages = {"ModelProto": model, "GraphProto": model.graph, "NodeProto": model.graph.node[0]}
    messages["TensorProto"] = model.graph.initializer[0]
    messages["ValueInfoProto"] = model.graph.input[0]
    for name, message in messages.items():
        for field in message.DESCRIPTOR.fields:
            if field.name in FIELDS[name]:
                continue
            changed = onnx.ModelProto()
            changed.CopyFrom(model)
            within = {
                "ModelProto": changed,
                "GraphProto": changed.graph,
                "NodeProto": changed.graph.node[0],
                "TensorProto": changed.graph.initializer[0],
                "ValueInfoProto": changed.graph.input[0],
            }[name]
            fill(within, field)
            bad = with_graph(artifact, changed.SerializeToString())
            with pytest.raises(BadInput, match=f"holds {field.name} in {name}"):
                bad.graph("standard")


def fill(message, field):
    value = getattr(message, field.name)
    if field.message_type is not None:
        value.add() if hasattr(value, "add") else value.SetInParent()
    elif hasattr(value, "append"):
        value.append(b"x" if field.type == field.TYPE_BYTES else "x" if is_text(field) else 1)
    else:
        setattr(message, field.name, b"x" if field.type == field.TYPE_BYTES else text_or_one(field))


def is_text(field):
    return field.type == field.TYPE_STRING


def text_or_one(field):
    return "x" if is_text(field) else 1


def test_a_damaged_graph_is_refused_or_runs(artifact):
    """Bits, numbers and names of it changed: nothing ends otherwise."""
    whole = (artifact.folder / "standard.onnx").read_bytes()
    dice = random.Random(SEED)
    for _ in range(150):
        _, data = mutated(whole, dice)
        with contextlib.suppress(BadInput):
            with_graph(artifact, data).graph("standard")


def elsewhere(path):
    """A constant, and the last of them, whose values lie in another file."""

    def change(model):
        last = [c for c in model.graph.initializer if c.external_data][-1]
        next(e for e in last.external_data if e.key == "location").value = path

    return change


def refused(artifact, change, error, *look, dialect="standard"):
    """Whoever looks at it says so; a pipe that nobody writes to would hold up who opens it."""
    model = model_of(artifact, dialect)
    change(model)
    changed = with_graph(artifact, model.SerializeToString(), dialect)
    for one in look:
        with pytest.raises(error, match="do not use it: llx writes no such graph"):
            one(changed)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("where", ["/etc/passwd", "../pipe", "pipe", "/dev/zero", "a/../pipe"])
def test_nothing_that_looks_at_an_artifact_opens_what_its_graphs_name(artifact, where):
    for folder in (artifact.folder, artifact.folder.parent):
        os.mkfifo(folder / "pipe")
    refused(artifact, elsewhere(where), GateFailed, llx.check)
    refused(artifact, elsewhere(where), BadInput, inspect, lambda a: a.session("ort-standard"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_nor_what_stands_in_the_place_of_weights_that_there_are_none_of(artifact, kind):
    weights = artifact.folder / WEIGHTS
    weights.unlink()
    os.mkfifo(weights) if kind == "pipe" else weights.symlink_to("/etc/passwd")
    files = {name: f for name, f in artifact.manifest.files.items() if name != WEIGHTS}
    write_manifest(artifact.folder, replace(artifact.manifest, files=files))
    bare = open_artifact(artifact.folder)
    inspect(bare)
    with contextlib.suppress(GateFailed):
        llx.check(bare)
    refused(bare, elsewhere("../pipe"), GateFailed, llx.check, dialect="primitive")


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_check_says_first_of_all_that_a_graph_is_none_of_llx(artifact, change):
    refused(artifact, change, GateFailed, llx.check)
    refused(artifact, change, BadInput, inspect)


@pytest.mark.slow
def test_the_listed_ops_are_those_of_the_dialects(tmp_path):
    found = {}
    grouped = replace(SIXTEENS, dim=64)  # what ONNX Runtime's own ops take
    in_few = (precision_named(name, vocab="int8") for name in ("int8", "int4", "fp8"))
    asked = [(PRECISIONS[name], TINY) for name in PRECISIONS] + [(p, grouped) for p in in_few]
    asked += [(PRECISIONS["fp32"], spec) for spec in KIN_SPECS.values()]
    for i, (precision, spec) in enumerate(asked):
        made = export_tiny(tmp_path / str(i), precision, spec)
        for dialect in made.dialects:
            assert made.graph(dialect)
            for node in model_of(made, dialect).graph.node:
                names = {attribute.name for attribute in node.attribute}
                found[node.domain, node.op_type] = (
                    found.get((node.domain, node.op_type), set()) | names
                )
    assert found == {
        (domain, name): set(attributes.split())
        for domain, ops in LISTED.items()
        for name, attributes in ops.items()
    }


@pytest.mark.parametrize("dialect", PLAIN)
def test_a_dialect_of_onnx_itself_has_no_op_of_onnx_runtimes_own(artifact, dialect):
    model = model_of(artifact, dialect)
    node("MatMulNBits", "com.microsoft")(model)
    with pytest.raises(BadInput, match="llx writes no such graph"):
        with_graph(artifact, model.SerializeToString(), dialect).graph(dialect)
