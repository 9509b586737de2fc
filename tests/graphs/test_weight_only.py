"""Linear layers whose weights alone are in few bits: what stands in the graph, what it means.

TINY has no whole blocks: its last ones are short. WHOLE has, as real models do.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from llx.bench.fidelity.linears import linear_parities
from llx.bench.sessions.ort import OrtSession
from llx.bench.sessions.ort_arithmetic import session_options, settings_of
from llx.bench.sessions.torch import TorchSession
from llx.errors import BadInput, GateFailed
from llx.exporter.quantization import run as quantization
from llx.graphs.dialects import DIALECTS, PLAIN
from llx.graphs.inspect import op_counts, problems
from llx.graphs.tensorrt_rules import Target, require_buildable
from llx.precision import Precision
from tests import parity
from tests.checkpoints import BIASED, MHA, TINY, dice
from tests.conftest import export_tiny, logits_on_text

EIGHT = Precision(compute="fp32", linear="int8-wo")
FOUR = Precision(compute="fp32", linear="int4", block=32)
# Of 64, 128 and 96 inputs: whole blocks of 32, and of 64 but for the last, which is halved.
WHOLE = replace(TINY, dim=64, heads=8, head_dim=16, ffn_dim=96)
ODD = replace(TINY, dim=33, ffn_dim=51)  # no two values of a row share a byte
SHAPES = {"gqa": TINY, "mha-tied": MHA, "biased": BIASED, "whole": WHOLE, "odd": ODD}
PRECISIONS = {"int8-wo": EIGHT, "int4": FOUR}
TOLERANCE = 1e-4

every_precision = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
every_dialect = pytest.mark.parametrize("dialect", PLAIN)


@pytest.fixture(scope="module", params=[(s, p) for s in SHAPES for p in PRECISIONS], ids="-".join)
def artifact(request, tmp_path_factory):
    spec, precision = request.param
    folder = tmp_path_factory.mktemp("weight-only")
    return export_tiny(folder, PRECISIONS[precision], SHAPES[spec])


def dequantized(graph):
    """The nodes that dequantize weights, by their module."""
    return {
        node.inputs[0].name.removesuffix(".weight"): node
        for node in graph
        if node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer()
    }


@every_dialect
def test_weights_alone_are_quantized_each_with_scales_of_its_own(artifact, dialect):
    path, precision = artifact.path(f"{dialect}.onnx"), artifact.manifest.precision
    counts, graph = op_counts(path), ir.load(path).graph
    assert counts["DequantizeLinear"] == 4 * artifact.manifest.spec.layers
    assert "QuantizeLinear" not in counts
    for module, node in dequantized(graph).items():
        values, scale = node.inputs
        assert scale.name == f"{module}.weight_scale"
        assert scale.dtype == ir.DataType.FLOAT
        (product,) = (use.node for use in node.outputs[0].uses())
        assert (product.op_type, product.inputs[1]) == ("MatMul", node.outputs[0])
        if precision == EIGHT:
            assert values.dtype == ir.DataType.INT8
            assert node.attributes.get_int("axis") == 1
            assert tuple(scale.shape) == (values.shape[1],)
            continue
        assert values.dtype == ir.DataType.INT4
        assert node.attributes.get_int("axis") == 0
        block = node.attributes.get_int("block_size")
        assert block == precision.block_of(values.shape[0])
        assert tuple(scale.shape) == (-(-values.shape[0] // block), values.shape[1])


def test_int4_raises_the_opset_of_primitive_alone(tmp_path):
    four, eight = export_tiny(tmp_path / "4", FOUR), export_tiny(tmp_path / "8", EIGHT)
    found = {
        (artifact.manifest.precision.linear, dialect): (model.opset_imports[""], model.ir_version)
        for artifact in (four, eight)
        for dialect in PLAIN
        for model in [ir.load(artifact.path(f"{dialect}.onnx"))]
    }
    assert found == {
        ("int4", "standard"): (24, 11),
        ("int4", "primitive"): (21, 10),
        ("int8-wo", "standard"): (24, 11),
        ("int8-wo", "primitive"): (19, 9),
    }
    path, contract = four.path("primitive.onnx"), four.manifest.contract
    assert problems(path, contract, DIALECTS["primitive"], FOUR) == []
    assert "not of opset 19" in problems(path, contract, DIALECTS["primitive"], EIGHT)[0]


@pytest.mark.parametrize(
    ("inputs", "block", "wanted"),
    [(576, 32, 32), (576, 128, 64), (1536, 128, 128), (96, 64, 32), (80, 128, 16), (36, 64, 64)],
)
def test_blocks_are_whole_where_16_divides_the_inputs(inputs, block, wanted):
    assert Precision(compute="fp16", linear="int4", block=block).block_of(inputs) == wanted


@every_dialect
def test_onnx_runtime_agrees_with_eager_pytorch(artifact, dialect):
    ort, eager = OrtSession(artifact, 1, dialect), TorchSession.open(artifact)
    found = parity.compare(ort, eager)
    assert found.prefill_error <= TOLERANCE
    assert found.decode_error <= TOLERANCE
    for ours, theirs in zip(ort._cache, eager._cache, strict=True):
        assert np.abs(ours).max() > 0.1
        np.testing.assert_allclose(ours, theirs.numpy(), atol=TOLERANCE, rtol=0)


@every_precision
def test_it_is_near_the_dense_model_but_not_it(tmp_path, precision):
    few, full = export_tiny(tmp_path / "q", precision), export_tiny(tmp_path / "f")
    wanted = logits_on_text(TorchSession.open(full))
    error = logits_on_text(OrtSession(few)) - wanted
    assert np.abs(error).max() > 1e-3
    # As a whole: the largest of 19,200 is a matter of luck. Of unrelated logits it would be 1.41.
    most = {EIGHT: 0.05, FOUR: 0.4}[precision]
    assert np.sqrt(np.square(error).mean()) < most * wanted.std()


def test_each_layer_is_what_its_weights_and_scales_say(artifact):
    found = list(linear_parities(artifact))
    assert len(found) == 4 * artifact.manifest.spec.layers
    assert {one.rounding for one in found} == {None}
    assert max(one.product for one in found) < 1e-5


@pytest.mark.parametrize("block", [32, 64, 128])
def test_so_it_is_in_fp16_and_in_blocks_of_any_size(tmp_path, block):
    precision = Precision(compute="fp16", linear="int4", block=block)
    found = list(linear_parities(export_tiny(tmp_path, precision, WHOLE)))
    assert max(one.product for one in found) < 2e-3


def rounds_activations():
    """Whether ONNX Runtime has an int8 kernel for int4 weights on this CPU: without AVX2, none."""
    x = dice().standard_normal((4, 64)).astype(np.float32)
    weights = {
        "w": dice(1).integers(0, 256, (8, 2, 16), dtype=np.uint8),
        "s": np.ones(16, np.float32),
    }
    value = onnx.helper.make_tensor_value_info
    products = []
    for level in (1, 4):
        node = onnx.helper.make_node(
            *("MatMulNBits", ["x", *weights], ["y"]), domain="com.microsoft",
            K=64, N=8, bits=4, block_size=32, accuracy_level=level,
        )  # fmt: skip
        graph = onnx.helper.make_graph(
            [node], "one", [value("x", 1, (4, 64))], [value("y", 1, (4, 8))],
            [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
        )  # fmt: skip
        opsets = [onnx.helper.make_opsetid(domain, v) for domain, v in (("", 19), (node.domain, 1))]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        products.append(session.run(None, {"x": x})[0])
    return np.abs(products[0] - products[1]).max() > 1e-3 * np.abs(products[0]).max()


def test_a_layer_whose_activations_onnx_runtime_rounds_is_found_out(tmp_path, monkeypatch):
    """What it does by default, and what `settings_of` is there for."""
    if not rounds_activations():
        pytest.skip("ONNX Runtime rounds no activations on this CPU")
    artifact = export_tiny(tmp_path, FOUR, WHOLE)
    level = "session.qdq_matmulnbits_accuracy_level"
    assert settings_of(FOUR) == {level: "1"}
    monkeypatch.setattr("llx.bench.sessions.ort_arithmetic.settings_of", lambda *_: {level: "4"})
    assert max(one.product for one in linear_parities(artifact)) > 1e-3


def fused(artifact, tmp_path):
    """The ops that ONNX Runtime runs, and the accuracy levels of those that it fused."""
    options = session_options(artifact.manifest.precision)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(
        artifact.graph("standard"), options, providers=["CPUExecutionProvider"]
    )
    nodes = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node
    levels = {
        onnx.helper.get_node_attr_value(node, "accuracy_level")
        for node in nodes
        if node.op_type == "MatMulNBits"
    }
    return Counter(node.op_type for node in nodes), levels


@pytest.mark.parametrize("compute", ["fp32", "fp16"])
def test_onnx_runtime_fuses_int4_and_dequantizes_int8_as_it_loads(tmp_path, compute):
    four = export_tiny(tmp_path / "4", replace(FOUR, compute=compute), WHOLE)
    counts, levels = fused(four, tmp_path)
    assert (counts["MatMulNBits"], levels) == (4 * WHOLE.layers, {1})
    assert "DequantizeLinear" not in counts
    counts, _ = fused(export_tiny(tmp_path / "8", replace(EIGHT, compute=compute)), tmp_path)
    assert not {"MatMulNBits", "DequantizeLinear"} & counts.keys()
    details = OrtSession(four, dialect="standard").details()
    assert details["session.qdq_matmulnbits_accuracy_level"] == "1"


LEFT = ("layers.0.down", "layers.1.qkv")


@pytest.fixture
def left_dense(monkeypatch):
    """Exports leave two modules dense, whatever they cost."""
    monkeypatch.setattr(quantization, "keep_share", lambda *_: frozenset(LEFT))


@every_precision
@pytest.mark.parametrize("spec", [BIASED, WHOLE], ids=["biased", "whole"])
def test_modules_may_be_left_dense(tmp_path, left_dense, spec, precision):
    artifact = export_tiny(tmp_path, precision, spec, dense_share=0.5)
    assert artifact.manifest.quantization.dense == LEFT
    graph = ir.load(artifact.path("standard.onnx")).graph
    modules = {f"layers.{i}.{m}" for i in range(2) for m in ("qkv", "o", "gate_up", "down")}
    assert dequantized(graph).keys() == modules - set(LEFT)
    for module in LEFT:
        weight = graph.initializers[f"{module}.weight"]
        assert weight.dtype == ir.DataType.FLOAT
        assert [use.node.op_type for use in weight.uses()] == ["MatMul"]
    for dialect in DIALECTS:
        path, manifest = artifact.path(f"{dialect}.onnx"), artifact.manifest
        assert problems(path, manifest.contract, DIALECTS[dialect], precision) == []
        assert {one.module for one in linear_parities(artifact, dialect)} == modules - set(LEFT)
    for dialect in PLAIN:
        found = parity.compare(OrtSession(artifact, 1, dialect), TorchSession.open(artifact))
        assert max(found.prefill_error, found.decode_error) <= TOLERANCE


def test_a_manifest_that_says_other_layers_are_dense_is_found_out(tmp_path):
    artifact = export_tiny(tmp_path, FOUR)
    record = replace(artifact.manifest.quantization, dense=("layers.1.o",))
    lying = replace(artifact, manifest=replace(artifact.manifest, quantization=record))
    with pytest.raises(GateFailed, match=r"disagree on whether layers\.1\.o is quantized"):
        list(linear_parities(lying))


def test_tensorrt_rules_know_what_int4_needs(tmp_path):
    half = replace(FOUR, compute="fp16")
    whole = export_tiny(tmp_path / "w", half, WHOLE)
    for target in (Target(runtime="trt-rtx", version=(1, 7), sm=86), JETPACK_6):
        require_buildable(whole.graph(target.dialect), target)
    turing = Target(runtime="trt-rtx", version=(1, 7), sm=75)
    with pytest.raises(BadInput, match="SM75 has no int4"):
        require_buildable(whole.graph("standard"), turing)
    eight = export_tiny(tmp_path / "8", replace(EIGHT, compute="fp16"))
    require_buildable(eight.graph("standard"), turing)
    with pytest.raises(BadInput, match="its last block is short: 36 values in blocks of 32"):
        require_buildable(export_tiny(tmp_path / "s", half).graph("primitive"), JETPACK_6)


JETPACK_6 = Target(runtime="trt", version=(10, 3), sm=87)
