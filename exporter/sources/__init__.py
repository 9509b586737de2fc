"""Checkpoints: one file for each format. `open_source` finds the format of a path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llx.errors import BadInput
from llx.exporter.sources.adapters import require_no_adapter
from llx.exporter.sources.base import COLUMN_STEP, TensorInfo, TensorSource, Text
from llx.exporter.sources.coverage import check_coverage
from llx.exporter.sources.damage import kind_of, unreadable
from llx.exporter.sources.find import FIRST, INDEX, contents_of, meant, some, weight_files
from llx.exporter.sources.gguf import GgufSource
from llx.exporter.sources.gguf_parts import gguf_sets
from llx.exporter.sources.huggingface import HuggingFaceSource
from llx.exporter.sources.meta import PARAMS, SHARD, MetaSource, shards_of
from llx.exporter.sources.ties import HEAD, settled
from llx.llama.spec import LlamaSpec
from llx.nearby import no_such

__all__ = ["COLUMN_STEP", "TensorInfo", "TensorSource", "Text", "check_coverage", "open_source"]

CONFIG = "config.json"
NAME_ONE = "name a checkpoint's folder or a GGUF file"


def open_source(
    path: Path,
    spec: LlamaSpec | None = None,
    context: int | None = None,
    warnings: list[str] | None = None,
) -> TensorSource:
    """Open a checkpoint: a Hugging Face folder, one in Meta's format, or a GGUF file.

    A file of weights that is named is the one that is read, or the shards that it is one of; of a
    folder transformers' choice is. `spec` is what is known of the model beforehand, and `context`
    the positions that are asked for: Meta's format does not say everything itself. `warnings`
    becomes the source's own list, and has what was noticed until then where this raises. Raises
    `BadInput` where there is no checkpoint, where it cannot be told which is meant, or where it is
    damaged or of another architecture.
    """
    if not path.exists():
        raise no_such(path, NAME_ONE)
    known = _Known(spec, context, [] if warnings is None else warnings)
    try:
        source = (_opened_folder if path.is_dir() else _opened_file)(path, known)
    except PermissionError as error:
        raise BadInput(
            f"{error.filename or path} may not be read by this user", "check its permissions"
        ) from None
    tied, source.spec = source.spec.tied, settled(source)
    if tied and not source.spec.tied:
        source.warnings.append(
            f"the configuration ties the tables, and {HEAD} is another: that is used, as "
            "transformers does"
        )
    return source


@dataclass(frozen=True)
class _Known:
    """What is known beforehand, and where to note what is found."""

    spec: LlamaSpec | None
    context: int | None
    warnings: list[str]


def _opened_file(path: Path, known: _Known) -> TensorSource:
    folder, kind = path.parent, kind_of(path)
    if path.name in (CONFIG, PARAMS):
        return _opened_folder(folder, known)
    if kind == "GGUF" or path.suffix.lower() == ".gguf":
        return GgufSource(path, known.warnings)
    if SHARD.fullmatch(path.name) and (folder / PARAMS).is_file():
        return MetaSource(folder, known.spec, known.context, known.warnings)
    is_index = path.name.endswith(INDEX)
    if not is_index and not kind and path.suffix.lower() not in (".safetensors", ".bin", ".pth"):
        raise unreadable(path, "file of weights", "neither safetensors, PyTorch's nor GGUF")
    if not (folder / CONFIG).is_file():
        raise BadInput(
            f"{folder} has no {CONFIG}, which says what model {path.name} is",
            "put the checkpoint's own beside it",
        )
    return HuggingFaceSource(folder, path, known.warnings)


def _opened_folder(folder: Path, known: _Known) -> TensorSource:
    require_no_adapter(folder)
    config, sets = (folder / CONFIG).is_file(), gguf_sets(folder)
    meta = shards_of(folder) if (folder / PARAMS).is_file() else []
    if config and ((not meta and not sets) or _has_weights(folder)):
        return HuggingFaceSource(folder, None, known.warnings)
    if meta and not sets:
        return MetaSource(folder, known.spec, known.context, known.warnings)
    if len(sets) == 1 and not meta:
        return GgufSource(sets[0][0], known.warnings)
    if sets:
        names = [files[0].name for files in ([meta] if meta else []) + sets]
        raise BadInput(
            f"{folder} holds several checkpoints: {some(names, 6)}",
            "name the file that is meant with --weights",
        )
    raise BadInput(
        f"{folder} holds no checkpoint: no {CONFIG}, no {PARAMS} with its shards, no GGUF file"
        f"{contents_of(folder)}",
        meant(folder, "name the folder that holds config.json and *.safetensors, or a GGUF file"),
    )


def _has_weights(folder: Path) -> bool:
    """Whether a folder has a file of weights that transformers would read, or one like it."""
    return bool(weight_files(folder)) or any((folder / name).is_file() for name in FIRST)
