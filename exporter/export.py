"""The export: checkpoint → trace → dialects → one artifact folder, whole or not at all."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llx.artifact import Artifact, is_artifact, open_artifact, remember_latest
from llx.corpus import WINDOW
from llx.errors import BadInput, LlxError, one_line, require_modules
from llx.exporter.configs import configs_of
from llx.exporter.differences import CHECKPOINT, another_export, hash_of, hashed
from llx.exporter.locate import RandomWeights, Weights
from llx.exporter.readme import README, readme_of
from llx.exporter.request import (
    ExportRequest,
    calibration_key,
    kept_path,
    parts_of,
    preset_of,
    require_use_of_text,
    source_file,
)
from llx.files import beside, real_path, require_space, write_whole
from llx.graphs.contract import GraphContract, contract_for
from llx.llama.presets import Preset
from llx.llama.spec import LlamaSpec
from llx.manifest import (
    CHAT_TEMPLATE,
    TOKENIZER,
    WEIGHTS,
    CastCounts,
    FileRecord,
    Manifest,
    SourceRecord,
    record_of,
    write_manifest,
)
from llx.places import folder_of, note_place
from llx.progress import Progress, foretold, silent
from llx.scrub import handed_on
from llx.whole import clear_leftovers, require_replaceable, whole_folder

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

    from llx.exporter.quantization.run import Quantization
    from llx.exporter.sources import TensorSource, Text
    from llx.exporter.weights import Layout

CALIBRATION = "calibration"  # what the progress of the longest part of a quantization is called
OTHER_FILES_BYTES = 64 << 20  # graphs, tokenizer and manifest, generously
# Of the budget, to keep to where the graph costs more than its values in PyTorch: tried in turn.
MARGINS = (0.9, 0.8)
VERSIONS_OF = ("llx", "torch", "onnx", "onnx-ir", "gguf", "numpy")


RunWindows = Callable[[Path, "NDArray[np.int64]"], Iterator["NDArray[np.float32]"]]
"""Runs an artifact's graph: its folder and windows [W, N] → logits [N, V] of each."""


def export(
    request: ExportRequest,
    overwrite: bool = False,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda _: None,
    run_windows: RunWindows | None = None,
) -> tuple[Artifact, bool]:
    """Export a checkpoint into an artifact folder; return it, and whether it was made anew.

    The same request with the same checkpoint files is a no-op. `tell` is told what was cleared
    away. `run_windows` judges what a budget was set for. Raises `BadInput` where the folder holds
    anything else, the checkpoint is damaged or incomplete, or a size does not fit; `Lacking` where
    the disk does not have the room; `GateFailed` where the budget cannot be kept to.
    """
    require_use_of_text(request)
    _require_folder(request)
    parts = parts_of(request, progress)
    key, asked = hash_of(parts), hashed(parts)
    if isinstance(request.weights, Path):
        note_place(asked[CHECKPOINT], request.weights)
    clear_leftovers(request.folder, tell)
    standing = _standing(request.folder, key, asked, overwrite, progress)
    if standing is not None:
        if request.precision.linear != "dense":
            _clear_calibration(request, only=calibration_key(request))
        _tell_warnings(standing.manifest.source.warnings, tell)
        _remember(request.folder, tell)
        return _found_again(standing, request), False
    require_modules("an export", "export", "torch", "gguf")
    from llx.exporter.readback import require_opens
    from llx.exporter.sources import check_coverage

    warnings: list[str] = []
    try:
        source = _open(request, warnings)
        ignored = check_coverage(source) if source else {}
        text = source.text() if source else None
    finally:  # what is odd about a checkpoint may be why it is refused
        _tell_warnings(warnings, tell)
    record = _source_record(request, source, ignored)
    made = True
    with whole_folder(request.folder, tell) as folder:
        # Another run may have written it before this one held the lock.
        if _standing(request.folder, key, asked, overwrite, progress) is None:
            news = foretold(progress, tell, CALIBRATION, source.spec.layers) if source else progress
            _write_artifact(folder, request, key, asked, source, text, record, news, run_windows)
            require_opens(folder, progress)  # what cannot be read again takes nothing's place
        else:
            made = False
            shutil.rmtree(folder)  # nothing takes the place of what stands there
    _clear_calibration(request)
    _remember(request.folder, tell)
    return open_artifact(request.folder), made


def _require_folder(request: ExportRequest) -> None:
    """Raise `BadInput` for a folder that cannot be replaced, or that holds what is exported."""
    require_replaceable(request.folder)
    target = real_path(request.folder)
    for read in (request.weights, request.quantization.text):
        if isinstance(read, Path) and target in (real := real_path(read), *real.parents):
            raise BadInput(
                f"{read} lies in {request.folder}, which the artifact would replace",
                "choose another folder with -o",
            )


def _remember(folder: Path, tell: Callable[[str], None]) -> None:
    """Make an artifact the one that commands take by default, where that can be written."""
    try:
        remember_latest(folder)
    except (OSError, BadInput) as error:
        tell(f"commands do not take {folder} by default, name it to them: {one_line(error)}")


def _found_again(artifact: Artifact, request: ExportRequest) -> Artifact:
    """The artifact, which knows where its checkpoint lies now, where that can be written."""
    path = artifact.manifest.source.told(artifact.folder)
    if isinstance(request.weights, Path) and path is not None and not path.exists():
        with contextlib.suppress(OSError):
            return artifact.with_checkpoint_at(kept_path(request.weights, artifact.folder))
    return artifact


def _calibration_of(request: ExportRequest) -> Path:
    """Where a calibration keeps what it has found, until the artifact stands."""
    return beside(real_path(request.folder), "calibration")


def _clear_calibration(request: ExportRequest, only: str | None = None) -> None:
    """Remove what a calibration has kept, of any run, or of one request alone."""
    folder = _calibration_of(request)
    if folder.exists():
        from llx.exporter.quantization.store import CalibrationStore

        CalibrationStore.clear(folder, only)


def _write_artifact(
    folder: Path,
    request: ExportRequest,
    key: str,
    asked: dict[str, str],
    source: TensorSource | None,
    text: Text | None,
    record: SourceRecord,
    progress: Progress,
    run_windows: RunWindows | None,
) -> None:
    """Graphs, weights, tokenizer and manifest, into an empty folder."""
    from llx.exporter.weights import layout_of

    spec = source.spec if source else preset_of(request).spec
    contract = contract_for(spec, request.precision.compute, request.context)
    manifest = Manifest(
        name=request.folder.name,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=_handed_on(request.command, request),
        request=key,
        asked=asked,
        spec=spec,
        precision=request.precision,
        contract=contract,
        source=record,
        text=text.record if text else None,
        casts=CastCounts(),
        versions=_versions(),
        files={
            **(_write_text(folder, text) if text else {}),
            **_write_configs(folder, request.weights if source else None),
        },
    )
    quantized = request.precision.linear != "dense"
    if source:
        capacity = contract.limits.capacity
        file_bytes = layout_of(spec, request.precision, positions=capacity).file_bytes
        # A calibration keeps every value until the weights are written.
        require_space(request.folder, file_bytes * (1 + quantized) + OTHER_FILES_BYTES)
    if source and quantized:
        _write_quantized(folder, request, manifest, source, progress, run_windows)
    else:
        _write_model(folder, manifest, source, None, progress)


def _write_quantized(
    folder: Path,
    request: ExportRequest,
    manifest: Manifest,
    source: TensorSource,
    progress: Progress,
    run_windows: RunWindows | None,
) -> None:
    """Calibrate, and write a mixture that keeps to the budget, as its own graph shows."""
    import torch

    from llx.exporter.quantization.run import budget_record, quantize
    from llx.exporter.quantization.store import CalibrationStore

    calibration = _calibration_of(request)
    window = min(WINDOW, manifest.contract.limits.capacity)
    asked = request.quantization
    with CalibrationStore.opened(calibration, calibration_key(request)) as store:
        try:
            chosen = quantize(source, request.precision, asked, store, window, progress)
        except BadInput:  # which no second try would end otherwise
            store.discard()
            raise
        for margin in (*MARGINS, None):
            written = _write_model(folder, manifest, source, chosen, progress)
            if not chosen.judge or not run_windows:
                break
            found = chosen.judge.of(
                map(torch.from_numpy, run_windows(folder, chosen.judge.windows))
            )
            if asked.budget.holds(found):
                record = replace(chosen.record, budget=budget_record(asked.budget, found, "ort"))
                write_manifest(folder, replace(written, quantization=record))
                break
            if margin is None:
                asked.budget.require(found, chosen.record.share)
            else:
                chosen = chosen.within(asked.budget, margin)


def _write_model(
    folder: Path,
    manifest: Manifest,
    source: TensorSource | None,
    quantization: Quantization | None,
    progress: Progress,
) -> Manifest:
    """Graphs, weights and the manifest, which is returned; an earlier mixture is overwritten."""
    from llx.exporter.weights import layout_of, write_weights

    spec, precision = manifest.spec, manifest.precision
    record = quantization.record if quantization else None
    dense = frozenset(record.dense if record else ())
    layout = layout_of(spec, precision, dense, manifest.contract.limits.capacity)
    files = manifest.files | _write_graphs(folder, spec, manifest.contract, layout, progress)
    casts = CastCounts()
    if quantization:
        files[WEIGHTS], casts = write_weights(
            folder / WEIGHTS,
            quantization.source,
            layout,
            progress,
            quantization.input_maxima,
            quantization.ready,
        )
    elif source:
        files[WEIGHTS], casts = write_weights(folder / WEIGHTS, source, layout, progress)
    manifest = replace(manifest, casts=casts, quantization=record, files=files)
    write_manifest(folder, manifest)
    write_whole(folder / README, readme_of(manifest).encode())
    return manifest


def _tell_warnings(warnings: Iterable[str], tell: Callable[[str], None]) -> None:
    for warning in warnings:
        tell(f"warning: {warning}")


def _open(request: ExportRequest, warnings: list[str]) -> TensorSource | None:
    """The checkpoint, or None where only graphs are wanted. `warnings`: what is odd about it."""
    from llx.exporter.sources import open_source
    from llx.exporter.sources.generated import RandomSource

    if request.weights is None:
        return None
    if isinstance(request.weights, RandomWeights):
        return RandomSource(preset_of(request).spec, request.weights.seed)
    preset = request.preset
    source = open_source(
        request.weights, preset.spec if preset else None, request.context, warnings
    )
    if preset:
        _require_preset(source, preset)
    return source


def _source_record(
    request: ExportRequest, source: TensorSource | None, ignored: dict[str, str]
) -> SourceRecord:
    weights, preset = request.weights, request.preset
    if source is None:
        return SourceRecord(label=preset_of(request).hub_id, format="none", path="", files=())
    if isinstance(weights, RandomWeights):
        label = f"random weights, seed {weights.seed}, in the shape of {preset_of(request).hub_id}"
        return SourceRecord(label=label, format=source.format, path="", files=())
    assert weights is not None
    return SourceRecord(
        label=preset.hub_id if preset else request.label or weights.name,
        format=source.format,
        path=kept_path(weights, request.folder),
        files=tuple(source_file(file, weights) for file in source.files),
        ignored=ignored,
        warnings=tuple(_handed_on(line, request) for line in source.warnings),
    )


def _handed_on(text: str, request: ExportRequest) -> str:
    """A text of the manifest, which is handed on with the weights."""
    known, text_file = [request.folder], request.quantization.text
    if isinstance(text_file, Path):
        known.append(text_file)
    if isinstance(request.weights, Path):
        inside = folder_of(request.weights)
        linked = (path.readlink() for path in inside.iterdir() if path.is_symlink())
        known += [*linked, inside / "*", request.weights]  # a warning is of a file in it
    return handed_on(text, *known)


def _standing(
    folder: Path,
    key: str,
    asked: Mapping[str, str],
    overwrite: bool,
    progress: Progress = silent,
) -> Artifact | None:
    """The artifact that is there already, if it is what was asked for and whole, byte by byte.

    A reference was captured later, and is no part of the export.
    """
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
        if artifact.manifest.request == key:
            for name in artifact.manifest.files.keys() - {*artifact.manifest.references}:
                artifact.intact(name, progress=progress)
            return artifact
    except LlxError:
        if not overwrite:
            raise
        return None
    if not overwrite:
        raise another_export(folder, artifact.manifest, asked)
    return None


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

    from llx.exporter.graph.stamp import stamped_trace
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
        files[path.name] = replace(record_of(path), nodes=len(model.graph))
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
    if text.chat_template is not None:
        (folder / CHAT_TEMPLATE).write_bytes(text.chat_template.encode())
        files[CHAT_TEMPLATE] = record_of(folder / CHAT_TEMPLATE)
    return files


def _write_configs(folder: Path, weights: Weights) -> dict[str, FileRecord]:
    """The checkpoint's own settings, of one in Hugging Face's format."""
    configs = configs_of(weights) if isinstance(weights, Path) else {}
    for name, data in configs.items():
        (folder / name).write_bytes(data)
    return {name: record_of(folder / name) for name in configs}


def _versions() -> dict[str, str]:
    """Versions of what made the artifact."""
    versions = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        versions[name] = importlib.metadata.version(name)
    return versions
