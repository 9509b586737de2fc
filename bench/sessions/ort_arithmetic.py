"""What ONNX Runtime's CPU kernels compute of a graph: told to them, asked of them, and in words."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from llx.bench.machine.threads import usable_threads
from llx.graphs.dialects import dialect_named
from llx.graphs.dialects.ort import EXACT, INTEGERS, ORT
from llx.graphs.semantic import MICROSOFT
from llx.precision import Precision

CPU = "CPUExecutionProvider"
BLOCK_OF_INT8 = 32  # of inputs that share a scale, where a weight has one for each output alone


def session_options(precision: Precision, dialect: str = "standard") -> onnxruntime.SessionOptions:
    """Settings of every session: a thread for each core, and what `settings_of` says of Q/DQ."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_threads()
    options.log_severity_level = 3
    for name, value in settings_of(precision, dialect).items():
        options.add_session_config_entry(name, value)
    return options


def settings_of(precision: Precision, dialect: str = "standard") -> dict[str, str]:
    """What ONNX Runtime is to make of a graph's Q/DQ.

    Of `ort` what it makes of it by default, `arithmetic_of` says what that is, and on every CPU the
    same integers. Of the others no more and no less than the graph says:

    int4: DequantizeLinear and MatMul become one MatMulNBits as it loads, which reads four bits. By
    default that rounds activations to int8, without a word; level 1 keeps them as in fp32.

    fp8: no kernel multiplies it, in `ort` neither, so its weights are dequantized once, as below.

    All else: ONNX Runtime keeps the DequantizeLinear of weights for int8 kernels, which it has for
    fp32 graphs alone: in fp16 every weight would be dequantized at every step. Told to leave such
    kernels be, it does that once, as it loads; activations of W8A8 are rounded to int8 steps all
    the same. Weight-only int8 has a MatMulNBits as well, whose level 1 takes six times as long.
    """
    if dialect == "ort" and precision.weight_only:
        return {"session.qdq_matmulnbits_accuracy_level": str(INTEGERS)}
    if dialect == "ort" and precision.linear != "fp8":
        return {EXACT: "1"} if precision.linear == "int8" and saturates() else {}
    if precision.linear == "int4":
        return {"session.qdq_matmulnbits_accuracy_level": "1"}
    return {"session.disable_quant_qdq": "1"}


def arithmetic_of(precision: Precision, dialect: str) -> str:
    """What the linear layers multiply, for a result to say: rounding that a graph does not show."""
    compute = dialect_named(dialect).computes_in(precision.compute)
    if precision.linear == "dense":
        return compute
    if dialect != "ort" or precision.linear == "fp8":
        rounded = f"inputs rounded to {precision.linear}"
        return f"{compute}, {rounded if precision.rounds_inputs else 'inputs as they are'}"
    if precision.linear == "int8":
        return f"int8 by int8, {compute} where a layer is dense"
    bits = 4 if precision.linear == "int4" else 8
    if not rounds_inputs(bits):
        return f"{compute}, inputs as they are"
    block = precision.block or BLOCK_OF_INT8
    return f"int{bits} by int8: inputs rounded in blocks of {block} as they come"


@functools.cache
def rounds_inputs(bits: int) -> bool:
    """Whether MatMulNBits has integer kernels on this CPU: without AVX2 it has none."""
    values = np.arange(32 * bits, dtype=np.uint8).reshape(8, 1, 4 * bits)
    inputs = np.sin(np.arange(32, dtype=np.float32))[None]
    weights = {"weights": values, "scales": np.ones(8, np.float32)}
    products = []
    for level in (1, INTEGERS):
        how = {"K": 32, "N": 8, "bits": bits, "block_size": 32, "accuracy_level": level}
        products.append(_computed("MatMulNBits", how, inputs, **weights))
    return bool(np.abs(products[0] - products[1]).max() > 1e-4 * np.abs(products[0]).max())


@functools.cache
def saturates() -> bool:
    """Whether sums of uint8 by int8 are cut off at 16 bits on this CPU: AVX2 and no VNNI."""
    one, zero = np.float32(1), np.uint8(0)
    inputs, weights = np.full((1, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    held = {"weights": weights, "input_scale": one, "scale": one, "zero": zero}
    product = _computed("MatMulIntegerToFloat", {}, inputs, **held)
    return bool((product != 64 * 255 * 127).any())


def _computed(op: str, how: dict[str, int], x: NDArray[Any], **weights: Any) -> NDArray[Any]:
    """What one op of ONNX Runtime's own makes of an input and of weights."""
    given = ir.val("x", ir.DataType.from_numpy(x.dtype), x.shape)
    held = [ir.val(name, const_value=ir.Tensor(np.asarray(w))) for name, w in weights.items()]
    node = ir.node(op, [given, *held], how, domain=MICROSOFT)
    graph = ir.Graph(
        *([given], node.outputs),
        nodes=[node],
        initializers=held,
        opset_imports={"": ORT.opset, MICROSOFT: 1},
        name="probe",
    )
    model = ir.to_proto(ir.Model(graph, ir_version=ORT.ir_version)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=[CPU])
    found: NDArray[Any] = session.run(None, {"x": x})[0]
    return found
