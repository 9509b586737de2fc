"""`openvino`, `openvino-f32`, `openvino-bf16`: OpenVINO on the CPU over the graph `primitive`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13

from llx.artifact import Artifact
from llx.bench.machine.threads import usable_threads
from llx.bench.session import Details, Memory, Tokens, failed_step
from llx.bench.sessions import Inference
from llx.bench.sessions.openvino_model import ROW_OF, SLOTS, stateful
from llx.bench.sessions.openvino_split import split_products
from llx.errors import BadInput, Lacking, LlxError, one_line
from llx.graphs.contract import INPUT_IDS, LOGIT_INDEX, LOGITS, POSITION_IDS, StepGuard
from llx.graphs.dialects.primitive import LATER
from llx.manifest import WEIGHTS, Manifest
from llx.refused import refused

DIALECT = "primitive"
WASTE = 64  # slots that may be lost before the cache is put together again
# In f32 it rounds nothing beyond the artifact's own types; by itself it would round activations of
# weight-only layers to int8 in groups.
SETTINGS: dict[Inference, dict[str, Any]] = {
    "auto": {},
    "f32": {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0},
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16"},
}
SAID = (
    "INFERENCE_PRECISION_HINT",
    "KV_CACHE_PRECISION",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE",
    "INFERENCE_NUM_THREADS",
)


class OpenVinoSession:
    """A compiled model with its cache as states, which grow with what is written.

    A step writes behind all that stands there, for every row alike. Which position a slot holds is
    kept here, and a slot that a row has gone back behind is seen by nobody: rows may be of
    different length, and may go back. Where too many are lost, the states are put together again.
    """

    reads_capacity = False

    def __init__(self, artifact: Artifact, rows: int = 1, inference: Inference = "auto") -> None:
        contract = artifact.manifest.contract
        require_computed(artifact.manifest)
        self.limits, self.rows = contract.limits, rows
        self.weights = artifact.weights_in_words
        self._guard = StepGuard(self.limits, rows)
        self._compiled = compiled(artifact, inference)
        require_precision(self._compiled, inference)
        self._request = self._compiled.create_infer_request()
        self._states = self._request.query_state()
        self._row_of = np.arange(rows, dtype=np.int32)
        self._slots = np.full((rows, self.limits.capacity), LATER, dtype=np.int64)
        self._written = 0
        values = 2 * contract.layers * contract.kv_heads * contract.head_dim * rows
        value_bytes = self._compiled.get_property("KV_CACHE_PRECISION").size
        self._cache_bytes = self.limits.capacity * values * value_bytes

    def enqueue(self, tokens: Tokens, positions: Tokens, logit_index: Tokens) -> None:
        """Run one step; it is done when this returns."""
        self._guard.admit(tokens, positions, logit_index)
        self._make_room(positions)
        inputs = {
            INPUT_IDS: tokens,
            POSITION_IDS: positions,
            LOGIT_INDEX: logit_index,
            SLOTS: self._slots[:, : self._written],
            ROW_OF: self._row_of,
        }
        contiguous = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        try:
            self._request.infer(contiguous, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise failed_step("OpenVINO", error) from None

    def _make_room(self, positions: Tokens) -> None:
        """Note which positions the step writes behind what is there, and what it overtakes."""
        starts, count = positions[:, 0], positions.shape[1]
        held = self._slots[:, : self._written]
        held[held >= starts[:, None]] = LATER
        longest = int(starts.max())
        if not longest:
            self._forget()
        elif self._written + count > self.limits.capacity or self._written > 2 * longest + WASTE:
            self._put_together(longest)
        self._slots[:, self._written : self._written + count] = positions
        self._written += count

    def _put_together(self, longest: int) -> None:
        """Leave out of the states what no row sees any more: each row's first slots are its own."""
        held = self._slots[:, : self._written]
        kept = np.argsort(held, axis=1, kind="stable")[:, :longest]
        for state in self._states:
            values = np.take_along_axis(state.state.data, kept[:, None, :, None], axis=2)
            state.state = ov.Tensor(np.ascontiguousarray(values))
        self._slots[:, :longest] = np.take_along_axis(held, kept, axis=1)
        self._slots[:, longest:] = LATER
        self._written = longest

    def _forget(self) -> None:
        self._request.reset_state()
        self._slots[:] = LATER
        self._written = 0

    def sync(self) -> None:
        """Nothing to wait for."""

    def logits(self) -> NDArray[np.float32]:
        """The last step's logits, [B, K, V]; overwritten by the next step."""
        logits: NDArray[np.float32] = self._request.get_tensor(LOGITS).data
        return logits

    def reset(self) -> None:
        """Forget the cache."""
        self._guard.reset()
        self._forget()

    def memory(self) -> Memory:
        """Size of the states once they are full: they begin with nothing and grow."""
        return Memory(cache_bytes=self._cache_bytes)

    def close(self) -> None:
        """Let go of model and states."""
        del self._states, self._request, self._compiled

    def details(self) -> Details:
        """Version and settings of OpenVINO: above all, what it computes in."""
        said = {name: self._compiled.get_property(name) for name in SAID}
        inference = said["INFERENCE_PRECISION_HINT"]
        return {
            "openvino": ov.__version__,
            "arithmetic": type_name(inference).replace("f32", "fp32"),
            "inference_precision": type_name(inference),
            "kv_cache_precision": type_name(said["KV_CACHE_PRECISION"]),
            "dynamic_quantization_group_size": int(said["DYNAMIC_QUANTIZATION_GROUP_SIZE"]),
            "cache": "in-place",
            "reads_capacity": self.reads_capacity,
            "threads": int(said["INFERENCE_NUM_THREADS"]),
        }


def compiled(artifact: Artifact, inference: Inference) -> ov.CompiledModel:
    """The artifact's graph, compiled for this CPU. Raises `BadInput` where it cannot be."""
    graph = artifact.graph(DIALECT)
    try:
        with artifact.held(graph.name, WEIGHTS):
            core = ov.Core()
            read = core.read_model(graph)
            split_products(read)
            model = stateful(read, artifact.manifest.contract)
            # By itself it would round keys and values to uint8.
            cache = {"KV_CACHE_PRECISION": type_name(computed_in(inference))}
            how = settings(inference, usable_threads()) | cache
            return core.compile_model(model, "CPU", how)
    except ValueError:  # `Unlike`, or of its kind
        raise BadInput(
            f"{graph} spells attention in another way than this version of llx",
            "export again with --overwrite",
        ) from None
    except LlxError:
        raise
    except RuntimeError as error:
        raise refused(error) or BadInput(
            f"OpenVINO does not load {graph} ({one_line(error)})",
            "export again with --overwrite, or bench with --engine ort",
        ) from None


def matrix_product(
    x: NDArray[np.float32], weight: NDArray[np.float32], threads: int | None, inference: Inference
) -> Callable[[], object]:
    """The product [rows, in] × [in, out] as OpenVINO computes it, done when the call returns."""
    given = opset13.parameter(list(x.shape), ov.Type.f32)
    model = ov.Model([opset13.result(opset13.matmul(given, weight, False, False))], [given])
    request = ov.Core().compile_model(model, "CPU", settings(inference, threads))
    product = request.create_infer_request()
    product.set_input_tensor(ov.Tensor(x, shared_memory=True))
    infer: Callable[[], object] = product.infer
    return infer


def computed_in(inference: Inference) -> ov.Type:
    """The type that OpenVINO computes in on this CPU."""
    given = opset13.parameter([1], ov.Type.f32)
    model = ov.Model([opset13.result(opset13.relu(given))], [given])
    found = ov.Core().compile_model(model, "CPU", settings(inference, 1))
    return found.get_property("INFERENCE_PRECISION_HINT")


def settings(inference: Inference, threads: int | None) -> dict[str, Any]:
    """What a model is compiled with: each step as soon as it can be, and on so many threads."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
        **SETTINGS[inference],
    }


def type_name(dtype: ov.Type) -> str:
    """The short name that OpenVINO has for a type: f32, bf16, u8."""
    return str(dtype.get_type_name())


def require_computed(manifest: Manifest) -> None:
    """Raise `BadInput` where OpenVINO takes no graph of a precision."""
    spec, precision = manifest.spec, manifest.precision
    if precision.compute == "bf16":
        raise BadInput(
            "engine openvino runs no graph in bf16",
            "export with --precision fp32: openvino computes that in bf16 where the CPU has it",
        )
    if precision.linear == "fp8":  # 0.35 % of inputs land a step beside; on E4M3 a step is much
        raise BadInput(
            "OpenVINO rounds inputs of fp8 to fp16 first, and answers as no other engine does",
            "bench with --engine ort, or export with --precision int8",
        )
    for inputs in (spec.dim, spec.q_dim, spec.ffn_dim) if precision.linear == "int4" else ():
        if inputs % precision.block_of(inputs):
            raise BadInput(
                f"OpenVINO takes int4 in whole blocks alone, and {inputs} inputs are none of "
                f"{precision.block_of(inputs)}",
                "bench with --engine ort, or export with --precision int8-wo",
            )


def capabilities() -> list[str]:
    """What OpenVINO can do on this CPU, such as BF16."""
    found: list[str] = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


def require_cpu(inference: Inference) -> None:
    """Raise `Lacking` where this OpenVINO runs on no CPU, or not in the type asked for."""
    try:
        has = capabilities()
    except RuntimeError as error:
        raise Lacking(
            f"OpenVINO {ov.__version__} has no plugin for this CPU ({one_line(error)})",
            "pip install --force-reinstall openvino",
        ) from None
    if inference == "bf16" and "BF16" not in has:
        raise Lacking(
            "this CPU computes nothing in bf16",
            "bench with --engine openvino, which takes what the CPU has",
        )


def require_precision(model: ov.CompiledModel, inference: Inference) -> None:
    """Raise `Lacking` where OpenVINO computes in another type than it was asked for."""
    found = type_name(model.get_property("INFERENCE_PRECISION_HINT"))
    if inference not in ("auto", found):
        raise Lacking(
            f"OpenVINO computes in {found} on this CPU, not in {inference}",
            "bench with --engine openvino, which takes what the CPU has",
        )
