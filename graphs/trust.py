"""Which graphs may be given to a runtime: those that llx writes, and nothing else.

A graph of an artifact is anybody's. A runtime does whatever it says: a node `EPContext` brings an
engine, which is a program, or the path of one; a custom op is a library's; a subgraph, a function
or an attribute can name files. So what a graph may hold is listed here, not what it may not, and
every field of its protobuf that is not listed is refused, those that this version of onnx does not
know among them. TensorRT, TensorRT-RTX and ONNX Runtime have parsers of their own, and all of them
see a graph only after this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, TypeProto

from llx.errors import BadInput, one_line
from llx.graphs.contract import GraphContract, Shape
from llx.graphs.semantic import MICROSOFT, PRODUCER, Dialect
from llx.precision import Precision

MOST_BYTES = 256 << 20  # a graph holds no weights: that of 126 layers has some 2 MB
MOST_INLINE = 1 << 24  # values of one constant: as many as positions of the longest cache
# The ops that the dialects spell a model in, all of ONNX itself, and the attributes of each.
OPS: Mapping[str, str] = {
    **dict.fromkeys(("Add", "And", "Div", "Less", "LessOrEqual", "MatMul", "Mul"), ""),
    **dict.fromkeys(
        ("BitwiseXor", "Expand", "Neg", "Pow", "QuantizeLinear", "Reshape", "Sigmoid", "Slice"), ""
    ),
    **dict.fromkeys(("Sqrt", "Tile", "Unsqueeze", "Where"), ""),
    **dict.fromkeys(("Concat", "Gather", "Softmax", "Split"), "axis"),
    "Attention": "scale",
    "Cast": "to",
    "DequantizeLinear": "axis block_size",
    "GatherND": "batch_dims",
    "ReduceMax": "keepdims",
    "ReduceMean": "keepdims",
    "RMSNormalization": "axis epsilon stash_type",
    "RotaryEmbedding": "num_heads rotary_embedding_dim",
    "TensorScatter": "axis mode",
    "Transpose": "perm",
}
# The same of a domain that is ONNX Runtime's own, for a dialect that has it.
OPS_OF_ORT: Mapping[str, str] = {
    "GroupQueryAttention": "num_heads kv_num_heads do_rotary local_window_size scale",
    "MatMulIntegerToFloat": "",
    "MatMulNBits": "K N bits block_size accuracy_level",
}
LISTED: Mapping[str, Mapping[str, str]] = {"": OPS, MICROSOFT: OPS_OF_ORT}
# Attributes that change what such an op computes and are of ONNX itself: `llx check` runs the graph
# and names the fault.
FAULTY: Mapping[str, str] = {
    "Attention": "is_causal kv_num_heads q_num_heads softcap",
    "RotaryEmbedding": "interleaved",
}
PLAIN = (AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.STRING, AttributeProto.INTS)
# The fields of each message of ONNX's protobuf that a graph of llx fills.
FIELDS: Mapping[str, frozenset[str]] = {
    name: frozenset(fields.split())
    for name, fields in {
        "ModelProto": "ir_version producer_name graph opset_import",
        "OperatorSetIdProto": "domain version",
        "GraphProto": "node name initializer input output value_info",
        "NodeProto": "name op_type domain input output attribute",
        "AttributeProto": "name type i f s ints",
        "TensorProto": "name dims data_type raw_data data_location external_data",
        "StringStringEntryProto": "key value",
        "ValueInfoProto": "name type",
        "TypeProto": "tensor_type",
        "Tensor": "elem_type shape",
        "TensorShapeProto": "dim",
        "Dimension": "dim_value dim_param",
    }.items()
}
BITS: Mapping[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.INT64: 64,
    TensorProto.INT32: 32,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT4: 4,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.BOOL: 8,
}
NAMES: Mapping[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT64: "int64",
}
# Of a slice, and a position later than any.
ENDLESS = (np.iinfo(np.int64).max, 1 << 30)


def distrusted(
    path: Path,
    weights: Path,
    dialect: Dialect,
    precision: Precision,
    contract: GraphContract,
    with_weights: bool = True,
) -> Iterator[str]:
    """Why a graph must not be given to a runtime, as what follows its name: nothing where it may.

    `with_weights`: whether its weights file is there, and must hold what the graph names. Raises
    `BadInput` where the file is no ONNX graph. The file is read, nothing of it is run.
    """
    if path.stat().st_size > MOST_BYTES:
        yield f"is larger than {MOST_BYTES >> 20} MiB"
        return
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's and onnx's own have no common ancestor
        raise BadInput(
            f"{path} is not a graph that can be read ({type(error).__name__})",
            "export again with --overwrite",
        ) from None
    for check in (
        _unlisted(model),
        _versions(model, dialect, precision),
        _nodes(model.graph, dialect),
        _places(model.graph, weights, with_weights),
        _contract(model.graph, contract, dialect),
        _sizes(model.graph, contract),
    ):
        found = next(check, None)
        if found is not None:  # the next check may rely on this one
            yield found
            return


def _unlisted(message: Any) -> Iterator[str]:
    """Fields that llx does not write, of a message and of all within it."""
    open_ = [message]
    while open_:
        one = open_.pop()
        kind = one.DESCRIPTOR.name
        for field, value in one.ListFields():
            if field.name not in FIELDS.get(kind, ()):
                yield f"holds {field.name} in {kind}"
            if field.message_type is not None:
                repeated = hasattr(value, "__len__")
                open_ += value if repeated else [value]
        if len(UnknownFieldSet(one)):
            yield f"holds a field in {kind} that ONNX does not have"


def _versions(model: ModelProto, dialect: Dialect, precision: Precision) -> Iterator[str]:
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    opset, version = dialect.opset_for(precision), dialect.ir_version_for(precision)
    if model.producer_name != PRODUCER:
        yield f"says that {one_line(model.producer_name) or 'nobody'} wrote it"
    if opsets != {"": opset, **dialect.domains} or len(model.opset_import) != len(opsets):
        yield f"is not of opset {opset} of ONNX itself and nothing else"
    if model.ir_version != version:
        yield f"is of IR version {model.ir_version}, not {version}"


def _nodes(graph: GraphProto, dialect: Dialect) -> Iterator[str]:
    """Nodes of other ops, with other attributes, or that take what no node before them gives."""
    known = [value.name for value in (*graph.input, *graph.initializer)]
    given = set(known)
    if len(given) != len(known):
        yield "has inputs or constants that share a name"
    for node in graph.node:
        ops = LISTED[node.domain] if node.domain in ("", *dialect.domains) else {}
        if node.op_type not in ops:
            yield f"holds the op {one_line(node.op_type)[:80] or 'of no name'}"
        wanted = f"{ops.get(node.op_type, '')} {FAULTY.get(node.op_type, '')}".split()
        names = [attribute.name for attribute in node.attribute]
        if not set(names) <= set(wanted) or len(set(names)) != len(names):
            yield f"holds a {node.op_type} with attributes of its own"
        if any(attribute.type not in PLAIN for attribute in node.attribute):
            yield f"holds a {node.op_type} with an attribute that is no number"
        if not set(node.input) - {""} <= given:
            yield "holds a node that takes what nothing before it gives"
        made = set(node.output)
        if "" in made or len(made) != len(node.output) or made & given:
            yield "holds two values of one name"
        given |= made
    if not {value.name for value in graph.output} <= given:
        yield "gives what no node of it makes"


def _places(graph: GraphProto, weights: Path, there: bool) -> Iterator[str]:
    """Constants that lie elsewhere than in the weights file, or not where it can hold them."""
    external = [t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL]
    size = None
    for tensor in external:
        place = {entry.key: entry.value for entry in tensor.external_data}
        location = place.get("location", "")
        if location != weights.name or len(place) != len(tensor.external_data):
            yield f"wants data from {location!r}, not from {weights.name}"
        if size is None and there:
            if weights.is_symlink() or not weights.is_file():
                yield f"wants data from {weights.name}, which is no plain file"
                return
            size = weights.stat().st_size
        wanted = _byte_count(tensor)
        numbers = [place.pop(key, "") for key in ("offset", "length")]
        if place.keys() != {"location"} or not all(n.isdecimal() and n.isascii() for n in numbers):
            yield f"has no place for {one_line(tensor.name)}"
            continue
        offset, length = map(int, numbers)
        if wanted is None or length != wanted or (size is not None and offset + length > size):
            yield f"has {one_line(tensor.name)} elsewhere than {weights.name} can hold it"


def _byte_count(tensor: TensorProto) -> int | None:
    """Bytes of a tensor's values; None where it is of no size, or of a type that llx has not."""
    bits = BITS.get(tensor.data_type)
    if bits is None or any(size < 0 for size in tensor.dims):
        return None
    return -(-int(math.prod(tensor.dims)) * bits // 8)


def _contract(graph: GraphProto, contract: GraphContract, dialect: Dialect) -> Iterator[str]:
    """Inputs and outputs of other names, types or shapes than a session binds."""
    contract = dialect.contract_of(contract)
    for values, wanted, more in (
        (graph.input, contract.inputs(), False),
        (graph.output, contract.outputs(dialect.cache), True),
    ):
        found = [(value.name, _described(value.type.tensor_type)) for value in values]
        # A graph may tell more than it must: what it holds inside, to who compares two engines.
        told = found[: len(wanted)] if more else found
        if told != list(wanted.items()):
            yield "has not the inputs and outputs that the manifest says"


def _described(tensor: TypeProto.Tensor) -> tuple[str, Shape]:
    """Type and shape, as the contract has them."""
    sizes = tensor.shape.dim
    shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in sizes)
    return NAMES.get(tensor.elem_type, ""), shape


def _sizes(graph: GraphProto, contract: GraphContract) -> Iterator[str]:
    """Constants of impossible sizes, and numbers in them that are larger than anything there is."""
    inline = [t for t in graph.initializer if t.data_location != TensorProto.EXTERNAL]
    sizes = [size for tensor in graph.initializer for size in tensor.dims]
    most = max(*sizes, contract.limits.capacity, contract.limits.vocab, 1)
    for tensor in inline:
        wanted = _byte_count(tensor)
        if wanted is None or wanted != len(tensor.raw_data) or wanted > MOST_INLINE * 8:
            yield f"holds {one_line(tensor.name)}, of another size than its values"
            continue
        if tensor.data_type == TensorProto.INT64:
            values = np.frombuffer(tensor.raw_data, np.int64)
            beyond = (values < -max(most, 1)) | ((values > most) & ~np.isin(values, ENDLESS))
            if beyond.any():
                yield f"holds {one_line(tensor.name)}, with numbers beyond all sizes of the model"
