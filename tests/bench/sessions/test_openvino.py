"""OpenVINO over `primitive`: its cache, rows that part, and which graphs it takes."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import onnxruntime
import openvino as ov
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from llx.bench.sessions import OPENVINO, engine_named
from llx.bench.sessions import openvino as module
from llx.bench.sessions.openvino import OpenVinoSession
from llx.bench.sessions.openvino_model import ROW_OF, SLOTS, stateful
from llx.bench.sessions.openvino_split import split_products
from llx.bench.sessions.torch import TorchSession
from llx.bench.speed import steps
from llx.errors import BadInput, Lacking
from llx.graphs.contract import cache_names
from llx.precision import PRECISIONS, precision_named
from tests.checkpoints import BIASED, KIN_SPECS, MHA, MQA, TINY, dice
from tests.conftest import export_tiny
from tests.parity import compare


def walk(session, rng, count):
    """Steps of rows that begin together, part, go back and begin anew, within the contract."""
    limits, filled = session.limits, np.zeros(session.rows, np.int64)
    for _ in range(count):
        kind = rng.integers(6)
        start = filled.copy()
        if kind == 0:  # some rows go back, one of them perhaps to the very beginning
            start = rng.integers(0, filled + 1)
        elif kind == 1:
            start = np.full_like(filled, rng.integers(0, filled.min() + 1))
        most = min(limits.max_new_tokens, limits.capacity - start.max())
        if most < 1:
            start, most = np.zeros_like(filled), limits.max_new_tokens
        new = 1 if kind > 2 else int(rng.integers(1, min(most, 12) + 1))
        tokens = rng.integers(0, limits.vocab, (session.rows, new))
        picks = rng.integers(0, new, (session.rows, 2))
        yield tokens, start[:, None] + np.arange(new), picks
        filled = start + new


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("waste", [0, 64])
def test_rows_that_part_and_go_back_answer_as_pytorch_does(tiny, monkeypatch, rows, waste):
    monkeypatch.setattr(module, "WASTE", waste)
    session, reference = OpenVinoSession(tiny, rows, "f32"), TorchSession.open(tiny, rows)
    for step in walk(session, dice(rows), 50):
        for one in (session, reference):
            one.enqueue(*step)
        np.testing.assert_allclose(session.logits(), reference.logits(), atol=1e-5, rtol=0)


def test_its_states_hold_what_was_written_and_never_more_than_the_capacity(tiny):
    session = OpenVinoSession(tiny, 2, "f32")
    for tokens, positions, picks in walk(session, dice(0), 40):
        session.enqueue(tokens, positions, picks)
        held = {state.state.shape[2] for state in session._states}
        assert len(held) == 1
        assert positions.max() < held.pop() <= session.limits.capacity
    session.reset()
    steps.prefill(session, np.zeros((2, 5), np.int64))
    assert {tuple(state.state.shape) for state in session._states} == {(2, 2, 5, 10)}


@pytest.mark.slow
@pytest.mark.parametrize("spec", [TINY, MHA, MQA], ids=["gqa", "mha", "mqa"])
def test_attention_and_both_states_are_one_node(tmp_path, spec):
    session = OpenVinoSession(export_tiny(tmp_path, spec=spec), 1, "f32")
    ops = session._compiled.get_runtime_model().get_ops()
    kinds = [op.get_rt_info()["layerType"].astype(str) for op in ops]
    assert kinds.count("ScaledDotProductAttention") == spec.layers
    assert kinds.count("RoPE") == 2 * spec.layers
    assert "Softmax" not in kinds
    assert "MatMul" not in kinds


@pytest.mark.parametrize("name", ["qk-norm", "window-of-one-layer", "nope-layer", "scales"])
def test_the_parts_of_llamas_kin_answer_as_pytorch_does(tmp_path, name):
    artifact = export_tiny(tmp_path, spec=KIN_SPECS[name])
    found = compare(OpenVinoSession(artifact, 1, "f32"), TorchSession.open(artifact))
    assert max(found.prefill_error, found.decode_error) <= 1e-5
    assert found.same_top1


CHOSEN = {
    "fp16": (PRECISIONS["fp16"], 0.02),
    "int8": (precision_named("int8", "fp32"), 1e-5),
    "int8-wo": (precision_named("int8-wo", "fp32", vocab="int8"), 1e-5),
    "int8-wo in fp16": (precision_named("int8-wo", vocab="int8"), 0.02),
    "int4": (precision_named("int4", "fp32", vocab="int8"), 1e-5),
    "int4 in fp16": (precision_named("int4"), 0.02),
}


# Of sizes that blocks of int4 divide.
EVEN = replace(TINY, dim=64, heads=4, head_dim=16, ffn_dim=96)


def products_that_are_split(artifact):
    model = ov.Core().read_model(artifact.graph("primitive"))
    split_products(model)
    return sum(
        node.get_type_name() == "VariadicSplit"
        and node.get_output_size() == 2
        and node.input_value(0).get_node().get_type_name() in ("MatMul", "Add")
        for node in model.get_ops()
    )


WHOLE = {"dim": 64, "heads": 8, "head_dim": 16, "ffn_dim": 96}  # blocks of 32 inputs


@pytest.mark.parametrize("spec", [TINY, BIASED], ids=["gqa", "biased"])
def test_gate_and_up_are_a_product_each_where_weights_are_integers(tiny, tmp_path, spec):
    assert products_that_are_split(tiny) == TINY.layers
    for name in ("int8-wo", "int8", "int4"):
        whole = replace(spec, **WHOLE)
        artifact = export_tiny(tmp_path / name, precision_named(name, "fp32"), whole)
        assert products_that_are_split(artifact) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "allowed"), CHOSEN.values(), ids=CHOSEN)
def test_every_precision_answers_as_pytorch_does(tmp_path, precision, allowed):
    """Halves are multiplied in f32, and not rounded in between."""
    artifact = export_tiny(tmp_path, precision, EVEN)
    parity = compare(OpenVinoSession(artifact, 1, "f32"), TorchSession.open(artifact))
    assert max(parity.prefill_error, parity.decode_error) < allowed * parity.spread


@pytest.mark.parametrize("name", OPENVINO)
def test_a_result_says_what_was_computed_in(tiny, name):
    engine = engine_named(name)
    try:
        engine.require()
    except Lacking as lacking:
        pytest.skip(str(lacking))
    session, reference = engine.open(tiny, 1), TorchSession.open(tiny)
    said, parity = session.details(), compare(session, reference)
    kind = said["inference_precision"]
    assert kind == said["kv_cache_precision"] == ("f32" if name.endswith("f32") else kind)
    assert kind in ("f32", "bf16")
    assert parity.prefill_error < {"f32": 1e-5, "bf16": 0.1}[kind] * parity.spread
    assert (parity.prefill_error > 1e-4) == (kind == "bf16")
    if kind == "f32":
        assert said["dynamic_quantization_group_size"] == 0
    assert said["openvino"] == ov.__version__


def test_a_cpu_without_bf16_refuses_it_and_runs_the_others(tiny, monkeypatch):
    monkeypatch.setattr(module, "capabilities", lambda: ["FP32", "INT8"])
    with pytest.raises(Lacking, match="computes nothing in bf16: bench with --engine openvino"):
        engine_named("openvino-bf16").require()
    engine_named("openvino-f32").require()


def test_a_type_that_openvino_falls_back_from_is_refused(tiny, monkeypatch):
    """Where the plugin computes in another type than it was asked for, nothing is measured."""
    monkeypatch.setitem(module.SETTINGS, "bf16", module.SETTINGS["f32"])
    with pytest.raises(Lacking, match="computes in f32 on this CPU, not in bf16"):
        OpenVinoSession(tiny, 1, "bf16")


@pytest.mark.slow
def test_a_graph_that_computes_in_bf16_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no graph in bf16: export with --precision fp32"):
        OpenVinoSession(export_tiny(tmp_path, "bf16"))


@pytest.mark.slow
def test_fp8_is_refused_with_what_would_do(tmp_path):
    with pytest.raises(BadInput, match=r"rounds inputs of fp8 to fp16 first, .*--engine ort"):
        OpenVinoSession(export_tiny(tmp_path, "fp8"))


@pytest.mark.slow
def test_int4_whose_last_block_is_not_whole_is_refused_with_what_would_do(tmp_path):
    with pytest.raises(
        BadInput, match=r"whole blocks alone, and 36 inputs are none of 32: .*--engine ort"
    ):
        OpenVinoSession(export_tiny(tmp_path, "int4"))


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A copy of the artifact, whose graph may be written over."""
    return shutil.copytree(tiny.folder, tmp_path_factory.mktemp("copy") / "artifact")


def changes_of(graph, *scopes):
    """Names of changes, and what makes them: of each node and constant of some scopes."""
    nodes = [n for n in graph.node if n.name.startswith(scopes)]
    twins = twins_of(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.raw_data}
    for node in nodes:
        for i, name in enumerate(node.input):
            if name in constants:
                yield f"{node.name} with another {i}", _other_constant(graph, node, i)
            elif name in twins:
                yield f"{node.name} with {twins[name]}", partial(_take, node, i, twins[name])
        if node.op_type in ("Add", "Mul", "Less", "LessOrEqual"):
            other = {"Add": "Mul", "Mul": "Add", "Less": "LessOrEqual", "LessOrEqual": "Less"}
            yield f"{node.name} as another op", _other_op(node, other[node.op_type])
        if node.op_type in ("MatMul", "Concat", "Where"):
            yield f"{node.name} the other way round", _turned(node)


def twins_of(graph):
    """Values of the second layer by name, and the first one's; of the sines, and the cosines."""
    made = [
        [v for n in graph.node if n.name.startswith(f"layers.{i}") for v in n.output] for i in "10"
    ]
    halves = [
        [n.output[0] for n in graph.node if n.name.startswith(f"{t}/U")] for t in ("sin", "cos")
    ]
    given = [v.name for v in graph.input if v.name.startswith("past.1.")]
    pairs = [*zip(*made, strict=True), *zip(*halves, strict=True)]
    return dict([*pairs, *((name, name.replace(".1.", ".0.")) for name in given)])


def _take(node, i, name):
    node.input[i] = name


def _other_constant(graph, node, i):
    def change():
        (given,) = (tensor for tensor in graph.initializer if tensor.name == node.input[i])
        values = onnx.numpy_helper.to_array(given)
        other = np.where(values > 1 << 40, 7, values + 1).astype(values.dtype)
        graph.initializer.append(onnx.numpy_helper.from_array(other, "another"))
        node.input[i] = "another"

    return change


def _turned(node):
    def change():
        node.input[:] = [*node.input[:-2], node.input[-1], node.input[-2]]

    return change


def _other_op(node, op_type):
    def change():
        node.op_type = op_type

    return change


def changed(tiny, folder, *scopes):
    """The artifact's graph as OpenVINO reads it, with one change after the other; and its name."""
    whole = (tiny.folder / "primitive.onnx").read_bytes()
    for which in range(len(list(changes_of(onnx.load_from_string(whole).graph, *scopes)))):
        model = onnx.load_from_string(whole)
        name, change = list(changes_of(model.graph, *scopes))[which]
        change()
        (folder / "primitive.onnx").write_bytes(model.SerializeToString())
        with suppress(RuntimeError):  # OpenVINO's own: shapes that do not fit
            yield name, ov.Core().read_model(folder / "primitive.onnx")


FAILED = (Fail, InvalidArgument, RuntimeException)  # of no common ancestor
STEPS = [
    {
        "input_ids": np.arange(start, start + 3)[None] + 7,
        "position_ids": np.arange(start, start + 3)[None],
        "logit_index": np.array([[2]]),
    }
    for start in (0, 3)
]


def logits_of_graph(tiny, path):
    """Logits of two steps of the graph itself, in ONNX Runtime: OpenVINO has no int64."""
    contract = tiny.manifest.contract
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    shape = (1, contract.kv_heads, contract.limits.capacity, contract.head_dim)
    past = {name: np.zeros(shape, np.float32) for name in cache_names(contract.layers, "past")}
    found = []
    for step in STEPS:
        logits, *new = session.run(None, step | past)
        found.append(logits)
        for cache, values in zip(past.values(), new, strict=True):
            cache[:, :, step["position_ids"][0]] = values
    return np.stack(found)


def logits_with_states(model):
    """Logits of two steps of a model whose cache is its own."""
    exact = module.settings("f32", 1) | {"KV_CACHE_PRECISION": "f32"}
    request = ov.Core().compile_model(model, "CPU", exact).create_infer_request()
    found = []
    for step in STEPS:
        slots = np.arange(step["position_ids"].max() + 1)[None]
        request.infer(step | {SLOTS: slots, ROW_OF: np.zeros(1, np.int32)})
        found.append(request.get_tensor("logits").data.copy())
    return np.stack(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scopes",
    [("layers.1/attention", "mask/"), ("layers.1/rope", "layers.1/kv_update", "sin/", "cos/")],
    ids=["attention", "rope"],
)
def test_a_graph_that_was_changed_is_refused_or_computes_what_it_says(tiny, folder, scopes):
    refused_or_same(tiny, folder, scopes)


@pytest.mark.slow
def test_a_graph_with_a_window_that_was_changed_is_refused_or_computes_what_it_says(tmp_path):
    windowed = export_tiny(tmp_path, spec=replace(KIN_SPECS["window-of-one-layer"], window=3))
    folder = shutil.copytree(windowed.folder, tmp_path / "changed")
    refused_or_same(windowed, folder, ("layers.1/attention", "mask.3/"))


def refused_or_same(tiny, folder, scopes):
    refused = same = 0
    for name, model in changed(tiny, folder, *scopes):
        try:
            found = logits_with_states(stateful(model, tiny.manifest.contract))
            expected = logits_of_graph(tiny, folder / "primitive.onnx")
        except (ValueError, RuntimeError, *FAILED):
            refused += 1
            continue
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0, err_msg=name)
        same += 1
    assert refused + same > 20
    assert refused
    assert same


def test_attention_of_another_scale_computes_what_it_says(tiny, folder):
    changes = changed(tiny, folder, "layers.1/attention/Mul")
    model = next(model for name, model in changes if "another 1" in name)
    found = logits_with_states(stateful(model, tiny.manifest.contract))
    said, own = (logits_of_graph(tiny, one / "primitive.onnx") for one in (folder, tiny.folder))
    np.testing.assert_allclose(found, said, atol=1e-5, rtol=0)
    assert np.abs(said - own).max() > 1e-3


def test_the_file_as_it_is_answers_as_pytorch_does_in_somebody_elses_program(tiny):
    """With OpenVINO alone: a cache of slots, into which the caller writes what is new."""
    compiled = ov.Core().compile_model(
        str(tiny.graph("primitive")), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    contract, reference = tiny.manifest.contract, TorchSession.open(tiny, 2)
    shape = (2, contract.kv_heads, contract.limits.capacity, contract.head_dim)
    cache = {name: np.full(shape, 9, np.float32) for name in cache_names(contract.layers, "past")}
    rng, starts = dice(), np.zeros((2, 1), np.int64)
    for new in (5, 1, 3, 1):
        tokens = rng.integers(0, contract.limits.vocab, (2, new))
        positions, picks = starts + np.arange(new), np.array([[new - 1], [0]])
        given = {"input_ids": tokens, "position_ids": positions, "logit_index": picks}
        found = compiled({**given, **cache})
        reference.enqueue(tokens, positions, picks)
        np.testing.assert_allclose(found["logits"], reference.logits(), atol=1e-5, rtol=0)
        for name, slots in cache.items():
            for row, start in enumerate(starts[:, 0]):
                slots[row, :, start : start + new] = found[name.replace("past", "present")][row]
        starts = starts + new + (np.array([[0], [-1]]) if new == 3 else 0)
