"""Linear layers in 8 bits: what stands in the graph, and that it means what eager PyTorch does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from llx.bench.fidelity.linears import linear_parities
from llx.bench.sessions.ort import OrtSession
from llx.bench.sessions.torch import TorchSession
from llx.graphs.dialects import DIALECTS
from llx.graphs.inspect import weight_groups
from llx.llama.model import Linear
from llx.llama.quantized import FP8, QuantizedLinear
from llx.precision import PRECISIONS, Precision
from tests import roundings
from tests.checkpoints import BIASED, MHA, SPECS, TINY
from tests.conftest import export_tiny, logits_on_text

TYPES = {"int8": ir.DataType.INT8, "fp8": ir.DataType.FLOAT8E4M3FN}
SHAPES = {"gqa": TINY, "mha-tied": MHA, "biased": BIASED}


@pytest.fixture(
    scope="module",
    params=[(p, s) for p in TYPES for s in SHAPES if (p, s) != ("fp8", "mha-tied")],
    ids="-".join,
)
def artifact(request, tmp_path_factory):
    precision, shape = request.param
    return export_tiny(tmp_path_factory.mktemp("both-sides"), precision, SHAPES[shape])


@pytest.fixture(scope="module")
def type_of_values(artifact):
    return TYPES[artifact.manifest.precision.linear]


@pytest.fixture(scope="module")
def graph(artifact):
    return ir.load(artifact.path("standard.onnx")).graph


def nodes_of(graph, op_type):
    return [node for node in graph if node.op_type == op_type]


def test_every_linear_layer_quantizes_its_input_and_dequantizes_both_sides(artifact, graph):
    linears = 4 * artifact.manifest.spec.layers
    assert len(nodes_of(graph, "QuantizeLinear")) == linears
    assert len(nodes_of(graph, "DequantizeLinear")) == 2 * linears
    quantized = [
        node
        for node in nodes_of(graph, "MatMul")
        if all(value.producer().op_type == "DequantizeLinear" for value in node.inputs)
    ]
    assert len(quantized) == linears
    assert len(nodes_of(graph, "MatMul")) == linears + 1  # the logits stay in fp16


def test_activations_have_one_scale_each_and_a_zero_point_that_tells_the_type(
    graph, type_of_values
):
    scales = set()
    for node in nodes_of(graph, "QuantizeLinear"):
        _, scale, zero = node.inputs
        (dequantize,) = (use.node for use in node.outputs[0].uses())
        assert list(dequantize.inputs[1:]) == [scale, zero]
        assert (zero.dtype, zero.const_value.numpy().tolist()) == (type_of_values, 0)
        assert (scale.dtype, tuple(scale.shape)) == (ir.DataType.FLOAT16, ())
        assert scale.const_value.numpy() > 0
        scales.add(scale.name)
    assert len(scales) == len(nodes_of(graph, "QuantizeLinear"))


def test_weights_are_in_8_bits_with_a_scale_for_each_output_channel(graph, type_of_values):
    scales = set()
    for node in nodes_of(graph, "DequantizeLinear"):
        if not node.inputs[0].is_initializer():
            continue
        weight, scale = node.inputs
        assert weight.dtype == type_of_values
        assert node.attributes["axis"].as_int() == 1
        assert tuple(scale.shape) == (weight.shape[1],)
        assert scale.dtype == ir.DataType.FLOAT16
        assert scale.name == f"{weight.name}_scale"
        scales.add(scale.name)
    assert len(scales) == len(nodes_of(graph, "QuantizeLinear"))


def test_what_is_not_a_projection_stays_in_fp16(artifact, graph, type_of_values):
    few = {name for name, v in graph.initializers.items() if v.dtype == type_of_values}
    projections = {
        f"{n.inputs[1].name.removesuffix('.input_scale')}.weight"
        for n in graph
        if n.op_type == "QuantizeLinear"
    }
    assert {name for name in few if not name.startswith("constant")} == projections
    assert graph.initializers["embed.weight"].dtype == ir.DataType.FLOAT16
    assert weight_groups(artifact.path("standard.onnx")).keys() == (
        weight_groups(artifact.path("standard.onnx")).keys() | {"qkv", "o", "gate_up", "down"}
    )


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("linear", "spec"),
    [*(("int8", spec) for spec in SPECS.values()), ("fp8", TINY), ("fp8", BIASED)],
    ids=[*SPECS, "fp8-gqa", "fp8-biased"],
)
def test_in_fp32_onnx_runtime_and_pytorch_compute_the_same_from_the_same_roundings(
    tmp_path, linear, spec, dialect
):
    """Where they round differently, a value lies on the edge, and both go on from one choice."""
    artifact = export_tiny(tmp_path, Precision(compute="fp32", linear=linear), spec)
    found, rounded, ort, eager = roundings.compare(artifact, tmp_path, dialect)
    rounded.require_on_edges()
    assert found.prefill_error <= roundings.TOLERANCE
    assert found.decode_error <= roundings.TOLERANCE
    for ours, theirs in zip(ort._cache, eager._cache, strict=True):
        assert np.abs(ours).max() > 0.1
        np.testing.assert_allclose(ours, theirs.numpy(), atol=roundings.TOLERANCE, rtol=0)


def test_each_layer_of_the_fp16_graph_is_what_its_weights_and_scales_say(artifact):
    found = list(linear_parities(artifact))
    assert len(found) == 4 * artifact.manifest.spec.layers
    assert all(0.4 < one.rounding < 0.55 for one in found)  # of a step
    assert all(one.product < 2e-3 for one in found)


@pytest.mark.parametrize(
    ("precision", "how"),
    [("int8", "SmoothQuant and GPTQ"), ("fp8", "one scale for all inputs, and GPTQ")],
    ids=TYPES,
)
def test_8_bits_are_near_the_dense_model_but_not_it(tmp_path, precision, how):
    eight, full = export_tiny(tmp_path / "e", precision), export_tiny(tmp_path / "f")
    wanted = logits_on_text(TorchSession.open(full))
    for session in (OrtSession(eight), TorchSession.open(eight)):
        error = logits_on_text(session) - wanted
        assert np.abs(error).max() > 1e-3
        # As a whole: the largest is a matter of luck. Of unrelated logits it would be 1.41.
        assert np.sqrt(np.square(error).mean()) < 0.3 * wanted.std()
        assert f"{how}, 4 windows" in session.weights


def test_a_quantized_linear_is_the_formula():
    dense = Linear(3, 2, True)
    dense.bias.data = torch.tensor([1.0, -1.0])
    layer = QuantizedLinear(dense, PRECISIONS["int8"])
    layer.weight.data = torch.tensor([[10, -127], [0, 64], [5, 1]], dtype=torch.int8)
    layer.weight_scale.data = torch.tensor([0.5, 0.25])
    layer.input_scale.data = torch.tensor(0.1)
    x = torch.tensor([[[0.25, -0.15, 100.0]]])
    # 2.5 → 2 and -1.5 → -2, to the even one; 1000 → 127, the end of the range.
    wanted = [0.1 * 0.5 * (2 * 10 + 127 * 5) + 1, 0.1 * 0.25 * (2 * -127 - 2 * 64 + 127) - 1]
    torch.testing.assert_close(layer(x), torch.tensor([[wanted]]))


def test_an_fp8_linear_is_the_formula():
    dense = Linear(3, 2, True)
    dense.bias.data = torch.tensor([1.0, -1.0])
    layer = QuantizedLinear(dense, PRECISIONS["fp8"])
    layer.weight.data = torch.tensor([[10, -448.0], [0, 2**-9], [5, 1]]).to(FP8)
    layer.weight_scale.data = torch.tensor([0.5, 0.25])
    layer.input_scale.data = torch.tensor(0.125)
    x = torch.tensor([[[0.125 * 17, 0.125 * -19, 1e6]]])
    # Above 16 a step is 2: 17 → 16 and -19 → -20, to the even mantissa; 8e6 → 448, the largest.
    one, two, three = 0.125 * 16, 0.125 * -20, 0.125 * 448
    wanted = [0.5 * (one * 10 + three * 5) + 1, 0.25 * (one * -448 + two * 2**-9 + three) - 1]
    torch.testing.assert_close(layer(x), torch.tensor([[wanted]]))
