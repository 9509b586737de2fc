"""The bundle: all that another machine needs to build an artifact's engine, in one folder.

Nothing that is built on a PC runs on a Jetson. So the graph, lowered for the TensorRT of there,
goes there with its weights, the recipe, and the very modules that build and measure here; it needs
no more than a JetPack has. Nothing is run here.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

import llx
from llx.artifact import Artifact
from llx.bundle import LIB, README, RECIPE, SCRIPT, WEIGHTS, Recipe
from llx.engine import EngineKey
from llx.errors import BadInput, require_modules
from llx.exporter.engines.build import BuildRequest, checked_graph, engine_contract
from llx.exporter.engines.told import readme_of
from llx.files import require_space, sha256_of
from llx.graphs.capacity import stamped
from llx.probe import Needs
from llx.progress import Progress, silent
from llx.runtime import dialect_of_version
from llx.whole import clear_leftovers, require_replaceable, whole_folder

__all__ = ["Bundle", "Place", "make_bundle", "write_bundle"]

TOKENIZER = "tokenizer.json"
# What runs there, and what it imports in turn; the session is loaded by name.
ROOTS = ("llx.bench.edge.device", "llx.bench.sessions.trt")
# The packages' own modules hold registries, which need more than is there.
EMPTY = b'"""Carried to a device: see `llx.bundle`."""\n'
ENGINE_BYTES_PER_WEIGHT = 2  # two profiles store dense weights twice


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a bundle is for. `jetpack` and `l4t` are None where it is no Jetson."""

    tensorrt: str  # major.minor
    device: str | None = None
    sm: int | None = None
    jetpack: str | None = None
    l4t: str | None = None


@dataclass(frozen=True)
class Bundle:
    """A bundle that is described and not yet written: what each of its files holds, or copies."""

    recipe: Recipe
    files: dict[str, Path | bytes]

    @property
    def contents(self) -> dict[str, tuple[int, str]]:
        """Size and hash of every file, those that the recipe does not name among them."""
        others = {name: self.files[name] for name in (README, RECIPE)}
        return self.recipe.files | {
            name: (len(data), sha256(data).hexdigest())
            for name, data in others.items()
            if isinstance(data, bytes)
        }

    def require_intact(self, name: str) -> None:
        """Raise `BadInput` where a file that is copied is not what the artifact vouches for."""
        source = self.files[name]
        if isinstance(source, Path) and sha256_of(source) != self.recipe.files[name][1]:
            raise BadInput(f"{source} is not what was exported", "export again with --overwrite")


def make_bundle(
    artifact: Artifact, request: BuildRequest, place: Place, workload: Mapping[str, Any]
) -> Bundle:
    """Describe the bundle of an engine. `workload`: the fields of a `Workload`.

    Raises `BadInput` where sizes do not fit, `Lacking` where the artifact or this machine lacks
    what has to be carried.
    """
    require_modules("a bundle", "rtx", "polygraphy")
    if request.options.strip:
        raise BadInput(
            "a stripped engine takes its weights from the artifact, which is not where it runs",
            "leave --strip out",
        )
    major, minor = (int(part) for part in place.tensorrt.split(".")[:2])
    compute = artifact.manifest.precision.compute
    dialect = request.dialect or dialect_of_version(request.runtime, (major, minor), compute)
    contract = engine_contract(artifact.manifest.contract, request)
    key = EngineKey(
        artifact_sha256=artifact.sha256,
        runtime=request.runtime,
        version=place.tensorrt,
        sm=request.sm or place.sm,
        device=place.device,
        dialect=dialect,
        contract=contract,
        options=request.options,
    )
    graph = checked_graph(artifact, key)
    files: dict[str, Path | bytes] = {
        f"{dialect}.onnx": stamped(graph, contract.limits.capacity),
        SCRIPT: _source("llx.bench.edge.run_bundle"),
        **{f"{LIB}/{name}": data for name, data in sorted(_library().items())},
    }
    hashes = {name: (len(data), sha256(data).hexdigest()) for name, data in files.items()}  # type: ignore[arg-type]
    for name in (WEIGHTS, *artifact.manifest.references, TOKENIZER):
        if artifact.has(name):
            record = artifact.manifest.files[name]
            files[name], hashes[name] = artifact.path(name), (record.bytes, record.sha256)
    weights_bytes = hashes[WEIGHTS][0]
    recipe = Recipe(
        llx=llx.__version__,
        artifact=artifact.manifest.name,
        artifact_sha256=artifact.sha256,
        runtime=request.runtime,
        sm=request.sm,
        dialect=dialect,
        contract=contract,
        options=request.options,
        needs=Needs(
            request.runtime,
            f"{major}.{minor}",
            place.jetpack,
            place.l4t,
            weights_bytes,
            (1 + ENGINE_BYTES_PER_WEIGHT) * weights_bytes,
        ),
        workload=dict(workload),
        files=hashes,
    )
    files[README] = readme_of(recipe, place.device).encode()
    files[RECIPE] = msgspec.json.format(msgspec.json.encode(recipe), indent=1) + b"\n"
    return Bundle(recipe, files)


def write_bundle(
    bundle: Bundle, folder: Path, overwrite: bool = False, progress: Progress = silent
) -> bool:
    """Write a bundle, whole or not at all; return whether it was written anew.

    The same bundle again is a no-op. Raises `BadInput` where something else stands in its place,
    `Lacking` where the disk has no room.
    """
    require_replaceable(folder)
    clear_leftovers(folder, lambda _: None, "bundle")
    if _stands(bundle, folder):
        return False
    if folder.exists() and not (overwrite and (folder / RECIPE).is_file()):
        what = "another bundle" if (folder / RECIPE).is_file() else "what is no bundle"
        raise BadInput(
            f"{folder} holds {what}",
            "choose another -o" + (", or --overwrite" if (folder / RECIPE).is_file() else ""),
        )
    total = sum(size for size, _ in bundle.contents.values())
    require_space(folder, total)
    with whole_folder(folder, lambda _: None, "bundle") as partial:
        done = 0
        for name, source in bundle.files.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                path.write_bytes(source)
            else:
                _copy(source, path)
                if sha256_of(path) != bundle.recipe.files[name][1]:
                    bundle.require_intact(name)
                    raise BadInput(f"{path} was not written as it was read", "try again")
            done += path.stat().st_size
            progress("bundle", done, total, "byte")
    return True


def _stands(bundle: Bundle, folder: Path) -> bool:
    """Whether this very bundle is there in full size. Its bytes are checked where it runs."""
    recipe = folder / RECIPE
    return (
        recipe.is_file()
        and recipe.read_bytes() == bundle.files[RECIPE]
        and all(
            (folder / name).is_file() and (folder / name).stat().st_size == size
            for name, (size, _) in bundle.recipe.files.items()
        )
    )


def _copy(source: Path, target: Path) -> None:
    """Copy inside the kernel, which shares the blocks where the file system can (a reflink)."""
    left = source.stat().st_size
    try:
        with source.open("rb") as read, target.open("wb") as write:
            while left:
                copied = os.copy_file_range(read.fileno(), write.fileno(), left)
                if not copied:
                    break
                left -= copied
    except (OSError, AttributeError):  # another file system, or a system without it
        shutil.copyfile(source, target)


def _library() -> dict[str, bytes]:
    """Modules by their path under `lib/`: ours that run there, and Polygraphy without its tools."""
    found: dict[str, bytes] = {}
    waiting = [name for name in ROOTS if importlib.util.find_spec(name)]
    seen = set(waiting)
    while waiting:
        module = waiting.pop()
        source = _source(module)
        found[f"{module.replace('.', '/')}.py"] = source
        for name in _imported(source):
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    for module in list(found):
        for parent in Path(module).parents[:-1]:
            found[f"{parent.as_posix()}/__init__.py"] = EMPTY
    found["llx/__init__.py"] = EMPTY + f"__version__ = {llx.__version__!r}\n".encode()
    return found | _polygraphy()


def _imported(source: bytes) -> Iterator[str]:
    """Modules of ours that a module imports when it is loaded itself; packages hold nothing."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llx"):
            for name in [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]:
                spec = _spec(name or "")
                if spec and spec.submodule_search_locations is None:
                    yield spec.name


def _spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:  # a name inside a module
        return None


def _source(module: str) -> bytes:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_bytes()


def _polygraphy() -> dict[str, bytes]:
    spec = importlib.util.find_spec("polygraphy")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    root = Path(spec.submodule_search_locations[0])
    found = {
        f"polygraphy/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in root.rglob("*.py")
        if path.relative_to(root).parts[0] != "tools"
    }
    # Its wheel names its licence, Apache-2.0, and brings no text of it: ours is the same.
    for package, file, name in (
        ("polygraphy", "METADATA", "polygraphy/METADATA"),
        ("llx", "licenses/LICENSE", "LICENSE"),
    ):
        # A source tree beside the installed package may be found first, and has no such file.
        records = importlib.metadata.distributions(name=package)
        found[name] = next(text for record in records if (text := record.read_text(file))).encode()
    return found
