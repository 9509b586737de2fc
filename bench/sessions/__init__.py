"""The engines. A new one is a file beside this and a line in `ENGINES`.

What an edge machine may lack is imported where it is used: this file runs on a JetPack too.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llx.bench.session import Built, Memory, Session, Tokens
from llx.errors import BadInput, Lacking, to_install
from llx.gpu import require_gpu
from llx.runtime import Runtime
from llx.tensorrt import load

if TYPE_CHECKING:
    from llx.artifact import Artifact
    from llx.graphs.contract import Limits

__all__ = ["ENGINES", "Built", "Engine", "Memory", "Session", "Tokens", "engine_named"]

Inference = Literal["auto", "f32", "bf16"]
# The graphs that each provider of ONNX Runtime runs, the one that is made for it first.
GRAPHS_OF_ORT: dict[str, tuple[str, ...]] = {
    "cpu": ("ort", "standard"),
    "cuda": ("standard",),
    "tensorrt": ("standard",),
}
Open = Callable[["Artifact", int, Built], Session]


def _open_torch(device: str) -> Open:
    def open_session(artifact: Artifact, rows: int, built: Built) -> Session:
        from llx.bench.sessions.torch import TorchSession

        return TorchSession.open(artifact, rows, device)

    return open_session


def _open_torch_compile(device: str) -> Open:
    def open_session(artifact: Artifact, rows: int, built: Built) -> Session:
        from llx.bench.sessions.torch_compile import CompiledSession

        return CompiledSession.open(artifact, rows, device)

    return open_session


def _open_ort(provider: Literal["cpu", "cuda", "tensorrt"], dialect: str | None = None) -> Open:
    def open_session(artifact: Artifact, rows: int, built: Built) -> Session:
        from llx.bench.sessions.ort import OrtSession

        return OrtSession(artifact, rows, dialect, provider)

    return open_session


def _open_openvino(inference: Inference) -> Open:
    def open_session(artifact: Artifact, rows: int, built: Built) -> Session:
        from llx.bench.sessions.openvino import OpenVinoSession

        return OpenVinoSession(artifact, rows, inference)

    return open_session


def _open_trt(runtime: Runtime) -> Open:
    def open_session(artifact: Artifact, rows: int, built: Built) -> Session:
        from llx.bench.sessions.trt import TrtSession

        return TrtSession.open(runtime, artifact, rows, built)

    return open_session


def _require_torch_cuda() -> None:
    from llx.bench.sessions.torch import require_cuda

    require_cuda()


def _require_compiler() -> None:
    from llx.bench.sessions.torch_compile import require_compiler

    require_compiler()


def _require_triton() -> None:
    from llx.bench.sessions.torch_compile import require_triton

    require_triton()


def _require_openvino(inference: Inference) -> Callable[[], None]:
    def require() -> None:
        from llx.bench.sessions.openvino import require_cpu

        require_cpu(inference)

    return require


def _require_ort_cuda() -> None:
    from llx.bench.sessions.ort import require_provider

    require_provider("cuda")


def _require_ort_tensorrt() -> None:
    from llx.bench.sessions.ort import require_provider

    require_provider("tensorrt")


@dataclass(frozen=True)
class Engine:
    """An engine by name: what it needs, what installs that, which dialects' graphs it runs.

    Of those, the first that an artifact has. `runtime`: it runs what `llx build` built, of
    whichever dialect. `rounds`: it computes in a type of its own choice, whatever the artifact's.
    `check` raises `Lacking` for what its module alone does not tell.
    """

    name: str
    module: str
    install: str
    dialects: tuple[str, ...]
    session: Open
    packages: tuple[str, ...] = ()  # any of them brings the module,
    oldest: tuple[int, int] = (0, 0)  # in this release or a newer one
    gpu: bool = False
    compiles: bool = False  # for minutes, as it opens
    rounds: bool = False
    runtime: Runtime | None = None
    check: Callable[[], None] = lambda: None

    def reads(self, artifact: Artifact) -> list[str]:
        """The files of an artifact that its session opens; an engine that was built needs none."""
        from llx.manifest import WEIGHTS

        if self.runtime:
            return []
        dialect = self.dialect_of(artifact)
        names = [WEIGHTS, *([f"{dialect}.onnx"] if dialect else [])]
        return [name for name in names if artifact.has(name)]

    def dialect_of(self, artifact: Artifact) -> str | None:
        """The dialect whose graph of an artifact it runs; None where it runs none."""
        return next((name for name in self.dialects if name in artifact.dialects), None)

    def open(self, artifact: Artifact, rows: int, built: Built | None = None) -> Session:
        """A session of so many rows. Raises `LlxError` where it cannot be."""
        return self.session(artifact, rows, built or Built())

    def limits(self, artifact: Artifact, rows: int, built: Built | None = None) -> Limits:
        """What its session takes: the artifact's limits, or those of the engine that was built."""
        if self.runtime is None:
            return artifact.manifest.contract.limits
        from llx.bench.sessions.trt import chosen_engine

        engine = chosen_engine(artifact, self.runtime, rows, built or Built())
        return engine.manifest.key.contract.limits

    def require(self) -> None:
        """Raise `Lacking` where this machine cannot run the engine."""
        if self.runtime:
            load(self.runtime)  # says itself what is missing
        elif importlib.util.find_spec(self.module) is None:
            raise Lacking(
                f"engine {self.name} needs {self.module}, which is not installed", self.install
            )
        version = self._version()
        if version and tuple(int(part) for part in version.split(".")[:2]) < self.oldest:
            oldest = ".".join(map(str, self.oldest))
            raise Lacking(
                f"engine {self.name} needs {self.module} {oldest} or newer, not {version}",
                self.install,
            )
        if self.gpu:
            require_gpu(f"engine {self.name}", WITHOUT_GPU)
        self.check()

    def _version(self) -> str | None:
        for package in self.packages:
            try:
                return importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        return None


WITHOUT_GPU = (
    "bench on a machine with one; here `--engine ort` measures on the CPU, and `llx build --engine "
    "trt-rtx --sm 86` builds without a GPU"
)
INSTALL_TORCH = to_install("export")
# Its wheels for Python 3.10 end at 1.23, which knows no opset 24.
INSTALL_ORT = f"{to_install('cpu')} on Python 3.11 or newer"
INSTALL_ORT_CUDA = f"{to_install('gpu')} in an environment without onnxruntime"
INSTALL_OPENVINO = to_install("openvino")
ORT_PACKAGES = ("onnxruntime", "onnxruntime-gpu")

# What OpenVINO is to compute in, by engine: left to itself it takes bf16 where the CPU has it.
OPENVINO: dict[str, Inference] = {
    "openvino": "auto",
    "openvino-f32": "f32",
    "openvino-bf16": "bf16",
}

ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine("torch", "torch", INSTALL_TORCH, (), _open_torch("cpu"), ("torch",), (2, 8)),
        Engine(
            "ort",
            "onnxruntime",
            INSTALL_ORT,
            GRAPHS_OF_ORT["cpu"],
            _open_ort("cpu"),
            ORT_PACKAGES,
            (1, 24),
        ),
        Engine(
            "ort-standard",
            "onnxruntime",
            INSTALL_ORT,
            ("standard",),
            _open_ort("cpu", "standard"),
            ORT_PACKAGES,
            (1, 24),
        ),
        Engine(
            "torch-compile",
            "torch",
            INSTALL_TORCH,
            (),
            _open_torch_compile("cpu"),
            ("torch",),
            (2, 8),
            compiles=True,
            check=_require_compiler,
        ),
        Engine(
            "torch-cuda",
            "torch",
            INSTALL_TORCH,
            (),
            _open_torch("cuda"),
            ("torch",),
            (2, 8),
            gpu=True,
            check=_require_torch_cuda,
        ),
        Engine(
            "torch-compile-cuda",
            "torch",
            INSTALL_TORCH,
            (),
            _open_torch_compile("cuda"),
            ("torch",),
            (2, 8),
            gpu=True,
            compiles=True,
            check=_require_triton,
        ),
        Engine(
            "ort-cuda",
            "onnxruntime",
            INSTALL_ORT_CUDA,
            GRAPHS_OF_ORT["cuda"],
            _open_ort("cuda"),
            ORT_PACKAGES,
            (1, 24),
            gpu=True,
            check=_require_ort_cuda,
        ),
        Engine(
            "ort-tensorrt",
            "onnxruntime",
            INSTALL_ORT_CUDA,
            GRAPHS_OF_ORT["tensorrt"],
            _open_ort("tensorrt"),
            ORT_PACKAGES,
            (1, 24),
            gpu=True,
            check=_require_ort_tensorrt,
        ),
        *(
            Engine(
                name,
                "openvino",
                INSTALL_OPENVINO,
                ("primitive",),
                _open_openvino(inference),
                ("openvino",),
                (2026, 4),
                rounds=inference != "f32",
                check=_require_openvino(inference),
            )
            for name, inference in OPENVINO.items()
        ),
        Engine("trt", "tensorrt", "", (), _open_trt("trt"), gpu=True, runtime="trt"),
        Engine(
            "trt-rtx", "tensorrt_rtx", "", (), _open_trt("trt-rtx"), gpu=True, runtime="trt-rtx"
        ),
    )
}


# What `--provider` calls the engines of ONNX Runtime.
ORT_PROVIDERS = {"cpu": "ort", "cuda": "ort-cuda", "tensorrt": "ort-tensorrt"}


def engine_named(name: str) -> Engine:
    """The engine that `--engine NAME` means. Raises `BadInput` for an unknown name."""
    if name not in ENGINES:
        raise BadInput(f"unknown engine {name!r}", f"choose one of {', '.join(ENGINES)}")
    return ENGINES[name]


def default_engine() -> Engine:
    """ONNX Runtime where it is installed, else PyTorch; `Lacking` where neither is."""
    for name in ("ort", "torch"):
        if importlib.util.find_spec(ENGINES[name].module):
            return ENGINES[name]
    raise Lacking("no engine is installed", to_install("cpu"))
