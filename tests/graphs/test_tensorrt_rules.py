"""Each rule against the smallest graph that breaks it, and what TensorRT-RTX makes of that graph.

The last is what makes a rule true: where a newer TensorRT-RTX learns an op, its test goes red.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import tensorrt_rtx_bindings as trt
from hypothesis import given, settings
from hypothesis import strategies as st

from llx.errors import BadInput
from llx.graphs.inspect import load
from llx.graphs.tensorrt_rules import NATIVE_SINCE, Target, problems, require_buildable
from tests.checkpoints import SPECS
from tests.conftest import export_tiny
from tests.test_imports import ROOT

RTX = Target(runtime="trt-rtx", version=(1, 7), sm=86)
TURING = Target(runtime="trt-rtx", version=(1, 7), sm=75)
NEWEST = Target(runtime="trt", version=(11, 4), sm=87)
JETPACK_6 = Target(runtime="trt", version=(10, 3), sm=87)

QKV = "float16[1,4,8,64] q, float16[1,2,16,64] k, float16[1,2,16,64] v"
OUT = "float16[1,4,8,64] y"
CACHE = "float16[1,2,16,8] c, float16[1,2,4,8] u, int64[1] i"
DONE = "float16[1,2,16,8] y"
FLOATS = "float[4,4] x, float[4,4] w"

# What TensorRT-RTX 1.7 does with a graph.
REFUSES = "its parser refuses it"
FAILS = "its parser takes it, its builder does not"
BUILDS = "it builds it, and says nothing"


@dataclass(frozen=True)
class Bad:
    """A graph with one thing wrong: what its problem must say, and what TensorRT-RTX does."""

    graph: str
    op: str
    reason: str
    remedy: str
    fate: str
    target: Target = RTX
    opset: int = 24
    domain: str = ""


def attention(inputs="", arguments="", attributes="", outputs="", results=""):
    return (
        f"g ({QKV}{inputs}) => ({OUT}{outputs}) "
        f"{{ y{results} = Attention{attributes}(q, k, v{arguments}) }}"
    )


def scatter(cache=CACHE, done=DONE, attributes="<axis=2>", before="", after="", name="y"):
    first = "d" if before else "c"
    return (
        f"g ({cache}) => ({done}) "
        f"{{ {before} {name} = TensorScatter{attributes}({first}, u, i) {after} }}"
    )


def quantized(constants, attributes="", zero="", scale="s", more=""):
    """Activations x quantized and back, then multiplied by w."""
    return (
        f"g ({FLOATS}{more}) => (float[4,4] y) <{constants}> {{"
        f" a = QuantizeLinear{attributes}(x, {scale}{zero})"
        f" b = DequantizeLinear{attributes.replace(',output_dtype=3', '')}(a, {scale}{zero})"
        " y = MatMul(b, w) }"
    ).replace("DequantizeLinear<output_dtype=3>", "DequantizeLinear")


def in_blocks(inputs, block):
    """Weights in int4 for so many inputs, in blocks along them."""
    ones, blocks = ",".join(["1"] * 2 * inputs), -(-inputs // block)  # two to a byte
    scales = ",".join(["15360"] * 4 * blocks)  # 1.0
    return (
        f"g (float16[4,{inputs}] x) => (float16[4,4] y) <int4[{inputs},4] w={{{ones}}}, "
        f"float16[{blocks},4] s={{{scales}}}> "
        f"{{ d = DequantizeLinear<axis=0,block_size={block}>(w, s) y = MatMul(x, d) }}"
    )


def one(op, inputs, outputs):
    names = ", ".join(part.split()[-1] for part in inputs.split(", "))
    results = ", ".join(part.split()[-1] for part in outputs.split(", "))
    return f"g ({inputs}) => ({outputs}) {{ {results} = {op}({names}) }}"


CONTRIB = "com.microsoft"
ZEROS = "quantize symmetrically"
BAD = {
    "contrib GroupQueryAttention": Bad(
        "g (float16[1,4,64] q, float16[1,4,32] k, float16[1,4,32] v, float16[1,2,16,16] pk, "
        "float16[1,2,16,16] pv, int32[1] s, int32 t) => (float16[1,4,64] y, "
        "float16[1,2,16,16] k2, float16[1,2,16,16] v2) { y, k2, v2 = com.microsoft."
        "GroupQueryAttention<num_heads=4,kv_num_heads=2,scale=0.25>(q, k, v, pk, pv, s, t) }",
        "GroupQueryAttention", CONTRIB, "build from the `standard` graph", REFUSES, domain=CONTRIB,
    ),
    "contrib MatMulNBits": Bad(
        "g (float16[1,4,64] x, uint8[8,2,16] w, float16[8,2] s) => (float16[1,4,8] y) "
        "{ y = com.microsoft.MatMulNBits<K=64,N=8,bits=4,block_size=32>(x, w, s) }",
        "MatMulNBits", CONTRIB, "build from the `standard` graph", REFUSES, domain=CONTRIB,
    ),
    "an op of that name, of another domain": Bad(
        one("acme.Relu", "float[4] x", "float[4] y"),
        "Relu", "domain acme", "`standard` graph", BUILDS, domain="acme",
    ),
    "DynamicQuantizeLinear": Bad(
        one("DynamicQuantizeLinear", "float[4,4] x", "uint8[4,4] y, float s, uint8 z"),
        "DynamicQuantizeLinear", "no such op", "QuantizeLinear", REFUSES,
    ),
    "MatMulInteger": Bad(
        one("MatMulInteger", "int8[4,4] x, int8[4,4] w", "int32[4,4] y"),
        "MatMulInteger", "no such op", "QuantizeLinear", REFUSES,
    ),
    "ConvInteger": Bad(
        one("ConvInteger", "int8[1,1,4,4] x, int8[1,1,3,3] w", "int32[1,1,2,2] y"),
        "ConvInteger", "no such op", "QuantizeLinear", REFUSES,
    ),
    "QLinearMatMul": Bad(
        "g (int8[4,4] x, int8[4,4] w) => (int8[4,4] y) <float s={0.5}, int8 z={0}> "
        "{ y = QLinearMatMul(x, s, z, w, s, z, s, z) }",
        "QLinearMatMul", "no such op", "QuantizeLinear", REFUSES,
    ),
    "sequences": Bad(
        "g (float[4] x, int64 i) => (float[4] y) "
        "{ s = SequenceConstruct(x, x) y = SequenceAt(s, i) }",
        "SequenceConstruct", "no such op", "Concat", REFUSES,
    ),
    "sampling": Bad(
        one("Multinomial", "float[1,4] x", "int32[1,1] y"),
        "Multinomial", "no such op", "host", REFUSES,
    ),
    "ScatterND that adds": Bad(
        "g (float[8] x, int64[2,1] i, float[2] u) => (float[8] y) "
        '{ y = ScatterND<reduction="add">(x, i, u) }',
        "ScatterND", "reductions", "reduction none", REFUSES,
    ),
    "strings": Bad(
        one("Identity", "string[4] x", "string[4] y"), "input", "no type string", "type", REFUSES
    ),
    "int16": Bad(
        one("Identity", "int16[4] x", "int16[4] y"), "input", "no type int16", "type", REFUSES
    ),
    "double": Bad(
        one("Relu", "double[4] x", "double[4] y"), "input", "computed in fp32", "fp32", BUILDS
    ),
    "uint8 between layers": Bad(
        "g (float[4] x) => (float[4] y) { a = Cast<to=2>(x) y = Cast<to=1>(a) }",
        "Cast", "no uint8", "int8", REFUSES,
    ),
    "an opset newer than the parser": Bad(
        one("Relu", "float[4] x", "float[4] y"),
        "opset", "opset 25 is newer", "`standard` graph", BUILDS, opset=25,
    ),
    "uint8 by default": Bad(
        quantized("float s={0.5}"), "QuantizeLinear", "uint8 is built as int8", "int8", BUILDS
    ),
    "uint8 with a zero point of 0": Bad(
        quantized("float s={0.5}, uint8 z={0}", zero=", z"),
        "QuantizeLinear", "uint8 is built as int8", "int8", BUILDS,
    ),
    "uint8 weights": Bad(
        "g (float[4] x) => (float[4] y) <uint8[4] w={1,2,3,200}, float s={0.5}> "
        "{ a = DequantizeLinear(w, s) y = Add(a, x) }",
        "DequantizeLinear", "uint8", "int8", REFUSES,
    ),
    "a zero point of 3": Bad(
        quantized("float s={0.5}, int8 z={3}", zero=", z"),
        "QuantizeLinear", "zero point is not 0", ZEROS, REFUSES,
    ),
    "a zero point that comes with the input": Bad(
        quantized("float s={0.5}", zero=", z", more=", int8 z"),
        "QuantizeLinear", "zero point is no constant", ZEROS, FAILS,
    ),
    "a scale that comes with the input": Bad(
        quantized("", "<output_dtype=3>", scale="s", more=", float s").replace("<> ", ""),
        "QuantizeLinear", "scale is no constant", "calibrate", BUILDS,
    ),
    "activations quantized per channel": Bad(
        quantized("float[4] s={1,1,1,1}", "<axis=1,output_dtype=3>"),
        "QuantizeLinear", "per channel or in blocks", "one scale", BUILDS,
    ),
    "activations quantized in blocks": Bad(
        quantized("float[4,2] s={1,1,1,1,1,1,1,1}", "<axis=1,block_size=2,output_dtype=3>"),
        "QuantizeLinear", "per channel or in blocks", "one scale", BUILDS,
    ),
    "activations in int4": Bad(
        quantized("float s={0.5}", "<output_dtype=22>").replace("Dequantize", "D").replace(
            "DLinear<output_dtype=22>", "DequantizeLinear"
        ),
        "QuantizeLinear", "int4 for weights alone", "int8", BUILDS,
    ),
    "int4 on Turing": Bad(
        in_blocks(8, 4),
        "initializer", "SM75 has no int4", "another GPU", FAILS, TURING,
    ),
    "a short last block": Bad(
        in_blocks(10, 4), "DequantizeLinear", "last block is short", "int8-wo", REFUSES,
    ),
    "a short last block that could be another's whole one": Bad(
        in_blocks(6, 4), "DequantizeLinear", "last block is short", "int8-wo", BUILDS,
    ),
    "bf16 on Turing": Bad(
        one("Relu", "bfloat16[4] x", "bfloat16[4] y"),
        "input", "SM75 has no bfloat16", "another GPU", FAILS, TURING,
    ),
    "fp8 on Ampere": Bad(
        quantized("float s={0.5}", "<output_dtype=17>").replace(
            "DequantizeLinear<output_dtype=17>", "DequantizeLinear"
        ),
        "QuantizeLinear", "SM86 has no float8e4m3fn", "another GPU", FAILS,
    ),
    "fp32 products on Turing": Bad(
        one("MatMul", "float[4,8] x, float[8,4] w", "float[4,4] y"),
        "MatMul", "no fp32 on SM75", "--precision fp16", FAILS, TURING,
    ),
    "nonpad_kv_seqlen": Bad(
        attention(", int64[1] n", ", , , , n"), "Attention", "ignored", "boolean", BUILDS
    ),
    "is_causal with a mask": Bad(
        attention(", bool[1,1,8,16] m", ", m", "<is_causal=1>"),
        "Attention", "is_causal", "in the mask alone", REFUSES,
    ),
    "a mask of another type": Bad(
        attention(", float[1,1,8,16] m", ", m"), "Attention", "another type", "boolean", FAILS
    ),
    "softcap": Bad(
        attention(attributes="<softcap=30.0>"), "Attention", "softcap", "LLaMA", REFUSES
    ),
    "softmax_precision": Bad(
        attention(attributes="<softmax_precision=1>"),
        "Attention", "softmax_precision", "leave it out", REFUSES,
    ),
    "a past": Bad(
        attention(", float16[1,2,16,64] pk, float16[1,2,16,64] pv", ", , pk, pv"),
        "Attention", "past_key", "TensorScatter", REFUSES,
    ),
    "a present": Bad(
        attention(
            outputs=", float16[1,2,16,64] pk, float16[1,2,16,64] pv", results=", pk, pv"
        ),
        "Attention", "one output", "TensorScatter", REFUSES,
    ),
    "qk_matmul_output": Bad(
        attention(outputs=", float16[1,4,8,16] qk", results=", , , qk"),
        "Attention", "one output", "qk_matmul_output", REFUSES,
    ),
    "keys and values of other sizes": Bad(
        "g (float16[1,4,8,64] q, float16[1,2,16,64] k, float16[1,2,16,32] v) => "
        "(float16[1,4,8,32] y) { y = Attention(q, k, v) }",
        "Attention", "differ in head size", "pad", REFUSES,
    ),
    "fp32 attention": Bad(
        attention().replace("float16", "float"),
        "Attention", "no fused kernel for it in fp32", "`primitive`", FAILS,
    ),
    "heads of 320": Bad(
        attention().replace("64", "320"),
        "Attention", "no fused kernel for heads of 320", "`primitive`", FAILS,
    ),
    "a circular cache": Bad(
        scatter(attributes='<axis=2,mode="circular">'),
        "TensorScatter", "mode circular", "linear", REFUSES,
    ),
    "a cache in int8": Bad(
        scatter(CACHE.replace("float16", "int8"), DONE.replace("float16", "int8")),
        "TensorScatter", "fp32, fp16 or bf16", "keep", REFUSES,
    ),
    "a cache of three dimensions": Bad(
        scatter(
            "float16[2,16,8] c, float16[2,4,8] u, int64[2] i", "float16[2,16,8] y", "<axis=1>"
        ),
        "TensorScatter", "[B, Hkv, S, D]", "four dimensions", REFUSES,
    ),
    "a cache that grows along another axis": Bad(
        scatter("float16[1,16,2,8] c, float16[1,4,2,8] u, int64[1] i", "float16[1,16,2,8] y",
                "<axis=1>"),
        "TensorScatter", "axis must be that of the positions", "axis 2", REFUSES,
    ),
    "a cache with no fixed capacity": Bad(
        scatter(CACHE.replace("16,8", "S,8"), DONE.replace("16,8", "S,8")),
        "TensorScatter", "capacity S must be a number", "--context", REFUSES,
    ),
    "a cache that is no input": Bad(
        scatter(before="d = Relu(c)"), "TensorScatter", "no input", "an input", FAILS
    ),
    "an updated cache that is no output": Bad(
        scatter(name="d", after="y = Relu(d)"), "TensorScatter", "no output", "an output", FAILS
    ),
    "a cache that is read before its update": Bad(
        scatter(done=f"{DONE}, float16[1,2,16,8] z", after="z = Relu(c)"),
        "TensorScatter", "read elsewhere", "what TensorScatter gives", BUILDS,
    ),
}  # fmt: skip
HEADER = '<ir_version: 10, opset_import: ["": {opset}{domain}]>\n'

# What looks like one of the above and is fine.
GOOD = {
    "weights in int8, per channel": (
        "g (float[4,4] x) => (float[4,4] y) <int8[4,4] w={1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}, "
        "float[4] s={1,1,1,1}> { d = DequantizeLinear<axis=1>(w, s) y = MatMul(x, d) }"
    ),
    "weights quantized in the graph, per channel": (
        "g (float[4,2] x) => (float[4,2] y) <float[2,2] w={1,2,3,4}, float[2] s={1,1}> { "
        "q = QuantizeLinear<axis=1,output_dtype=3>(w, s) d = DequantizeLinear<axis=1>(q, s) "
        "y = MatMul(x, d) }"
    ),
    "weights in int4, in blocks": BAD["int4 on Turing"].graph,
    "one block that is not full": in_blocks(8, 32),
    "activations in int8": quantized("float s={0.5}, int8 z={0}", zero=", z"),
    "a scale for activations and weights alike": quantized("float[1] s={1}", "<output_dtype=3>"),
    "a boolean mask": attention(", bool[1,1,8,16] m", ", m"),
    "an additive mask of the query's type": attention(", float16[1,1,8,16] m", ", m"),
    "causal attention": attention(attributes="<is_causal=1>"),
    "no softcap": attention(attributes="<softcap=0.0>"),
    "fp32 attention that may be decomposed": attention(attributes="<TRT_decomposable=1>").replace(
        "float16", "float"
    ),
    "heads of 256": attention().replace("64", "256"),
    "a cache in bf16": scatter(
        CACHE.replace("float16", "bfloat16"), DONE.replace("float16", "bfloat16")
    ),
    "a cache whose axis counts from the end": scatter(attributes="<axis=-2>"),
    "a function of the model": (
        "g (float[4] x) => (float[4] y) { y = local.f(x) }\n"
        '<domain: "local", opset_import: ["": 24]> f (a) => (b) { b = Relu(a) }'
    ),
    "a condition": (
        "g (bool c, float[4] x) => (float[4] y) { y = If(c) <then_branch = t () => (float[4] a) "
        "{ a = Relu(x) }, else_branch = e () => (float[4] b) { b = Neg(x) }> }"
    ),
    "int64": one("Identity", "int64[4] x", "int64[4] y"),
    "uint8 at the door": "g (uint8[4] x) => (float[4] y) { y = Cast<to=1>(x) }",
}


def model_of(graph, opset=24, domain=""):
    domains = f', "{domain}": 1' if domain else ""
    return onnx.parser.parse_model(HEADER.format(opset=opset, domain=domains) + graph)


def found_in(model, target):
    return problems(ir.from_proto(model), target)


def fate_of(model, sm):
    """What TensorRT-RTX does with a model, whose shapes are static."""
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        return REFUSES
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), 0)
    return FAILS if builder.build_serialized_network(network, config) is None else BUILDS


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_the_first_problem_names_the_op_the_reason_and_the_remedy(bad, tmp_path):
    path = tmp_path / "bad.onnx"
    onnx.save(model_of(bad.graph, bad.opset, bad.domain), path)
    with pytest.raises(BadInput) as refused:
        require_buildable(path, bad.target)
    message, remedy = refused.value.message, refused.value.remedy
    assert message.startswith(f"bad.onnx: {bad.target} cannot take {bad.op} ")
    assert bad.reason in message
    assert bad.remedy in remedy
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_tensorrt_rtx_does_with_it_what_the_rule_says(bad):
    assert fate_of(model_of(bad.graph, bad.opset, bad.domain), bad.target.sm) == bad.fate


@pytest.mark.parametrize("graph", GOOD.values(), ids=GOOD)
def test_what_is_fine_has_no_problem_and_builds(graph):
    domain = "local" if "local." in graph else ""
    assert found_in(model_of(graph, domain=domain), RTX) == []
    assert fate_of(model_of(graph, domain=domain), 86) == BUILDS


def test_attention_of_one_value_with_itself_crashes_the_builder_and_is_refused_before():
    graph = f"g (float16[1,4,8,64] q) => ({OUT}) {{ y = Attention(q, q, q) }}"
    assert [p.reason for p in found_in(model_of(graph), RTX)] == [
        "query and key are one value, on which the builder crashes"
    ]
    code = (
        "from tests.graphs.test_tensorrt_rules import fate_of, model_of\n"
        f"fate_of(model_of({graph!r}), 86)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True)
    assert ended.returncode < 0  # killed by a signal


@pytest.mark.parametrize("op", NATIVE_SINCE["trt"])
def test_an_op_that_an_older_tensorrt_lacks_is_what_primitive_is_for(op):
    graphs = {
        "Attention": attention(),
        "TensorScatter": scatter(),
        "RMSNormalization": one(op, "float16[1,8] x, float16[8] w", "float16[1,8] y"),
        "RotaryEmbedding": one(
            op, "float16[1,4,8,16] x, float16[32,8] c, float16[32,8] s, int64[1,8] p",
            "float16[1,4,8,16] y",
        ),
    }  # fmt: skip
    model = model_of(graphs[op])
    since = NATIVE_SINCE["trt"][op]
    before = Target(runtime="trt", version=(since[0], since[1] - 1))
    problem = next(p for p in found_in(model, before) if p.op == op)
    assert problem.reason == f"TensorRT knows it since {since[0]}.{since[1]}"
    assert "what the `primitive` graph is for" in problem.remedy
    for target in (NEWEST, RTX):
        assert found_in(model, target) == []
    assert op not in [p.op for p in found_in(model, Target(runtime="trt", version=since))]


@pytest.mark.parametrize(
    ("runtime", "version", "dialect", "opset"),
    [
        ("trt", (10, 3, 0, 30), "primitive", 21),
        ("trt", (10, 14), "primitive", 23),
        ("trt", (10, 15), "standard", 24),
        ("trt", (11, 4, 1), "standard", 25),
        ("trt-rtx", (1, 7, 1, 116), "standard", 24),
    ],
)
def test_a_version_decides_the_dialect_and_the_opset(runtime, version, dialect, opset):
    target = Target(runtime=runtime, version=version)
    assert (target.dialect, target.newest_opset) == (dialect, opset)


@pytest.mark.parametrize(("runtime", "version"), [("trt", (8, 6)), ("trt-rtx", (1, 6))])
def test_a_version_that_is_too_old_is_bad_input(runtime, version):
    with pytest.raises(BadInput, match=r"is too old .*: install"):
        Target(runtime=runtime, version=version)


def test_every_problem_is_listed_and_the_error_counts_them(tmp_path):
    model = model_of(
        attention(", int64[1] n", ", , , , n", "<softcap=1.0>").replace("float16", "float")
    )
    assert [p.reason.split()[0] for p in found_in(model, RTX)] == [
        "nonpad_kv_seqlen", "softcap", "there",
    ]  # fmt: skip
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(BadInput, match=r"nonpad_kv_seqlen is ignored.* \(and 2 more\)"):
        require_buildable(tmp_path / "g.onnx", RTX)


def test_nodes_in_branches_and_functions_are_looked_at_too():
    branch = GOOD["a condition"].replace("Neg", "acme.Neg")
    assert [p.op for p in found_in(model_of(branch, domain="acme"), RTX)] == ["Neg"]
    function = GOOD["a function of the model"].replace("Relu(a)", "Bernoulli(a)")
    assert [p.op for p in found_in(model_of(function, domain="local"), RTX)] == ["Bernoulli"]


def test_a_file_that_is_no_graph_is_bad_input(tmp_path):
    (tmp_path / "g.onnx").write_bytes(b"not a graph")
    with pytest.raises(BadInput, match="not a graph that can be read"):
        require_buildable(tmp_path / "g.onnx", RTX)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_exported_graphs_have_no_problem(tmp_path, spec):
    artifact = export_tiny(tmp_path, "fp16", spec)
    for target in (RTX, TURING, NEWEST, JETPACK_6):
        require_buildable(artifact.graph(target.dialect), target)
    with pytest.raises(BadInput, match=r"TensorRT 10\.3 cannot .*`primitive` graph"):
        require_buildable(artifact.graph("standard"), JETPACK_6)


def test_no_weights_are_read(tiny, tmp_path):
    graph = tmp_path / "primitive.onnx"
    graph.write_bytes(tiny.graph("primitive").read_bytes())
    assert not (tmp_path / "weights.safetensors").exists()
    assert problems(load(graph), JETPACK_6) == []


def test_fp32_is_for_primitive(tiny):
    with pytest.raises(BadInput, match=r"no fused kernel.* \(and 1 more\).*`primitive` graph"):
        require_buildable(tiny.graph("standard"), RTX)
    require_buildable(tiny.graph("primitive"), RTX)


OPS = ("Attention", "TensorScatter", "QuantizeLinear", "DequantizeLinear", "ScatterND", "MatMul")
OPS += ("RMSNormalization", "RotaryEmbedding", "Cast", "Relu", "Constant", "Gemm", "Reshape")


@st.composite
def nodes(draw):
    """A node of ONNX with inputs of types that its schema allows, or none, and its attributes."""
    schema = onnx.defs.get_schema(draw(st.sampled_from(OPS)), 24)
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    inputs = []
    for i, formal in enumerate(schema.inputs):
        if formal.option == formal.option.Optional and draw(st.booleans()):
            inputs.append("")
            continue
        kinds = allowed.get(formal.type_str, [formal.type_str])
        kind = draw(st.sampled_from(sorted(kinds))).removeprefix("tensor(").removesuffix(")")
        shape = draw(st.none() | st.lists(st.sampled_from([1, 4, "S"]), max_size=4))
        kind = onnx.TensorProto.DataType.Value(kind.upper()) if kind.isalnum() else 1
        inputs.append(onnx.helper.make_tensor_value_info(f"x{i}", kind, shape))
    attributes = {
        name: draw(
            {1: st.just(0.5), 2: st.integers(-1, 3), 3: st.just("linear")}[int(a.type.value)]
        )
        for name, a in schema.attributes.items()
        if int(a.type.value) in (1, 2, 3) and (a.required or draw(st.booleans()))
    }
    outputs = draw(st.integers(schema.min_output, min(schema.max_output, 4)))
    return schema.name, inputs, attributes, [f"y{i}" for i in range(outputs)]


@settings(max_examples=300, deadline=None)
@given(nodes(), st.sampled_from([RTX, TURING, NEWEST, JETPACK_6]))
def test_no_graph_makes_a_rule_raise(drawn, target):
    op, inputs, attributes, outputs = drawn
    names = [value if isinstance(value, str) else value.name for value in inputs]
    if op == "Constant":
        attributes = {"value_ints": [0]}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, names, outputs, **attributes)],
        "g",
        [value for value in inputs if not isinstance(value, str)],
        [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 24)])
    assert all(p.reason and p.remedy for p in found_in(model, target))
