"""The engines. A new one is a file beside this and a line in `ENGINES`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from llx.artifact import Artifact
from llx.bench.sessions.base import Memory, Session, Tokens
from llx.errors import BadInput, Lacking

__all__ = ["ENGINES", "Engine", "Memory", "Session", "Tokens", "engine_named"]


def _open_torch(artifact: Artifact, rows: int) -> Session:
    from llx.bench.sessions.torch import TorchSession

    return TorchSession.open(artifact, rows)


def _open_ort(artifact: Artifact, rows: int) -> Session:
    from llx.bench.sessions.ort import OrtSession

    return OrtSession(artifact, rows)


@dataclass(frozen=True)
class Engine:
    """An engine by name: what it needs, what installs that, which dialect's graph it runs."""

    name: str
    module: str
    install: str
    dialect: str | None
    open: Callable[[Artifact, int], Session]
    packages: tuple[str, ...]  # any of them brings the module,
    oldest: tuple[int, int]  # in this release or a newer one

    def require(self) -> None:
        """Raise `Lacking` where this machine cannot run the engine."""
        if importlib.util.find_spec(self.module) is None:
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

    def _version(self) -> str | None:
        for package in self.packages:
            try:
                return importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        return None


ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine(
            "torch", "torch", "pip install 'llx[export]'", None, _open_torch, ("torch",), (2, 8)
        ),
        Engine(
            "ort",
            "onnxruntime",
            # Its wheels for Python 3.10 end at 1.23, which knows no opset 24.
            "pip install 'llx[cpu]' on Python 3.11 or newer",
            "standard",
            _open_ort,
            ("onnxruntime", "onnxruntime-gpu"),
            (1, 24),
        ),
    )
}


def engine_named(name: str) -> Engine:
    """The engine that `--engine NAME` means. Raises `BadInput` for an unknown name."""
    if name in ("trt", "trt-rtx"):
        raise Lacking(
            f"engine {name} cannot be run by this version yet",
            f"choose one of {', '.join(ENGINES)}; standard.onnx is what TensorRT will build from",
        )
    if name not in ENGINES:
        raise BadInput(f"unknown engine {name!r}", f"choose one of {', '.join(ENGINES)}")
    return ENGINES[name]


def default_engine() -> Engine:
    """ONNX Runtime where it is installed, else PyTorch; `Lacking` where neither is."""
    for name in ("ort", "torch"):
        if importlib.util.find_spec(ENGINES[name].module):
            return ENGINES[name]
    raise Lacking("no engine is installed", "pip install 'llx[cpu]'")
