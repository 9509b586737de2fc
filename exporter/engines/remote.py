"""A build on another machine: asked what it is, sent what it lacks, and everything fetched back.

What has arrived stays there, by content, in a folder for each artifact, so another engine of the
same artifact sends a few kilobytes. What comes back is untrusted data.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import msgspec

import llx
from llx import probe
from llx.artifact import Artifact
from llx.bundle import (
    BUILD,
    MACHINE,
    OBSERVED,
    PLAN,
    RECIPE,
    RECORD_BYTES,
    SAMPLES,
    SAMPLES_BYTES,
    SCRIPT,
    TIMING,
    WEIGHTS,
    BuildRecord,
    Recipe,
    SampleRecord,
    clean,
)
from llx.engine import (
    ENGINES,
    MANIFEST,
    Engine,
    EngineKey,
    EngineManifest,
    open_engine,
    write_engine_manifest,
)
from llx.errors import Lacking, LlxError
from llx.exporter.engines.bundle import Bundle
from llx.exporter.engines.ssh import (
    SMALL_AT_ONCE,
    Remote,
    There,
    connected,
    error_of,
    message_of,
)
from llx.files import require_space
from llx.manifest import FileRecord
from llx.probe import OUT, Machine, unmet
from llx.progress import Progress, silent
from llx.runtime import Runtime
from llx.scrub import handed_on
from llx.tensorrt import MODULES
from llx.typed import NewerSchema
from llx.whole import clear_leftovers_in, whole_folder

HOME = ".cache/llx/bundles"
TIMING_BYTES = 256 << 20
ENGINE_SLACK_BYTES = 256 << 20
VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){1,4}")
LARGE_BYTES = 8 << 20

T = TypeVar("T")
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Brought:
    """What a build elsewhere came back with.

    `made`: the engine was fetched anew. `observed`: what fidelity needs, a safetensors file.
    """

    engine: Engine
    made: bool
    recipe: Recipe
    machine: Machine
    samples: SampleRecord
    observed: bytes | None


@dataclass(frozen=True, kw_only=True)
class RemoteRequest:
    """A build elsewhere. `bundle_for` describes the bundle for the machine that was found there."""

    remote: Remote
    runtime: Runtime
    bundle_for: Callable[[Machine], Bundle]
    command: str
    overwrite: bool = False


def build_remotely(
    artifact: Artifact,
    request: RemoteRequest,
    progress: Progress = silent,
    tell: Tell = lambda _: None,
) -> Brought:
    """Build an artifact's engine on another machine, measure it there, and bring both back.

    A failed measurement is in the samples. Raises `Lacking` where the machine cannot be reached,
    lacks something or goes away, and `BadInput` where what it answers is not what a bundle writes.
    """
    return asyncio.run(_build(artifact, request, progress, tell))


async def _build(
    artifact: Artifact, request: RemoteRequest, progress: Progress, tell: Tell
) -> Brought:
    remote = request.remote
    folder = f"{HOME}/{artifact.sha256[:16]}-{request.runtime}"
    async with connected(remote) as there:
        machine = await _machine(there, request.runtime, folder)
        bundle = request.bundle_for(machine)
        files = bundle.contents
        missing = await _missing(there, folder, files)
        left = sum(files[name][0] - begun for name, begun in missing.items())
        engine_bytes = bundle.recipe.needs.disk_bytes - bundle.recipe.needs.memory_bytes
        needs = replace(bundle.recipe.needs, disk_bytes=left + engine_bytes)
        lacks = unmet(machine, needs)
        if lacks:
            raise Lacking(f"{remote.name}: {lacks[0]}", lacks[1])
        await _send(there, folder, bundle, missing, progress)
        tell(f"{remote.name}: sent {len(missing)} of {len(files)} files, {left} bytes")
        if request.overwrite:
            await there.forget(f"{folder}/{OUT}/{BUILD}")
        problem = await _run(there, folder, "build", progress, tell)
        if problem:
            raise problem
        engine, made = await _fetch_engine(there, folder, artifact, bundle, request, progress)
        samples, observed = await _measure(there, folder, artifact, bundle, progress, tell)
    return Brought(
        engine=engine,
        made=made,
        recipe=bundle.recipe,
        machine=machine,
        samples=samples,
        observed=observed,
    )


async def _machine(there: There, runtime: Runtime, folder: str) -> Machine:
    """What the machine is: asked of its Python, which nothing of ours has reached yet."""
    arguments = json.dumps([list(MODULES[runtime]), folder])
    data = await _ask(there, f"vars(describe(*json.loads({arguments!r})))")
    machine = _decoded(there, data, Machine, "machine")
    shown: dict[str, Any] = {
        field.name: clean(value)
        for field in fields(machine)
        if isinstance(value := getattr(machine, field.name), str)
    }
    machine = replace(machine, **shown)
    if machine.tensorrt is not None and not VERSION.fullmatch(machine.tensorrt):
        raise there.hostile("a TensorRT version that is none")
    return machine


async def _missing(there: There, folder: str, files: dict[str, tuple[int, str]]) -> dict[str, int]:
    """Files that are not there, and how many bytes of each are."""
    arguments = json.dumps([folder, files])
    data = await _ask(there, f"inventory(*json.loads({arguments!r}))")
    missing = _decoded(there, data, dict[str, int], "inventory")
    if not missing.keys() <= files.keys() or min(missing.values(), default=0) < 0:
        raise there.hostile("files that it was not asked for")
    return missing


async def _ask(there: There, expression: str) -> str:
    source = Path(probe.__file__).read_text("utf-8")
    return await there.python(f"{source}\nimport json\nprint(json.dumps({expression}))\n")


async def _send(
    there: There, folder: str, bundle: Bundle, missing: dict[str, int], progress: Progress
) -> None:
    """Send the files that are missing: the recipe last, small ones side by side."""
    files = bundle.contents
    total = sum(files[name][0] for name in missing)
    done = sum(begun for name, begun in missing.items() if begun <= files[name][0])
    turns = asyncio.Semaphore(SMALL_AT_ONCE)

    def sent(count: int) -> None:
        nonlocal done
        done += count
        progress(f"to {there.remote.name}", done, total, "B")

    async def send(name: str) -> None:
        async with turns:
            await there.send(folder, name, bundle.files[name], files[name], missing[name], sent)

    for name in missing:
        bundle.require_intact(name)
    small = [n for n in missing if files[n][0] < LARGE_BYTES and n != RECIPE]
    await asyncio.gather(*map(send, small))
    for name in missing:
        if name not in small and name != RECIPE:
            await send(name)
    if RECIPE in missing:
        await send(RECIPE)


async def _run(
    there: There, folder: str, command: str, progress: Progress, tell: Tell
) -> LlxError | None:
    """Run a command of the bundle there; return the error that it ended with.

    Raises `Lacking` where it ended without a word.
    """
    failed: list[Any] = []
    last = ""

    def hear(line: str) -> None:
        nonlocal last
        kind, content = message_of(line)
        if kind == "progress" and _is_progress(content):
            progress(clean(content[0]), content[1], content[2], clean(content[3]))
        elif kind == "say":
            tell(f"{there.remote.name}: {clean(content)}")
        elif kind == "error":
            failed[:] = [content]
        elif line.strip():
            last = clean(line)

    words = [there.remote.python, f"{folder}/{SCRIPT}", command, "--json"]
    code = await there.run(words, hear)
    if failed:
        return error_of(failed[0], there.remote)
    if code:
        raise Lacking(
            f"{there.remote.name}: {command} ended with {code}: {last or 'it said nothing'}",
            f"run `{there.remote.python} {folder}/{SCRIPT} {command}` there to see more",
        )
    return None


def _is_progress(content: Any) -> bool:
    return (
        isinstance(content, list)
        and len(content) == 4
        and all(isinstance(count, int) and 0 <= count < 1 << 62 for count in content[1:3])
    )


async def _fetch_engine(
    there: There,
    folder: str,
    artifact: Artifact,
    bundle: Bundle,
    request: RemoteRequest,
    progress: Progress,
) -> tuple[Engine, bool]:
    """The engine that was built there, in a folder of the artifact; and whether it was fetched."""
    recipe = bundle.recipe
    record = await there.fetch_small(f"{folder}/{OUT}/{BUILD}", RECORD_BYTES)
    built = _decoded(there, record, BuildRecord, BUILD)
    _require_sane(there, built, bundle)
    key = EngineKey(
        artifact_sha256=recipe.artifact_sha256,
        runtime=recipe.runtime,
        version=built.tensorrt,
        sm=built.sm if recipe.runtime == "trt" else recipe.sm,
        device=built.gpu if recipe.runtime == "trt" else None,
        dialect=recipe.dialect,
        contract=recipe.contract,
        options=recipe.options,
    )
    target = artifact.folder / ENGINES / key.name
    plan = FileRecord(bytes=built.plan_bytes, sha256=built.plan_sha256)
    clear_leftovers_in(target.parent, lambda _: None, "build")
    standing = _standing(target)
    if standing is not None and standing.manifest.files[PLAN] == plan:
        return standing, False
    require_space(target, plan.bytes)
    done = 0

    def got(count: int) -> None:
        nonlocal done
        done += count
        progress(f"from {there.remote.name}", done, plan.bytes, "B")

    with whole_folder(target, lambda _: None, "build") as partial:
        content = (plan.bytes, plan.sha256)
        await there.fetch(f"{folder}/{OUT}/{PLAN}", partial / PLAN, content, got)
        files = {PLAN: plan}
        for name, most in ((BUILD, RECORD_BYTES), (MACHINE, RECORD_BYTES), (TIMING, TIMING_BYTES)):
            data = await there.fetch_small(f"{folder}/{OUT}/{name}", most)
            if data is not None:
                (partial / name).write_bytes(data)
                files[name] = FileRecord(bytes=len(data), sha256=sha256(data).hexdigest())
        manifest = EngineManifest(
            key=key,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            command=handed_on(request.command, artifact.folder),
            llx=llx.__version__,
            build_s=built.seconds,
            peak_host_bytes=built.peak_host_bytes,
            weights_bytes=recipe.files[WEIGHTS][0],
            layers=built.layers,
            files=files,
        )
        write_engine_manifest(partial, manifest)
    return open_engine(target), True


def _require_sane(there: There, built: BuildRecord, bundle: Bundle) -> None:
    """What becomes part of a folder's name, and how much is fetched, is bounded first."""
    recipe = bundle.recipe
    most = 4 * recipe.files[WEIGHTS][0] + ENGINE_SLACK_BYTES
    if built.recipe != bundle.contents[RECIPE][1]:
        raise there.hostile("an engine of another recipe")
    if not VERSION.fullmatch(built.tensorrt):
        raise there.hostile("a TensorRT version that is none")
    if not 0 < built.plan_bytes <= most:
        raise there.hostile(f"an engine of {built.plan_bytes} bytes")
    names = [built.gpu or "", built.plan_sha256, *built.layers]
    if any(name != clean(name) for name in names) or not 0 <= (built.sm or 0) < 1000:
        raise there.hostile("names that are none")


def _standing(folder: Path) -> Engine | None:
    """The engine that is here already, if it is whole. Raises `BadInput` for a newer llx's."""
    if not (folder / MANIFEST).exists():
        return None
    try:
        return open_engine(folder)
    except NewerSchema:
        raise
    except LlxError:
        return None


async def _measure(
    there: There,
    folder: str,
    artifact: Artifact,
    bundle: Bundle,
    progress: Progress,
    tell: Tell,
) -> tuple[SampleRecord, bytes | None]:
    """Measure there; a failure of it is in the record, for the engine is good all the same."""
    await there.forget(f"{folder}/{OUT}/{SAMPLES}")
    problem = await _run(there, folder, "bench", progress, tell)
    data = await there.fetch_small(f"{folder}/{OUT}/{SAMPLES}", SAMPLES_BYTES)
    if problem and data is None:
        raise problem
    samples = _decoded(there, data, SampleRecord, SAMPLES)
    if samples.recipe != bundle.contents[RECIPE][1]:
        raise there.hostile("samples of another recipe")
    references = artifact.manifest.references
    if not samples.judged or not references:
        return samples, None
    # A token's two phases are as large as its line of the reference.
    most = 2 * sum(artifact.manifest.files[name].bytes for name in references) + RECORD_BYTES
    return samples, await there.fetch_small(f"{folder}/{OUT}/{OBSERVED}", most)


def _decoded(there: There, data: bytes | str | None, kind: type[T], what: str) -> T:
    if data is None:
        raise there.hostile(f"no {what}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise there.hostile(f"a {what} that is none ({clean(error)})") from None
