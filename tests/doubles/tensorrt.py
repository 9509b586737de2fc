"""A recording double of TensorRT's module: its engines run the artifact's graph in ONNX Runtime.

They read and write at the very addresses that they are given, when the stream of the double of CUDA
gets there. Nothing of TensorRT is in it: that an engine computes this, only a GPU can tell.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

from llx.artifact import Artifact
from llx.graphs.capacity import stamped
from llx.graphs.contract import LOGITS, PAST, PRESENT, GraphContract
from llx.graphs.dialects import dialect_named
from llx.runtime import Runtime
from llx.tensorrt import profiles_of
from tests.doubles.cuda import ALIGNMENT, Misuse, RecordingCuda

SCRATCH = 4096
FOLDER_OPTION = "session.model_external_initializers_file_folder_path"
DTYPES = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(float16)": np.float16}


def plan_of(
    artifact: Artifact,
    dialect: str,
    contract: GraphContract,
    profiles: int = 1,
    **changes: Any,
) -> bytes:
    """What the double loads for an engine of an artifact."""
    plan = {
        "graph": str(artifact.graph(dialect)),
        "capacity": contract.limits.capacity,
        "in_place": dialect_named(dialect).cache == "in-place",
        "profiles": profiles_of(contract, profiles),
        "stripped": False,
    }
    return json.dumps(plan | changes).encode()


class FakeTensorRT:
    """The module: `native` is a TensorRT since 10.15, which has caches in place and can tell."""

    def __init__(self, runtime: Runtime = "trt", native: bool = True, **flags: Any) -> None:
        self.__version__ = (
            "1.7.1.116" if runtime == "trt-rtx" else "10.16.2" if native else "10.3.0"
        )
        self.flags = {"capturable": True, "alias": {}} | flags
        self.engines: list[FakeEngine] = []
        self.INetworkDefinition = SimpleNamespace(**{"add_kv_cache_update": None} if native else {})
        self.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
        if runtime == "trt-rtx":
            self.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph")
            self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")

        class ILogger:
            Severity = SimpleNamespace(ERROR="error", INTERNAL_ERROR="internal error")

        engine_type = NativeEngine if native else FakeEngine
        engine_type = RtxEngine if runtime == "trt-rtx" else engine_type

        class Loader:
            engine_host_code_allowed = False

            def __init__(loader, logger: Any) -> None:
                loader.logger = logger

            def deserialize_cuda_engine(loader, plan: bytes) -> FakeEngine | None:
                if not plan.startswith(b"{"):
                    loader.logger.log("error", "Error Code 1: Serialization\n(magic tag)")
                    return None
                self.engines.append(engine_type(json.loads(plan), self.flags))
                return self.engines[-1]

        class ParserRefitter:
            def __init__(parser, refitter: Any, logger: Any) -> None:
                parser.engine = refitter.engine

            def refit_from_bytes(parser, model: bytes, path: str) -> bool:
                return parser.engine.refit(model, path)

        class Refitter:
            def __init__(refitter, engine: FakeEngine, logger: Any) -> None:
                refitter.engine = engine

            def refit_cuda_engine(refitter) -> bool:
                return refitter.engine.session is not None

        self.ILogger, self.Runtime = ILogger, Loader
        self.Refitter, self.OnnxParserRefitter = Refitter, ParserRefitter


class FakeEngine:
    """An engine of a TensorRT before 10.15: it cannot tell what is aliased or can be captured."""

    device_memory_size_v2 = SCRATCH

    def __init__(self, plan: dict[str, Any], flags: dict[str, Any]) -> None:
        self.in_place, self.profiles, self.flags = plan["in_place"], plan["profiles"], flags
        self.num_optimization_profiles = len(self.profiles)
        self.runs: list[tuple[int, tuple[int, ...]]] = []  # profile and shape of input_ids
        self.contexts: list[FakeContext] = []
        self.session: onnxruntime.InferenceSession | None = None
        graph = Path(plan["graph"])
        self.model = stamped(graph, plan["capacity"])
        described = onnx.load_from_string(self.model).graph
        self.shapes = {
            value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
            for value in (*described.input, *described.output)
        }
        self.inputs = {value.name for value in described.input}
        if not plan["stripped"]:
            self.refit(self.model, str(graph))

    def refit(self, model: bytes, path: str) -> bool:
        if model != self.model:
            return False
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry(FOLDER_OPTION, str(Path(path).parent))
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.dtypes = {
            value.name: DTYPES[value.type]
            for value in (*self.session.get_inputs(), *self.session.get_outputs())
        }
        return True

    @property
    def num_io_tensors(self) -> int:
        return len(self.shapes)

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if isinstance(size, str) else size for size in self.shapes[name])

    def create_execution_context(self, strategy: Any) -> FakeContext:
        assert strategy == "user managed"
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


class NativeEngine(FakeEngine):
    """An engine of TensorRT since 10.15."""

    def get_aliased_input_tensor(self, name: str) -> str | None:
        own = name.replace(PRESENT, PAST) if self.in_place and name != LOGITS else None
        return self.flags["alias"].get(name, own)

    def create_execution_context(self, strategy: Any) -> FakeContext:
        assert strategy == "user managed"
        self.contexts.append(CapturableContext(self))
        return self.contexts[-1]


class RtxEngine(NativeEngine):
    """An engine of TensorRT-RTX, whose contexts are made of a configuration."""

    def create_runtime_config(self) -> Any:
        self.config = SimpleNamespace()
        self.config.set_execution_context_allocation_strategy = lambda strategy: setattr(
            self.config, "allocation", strategy
        )
        return self.config

    def create_execution_context(self, config: Any) -> FakeContext:
        return super().create_execution_context(config.allocation)


class FakeContext:
    """Shapes, addresses and a profile; running takes them as they are when it is begun."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.profile = engine, -1
        self.addresses: dict[str, int] = {}
        self.input_shapes: dict[str, tuple[int, ...]] = {}
        self.scratch = (0, 0)
        self._ready: tuple[Any, ...] | None = None  # the shapes that it has run with last

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return 0 <= profile < len(self.engine.profiles) and stream in RecordingCuda.streams

    def set_device_memory(self, address: int, count: int) -> None:
        self.scratch = (address, count)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.shapes and address % ALIGNMENT == 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.profiles[self.profile][name]
        self.input_shapes[name] = tuple(shape)
        return all(a <= size <= b for a, size, b in zip(least, shape, most, strict=True))

    def execute_async_v3(self, stream: int) -> bool:
        engine, cuda = self.engine, RecordingCuda.streams[stream]
        if self.input_shapes.keys() != engine.inputs or self.addresses.keys() != set(engine.shapes):
            return False
        shapes = self._all_shapes()
        if cuda.capturing and self._ready != tuple(shapes.items()):
            return False  # what it has put off cannot be captured
        self._ready = tuple(shapes.items())
        addresses, profile = dict(self.addresses), self.profile
        for name in shapes if engine.in_place else ():
            past = addresses.get(name.replace(PRESENT, PAST))
            if name.startswith(PRESENT) and addresses[name] != past:
                raise Misuse(f"{name} and its past are not at one address")

        def run() -> None:
            self._run(cuda, shapes, addresses)
            engine.runs.append((profile, shapes["input_ids"]))

        cuda.begin("engine", 0, run)
        return True

    def _all_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of inputs as they were set, of outputs as follows from them."""
        sizes: dict[str, int] = {}
        for name, shape in self.input_shapes.items():
            for size, there in zip(self.engine.shapes[name], shape, strict=True):
                if isinstance(size, str) and sizes.setdefault(size, there) != there:
                    raise Misuse(f"{name} is {shape}, and {size} was {sizes[size]}")
        return {
            name: tuple(sizes[size] if isinstance(size, str) else size for size in shape)
            for name, shape in self.engine.shapes.items()
        }

    def _run(
        self, cuda: RecordingCuda, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]
    ) -> None:
        engine = self.engine
        assert engine.session is not None, "a stripped engine was run without weights"
        cuda.on_device(self.scratch[0], engine.device_memory_size_v2).fill(0xAB)
        binding = engine.session.io_binding()
        for name, shape in shapes.items():
            dtype, address = engine.dtypes[name], addresses[name]
            cuda.on_device(address, int(np.prod(shape)) * np.dtype(dtype).itemsize)
            bind = binding.bind_input if name in engine.inputs else binding.bind_output
            bind(name, "cpu", 0, dtype, shape, address)
        engine.session.run_with_iobinding(binding)


class CapturableContext(FakeContext):
    """A context that can tell whether it can be captured."""

    def is_stream_capturable(self, stream: int) -> bool:
        return bool(self.engine.flags["capturable"])
