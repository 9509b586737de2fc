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
import onnx_ir as ir
from numpy.typing import NDArray

from llx.artifact import Artifact
from llx.bench.fidelity import oracle
from llx.bench.fidelity.oracle import Arithmetic
from llx.bench.fidelity.tolerance import gamma
from llx.bench.session import failed_step
from llx.bench.sessions.ort import NAME, NUMPY_DTYPES, loaded, require_computed
from llx.bench.sessions.ort_arithmetic import BLOCK_OF_INT8, session_options
from llx.errors import GateFailed, LlxError
from llx.graphs.contract import INPUT_IDS, LOGIT_INDEX, POSITION_IDS
from llx.graphs.dialects import dialect_named
from llx.graphs.dialects.ort import ZERO, table_block
from llx.llama.weights import linear_of, weights_of
from llx.manifest import WEIGHTS
from llx.precision import Precision

TOKENS = 24
TABLES = ("embed", "unembed")
PRODUCTS_OF_ORT = ("MatMulIntegerToFloat", "MatMulNBits")
ZERO_OF_INT4 = 8  # what stands for 0 in four unsigned bits
ON_EDGE = 1e-3  # of a step: what the order of operations moves before a rounding
E4M3 = ir.DataType.FLOAT8E4M3FN.numpy()
E4M3_MOST = 448
FOLDER_OPTION = "session.model_external_initializers_file_folder_path"
Read = Callable[[str], NDArray[Any]]


@dataclass(frozen=True)
class LinearParity:
    """How far a quantized layer is from what its weights and scales say.

    `rounding`: the largest distance of an input in 8 bits from the value that it stands for, in
    steps; half of one is what rounding costs; None where inputs are not quantized. `product`: the
    largest difference from numpy's product with the stored values, as a share of the largest one.
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
    compute = dialect_named(dialect).computes_in(precision.compute)
    require_computed(compute)
    model = onnx.load_from_string(artifact.read(artifact.graph(dialect).name))
    probes = _probes(model)
    _require_layers(artifact, probes.keys(), dialect)
    names = [name for probe in probes.values() for name in probe]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = session_options(precision, dialect)
    options.add_session_config_entry(FOLDER_OPTION, str(artifact.folder))
    try:
        with artifact.held(WEIGHTS):
            session = loaded(model.SerializeToString(), options, f"{dialect}.onnx")
        values = dict(zip(names, session.run(names, _random_step(artifact, dialect)), strict=True))
    except LlxError:
        raise
    except Exception as error:  # a dozen classes of its own, of no common ancestor
        raise failed_step(NAME, error) from None
    arithmetic = Arithmetic.of(compute)
    rounds = bool(dialect_named(dialect).domains)  # `settings_of` lets no other graph be rounded
    fp8 = precision.linear == "fp8"
    with artifact.opened_weights("pt" if fp8 else "np") as file:
        read = _numbers_of(file) if fp8 else file.get_tensor
        for module, probe in probes.items():
            found = [_values(values[name], fp8) for name in probe]
            if module in TABLES:
                yield _table(arithmetic, rounds, module, read, *found)
            elif precision.rounds_inputs:
                steps = _e4m3_steps if fp8 else _int8_steps
                yield _both_sides(arithmetic, steps, module, read, *found)
            else:
                yield _weight_only(arithmetic, rounds, module, read, precision, *found)


def _numbers_of(file: Any) -> Read:
    """Reads tensors in float32, through PyTorch: safetensors gives NumPy no E4M3."""
    return lambda name: file.get_tensor(name).float().numpy()


def _values(found: NDArray[Any], fp8: bool) -> NDArray[np.float32]:
    """What was found, as numbers: uint8 is around 128, or E4M3, which ONNX Runtime gives so."""
    if fp8 and found.dtype == np.uint8:
        return found.view(E4M3).astype(np.float32)
    wide = found.astype(np.float32)
    return wide - ZERO if found.dtype == np.uint8 else wide


def _int8_steps(exact: NDArray[np.float32], rounded: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far rounded inputs are from exact ones, both over their scale: a step is one."""
    return np.abs(rounded - np.clip(exact, -128, 127))


def _e4m3_steps(exact: NDArray[np.float32], rounded: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same in E4M3, whose step is an eighth of the power of two beneath a value.

    Below 2⁻⁶ it is 2⁻⁹ (Micikevicius et al., 2022, arXiv:2209.05433, table 1).
    """
    clipped = np.clip(exact, -E4M3_MOST, E4M3_MOST)
    _, exponent = np.frexp(np.maximum(np.abs(clipped), np.float32(2.0**-6)))
    step = np.ldexp(np.float32(1), exponent - 4)
    steps: NDArray[np.float32] = np.abs(rounded - clipped) / step
    return steps


def _both_sides(
    a: Arithmetic,
    steps: Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]],
    module: str,
    read: Read,
    x: NDArray[np.float32],
    quantized: NDArray[np.float32],
    product: NDArray[np.float32],
) -> LinearParity:
    step = np.float32(read(f"{module}.input_scale"))
    weight = read(f"{module}.weight") * read(f"{module}.weight_scale").astype(np.float32)
    given = quantized * step
    rounding = float(steps(x / step, quantized).max())
    return _judged(a, module, rounding, given, weight, product)


def _weight_only(
    a: Arithmetic,
    rounds: bool,
    module: str,
    read: Read,
    precision: Precision,
    x: NDArray[np.float32],
    product: NDArray[np.float32],
) -> LinearParity:
    values, scales = read(f"{module}.weight"), read(f"{module}.weight_scale").astype(np.float32)
    block, zero = BLOCK_OF_INT8, ZERO
    if precision.linear == "int4":
        inputs, outputs = x.shape[-1], scales.shape[1]
        values = _int4(values, (inputs, outputs))
        block, zero = precision.block_of(inputs), ZERO_OF_INT4
        scales = np.repeat(scales, block, axis=0)[:inputs]
    weight, zeros = values * scales, zero * scales
    return _as_it_came_or_rounded(a, rounds, module, x, weight, zeros, product, block)


def _table(
    a: Arithmetic,
    rounds: bool,
    module: str,
    read: Read,
    x: NDArray[np.float32],
    product: NDArray[np.float32],
) -> LinearParity:
    """Logits of a vocabulary's table [V, dim] in int8."""
    scales = read(f"{module}.weight_scale").astype(np.float32)
    table: NDArray[np.float32] = read(f"{module}.weight") * scales[:, None]
    block = table_block(table.shape[1]) or BLOCK_OF_INT8
    return _as_it_came_or_rounded(a, rounds, module, x, table.T, ZERO * scales, product, block)


def _as_it_came_or_rounded(
    a: Arithmetic,
    rounds: bool,
    module: str,
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    zeros: NDArray[np.float32],
    product: NDArray[np.float32],
    block: int,
) -> LinearParity:
    """The product of the input, or where it may be rounded of what MatMulNBits makes of it.

    Which one a kernel computes then depends on the CPU and on whether blocks are whole, and the
    nearer one counts; what it says that it does is
    `llx.bench.sessions.ort_arithmetic.arithmetic_of`. The kernel multiplies unsigned weights and
    takes the product of `zeros`, [in, out] or alike in all rows, away again: sums of both round.
    """
    exact = _judged(a, module, None, x, weight, product)
    if exact.beyond <= 1 or not rounds:
        return exact
    rounded, slack = rounded_in_blocks(x, block)
    away = gamma(x.shape[-1], a.sums) * (np.abs(x[0]) @ np.broadcast_to(zeros, weight.shape))
    moved = np.abs(slack[0]) @ np.abs(weight)
    found = _judged(a, module, None, rounded, weight, product, away + moved)
    return min(exact, found, key=lambda one: one.beyond)


def rounded_in_blocks(
    x: NDArray[np.float32], block: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Inputs [..., in] as MatMulNBits rounds them to int8, and what another rounding would move.

    Each block of inputs has its largest magnitude at 127 steps (`accuracy_level` 4, MLAS). The
    second is a step where a value lies between two, and zero elsewhere.
    """
    inputs = x.shape[-1]
    padded = np.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, -inputs % block)])
    blocks = padded.reshape(*x.shape[:-1], -1, block)
    step = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(step > 0, blocks / step, 0)
    edge = np.abs(exact - np.floor(exact) - 0.5) < ON_EDGE
    rounded, slack = np.rint(exact) * step, np.where(edge, step, 0)
    return tuple(y.reshape(padded.shape)[..., :inputs] for y in (rounded, slack))  # type: ignore[return-value]


def _judged(
    a: Arithmetic,
    module: str,
    rounding: float | None,
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    product: NDArray[np.float32],
    more: NDArray[np.float32] | None = None,
) -> LinearParity:
    """A product beside that of the dequantized values; `more` is allowed as well.

    DequantizeLinear gives values of the graph's type, and a kernel that multiplies few bits does
    not: what rounding the weights to it does is known exactly, so it is counted and not bounded.
    What it does to inputs is bounded as for any layer.
    """
    wide, found = x[0].astype(np.float64), product[0]
    with np.errstate(all="ignore"):  # what overflowed before is no news
        expected = oracle.linear(a._replace(given=a.unit), wide, weight)
        rounded = weight.astype(NUMPY_DTYPES[a.compute]).astype(np.float32) - weight
        expected.allowed[:] += np.abs(wide @ rounded)
        if more is not None:
            expected.allowed[:] += more
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
    """Of each quantized module: names of its input, of that in 8 bits if it is, of its product."""
    users = {name: node for node in model.graph.node for name in node.input}
    makers = {name: node for node in model.graph.node for name in node.output}

    def stored(name: str) -> str:
        """The weight that a value is made of, where it is made of one alone."""
        while name not in weights and name in makers and makers[name].input:
            name = makers[name].input[0]
        return name

    weights = {value.name for value in model.graph.initializer if value.name.endswith(".weight")}
    found: dict[str, tuple[str, ...]] = {}
    for node in model.graph.node:
        if node.op_type in PRODUCTS_OF_ORT:
            maker = makers.get(node.input[0])
            names = [node.input[0]]
            if node.op_type == "MatMulIntegerToFloat" and maker is not None:
                names = [maker.input[0], *names]
            module = stored(node.input[1]).removesuffix(".weight")
            found[module] = (*names, node.output[0])
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


def _random_step(artifact: Artifact, dialect: str) -> dict[str, NDArray[Any]]:
    """Inputs of a prefill of random tokens into an empty cache."""
    contract = dialect_named(dialect).contract_of(artifact.manifest.contract)
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
