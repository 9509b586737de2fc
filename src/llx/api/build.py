"""`llx.build`: TensorRT engines of an artifact, for this machine or for a GPU that is not here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from llx.api.watching import AnyArtifact, Tell, call_in_words, opened, telling, watched
from llx.arguments import door
from llx.artifact import Artifact
from llx.engine import Engine
from llx.errors import BadInput
from llx.exporter.engines.build import BuildRequest, build_engine, key_of, timing_cache_of
from llx.graphs.dialects import PLAIN, dialect_named
from llx.progress import Progress
from llx.runtime import RUNTIMES
from llx.tensorrt import BuildOptions


@door
def build(
    artifact: AnyArtifact = None,
    engine: str = "trt",
    *,
    sm: int | Sequence[int] | None = None,
    context: int | None = None,
    batch: int = 1,
    max_prefill: int | None = None,
    dialect: str | None = None,
    profiles: int = 1,
    workspace: int | None = None,
    opt_level: int | None = None,
    timing_cache: str | Path | None = None,
    strip: bool = False,
    version_compatible: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> list[Engine]:
    """Build engines of an artifact: fp16, int8, fp8, bf16 or fp32, as its graph says.

    The same engine again is a no-op. TensorRT-RTX builds for a GPU that is not here.

    Args:
        artifact: An artifact or its folder. None: the one exported last.
        engine: "trt" or "trt-rtx".
        sm: Of "trt-rtx": one or several compute capabilities, such as [86, 89]. None: one engine
            for any GPU from Ampere on.
        context: Cache capacity in positions. None: the artifact's.
        batch: Most rows of a step, B.
        max_prefill: Most new tokens of a step, T. None: 512, at most the capacity.
        dialect: Which graph. None: the one that suits the TensorRT that is here.
        profiles: 2 gives decoding a profile, and weights, of its own.
        workspace: MiB of scratch memory. None: TensorRT's default.
        opt_level: Effort, 0…5. None: TensorRT's default.
        timing_cache: Of "trt": a file of timings. None: one per version and GPU.
        strip: Leave weights out; loading takes them from the artifact.
        version_compatible: Of "trt": an engine that later releases load too.
        overwrite: Build again what is there already.
        progress: Called with what is done, how much of how much, and the unit. None: bars.
        tell: Called with notices. None: the logger `llx`.

    Returns:
        An engine for each of `sm`.

    Raises:
        BadInput: Options or sizes that do not fit, a graph that TensorRT refuses.
        Lacking: TensorRT, a GPU or disk space is missing.

    """
    requests = build_requests(
        engine,
        sm=(sm,) if isinstance(sm, int) else sm,
        context=context,
        batch=batch,
        max_prefill=max_prefill,
        dialect=dialect,
        profiles=profiles,
        workspace=workspace,
        opt_level=opt_level,
        timing_cache=timing_cache,
        strip=strip,
        version_compatible=version_compatible,
        command=call_in_words(build, locals()),
    )
    return [found for found, _ in built(opened(artifact), requests, overwrite, progress, tell)]


def build_requests(
    engine: str,
    *,
    sm: Sequence[int] | None,
    context: int | None,
    batch: int,
    max_prefill: int | None,
    dialect: str | None,
    profiles: int,
    workspace: int | None,
    opt_level: int | None,
    timing_cache: str | Path | None,
    strip: bool,
    version_compatible: bool,
    command: str,
) -> list[BuildRequest]:
    """A request for each chip. Raises `BadInput` for options that are at odds; see `build`."""
    runtime = next((name for name in RUNTIMES if name == engine), None)
    if runtime is None:
        raise BadInput(f"{engine!r} builds no engines", f"choose {' or '.join(RUNTIMES)}")
    if timing_cache and runtime == "trt-rtx":
        raise BadInput("TensorRT-RTX times nothing", "leave --timing-cache out")
    if dialect is not None:
        dialect_named(dialect)
        if dialect not in PLAIN:
            raise BadInput(
                f"{dialect}.onnx is of ONNX Runtime's own ops, which TensorRT does not know",
                f"choose {' or '.join(PLAIN)}",
            )
    if sm is not None and runtime == "trt":
        raise BadInput(
            "TensorRT builds for the GPU that it runs on, and takes no --sm",
            "leave --sm out, or choose --engine trt-rtx",
        )
    asked = BuildRequest(
        runtime=runtime,
        dialect=dialect,
        context=context,
        batch=batch,
        max_prefill=max_prefill,
        options=BuildOptions(
            profiles=profiles,
            workspace_mib=workspace,
            opt_level=opt_level,
            strip=strip,
            version_compatible=version_compatible,
        ),
        timing_cache=Path(timing_cache) if timing_cache is not None else None,
        command=command,
    )
    chips = (None,) if sm is None else dict.fromkeys(sm)
    return [replace(asked, sm=chip) for chip in chips]


def built(
    artifact: Artifact,
    requests: Sequence[BuildRequest],
    overwrite: bool = False,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> Iterator[tuple[Engine, bool]]:
    """Each engine as soon as it is there, and whether it was built anew; see `build`."""
    for request in requests:  # what one of them cannot have is said before any is built
        key_of(artifact, request)
    for request in requests:
        kept = request.timing_cache or timing_cache_of(request.runtime)
        with watched(progress) as news:
            yield build_engine(
                artifact, replace(request, timing_cache=kept), overwrite, news, telling(tell)
            )
