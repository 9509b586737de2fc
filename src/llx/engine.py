"""`Engine`: a TensorRT engine built from an artifact, in a folder with its own manifest.

An engine executes code when it is loaded, so a manifest's hash is not enough: it proves that the
file is whole, not who made it. What this user built is noted in the user's state folder, and any
other engine is refused unless the user says to trust it.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from llx.artifact import Artifact
from llx.errors import BadInput, Lacking, printable
from llx.files import is_plain_name, sha256_of, state_folder, write_whole
from llx.graphs.contract import GraphContract
from llx.manifest import FileRecord
from llx.runtime import Runtime
from llx.tensorrt import BuildOptions
from llx.typed import NewerSchema, refuse_newer

ENGINES = "engines"
MANIFEST = "manifest.json"
PLAN = "engine.plan"


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """All that decides an engine: equal keys are the same engine, which is not built again.

    `version` is TensorRT's. `sm` is the GPU's compute capability, None where any from Ampere on
    will do; `device` the GPU's name, where the engine was tuned on one.
    """

    artifact_sha256: str
    runtime: Runtime
    version: str
    sm: int | None
    device: str | None
    dialect: str
    contract: GraphContract  # with the engine's own limits
    options: BuildOptions

    @property
    def name(self) -> str:
        """The name of the engine's folder."""
        digest = hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:12]
        return f"{self.runtime}-{self.version}-{self.target}-{digest}"

    @property
    def version_numbers(self) -> tuple[int, ...]:
        """TensorRT's version, to be compared."""
        return tuple(int(part) for part in self.version.split(".") if part.isdigit())

    @property
    def target(self) -> str:
        """The GPU that it is for, in a word."""
        return f"sm{self.sm}" if self.sm else "portable"


@dataclass(frozen=True, kw_only=True)
class EngineManifest:
    """Everything about an engine but its bytes. It was built; that it was run, no manifest says."""

    schema: Literal["llx.engine/1"] = "llx.engine/1"
    key: EngineKey
    created: str  # ISO 8601, UTC
    command: str
    llx: str
    build_s: float
    peak_host_bytes: int | None
    weights_bytes: int  # of the artifact's weights file
    layers: dict[str, int]  # of the network that TensorRT made of the graph, by type
    files: dict[str, FileRecord]

    def __post_init__(self) -> None:
        for name in self.files:
            if not is_plain_name(name):
                raise ValueError(f"file name {name!r} leaves the folder")
        if PLAN not in self.files:
            raise ValueError(f"it has no {PLAN}")
        if not re.fullmatch("[0-9a-f]{64}", self.files[PLAN].sha256):
            raise ValueError(f"the hash of its {PLAN} is none")


@dataclass(frozen=True)
class Engine:
    """An engine whose manifest was read and whose files are there in full size."""

    folder: Path
    manifest: EngineManifest

    def __repr__(self) -> str:
        """What it is and where, in a line."""
        key = self.manifest.key
        of = f"{key.runtime} {key.version} for {key.target}, {key.dialect}"
        size = f"{self.plan_bytes / 2**20:.1f} MiB"
        return printable(f"<llx.Engine: {of}, {size}, in {self.folder}>")

    @property
    def own(self) -> bool:
        """Whether this user built an engine of the hash that its manifest names. See `plan`."""
        return _is_noted(self.manifest.files[PLAN].sha256)

    @property
    def plan_bytes(self) -> int:
        """Size of the engine itself."""
        return self.manifest.files[PLAN].bytes

    @property
    def intact(self) -> bool:
        """Whether every byte is what the manifest vouches for."""
        files = self.manifest.files.items()
        return all(sha256_of(self.folder / name) == record.sha256 for name, record in files)

    def plan(self, trust: bool = False) -> bytes:
        """The engine itself, safe to give to a runtime: the very bytes that were checked.

        Raises `BadInput` where they are not the manifest's, or where this user has not built them
        and does not say to trust them.
        """
        path = self.folder / PLAN
        plan = path.read_bytes()
        sha256 = hashlib.sha256(plan).hexdigest()
        if sha256 != self.manifest.files[PLAN].sha256:
            raise BadInput(
                f"{path} is not what was built", "build it again with `llx build --overwrite`"
            )
        if not trust and not _is_noted(sha256):
            why = notes_problem()
            raise BadInput(
                f"{path} was not built by you here{f', as far as is known ({why})' if why else ''},"
                " and an engine runs code when it is loaded",
                "load it all the same with --trust-engine"
                if why
                else "build it with `llx build`, or load it all the same with --trust-engine",
            )
        return plan


def open_engine(folder: Path) -> Engine:
    """Open an engine's folder. Raises `BadInput` for anything but a whole one."""
    path = folder / MANIFEST
    remedy = "build it again with `llx build --overwrite`"
    try:
        data = path.read_bytes()
        manifest = msgspec.json.decode(data, type=EngineManifest)
    except OSError:
        raise BadInput(f"{folder} is not an engine: it has no {MANIFEST}", remedy) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        refuse_newer(path, data, "llx.engine")
        raise BadInput(f"{path} is not an engine's manifest ({error})", remedy) from None
    for name, record in manifest.files.items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != record.bytes:
            state = "is missing" if found is None else f"has {found} bytes, not {record.bytes}"
            raise BadInput(f"{file} {state}", remedy)
    return Engine(folder, manifest)


def engines_of(artifact: Artifact, runtime: Runtime | None = None) -> list[Engine]:
    """The engines that were built from an artifact as it is now, newest first.

    One that is damaged is left out: it is none, and is built again when it is asked for. Raises
    `BadInput` for one that a newer llx has built.
    """
    found = []
    for path in (artifact.folder / ENGINES).glob(f"[!.]*/{MANIFEST}"):
        try:
            engine = open_engine(path.parent)
        except NewerSchema:
            raise
        except BadInput:
            continue
        key = engine.manifest.key
        if key.artifact_sha256 == artifact.sha256 and runtime in (None, key.runtime):
            found.append(engine)
    return sorted(found, key=lambda engine: engine.manifest.created, reverse=True)


def write_engine_manifest(folder: Path, manifest: EngineManifest) -> None:
    """Write an engine's manifest, whole or not at all."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    write_whole(folder / MANIFEST, data + b"\n")


def note_built(sha256: str) -> None:
    """Note in the user's state folder that this user built the engine with this hash.

    Raises `OSError` or `Lacking` where nothing can be noted there: the engine is good all the same.
    """
    note = _note_of(sha256)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()


def notes_problem() -> str | None:
    """Why nothing can be noted in the user's state folder, if so."""
    try:
        folder = state_folder()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{error.filename or 'the state folder'}: {error.strerror or error}"
    except Lacking as error:
        return error.message
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder} may not be written"


def _is_noted(sha256: str) -> bool:
    try:
        return _note_of(sha256).exists()
    except (OSError, Lacking):
        return False


def _note_of(sha256: str) -> Path:
    return state_folder() / "engines" / sha256
