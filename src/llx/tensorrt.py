"""The one door to TensorRT (10.3 to 11) and TensorRT-RTX: what is here, what it can do, a build.

Both have the same API, so there is one path. What a release can do is asked of the module itself;
what only its version tells stands in this file and nowhere else. The builder is told no precision:
the dtypes are the graph's (strong typing).

This file needs only what a JetPack has, and Polygraphy: it is also what runs on the Jetson.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llx.errors import BadInput, Lacking, to_install
from llx.graphs.contract import GraphContract, Shape
from llx.precision import Compute
from llx.progress import Progress, silent
from llx.runtime import Runtime

if TYPE_CHECKING:
    import tensorrt as trt

MODULES: dict[Runtime, tuple[str, ...]] = {
    "trt": ("tensorrt",),
    "trt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),  # the second is what the wheels bring
}
INSTALL: dict[Runtime, str] = {
    "trt": f"{to_install('trt')} on a machine with an NVIDIA GPU; with none, `llx build --engine "
    "trt-rtx --sm 86` builds, and `--device agx-orin-64` writes a bundle for a Jetson",
    "trt-rtx": to_install("rtx"),
}
STRONG_TYPING_IS_THE_ONLY_ONE_SINCE = 11
SHOWN_DEPTH = 3
# TensorRT-RTX 1.7 tunes nothing at build time, and its wheels have no lean runtime.
NOT_IN_RTX = ("version_compatible",)


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What decides an engine beside its graph, its TensorRT and its GPU.

    `profiles`: 1 covers every step from one token to the longest; 2 adds one for decoding alone,
    and TensorRT then stores dense and W8A8 weights twice. `workspace_mib` and `opt_level` are
    TensorRT's own defaults where None. `strip`: leave the weights out of the engine; they are
    taken from the artifact when it is loaded.
    """

    profiles: int = 1
    workspace_mib: int | None = None
    opt_level: int | None = None
    strip: bool = False
    version_compatible: bool = False


@dataclass(frozen=True)
class Plan:
    """A built engine: its bytes, the network's layers by type, and the seconds that it took."""

    data: Any  # TensorRT's IHostMemory: a buffer
    layers: dict[str, int]
    seconds: float


def load(runtime: Runtime) -> Any:
    """The module of a runtime. Raises `Lacking` where it is not installed."""
    for name in MODULES[runtime]:
        if importlib.util.find_spec(name):
            try:
                module = importlib.import_module(name)
            except (ImportError, OSError, RuntimeError) as error:
                raise Lacking(
                    f"{name} is installed and does not load ({_one_line(str(error))})",
                    "install it again, with the CUDA and the driver that it is for",
                ) from None
            if hasattr(module, "Builder"):  # a package of type stubs has the name and nothing else
                return module
    raise Lacking(f"{runtime} needs {MODULES[runtime][0]}, not installed here", INSTALL[runtime])


def dialect_of(api: Any, compute: Compute) -> str:
    """The dialect that a TensorRT takes: `standard` where it updates a cache in place.

    Its Attention has no kernel for fp32, so that an fp32 graph must be the decomposed one.
    """
    native = hasattr(api.INetworkDefinition, "add_kv_cache_update")
    return "standard" if native and compute != "fp32" else "primitive"


def targets(api: Any) -> list[int]:
    """The compute capabilities that TensorRT-RTX builds for without their GPU, such as 86."""
    names = getattr(api, "ComputeCapability", None)
    members = names.__members__ if names else {}
    return sorted(int(name[2:]) for name in members if name[2:].isdigit())


def profiles_of(contract: GraphContract, count: int) -> list[dict[str, tuple[Shape, Shape, Shape]]]:
    """Least, most usual and largest shape of every input, one dictionary for each profile.

    Tuned for decoding, whose step is the one that is repeated: one token in every row.
    """
    limits = contract.limits
    rows, most = (1, limits.max_rows, limits.max_rows), limits.max_new_tokens
    every = {"B": rows, "T": (1, 1, most), "K": (1, 1, most)}
    decode = {"B": rows, "T": (1, 1, 1), "K": (1, 1, 1)}
    prefill = {"B": rows, "T": (1, most, most), "K": (1, 1, most)}
    chosen = [every] if count == 1 else [decode, prefill]
    return [
        {name: _shapes(shape, sizes) for name, (_, shape) in contract.inputs().items()}
        for sizes in chosen
    ]


def _shapes(shape: Shape, sizes: dict[str, tuple[int, int, int]]) -> tuple[Shape, Shape, Shape]:
    least, usual, largest = (
        tuple(sizes[size][i] if isinstance(size, str) else size for size in shape) for i in range(3)
    )
    return least, usual, largest


def build(
    runtime: Runtime,
    graph: bytes,
    path: Path,
    contract: GraphContract,
    options: BuildOptions,
    sm: int | None = None,
    timing_cache: Path | None = None,
    progress: Progress = silent,
) -> Plan:
    """Build an engine of a graph, whose weights lie beside `path`.

    `contract` has the engine's own limits. `sm` is the GPU that TensorRT-RTX builds for, any from
    Ampere on where None; TensorRT builds for the GPU that it runs on. Raises `BadInput` with
    TensorRT's own words where it refuses the graph or finds no way to build it.

    A process that has built with one runtime cannot build with the other: Polygraphy chooses once.
    """
    api = load(runtime)
    complaints = _logger(api)
    builder: trt.Builder = api.Builder(complaints)
    network: trt.INetworkDefinition = builder.create_network(_network_flags(api))
    parser: trt.OnnxParser = api.OnnxParser(network, complaints)
    parser.parse(graph, str(path))
    if parser.num_errors:
        error = parser.get_error(0)
        raise BadInput(
            f"{path.name}: {runtime} {api.__version__} refuses {error.node_operator()} "
            f"{error.node_name()}: {_one_line(error.desc())}",
            "report it with the file that `llx doctor --bundle` writes",
        )
    layers = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
    config = _config(runtime, api, builder, network, contract, options, sm, timing_cache, progress)
    start = time.perf_counter()
    data: trt.IHostMemory | None = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - start
    if data is None:
        said = _one_line(" ".join(complaints.errors[:1])) or "no reason given"
        raise BadInput(
            f"{runtime} {api.__version__} cannot build {path.name}: {said}",
            ("try --profiles 1, " if options.profiles > 1 else "try ")
            + "a smaller --context, --max-prefill or --batch, or more --workspace",
        )
    if timing_cache and runtime == "trt":
        _save_timing_cache(config, timing_cache)
    return Plan(data, dict(layers.most_common()), seconds)


@dataclass(frozen=True)
class Loaded:
    """An engine that a runtime has loaded: the runtime's module, and what it complained of."""

    api: Any
    engine: Any  # ICudaEngine
    complaints: Any

    def reason(self) -> str:
        """The last thing that TensorRT complained of."""
        return _one_line(" ".join(self.complaints.errors[-1:])) or "no reason given"


def load_engine(runtime: Runtime, plan: bytes, weights: tuple[bytes, Path] | None = None) -> Loaded:
    """Load an engine, on the GPU that it was built for.

    `weights`: of a stripped engine, the graph that it was built from and the path beside which the
    graph's weights lie. Loading runs code that the plan may bring: it must be trusted by now.
    Raises `Lacking` where the runtime is not installed, `BadInput` where it refuses the engine.
    """
    api = load(runtime)
    complaints = _logger(api)
    loader: trt.Runtime = api.Runtime(complaints)
    loader.engine_host_code_allowed = True
    engine: trt.ICudaEngine | None = loader.deserialize_cuda_engine(plan)
    loaded = Loaded(api, engine, complaints)
    if engine is None:
        raise BadInput(
            f"{runtime} {api.__version__} cannot load the engine: {loaded.reason()}",
            "build it on this machine with `llx build --overwrite`",
        )
    if weights:
        _refit(loaded, *weights)
    return loaded


def _refit(loaded: Loaded, graph: bytes, path: Path) -> None:
    """Give a stripped engine its weights again."""
    refitter: trt.Refitter = loaded.api.Refitter(loaded.engine, loaded.complaints)
    parser = loaded.api.OnnxParserRefitter(refitter, loaded.complaints)
    if not parser.refit_from_bytes(graph, str(path)) or not refitter.refit_cuda_engine():
        raise BadInput(
            f"the stripped engine cannot be given the weights of {path.name}: {loaded.reason()}",
            "build it again with `llx build --overwrite`, or without --strip",
        )


def new_context(runtime: Runtime, loaded: Loaded) -> Any:
    """An execution context that is given its scratch memory: `device_memory_size_v2` bytes.

    TensorRT-RTX compiles kernels for each shape when it first runs. It does so at once here rather
    than in the background, where a measurement would change under way; and it captures its CUDA
    graphs by itself, since only it knows when those kernels are there.
    """
    api, engine = loaded.api, loaded.engine
    strategy = api.ExecutionContextAllocationStrategy.USER_MANAGED
    if runtime == "trt":
        context = engine.create_execution_context(strategy)
    else:
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.cuda_graph_strategy = api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        specialization = api.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = specialization
        context = engine.create_execution_context(config)
    if context is None:
        raise Lacking(
            f"{runtime} has no memory to run the engine: {loaded.reason()}",
            "choose an engine with a smaller --context, --max-prefill or --batch",
        )
    return context


def _network_flags(api: Any) -> int:
    """Strong typing, which is the only kind from TensorRT 11 on and has no flag there."""
    if int(api.__version__.split(".")[0]) >= STRONG_TYPING_IS_THE_ONLY_ONE_SINCE:
        return 0
    return 1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _polygraphy(runtime: Runtime, api: Any) -> tuple[Any, Any]:
    """Polygraphy's CreateConfig and Profile for a runtime, quiet, and not installing anything."""
    if runtime == "trt-rtx":
        sys.modules.setdefault("tensorrt_rtx", api)  # the name that Polygraphy looks for
    from polygraphy import config
    from polygraphy.logger import G_LOGGER

    config.USE_TENSORRT_RTX = runtime == "trt-rtx"  # read once, when its back end is imported
    config.AUTOINSTALL_DEPS = False
    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    from polygraphy.backend.trt import CreateConfig, Profile

    if runtime == "trt-rtx":
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        return CreateConfigRTX, Profile
    return CreateConfig, Profile


def _config(
    runtime: Runtime,
    api: Any,
    builder: trt.Builder,
    network: trt.INetworkDefinition,
    contract: GraphContract,
    options: BuildOptions,
    sm: int | None,
    timing_cache: Path | None,
    progress: Progress,
) -> trt.IBuilderConfig:
    create, profile_type = _polygraphy(runtime, api)
    profiles = []
    for shapes in profiles_of(contract, options.profiles):
        profile = profile_type()
        for name, (least, usual, largest) in shapes.items():
            profile.add(name, least, usual, largest)
        profiles.append(profile)
    settings: dict[str, Any] = {}
    if options.workspace_mib is not None:
        pool = api.MemoryPoolType.WORKSPACE
        settings["memory_pool_limits"] = {pool: options.workspace_mib << 20}
    if runtime == "trt-rtx":
        settings["compute_capabilities"] = [divmod(sm, 10)] if sm else None
    elif timing_cache and timing_cache.exists():
        settings["load_timing_cache"] = str(timing_cache)
    with warnings.catch_warnings():
        # Polygraphy always makes a timing cache, which TensorRT-RTX has none of.
        warnings.simplefilter("ignore", DeprecationWarning)
        config: trt.IBuilderConfig = create(
            profiles=profiles,
            builder_optimization_level=options.opt_level,
            strip_plan=options.strip,
            version_compatible=options.version_compatible,
            progress_monitor=_monitor(api, progress),
            **settings,
        )(builder, network)
    return config


def _save_timing_cache(config: trt.IBuilderConfig, path: Path) -> None:
    """Keep what was timed, for the next build with this TensorRT on this GPU, where it can be.

    There is none where TensorRT refused the one that it was given, and no cache is worth a build.
    """
    from llx.files import make_folder, write_whole

    cache: trt.ITimingCache | None = config.get_timing_cache()
    if cache is not None:
        with contextlib.suppress(OSError, BadInput):
            make_folder(path.parent)
            write_whole(path, bytes(cache.serialize()))


def _logger(api: Any) -> Any:
    """A logger that says nothing and keeps the errors, which a build alone does not give."""

    class Complaints(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (api.ILogger.Severity.ERROR, api.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Complaints()


def _monitor(api: Any, progress: Progress) -> Any:
    """TensorRT's progress as ours: its phases by name, but for the many small ones deep inside."""

    class Monitor(api.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.depth: dict[str | None, int] = {None: 0}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase], self.depth[phase] = steps, self.depth.get(parent, 0) + 1
            self._tell(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self._tell(phase, step + 1)
            return True

        def phase_finish(self, phase: str) -> None:
            self._tell(phase, self.steps[phase])

        def _tell(self, phase: str, done: int) -> None:
            if self.depth[phase] <= SHOWN_DEPTH and self.steps[phase] > 1:
                with contextlib.suppress(Exception):  # TensorRT would take it for a cancellation
                    progress(phase, done, self.steps[phase], "step")

    return Monitor()


def _one_line(text: str) -> str:
    return " ".join(text.split())
