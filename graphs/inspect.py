"""What a graph holds, and whether it holds together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import onnx
import onnx_ir as ir

from llx.errors import BadInput, one_line
from llx.graphs.contract import GraphContract, Shape
from llx.graphs.semantic import Dialect
from llx.precision import PRECISIONS, Precision

DTYPES = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
    ir.DataType.INT64: "int64",
}


def op_counts(path: Path) -> Counter[str]:
    """How often each op occurs."""
    return Counter(node.op_type for node in load(path).graph)


def weight_groups(path: Path) -> dict[str, int]:
    """Bytes of the weights by what they are: embed, qkv, o, gate_up, down, norms, rope, ...."""
    groups: Counter[str] = Counter()
    for name, tensor in _external(path).items():
        owner = name.split(".")[-2:][0]
        groups["norms" if "norm" in owner else owner] += tensor.length or 0
    return dict(groups.most_common())


def load(path: Path) -> ir.Model:
    """A graph, its external weights left where they are. `BadInput` where it is no ONNX graph."""
    try:
        return ir.load(path)
    except Exception as error:  # protobuf's, onnx's and onnx-ir's own have no common ancestor
        raise BadInput(
            f"{path} is not a graph that can be read ({type(error).__name__})",
            "export again with --overwrite",
        ) from None


def problems(
    path: Path,
    contract: GraphContract,
    dialect: Dialect,
    precision: Precision = PRECISIONS["fp32"],
) -> list[str]:
    """What is wrong with a graph on disk: empty where ONNX's checker and the contract agree.

    `path` comes from `Artifact.trusted_graph`: what a graph names is opened here.

    Checked: the ONNX checker with shape inference, names, types and shapes of the contract's
    inputs and outputs as the dialect has them, no opset but the dialect's, every weight within the
    weights file and at the place that its header says, and every weight of the file used.
    """
    found = []
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:  # what it says of damaged names is no text, which is another error
        found.append(f"the ONNX checker refuses it: {one_line(error)}")
    graph = load(path).graph
    contract = dialect.contract_of(contract)
    if _described(graph.inputs) != list(contract.inputs().items()):
        found.append("its inputs are not those of the contract")
    if _described(graph.outputs) != list(contract.outputs(dialect.cache).items()):
        found.append("its outputs are not those of the contract")
    opset = dialect.opset_for(precision)
    if graph.opset_imports != {"": opset, **dialect.domains}:
        found.append(f"it is not of opset {opset} of ONNX itself and nothing else")
    return found + weight_problems(path)


def _described(values: Sequence[ir.Value]) -> list[tuple[str | None, tuple[str, Shape]]]:
    """Names, types and shapes, as the contract has them."""
    return [(value.name, (_dtype(value), _shape(value))) for value in values]


def _dtype(value: ir.Value) -> str:
    return DTYPES.get(value.dtype or ir.DataType.UNDEFINED, str(value.dtype))


def _shape(value: ir.Value) -> Shape:
    sizes = value.shape or ()
    return tuple(size if isinstance(size, int) else str(size) for size in sizes)


def weight_problems(path: Path) -> list[str]:
    """Weights that a graph wants and its weights file has elsewhere, or not, or has too many."""
    found = []
    tensors = _external(path)
    for file in {tensor.path for tensor in tensors.values()}:
        if not Path(file).is_file():
            continue  # graphs only, as the manifest says
        places = _safetensors_places(Path(file))
        for name, tensor in tensors.items():
            place = (tensor.offset, tensor.length)
            if name not in places:
                found.append(f"weight {name} is not in {Path(file).name}")
            elif places[name] != place:
                found.append(f"weight {name} is not where {Path(file).name} has it")
        unused = [n for n in places if n not in tensors and not n.startswith("_pad.")]
        found += [f"{name} of {Path(file).name} is not used" for name in unused]
    return found


def _external(path: Path) -> dict[str, ir.ExternalTensor]:
    values = load(path).graph.initializers.values()
    return {
        value.name: value.const_value
        for value in values
        if value.name and isinstance(value.const_value, ir.ExternalTensor)
    }


def _safetensors_places(path: Path) -> dict[str, tuple[int, int]]:
    """Offset in the file and length of every tensor, from the header."""
    tensors, data = _safetensors_header(path)
    spans = {name: tensor.data_offsets for name, tensor in tensors.items()}
    return {name: (data + start, end - start) for name, (start, end) in spans.items()}


@dataclass(frozen=True)
class _Stored:
    """A tensor of a safetensors file, as its header says; offsets count from the header's end."""

    dtype: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    data_offsets: tuple[int, int]


def _safetensors_header(path: Path) -> tuple[dict[str, _Stored], int]:
    """What a safetensors file says that it holds, and where its data begins.

    Raises `BadInput` where the file is cut off or has no such header.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if 8 + length > size:
                raise ValueError("it is cut off")
            entries = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
        entries.pop("__metadata__", None)
        tensors = {
            name: msgspec.json.decode(entry, type=_Stored) for name, entry in entries.items()
        }
        ends = (end for tensor in tensors.values() for end in tensor.data_offsets)
        if not all(0 <= end <= size - 8 - length for end in ends):
            raise ValueError("a tensor lies beyond its end")
    except (OSError, ValueError, RecursionError) as error:  # msgspec's are ValueErrors
        raise BadInput(
            f"{path} is not a whole safetensors file ({one_line(error)})",
            "copy or download it again, whole",
        ) from None
    return tensors, 8 + length
