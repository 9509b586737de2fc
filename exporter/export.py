"""The export: checkpoint → trace → dialects → one artifact folder, whole or not at all."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import llx
from llx.artifact import (
    CHAT_TEMPLATE,
    TOKENIZER,
    WEIGHTS,
    Artifact,
    FileRecord,
    Manifest,
    SourceFile,
    SourceRecord,
    is_artifact,
    open_artifact,
    record_of,
    remember_latest,
    write_manifest,
)
from llx.errors import BadInput, LlxError, require_modules
from llx.files import whole_folder
from llx.graphs.contract import contract_for
from llx.llama.presets import Preset
from llx.precision import Precision
from llx.progress import Progress, silent

if TYPE_CHECKING:
    import onnx_ir as ir

    from llx.exporter.sources import TensorSource, Text
    from llx.exporter.weights import Layout

# Read by the no-op check: an export made by other rules is not the same export.
RULES = 1
VERSIONS_OF = ("llx", "torch", "onnx", "onnx-ir", "gguf", "numpy")


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What `llx export` was asked for."""

    checkpoint: Path
    folder: Path
    precision: Precision
    context: int | None = None
    preset: Preset | None = None
    command: str = ""


def export(
    request: ExportRequest, overwrite: bool = False, progress: Progress = silent
) -> tuple[Artifact, bool]:
    """Export a checkpoint into an artifact folder; return it, and whether it was made anew.

    The same request with the same checkpoint files is a no-op. Raises `BadInput` where the folder
    holds anything else, the checkpoint is damaged or incomplete, or a size does not fit.
    """
    key = _key(request)
    standing = _standing(request.folder, key, overwrite)
    if standing is not None:
        remember_latest(request.folder)
        return standing, False
    require_modules("an export", "export", "torch", "gguf")
    from llx.exporter.sources import check_coverage, open_source

    source = open_source(request.checkpoint)
    if request.preset:
        _require_preset(source, request.preset)
    ignored = check_coverage(source)
    contract = contract_for(source.spec, request.precision.compute, request.context)
    with whole_folder(request.folder) as folder:
        files, layout = _write_graphs(folder, source, request, progress)
        from llx.exporter.weights import write_weights

        files[WEIGHTS], casts = write_weights(folder / WEIGHTS, source, layout, progress)
        text = source.text()
        if text:
            files |= _write_text(folder, text)
        manifest = Manifest(
            name=request.folder.name,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            command=request.command,
            request=key,
            spec=source.spec,
            precision=request.precision,
            contract=contract,
            source=SourceRecord(
                label=request.preset.hub_id if request.preset else request.checkpoint.name,
                format=source.format,
                path=str(request.checkpoint.resolve()),
                files=tuple(_source_file(file) for file in source.files),
                ignored=ignored,
            ),
            text=text.record if text else None,
            casts=casts,
            versions=_versions(),
            files=files,
        )
        write_manifest(folder, manifest)
    remember_latest(request.folder)
    return open_artifact(request.folder), True


def _standing(folder: Path, key: str, overwrite: bool) -> Artifact | None:
    """The artifact that is there already, if it is what was asked for and whole."""
    if not folder.exists():
        return None
    if not is_artifact(folder):
        if folder.is_dir() and not any(folder.iterdir()):
            return None
        raise BadInput(
            f"{folder} holds something else than an artifact",
            "choose another folder with -o; nothing in it was touched",
        )
    try:
        artifact = open_artifact(folder)
    except LlxError:
        if not overwrite:
            raise
        return None
    if artifact.manifest.request == key:
        return artifact
    if not overwrite:
        raise BadInput(
            f"{folder} holds another export ({artifact.manifest.command or 'unknown command'})",
            "choose another folder with -o, or replace it with --overwrite",
        )
    return None


def _key(request: ExportRequest) -> str:
    """Hash of everything that decides the artifact's content."""
    if not request.checkpoint.exists():
        raise BadInput(
            f"{request.checkpoint} does not exist", "name a checkpoint's folder or a GGUF file"
        )
    path = request.checkpoint
    names = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    files = [_source_file(name) for name in names]
    asked = (RULES, llx.__version__, files, request.precision, request.context)
    return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()


def _source_file(path: Path) -> SourceFile:
    stat = path.stat()
    return SourceFile(path=str(path.resolve()), bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)


def _require_preset(source: TensorSource, preset: Preset) -> None:
    for size in ("layers", "dim", "heads", "kv_heads", "ffn_dim", "vocab"):
        found, meant = getattr(source.spec, size), getattr(preset.spec, size)
        if found != meant:
            raise BadInput(
                f"{source.path} has {size} {found}, where {preset.name} has {meant}",
                "name the model that these weights are, or leave out --size and --model",
            )


def _write_graphs(
    folder: Path, source: TensorSource, request: ExportRequest, progress: Progress
) -> tuple[dict[str, FileRecord], Layout]:
    import onnx_ir as ir

    from llx.exporter.trace import trace
    from llx.exporter.weights import layout_of
    from llx.graphs.dialects import DIALECTS
    from llx.graphs.semantic import lower

    progress("trace", 0, 1, "")
    compute = request.precision.compute
    layout = layout_of(source.spec, compute)
    semantic = trace(source.spec, contract_for(source.spec, compute, request.context))
    files = {}
    for dialect in DIALECTS.values():
        model = lower(semantic, dialect)
        bind_weights(model, layout)
        path = folder / f"{dialect.name}.onnx"
        ir.save(model, path)
        files[path.name] = record_of(path)
    progress("trace", 1, 1, "")
    return files, layout


def bind_weights(model: ir.Model, layout: Layout) -> None:
    """Point every weight of a graph into the weights file."""
    import onnx_ir as ir

    dtypes = {
        "fp32": ir.DataType.FLOAT,
        "fp16": ir.DataType.FLOAT16,
        "bf16": ir.DataType.BFLOAT16,
    }
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            place = layout.places[name]
            value.const_value = ir.ExternalTensor(
                WEIGHTS,
                place.offset,
                place.length,
                dtypes[layout.compute],
                shape=ir.Shape(place.shape),
                name=name,
            )


def _write_text(folder: Path, text: Text) -> dict[str, FileRecord]:
    (folder / TOKENIZER).write_bytes(text.tokenizer)
    files = {TOKENIZER: record_of(folder / TOKENIZER)}
    if text.chat_template:
        (folder / CHAT_TEMPLATE).write_text(text.chat_template, encoding="utf-8")
        files[CHAT_TEMPLATE] = record_of(folder / CHAT_TEMPLATE)
    return files


def _versions() -> dict[str, str]:
    """Versions of what made the artifact."""
    versions = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        versions[name] = importlib.metadata.version(name)
    return versions
