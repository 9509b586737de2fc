"""Every quantized linear layer of a graph by itself: its output against the formula.

Logits cannot show whether an int8 graph is what it should be. Where one outlier decides a scale, an
input that falls to the other side of a rounding moves by a large step, and two right engines give
logits as far apart as the logits are wide. One layer given the same input has no such excuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from llx.artifact import Artifact
from llx.bench.fidelity import oracle
from llx.bench.fidelity.oracle import Arithmetic
from llx.bench.session import failed_step
from llx.bench.sessions.ort import (
    NAME,
    NUMPY_DTYPES,
    loaded,
    require_computed,
    session_options,
)
from llx.errors import GateFailed, LlxError
from llx.graphs.contract import INPUT_IDS, LOGIT_INDEX, POSITION_IDS
from llx.llama.weights import linear_of, weights_of
from llx.manifest import WEIGHTS
from llx.precision import Precision

TOKENS = 24
TABLES = ("embed", "unembed")
FOLDER_OPTION = "session.model_external_initializers_file_folder_path"
Read = Callable[[str], NDArray[Any]]


@dataclass(frozen=True)
class LinearParity:
    """How far a quantized layer is from what its weights and scales say.

    `rounding`: the largest distance of an int8 input from the value that it stands for, in steps;
    half of one is what rounding costs; None where inputs are not quantized. `product`: the largest
    difference from numpy's product with the stored values, as a share of the largest output.
    `allowed`: what rounding explains of it, at the value that is nearest to it, or farthest beyond;
    `beyond`: by how much of that it errs there.
    """

    module: str
    rounding: float | None
    product: float
    allowed: float
    beyond: float


def linear_parities(artifact: Artifact, dialect: str = "standard") -> Iterator[LinearParity]:
    """Each quantized linear layer in ONNX Runtime, on random tokens.

    Raises `GateFailed` where other layers of the graph are quantized than the manifest says, and
    `BadInput` for what ONNX Runtime does not compute in.
    """
    precision = artifact.manifest.precision
    require_computed(precision.compute)
    model = onnx.load_from_string(artifact.read(artifact.graph(dialect).name))
    probes = _probes(model)
    _require_layers(artifact, probes.keys(), dialect)
    names = [name for probe in probes.values() for name in probe]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = session_options(precision)
    options.add_session_config_entry(FOLDER_OPTION, str(artifact.folder))
    try:
        with artifact.held(WEIGHTS):
            session = loaded(model.SerializeToString(), options, f"{dialect}.onnx")
        values = dict(zip(names, session.run(names, _random_step(artifact)), strict=True))
    except LlxError:
        raise
    except Exception as error:  # a dozen classes of its own, of no common ancestor
        raise failed_step(NAME, error) from None
    arithmetic = Arithmetic.of(precision.compute)
    with artifact.opened_weights("np") as file:
        for module, probe in probes.items():
            found = [values[name].astype(np.float32) for name in probe]
            if module in TABLES:
                yield _table(arithmetic, module, file.get_tensor, *found)
            elif precision.linear == "int8":
                yield _int8(arithmetic, module, file.get_tensor, *found)
            else:
                yield _weight_only(arithmetic, module, file.get_tensor, precision, *found)


def _int8(
    a: Arithmetic,
    module: str,
    read: Read,
    x: NDArray[np.float32],
    quantized: NDArray[np.float32],
    product: NDArray[np.float32],
) -> LinearParity:
    step = np.float32(read(f"{module}.input_scale"))
    weight = read(f"{module}.weight") * read(f"{module}.weight_scale").astype(np.float32)
    given = quantized * step
    rounding = float(np.abs(quantized - np.clip(x / step, -128, 127)).max())
    return _judged(a, module, rounding, given, weight, product)


def _weight_only(
    a: Arithmetic,
    module: str,
    read: Read,
    precision: Precision,
    x: NDArray[np.float32],
    product: NDArray[np.float32],
) -> LinearParity:
    values, scales = read(f"{module}.weight"), read(f"{module}.weight_scale").astype(np.float32)
    if precision.linear == "int4":
        inputs, outputs = x.shape[-1], scales.shape[1]
        values = _int4(values, (inputs, outputs))
        scales = np.repeat(scales, precision.block_of(inputs), axis=0)[:inputs]
    return _judged(a, module, None, x, values * scales, product)


def _table(
    a: Arithmetic, module: str, read: Read, x: NDArray[np.float32], product: NDArray[np.float32]
) -> LinearParity:
    """Logits of a vocabulary's table [V, dim] in int8."""
    scales = read(f"{module}.weight_scale").astype(np.float32)
    table: NDArray[np.float32] = read(f"{module}.weight") * scales[:, None]
    return _judged(a, module, None, x, table.T, product)


def _judged(
    a: Arithmetic,
    module: str,
    rounding: float | None,
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    product: NDArray[np.float32],
) -> LinearParity:
    """A product beside that of the dequantized values.

    DequantizeLinear gives values of the graph's type, and a kernel that multiplies few bits does
    not: what rounding the weights to it does is known exactly, so it is counted and not bounded.
    What it does to inputs is bounded as for any layer.
    """
    wide, found = x[0].astype(np.float64), product[0]
    with np.errstate(all="ignore"):  # what overflowed before is no news
        expected = oracle.linear(a._replace(given=a.unit), wide, weight)
        rounded = weight.astype(NUMPY_DTYPES[a.compute]).astype(np.float32) - weight
        expected.allowed[:] += np.abs(wide @ rounded)
    shares = oracle.beyond(found, expected)
    at = np.unravel_index(int(shares.argmax()), shares.shape)
    largest = float(np.abs(expected.wanted).max()) or 1.0
    return LinearParity(
        module,
        rounding,
        _off(found, expected.wanted.astype(np.float32)),
        float(expected.allowed[at]) / largest,
        float(shares[at]),
    )


def _int4(stored: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.int8]:
    """Values of bytes that hold two each, the first in the low half."""
    halves = np.stack((stored & 0xF, stored >> 4), axis=-1).ravel().astype(np.int8)
    return np.where(halves > 7, halves - 16, halves)[: shape[0] * shape[1]].reshape(shape)


def _off(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Largest error as a share of the largest product. A layer of zeros may err by nothing."""
    error, largest = float(np.abs(found - wanted).max()), float(np.abs(wanted).max())
    if largest == 0:
        return 0.0 if error == 0 else float("inf")
    return error / largest


def _require_layers(artifact: Artifact, found: Iterable[str], dialect: str) -> None:
    manifest = artifact.manifest
    wanted = {
        weight.module
        for weight in weights_of(manifest.spec)
        if linear_of(weight, manifest.precision, manifest.dense) != "dense"
    }
    if not manifest.spec.tied:
        wanted.discard("embed")  # whose rows are looked up, and multiply nothing
    if wrong := wanted.symmetric_difference(found):
        raise GateFailed(
            f"{dialect}.onnx and the manifest disagree on whether {min(wrong)} is quantized",
            "export again with --overwrite",
        )


def _probes(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Of each quantized module: the names of its input, its int8 where it is, and its product."""
    users = {name: node for node in model.graph.node for name in node.input}
    makers = {name: node for node in model.graph.node for name in node.output}
    weights = {value.name for value in model.graph.initializer if value.name.endswith(".weight")}
    found: dict[str, tuple[str, ...]] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            product = users[node.output[0]]
            if product.op_type == "Gather":  # rows are looked up, and multiply nothing
                continue
            if product.op_type == "Transpose":  # a table's, for the logits
                product = users[product.output[0]]
            names, made = [product.input[0]], makers.get(product.input[0])
            if made is not None and made.op_type == "DequantizeLinear":
                names = [makers[made.input[0]].input[0], made.input[0]]
            found[node.input[0].removesuffix(".weight")] = (*names, product.output[0])
    return found


def _random_step(artifact: Artifact) -> dict[str, NDArray[Any]]:
    """Inputs of a prefill of random tokens into an empty cache."""
    contract = artifact.manifest.contract
    count = min(TOKENS, contract.limits.max_new_tokens)
    feeds: dict[str, NDArray[Any]] = {
        INPUT_IDS: np.random.default_rng(0).integers(0, contract.limits.vocab, (1, count)),
        POSITION_IDS: np.arange(count, dtype=np.int64)[None],
        LOGIT_INDEX: np.array([[count - 1]], dtype=np.int64),
    }
    for name, (dtype, (_, *sizes)) in contract.inputs().items():
        if name not in feeds:
            feeds[name] = np.zeros((1, *map(int, sizes)), NUMPY_DTYPES[dtype])
    return feeds
