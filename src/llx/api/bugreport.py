"""One file for a bug report, without secrets: `llx doctor --bundle`.

It is JSON, which GitHub takes as an attachment and a browser shows. What it says is of four kinds:
facts of the machine, versions, environment variables of a list, each only where its value has the
form that is expected of it, and texts (a recorded command, labels, errors), which are scrubbed.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import llx
from llx.artifact import Artifact, open_artifact
from llx.bench.machine.environment import installed_versions
from llx.bench.machine.kernel import read_machine
from llx.engine import engines_of
from llx.errors import BadInput, LlxError, is_installed
from llx.files import require_writable, write_whole
from llx.gpu import driver_cuda, find_gpu
from llx.manifest import Manifest
from llx.reports.artifacts import engine_row
from llx.scrub import Scrubber

SCHEMA = "llx.doctor/1"
USUAL = Path("llx-doctor.json")
READ_IT = "read it before you attach it to an issue"
LEFT_OUT = (
    "It holds no weights and no tokenizer, and of names, paths, addresses and tokens what is left "
    "of them in texts is replaced by words in brackets: " + READ_IT + "."
)
# Packages beside those that a measurement names.
PACKAGES = (
    *("onnx", "onnx-ir", "onnxscript", "safetensors", "tokenizers", "gguf", "huggingface-hub"),
    *("transformers", "lm-eval", "datasets", "jinja2", "msgspec", "typer", "rich", "scipy"),
    *("psutil", "triton", "altair", "vl-convert-python", "pandas", "polars", "nvidia-ml-py"),
)
VERSION = re.compile(r"[0-9][0-9A-Za-z.+!_-]{0,40}", re.ASCII)

NUMBERS, FLAG = r"[0-9]{1,6}(,[0-9]{1,6}){0,31}", r"(?i:0|1|on|off|yes|no|true|false)?"
LOCALE = r"(C|POSIX|[a-z]{2,3}_[A-Z]{2})(\.[A-Za-z0-9-]{1,10})?(@[a-z]{1,10})?"
# What may be said of the environment: a variable's name, and the form that its value must have.
VARIABLES: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
            *("COLUMNS", "PYTHONHASHSEED", "OMP_THREAD_LIMIT"),
        ),
        NUMBERS,
    ),
    **dict.fromkeys(
        (
            *("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "PYTHONUTF8"),
            *("TOKENIZERS_PARALLELISM", "NVIDIA_TF32_OVERRIDE", "CUDA_LAUNCH_BLOCKING", "NO_COLOR"),
            *("OMP_DYNAMIC", "CI", "ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"),
        ),
        FLAG,
    ),
    **dict.fromkeys(("LANG", "LC_ALL", "LC_CTYPE"), LOCALE),
    "CUDA_VISIBLE_DEVICES": rf"({NUMBERS}|-1|)",
    "NVIDIA_VISIBLE_DEVICES": rf"({NUMBERS}|all|none|void|)",
    "CUDA_MODULE_LOADING": r"LAZY|EAGER",
    "OMP_PROC_BIND": FLAG,
    "PYTHONIOENCODING": r"(?i:utf-?8|ascii|latin-?1)(:[a-z]{1,20})?",
    "TERM": r"(xterm|screen|tmux|linux|dumb|vt100|ansi)(-[0-9a-z]{1,12})?",
}
OTHER = "(set, to something else)"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Written:
    """A bundle that was written: where, and what it says, a line for each part."""

    path: Path
    contents: list[str]


def write_bundle(states: Callable[[], list[tuple[str, str]]], path: Path | None = None) -> Written:
    """Write what a maintainer needs to know of this machine and of the last artifact.

    `states` gives the rows that `llx doctor` shows. An earlier bundle is replaced, whole or not at
    all. Raises `BadInput` where anything else lies there.
    """
    place = path or USUAL
    _require_free(place)
    found = collected(states(), Scrubber())
    data = msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"
    write_whole(place, data)
    return Written(place, found["contents"])


def collected(states: list[tuple[str, str]], scrubber: Scrubber) -> dict[str, Any]:
    """All that a bundle says; `contents` has a line for each part of it."""
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    artifact = _artifact(scrubber)
    parts: dict[str, Any] = {
        "doctor": {scrubber.text(part): _state(state, scrubber) for part, state in states},
        "versions": _versions(),
        "machine": _machine(scrubber),
        "onnxruntime_providers": _providers(),
        "environment": environment(os.environ),
        "artifact": artifact,
    }
    what = "its manifest" if "manifest" in artifact else "why it cannot be read"
    contents = [
        "doctor: what `llx doctor` shows",
        "versions: of Python and of the packages that llx works with",
        "machine: processor, memory, GPU, kernel, limits of the container",
        "onnxruntime_providers: what ONNX Runtime can run on here",
        f"environment: {', '.join(parts['environment']) or 'none of the variables that are asked'}",
        f"artifact: the one exported last, {what}, without hashes, tokens and paths",
    ]
    return {"schema": SCHEMA, "note": LEFT_OUT, "created": created, "contents": contents, **parts}


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """The variables of the list that are set; a value of another form is not told."""
    return {
        name: env[name] if re.fullmatch(form, env[name], re.ASCII) else OTHER
        for name, form in sorted(VARIABLES.items())
        if name in env
    }


def _state(state: str, scrubber: Scrubber) -> str:
    """A row's words; a version may look like an address, and is none."""
    return state if VERSION.fullmatch(state) and len(state) <= 20 else scrubber.text(state)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "llx": llx.__version__} | installed_versions()
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {name: version for name, version in found.items() if VERSION.fullmatch(version)}


def _machine(scrubber: Scrubber) -> dict[str, Any]:
    gpu = find_gpu()
    told = msgspec.to_builtins(read_machine())
    told["kernel"] = f"{platform.system()} {platform.release()}"
    told["libc"] = " ".join(platform.libc_ver())
    told["gpu"] = (
        {"name": gpu.name, "sm": gpu.sm, "memory_bytes": gpu.memory_bytes} if gpu else None
    )
    told["driver_cuda"] = driver_cuda()
    return dict(scrubber.value(told))


def _providers() -> list[str]:
    if not is_installed("onnxruntime"):
        return []
    try:
        import onnxruntime

        return [str(name) for name in onnxruntime.get_available_providers()]
    except Exception as error:  # an installation that is broken is what is to be reported
        return [f"none: {type(error).__name__}"]


def _artifact(scrubber: Scrubber) -> dict[str, Any]:
    """The artifact that the last export wrote: its manifest, and its engines in words."""
    try:
        artifact = open_artifact()
    except (LlxError, OSError) as error:
        return {"none": scrubber.text(str(error))}
    return {
        "sha256": artifact.sha256[:12],
        "manifest": scrubber.value(_shown(artifact.manifest)),
        "engines": [scrubber.value(row) for row in _engines(artifact)],
    }


def _engines(artifact: Artifact) -> Iterator[tuple[str, ...]]:
    try:
        yield from map(engine_row, engines_of(artifact))
    except (LlxError, OSError) as error:
        yield (str(error),)


def _shown(manifest: Manifest) -> dict[str, Any]:
    """A manifest without hashes, tokens of the tokenizer, and where the checkpoint lies."""
    told = dict(msgspec.to_builtins(manifest))
    for name in ("request", "asked", "text"):
        told.pop(name, None)
    told["files"] = {
        name: {key: value for key, value in record.items() if key != "sha256"}
        for name, record in told["files"].items()
    }
    source = told["source"]
    source["path"] = Path(source["path"]).name
    source["files"] = [
        {"name": Path(file["path"]).name, "bytes": file["bytes"]} for file in source["files"]
    ]
    if told.get("quantization"):
        told["quantization"].pop("corpus_sha256", None)
        told["quantization"].pop("sensitivities", None)
    return told


def _require_free(path: Path) -> None:
    """Raise `BadInput` where something lies there that is no bundle of ours."""
    if not os.path.lexists(path):
        if not path.parent.is_dir():
            raise BadInput(f"{path.parent} is no folder", "name a file in one that exists")
        require_writable(path)
        return
    try:
        ours = path.is_file() and not path.is_symlink()
        ours = ours and msgspec.json.decode(path.read_bytes()).get("schema") == SCHEMA
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, AttributeError, RecursionError):
        ours = False
    if not ours:
        raise BadInput(
            f"{path} is there already, and no bundle of `llx doctor`",
            "name another file: llx doctor --bundle FILE",
        )
