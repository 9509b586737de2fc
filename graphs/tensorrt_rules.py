"""What TensorRT would refuse in a graph, or silently get wrong, known before it is asked.

A rule looks at one node and yields what is wrong with it and what mends it. The tests hold a small
graph against each, and show on TensorRT-RTX 1.7 what becomes of that graph without the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, ShapeInferencePass

from llx.errors import BadInput
from llx.graphs.inspect import load
from llx.runtime import NATIVE_CACHE_SINCE, Runtime, dialect_of_version

Version = tuple[int, ...]

NAMES: Mapping[Runtime, str] = {"trt": "TensorRT", "trt-rtx": "TensorRT-RTX"}
OLDEST: Mapping[Runtime, Version] = {"trt": (10, 3), "trt-rtx": (1, 7)}

# The first version that knows the ops of the `standard` graph. What is older builds `primitive`.
NATIVE_SINCE: Mapping[Runtime, Mapping[str, Version]] = {
    "trt": {
        "Attention": (10, 14),
        "RMSNormalization": NATIVE_CACHE_SINCE,
        "RotaryEmbedding": NATIVE_CACHE_SINCE,
        "TensorScatter": NATIVE_CACHE_SINCE,
    },
    "trt-rtx": dict.fromkeys(
        ("Attention", "RMSNormalization", "RotaryEmbedding", "TensorScatter"), (1, 7)
    ),
}

# The newest opset by the version that brought it: the ONNX release in onnx-tensorrt's changelog and
# operators.md, and for 11 TensorRT's opset guide. The parser never compares: it reads a newer graph
# by the meaning that an op had before.
NEWEST_OPSET: Mapping[Runtime, Mapping[Version, int]] = {
    "trt": {(10, 3): 21, (10, 6): 22, (10, 14): 23, (10, 15): 24, (11, 0): 25},
    "trt-rtx": {(1, 7): 24},
}

# The least compute capability with arithmetic in a type.
LEAST_SM = {
    ir.DataType.BFLOAT16: 80,
    ir.DataType.INT4: 80,
    ir.DataType.FLOAT8E4M3FN: 89,
}

# What to export where a type is lacking.
INSTEAD = {ir.DataType.FLOAT8E4M3FN: "export with --precision int8 or int8-wo"}

NO_SUCH_TYPE = {
    ir.DataType.STRING,
    ir.DataType.INT16,
    ir.DataType.UINT16,
    ir.DataType.UINT32,
    ir.DataType.UINT64,
    ir.DataType.UINT4,
    ir.DataType.COMPLEX64,
    ir.DataType.COMPLEX128,
}

NO_SUCH_OP = {
    **dict.fromkeys(
        ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv"),
        "quantize with pairs of QuantizeLinear and DequantizeLinear, whose scales are constants",
    ),
    **dict.fromkeys(
        (
            *("SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase"),
            *("SequenceAt", "SequenceLength", "SequenceMap"),
            *("SplitToSequence", "ConcatFromSequence"),
        ),
        "use Split, Concat and Gather on tensors",
    ),
    **dict.fromkeys(
        ("Multinomial", "Bernoulli", "Unique"), "leave sampling and counting to the host"
    ),
}

CACHE_TYPES = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
LARGEST_FUSED_HEAD = 256


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is to build the graph: a runtime, its version, and the GPU's compute capability.

    `sm` is 86 for 8.6; where it is None, nothing is said about what only some GPUs lack. Raises
    `BadInput` for a version older than any that llx builds with.
    """

    runtime: Runtime
    version: Version
    sm: int | None = None

    def __post_init__(self) -> None:
        if self.version < OLDEST[self.runtime]:
            oldest = ".".join(map(str, OLDEST[self.runtime]))
            raise BadInput(f"{self} is too old for llx's graphs", f"install {oldest} or newer")

    def __str__(self) -> str:
        return f"{NAMES[self.runtime]} {'.'.join(map(str, self.version))}"

    @property
    def dialect(self) -> str:
        """The dialect whose graph this target can build."""
        return dialect_of_version(self.runtime, self.version, "fp16")

    @property
    def newest_opset(self) -> int:
        """The newest opset that the parser was written for."""
        known = NEWEST_OPSET[self.runtime].items()
        return max(opset for since, opset in known if since <= self.version)


class Fault(NamedTuple):
    """Why a target cannot be given something, and what mends it."""

    reason: str
    remedy: str


@dataclass(frozen=True)
class Problem:
    """A fault with its place: a node and its op, or a value's name and "input" or "initializer"."""

    node: str
    op: str
    reason: str
    remedy: str


Rule = Callable[[ir.Node, Target], Iterator[Fault]]


def require_buildable(path: Path, target: Target) -> None:
    """Raise `BadInput` with a graph's first problem, unless it has none.

    `path` comes from `Artifact.graph`, which vouches for the files that the graph names.
    """
    found = problems(load(path), target)
    if found:
        first, more = found[0], len(found) - 1
        raise BadInput(
            f"{path.name}: {target} cannot take {first.op} {first.node!r}: {first.reason}"
            + (f" (and {more} more)" if more else ""),
            first.remedy,
        )


def problems(model: ir.Model, target: Target) -> list[Problem]:
    """Everything in a graph that the target would refuse or get wrong: its nodes, then its types.

    No weights are read, but for zero points. Changes the model: its functions are inlined, as
    TensorRT does, and types and shapes that it leaves out are inferred.
    """
    if model.functions:
        InlinePass()(model)
    ShapeInferencePass(check_type=False, strict_mode=False)(model)
    found = [Problem("", "opset", *fault) for fault in _opset(model, target)]
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        rules = (
            (_foreign,) if node.domain else (_no_such_op, _too_new, *RULES.get(node.op_type, ()))
        )
        for rule in rules:
            found += [Problem(node.name or "", node.op_type, *f) for f in rule(node, target)]
    return found + _types(model, target)


def _opset(model: ir.Model, target: Target) -> Iterator[Fault]:
    opset = model.opset_imports.get("", 0)
    if opset > target.newest_opset:
        yield Fault(
            f"opset {opset} is newer than the {target.newest_opset} that its parser knows, and it "
            "reads a newer graph without a word",
            f"build from the `{target.dialect}` graph, which is of an older one",
        )


def _types(model: ir.Model, target: Target) -> list[Problem]:
    """Types that the target lacks, each where it first occurs."""
    found: dict[tuple[ir.DataType, Fault], Problem] = {}
    for place, op, value in _values(model):
        for fault in _type(value, op, target) if value.dtype else ():
            assert value.dtype is not None
            found.setdefault((value.dtype, fault), Problem(place, op, *fault))
    return list(found.values())


def _values(model: ir.Model) -> Iterator[tuple[str, str, ir.Value]]:
    for value in model.graph.inputs:
        yield value.name or "", "input", value
    for value in model.graph.initializers.values():
        yield value.name or "", "initializer", value
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            yield node.name or "", node.op_type, value


def _type(value: ir.Value, op: str, target: Target) -> Iterator[Fault]:
    dtype = value.dtype
    assert dtype is not None
    name = dtype.name.lower()
    if dtype in NO_SUCH_TYPE:
        yield Fault(f"TensorRT has no type {name}", "export tensors of a type that it has")
    if dtype == ir.DataType.DOUBLE:
        yield Fault(
            "double is computed in fp32, without a word", "export in fp32, fp16 or bf16 instead"
        )
    if dtype == ir.DataType.UINT8 and op not in ("input", "initializer", "QuantizeLinear"):
        yield Fault("TensorRT has no uint8 between layers", "use int8 or int32")
    if target.sm and target.sm < LEAST_SM.get(dtype, 0):
        yield Fault(
            f"SM{target.sm} has no {name}; it takes SM{LEAST_SM[dtype]} or newer",
            f"build for another GPU, or {INSTEAD.get(dtype, f'export without {name}')}",
        )


def _foreign(node: ir.Node, target: Target) -> Iterator[Fault]:
    yield Fault(
        f"it is of the domain {node.domain}, which is a plugin's, or taken for another op of that "
        "name",
        f"export again, and build from the `{target.dialect}` graph: it holds ONNX's own ops alone",
    )


def _no_such_op(node: ir.Node, target: Target) -> Iterator[Fault]:
    if node.op_type in NO_SUCH_OP:
        yield Fault("TensorRT has no such op", NO_SUCH_OP[node.op_type])


def _too_new(node: ir.Node, target: Target) -> Iterator[Fault]:
    since = NATIVE_SINCE[target.runtime].get(node.op_type)
    if since and target.version < since:
        yield Fault(
            f"{NAMES[target.runtime]} knows it since {since[0]}.{since[1]}",
            f"this is what the `{target.dialect}` graph is for: build from that",
        )


def _integer_type(node: ir.Node, target: Target) -> Iterator[Fault]:
    """Unsigned integers: a QuantizeLinear that names no type means uint8, and is built as int8."""
    if node.op_type == "DequantizeLinear":
        stored = _input(node, 0)
        dtype = stored.dtype if stored else None
    else:
        zero = _input(node, 2)
        default = zero.dtype if zero else ir.DataType.UINT8
        named = node.attributes.get_int("output_dtype", 0)
        dtype = next((one for one in ir.DataType if one and one == named), default)
    if dtype == ir.DataType.UINT8 and not _is_quantized(_input(node, 0)):
        yield Fault(
            "uint8 is built as int8, without a word, or refused",
            "quantize to int8, symmetrically: output_dtype 3, or a zero point of type int8",
        )


def _zero_point(node: ir.Node, target: Target) -> Iterator[Fault]:
    zero = _input(node, 2)
    if zero is None:
        return
    constant = ir.convenience.get_const_tensor(zero)
    if constant is None:
        yield Fault(
            "its zero point is no constant", "quantize symmetrically, with zero points of 0"
        )
    elif np.any(constant.numpy()):
        yield Fault("its zero point is not 0", "quantize symmetrically, with zero points of 0")


def _scale(node: ir.Node, target: Target) -> Iterator[Fault]:
    scale = _input(node, 1)
    if scale is None:
        return
    if ir.convenience.get_const_tensor(scale) is None:
        yield Fault(
            "its scale is no constant: TensorRT fixes scales when it builds",
            "calibrate, and store the scale in the graph",
        )
    elif not _is_weight(_input(node, 0)) and _elements(scale) != 1:
        yield Fault(
            "it quantizes activations per channel or in blocks: TensorRT supports one scale for a "
            "tensor alone, yet builds it",
            "give activations one scale for the tensor; weights may have one per channel",
        )


def _int4_weights(node: ir.Node, target: Target) -> Iterator[Fault]:
    quantized = node.outputs[0] if node.op_type == "QuantizeLinear" else _input(node, 0)
    if quantized and quantized.dtype == ir.DataType.INT4 and not _is_weight(_input(node, 0)):
        yield Fault(
            "it quantizes activations to int4: TensorRT supports int4 for weights alone, yet "
            "builds it",
            "quantize weights to int4, and activations to int8 or not at all",
        )


def _whole_blocks(node: ir.Node, target: Target) -> Iterator[Fault]:
    """The parser never reads `block_size`: it divides the axis by the number of scales."""
    block, value, scale = node.attributes.get_int("block_size", 0), _input(node, 0), _input(node, 1)
    if not block or value is None or scale is None:
        return
    axis = node.attributes.get_int("axis", 1)
    if any(not -len(v.shape or ()) <= axis < len(v.shape or ()) for v in (value, scale)):
        return
    size, scales = _dim(value, axis), _dim(scale, axis)
    if size is not None and scales is not None and size % block and scales > 1:
        yield Fault(
            f"its last block is short: {size} values in blocks of {block} are refused, or built "
            "with blocks of another size, without a word",
            "export with --precision int8-wo: int4 has whole blocks only where 16 divides a "
            "layer's inputs",
        )


def _attention_inputs(node: ir.Node, target: Target) -> Iterator[Fault]:
    if _input(node, 6) is not None:
        yield Fault(
            "nonpad_kv_seqlen is ignored, without a word: padding would be attended to",
            "say in a boolean attn_mask what may be attended to",
        )
    if _input(node, 4) is not None or _input(node, 5) is not None:
        yield Fault(
            "past_key and past_value are not supported", "update the cache with TensorScatter"
        )
    if len(node.outputs) > 1:
        yield Fault(
            "TensorRT gives Attention one output",
            "update the cache with TensorScatter, and leave out present and qk_matmul_output",
        )
    query, key, value = (_input(node, i) for i in range(3))
    if query is not None and query is key:
        yield Fault(
            "query and key are one value, on which the builder crashes",
            "give Attention two values, an Identity of one at least",
        )
    if key is not None and value is not None and _differ(_dim(key, -1), _dim(value, -1)):
        yield Fault("keys and values differ in head size", "pad the smaller ones with zeros")


def _attention_mask(node: ir.Node, target: Target) -> Iterator[Fault]:
    mask = _input(node, 3)
    if mask is None:
        return
    if node.attributes.get_int("is_causal", 0):
        yield Fault(
            "is_causal and a mask exclude each other", "say in the mask alone what is attended to"
        )
    query = _input(node, 0)
    if query and mask.dtype not in (ir.DataType.BOOL, None) and _differ(mask.dtype, query.dtype):
        yield Fault("its mask is added in another type than the query's", "make the mask boolean")


def _attention_numerics(node: ir.Node, target: Target) -> Iterator[Fault]:
    attributes = node.attributes
    if attributes.get_float("softcap", 0.0):
        yield Fault("softcap is not supported", "no LLaMA has one: export a LLaMA")
    if "softmax_precision" in attributes:
        yield Fault("softmax_precision is not supported", "leave it out: TensorRT chooses it")
    if attributes.get_int("TRT_decomposable", 0):
        return
    query = _input(node, 0)
    if query and query.dtype == ir.DataType.FLOAT:
        yield Fault(
            "there is no fused kernel for it in fp32",
            "export with --precision fp16, or build from the `primitive` graph",
        )
    key = _input(node, 1)
    size = _dim(key, -1) if key is not None and key.shape and len(key.shape) == 4 else None
    if isinstance(size, int) and size > LARGEST_FUSED_HEAD:
        yield Fault(
            f"there is no fused kernel for heads of {size}, only up to {LARGEST_FUSED_HEAD}",
            "build from the `primitive` graph",
        )


def _cache_form(node: ir.Node, target: Target) -> Iterator[Fault]:
    cache = _input(node, 0)
    mode = node.attributes.get_string("mode", "linear")
    if mode != "linear":
        yield Fault(
            f"mode {mode} is not supported", "use mode linear, and a cache that is long enough"
        )
    if cache is None:
        return
    if cache.dtype not in CACHE_TYPES | {None}:
        yield Fault("its cache must be of fp32, fp16 or bf16", "keep the cache in one of them")
    if cache.shape is None or len(cache.shape) != 4:
        yield Fault("its cache must be [B, Hkv, S, D]", "give the cache four dimensions")
        return
    if node.attributes.get_int("axis", -2) not in (-2, 2):
        yield Fault(
            "its axis must be that of the positions", "use axis 2 of a cache [B, Hkv, S, D]"
        )
    if not isinstance(cache.shape[2], int):
        yield Fault(
            f"its capacity {cache.shape[2]} must be a number",
            "export with --context, so that the graph knows its capacity",
        )


def _cache_in_place(node: ir.Node, target: Target) -> Iterator[Fault]:
    """TensorRT updates a cache where it lies: an input of the graph becomes an output of it."""
    cache, update = _input(node, 0), node.outputs[0]
    if cache is None:
        return
    if not cache.is_graph_input() or cache.const_value is not None:
        yield Fault("its cache is no input of the graph", "give it an input of the graph itself")
    if not update.is_graph_output():
        yield Fault("its result is no output of the graph", "make it an output of the graph itself")
    if len(cache.uses()) > 1 or cache.is_graph_output():
        yield Fault(
            "its cache is read elsewhere too, before or after it is updated in place",
            "read what TensorScatter gives, never its input",
        )


def _no_reduction(node: ir.Node, target: Target) -> Iterator[Fault]:
    if node.attributes.get_string("reduction", "none") != "none":
        yield Fault("reductions are not supported", "use reduction none")


def _gemm(node: ir.Node, target: Target) -> Iterator[Fault]:
    fp32 = any(value and value.dtype == ir.DataType.FLOAT for value in node.inputs)
    if fp32 and target.runtime == "trt-rtx" and target.sm == 75:
        yield Fault("TensorRT-RTX multiplies no fp32 on SM75", "export with --precision fp16")


QUANTIZATION: tuple[Rule, ...] = (_integer_type, _zero_point, _scale, _int4_weights, _whole_blocks)
RULES: Mapping[str, tuple[Rule, ...]] = {
    "QuantizeLinear": QUANTIZATION,
    "DequantizeLinear": QUANTIZATION,
    "Attention": (_attention_inputs, _attention_mask, _attention_numerics),
    "TensorScatter": (_cache_form, _cache_in_place),
    "ScatterND": (_no_reduction,),
    "MatMul": (_gemm,),
    "Gemm": (_gemm,),
    "Einsum": (_gemm,),
}


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _differ(a: object, b: object) -> bool:
    """Whether two facts are both known and not the same."""
    return a is not None and b is not None and a != b


def _dim(value: ir.Value, axis: int) -> int | None:
    size = value.shape[axis] if value.shape else None
    return size if isinstance(size, int) else None


def _elements(value: ir.Value) -> int | None:
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.size


def _is_quantized(value: ir.Value | None) -> bool:
    """Whether a QuantizeLinear makes it: what it makes is that node's fault."""
    producer = value.producer() if value else None
    return producer is not None and producer.op_type == "QuantizeLinear"


def _is_weight(value: ir.Value | None) -> bool:
    """Whether a value is a constant, or one that was only quantized, cast or turned round."""
    if value is None or ir.convenience.get_const_tensor(value) is not None:
        return True
    producer = value.producer()
    kept = ("QuantizeLinear", "Cast", "Transpose", "Reshape", "Identity")
    return producer is not None and producer.op_type in kept and _is_weight(producer.inputs[0])
