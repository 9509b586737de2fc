"""What `llx export` was asked for, and the hash of everything that decides what comes of it."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import llx
from llx.corpus import corpus_to_calibrate_on
from llx.errors import BadInput
from llx.exporter.differences import CHECKPOINT, LLX, OPTIONS, hash_of
from llx.exporter.locate import Weights
from llx.exporter.quantization.budget import QuantizationRequest
from llx.files import real_path
from llx.intact import content_of
from llx.llama.presets import Preset
from llx.manifest import HOME, SourceFile
from llx.nearby import no_such
from llx.places import folder_of
from llx.precision import Precision
from llx.progress import Progress, silent

# Read by the no-op check: an export made by other rules is not the same export.
RULES = 6
# What is read beside a file of weights that is named: configuration, tokenizer, chat template.
BESIDE = ("*.json", "*.jinja", "tokenizer.model", "merges.txt")
TEMPLATES = "additional_chat_templates/*.jinja"
# What training leaves beside weights, often of three times their size: no export reads it.
OF_TRAINING = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states)\b.*")
SHARD_NUMBER = re.compile(r"(-\d{5}-of-\d{5}|\.\d\d)$", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What `llx export` was asked for."""

    weights: Weights
    folder: Path
    precision: Precision
    context: int | None = None
    quantization: QuantizationRequest = field(default_factory=QuantizationRequest)
    preset: Preset | None = None
    label: str = ""  # what the weights are called, where no preset says it
    command: str = ""


def parts_of(request: ExportRequest, progress: Progress = silent) -> dict[str, object]:
    """Everything that decides the artifact's content: the options, the checkpoint, and llx.

    A checkpoint is what its files hold: a copy of it, or a fresh checkout, is the same one.
    """
    weights: object = request.weights
    if isinstance(weights, Path):
        if not weights.exists():
            raise no_such(weights, "name a checkpoint's folder or a GGUF file")
        folder = folder_of(weights)
        weights = [
            weights.name,
            *(
                (file.relative_to(folder).as_posix(), _content(file, progress))
                for file in _read_for(weights)
            ),
        ]
    spec = request.preset.spec if request.preset else None
    options: list[object] = [spec, request.precision, request.context]
    if request.precision.linear != "dense":
        # A text is what it says, wherever it lies.
        text = request.quantization.text
        corpus = corpus_to_calibrate_on(text)
        options += [
            replace(request.quantization, text=None),
            "file" if isinstance(text, Path) else text,
            corpus and corpus.sha256,
        ]
    return {LLX: [RULES, llx.__version__], CHECKPOINT: weights, OPTIONS: options}


def _read_for(weights: Path) -> list[Path]:
    """The files that an export may read: all of a folder, or a file with what belongs to it."""
    folder, patterns = weights, ["*", TEMPLATES]
    if not weights.is_dir():
        parts = glob.escape(SHARD_NUMBER.sub("", weights.stem)) + "*" + glob.escape(weights.suffix)
        folder, patterns = weights.parent, [parts, *BESIDE, TEMPLATES]
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    found |= {weights} if weights.is_file() else set()
    return sorted(path for path in found if not OF_TRAINING.match(path.name))


def _content(path: Path, progress: Progress) -> str:
    """What a file holds. What may not be read decides nothing, or the export says so itself."""
    try:
        return content_of(path, progress)
    except PermissionError:
        return ""


def calibration_key(request: ExportRequest) -> str:
    """Hash of everything that decides what a calibration finds, whatever is then chosen of it."""
    windows, text = request.quantization.windows, request.quantization.text
    asked = QuantizationRequest(windows=windows, text=text)
    return hash_of(parts_of(replace(request, quantization=asked)))


def require_use_of_text(request: ExportRequest) -> None:
    """Raise `BadInput` where a text was given and nothing would be calibrated on it."""
    if request.quantization.text and not isinstance(request.weights, Path):
        on = "random tokens" if request.weights else "nothing"
        what = "random weights are" if request.weights else "graphs alone are"
        raise BadInput(f"{what} calibrated on {on}", "leave --calibration-text out")


def source_file(path: Path, weights: Path) -> SourceFile:
    """A file of a checkpoint as it is now."""
    stat, name = path.stat(), os.path.relpath(path, folder_of(weights))
    content = content_of(path)
    return SourceFile(path=name, bytes=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=content)


def kept_path(weights: Path, artifact: Path) -> str:
    """Where the same checkpoint is found again, told without the folders of who exported it.

    From the home, or else from the artifact's folder. A file keeps its name, whatever that links
    to: in the hub's cache that is a file named by its hash, beside which there is no config.json.
    """
    path = weights.resolve() if weights.is_dir() else weights.parent.resolve() / weights.name
    with contextlib.suppress(RuntimeError):  # a user without a home
        home = Path.home().resolve()
        if home != Path(home.anchor) and path.is_relative_to(home):
            return Path(HOME, path.relative_to(home)).as_posix()
    return Path(os.path.relpath(path, real_path(artifact))).as_posix()


def preset_of(request: ExportRequest) -> Preset:
    """The known model whose sizes are taken, where there is no checkpoint to say them."""
    assert request.preset is not None, "a model without a checkpoint is a preset's"
    return request.preset
