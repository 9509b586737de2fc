"""The export: checkpoint → trace → dialects → one artifact folder, whole or not at all."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

import llx
from llx.artifact import (
    CHAT_TEMPLATE,
    TOKENIZER,
    WEIGHTS,
    Artifact,
    CastCounts,
    FileRecord,
    Manifest,
    QuantizationRecord,
    SourceFile,
    SourceRecord,
    is_artifact,
    open_artifact,
    record_of,
    remember_latest,
    write_manifest,
)
from llx.corpus import calibration_text
from llx.errors import BadInput, LlxError, require_modules
from llx.exporter.locate import RandomWeights, Weights
from llx.files import require_space, whole_folder
from llx.graphs.contract import GraphContract, contract_for
from llx.llama.presets import Preset
from llx.llama.spec import LlamaSpec
from llx.precision import Precision
from llx.progress import Progress, silent

if TYPE_CHECKING:
    import onnx_ir as ir

    from llx.exporter.sources import TensorSource, Text
    from llx.exporter.weights import Layout

# Read by the no-op check: an export made by other rules is not the same export.
RULES = 3
OTHER_FILES_BYTES = 64 << 20  # graphs, tokenizer and manifest, generously
VERSIONS_OF = ("llx", "torch", "onnx", "onnx-ir", "gguf", "numpy")


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What `llx export` was asked for."""

    weights: Weights
    folder: Path
    precision: Precision
    context: int | None = None
    calibration_windows: int = 16  # of the calibration text, where the precision needs any
    preset: Preset | None = None
    label: str = ""  # what the weights are called, where no preset says it
    command: str = ""


def export(
    request: ExportRequest,
    overwrite: bool = False,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Artifact, bool]:
    """Export a checkpoint into an artifact folder; return it, and whether it was made anew.

    The same request with the same checkpoint files is a no-op. `tell` is told what was cleared
    away. Raises `BadInput` where the folder holds anything else, the checkpoint is damaged or
    incomplete, or a size does not fit; `Lacking` where the disk does not have the room.
    """
    key = _key(request)
    standing = _standing(request.folder, key, overwrite)
    if standing is not None:
        remember_latest(request.folder)
        return standing, False
    require_modules("an export", "export", "torch", "gguf")
    from llx.exporter.sources import check_coverage

    source = _open(request)
    ignored = check_coverage(source) if source else {}
    record = _source_record(request, source, ignored)
    made = True
    with whole_folder(request.folder, tell) as folder:
        # Another run may have written it before this one held the lock.
        if _standing(request.folder, key, overwrite) is None:
            _write_artifact(folder, request, key, source, record, progress)
        else:
            made = False
            shutil.rmtree(folder)  # nothing takes the place of what stands there
    remember_latest(request.folder)
    return open_artifact(request.folder), made


def _write_artifact(
    folder: Path,
    request: ExportRequest,
    key: str,
    source: TensorSource | None,
    record: SourceRecord,
    progress: Progress,
) -> None:
    """Graphs, weights, tokenizer and manifest, into an empty folder."""
    from llx.exporter.calibrate import calibrate
    from llx.exporter.rescale import with_one_input_scale
    from llx.exporter.weights import layout_of, write_weights

    spec = source.spec if source else _preset_of(request).spec
    contract = contract_for(spec, request.precision.compute, request.context)
    precision = request.precision
    if source:
        file_bytes = layout_of(spec, precision).file_bytes  # before the minutes of a calibration
        require_space(request.folder, file_bytes + OTHER_FILES_BYTES)
    stored, maxima, quantization = source, None, None
    if source and precision.linear == "int8":
        calibration = calibrate(source, request.calibration_windows, progress)
        stored, maxima = with_one_input_scale(source, calibration.maxima)
        quantization = calibration.record
    elif source and precision.weight_only:
        scheme: Literal["w4", "w8"] = "w4" if precision.linear == "int4" else "w8"
        quantization = QuantizationRecord(scheme=scheme, method="nearest")
    dense = frozenset(quantization.dense if quantization else ())
    layout = layout_of(spec, precision, dense)
    files = _write_graphs(folder, spec, contract, layout, progress)
    casts = CastCounts()
    if stored:
        files[WEIGHTS], casts = write_weights(folder / WEIGHTS, stored, layout, progress, maxima)
    text = source.text() if source else None
    if text:
        files |= _write_text(folder, text)
    manifest = Manifest(
        name=request.folder.name,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=request.command,
        request=key,
        spec=spec,
        precision=precision,
        contract=contract,
        source=record,
        text=text.record if text else None,
        casts=casts,
        quantization=quantization,
        versions=_versions(),
        files=files,
    )
    write_manifest(folder, manifest)


def _preset_of(request: ExportRequest) -> Preset:
    assert request.preset is not None, "a model without a checkpoint is a preset's"
    return request.preset


def _open(request: ExportRequest) -> TensorSource | None:
    """The checkpoint, or None where only graphs are wanted."""
    from llx.exporter.sources import open_source
    from llx.exporter.sources.generated import RandomSource

    if request.weights is None:
        return None
    if isinstance(request.weights, RandomWeights):
        return RandomSource(_preset_of(request).spec, request.weights.seed)
    preset = request.preset
    source = open_source(request.weights, preset.spec if preset else None)
    if preset:
        _require_preset(source, preset)
    return source


def _source_record(
    request: ExportRequest, source: TensorSource | None, ignored: dict[str, str]
) -> SourceRecord:
    weights, preset = request.weights, request.preset
    if source is None:
        return SourceRecord(label=_preset_of(request).hub_id, format="none", path="", files=())
    if isinstance(weights, RandomWeights):
        label = f"random weights, seed {weights.seed}, in the shape of {_preset_of(request).hub_id}"
        return SourceRecord(label=label, format=source.format, path="", files=())
    assert weights is not None
    return SourceRecord(
        label=preset.hub_id if preset else request.label or weights.name,
        format=source.format,
        path=str(weights.resolve()),
        files=tuple(_source_file(file) for file in source.files),
        ignored=ignored,
    )


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
        command = artifact.manifest.command or "unknown command"
        raise BadInput(
            f"{folder} holds another export (`{command}`, of other options or of a checkpoint that "
            "has changed since)",
            "choose another folder with -o, or replace it with --overwrite",
        )
    return None


def _key(request: ExportRequest) -> str:
    """Hash of everything that decides the artifact's content."""
    weights: object = request.weights
    if isinstance(weights, Path):
        if not weights.exists():
            raise BadInput(f"{weights} does not exist", "name a checkpoint's folder or a GGUF file")
        inside = sorted(p for p in weights.iterdir() if p.is_file()) if weights.is_dir() else None
        weights = [_source_file(path) for path in inside or [weights]]
    spec = request.preset.spec if request.preset else None
    asked = [RULES, llx.__version__, weights, spec, request.precision, request.context]
    if request.precision.linear == "int8":
        asked += [request.calibration_windows, calibration_text().sha256]
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
    folder: Path,
    spec: LlamaSpec,
    contract: GraphContract,
    layout: Layout,
    progress: Progress,
) -> dict[str, FileRecord]:
    import onnx_ir as ir

    from llx.exporter.stamp import stamped_trace
    from llx.graphs.dialects import DIALECTS
    from llx.graphs.semantic import lower

    progress("trace", 0, 1, "")
    semantic = stamped_trace(spec, contract)
    files = {}
    for dialect in DIALECTS.values():
        model = lower(semantic, dialect, layout.precision, layout.dense)
        bind_weights(model, layout)
        path = folder / f"{dialect.name}.onnx"
        ir.save(model, path)
        files[path.name] = record_of(path)
    progress("trace", 1, 1, "")
    return files


def bind_weights(model: ir.Model, layout: Layout) -> None:
    """Point every weight of a graph into the weights file."""
    import onnx_ir as ir

    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            assert value.dtype is not None
            assert value.shape is not None
            place = layout.places[name]
            tensor = ir.ExternalTensor(
                WEIGHTS, place.offset, place.length, value.dtype, shape=value.shape, name=name
            )
            assert tensor.nbytes == place.length, f"{name} is not as the weights file has it"
            value.const_value = tensor


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
