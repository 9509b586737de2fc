"""A checkpoint as a PyTorch model in fp32, whole or block by block, straight from the source."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

import torch

from llx.artifact import Artifact
from llx.errors import BadInput, Lacking
from llx.exporter.quantize import rounded_rows
from llx.exporter.sources import TensorSource, check_coverage, open_source
from llx.exporter.weights import blocks_of
from llx.llama.model import Block, Llama, scaled
from llx.llama.spec import LlamaSpec
from llx.llama.weights import Weight, weights_of
from llx.manifest import HOME, SourceFile


def llama_from_checkpoint(
    path: Path, spec: LlamaSpec | None = None, positions: int | None = None
) -> Llama:
    """Open a checkpoint and load all of it. Raises `BadInput` where it is damaged or incomplete.

    `positions`: how many the RoPE tables hold; None for the whole context.
    """
    source = open_source(path, spec)
    check_coverage(source)
    return llama_from_source(source, positions)


class OtherModel(Lacking):
    """The checkpoint of an artifact is not of the model that its manifest describes."""


def exported_source(artifact: Artifact) -> TensorSource:
    """The very checkpoint that an artifact was exported from.

    Raises `Lacking` where it is not here, not readable any more, or other than it was then: nothing
    is to be judged by other weights. `OtherModel`, a kind of that, where no file of it has changed,
    and the manifest describes another model than its configuration does.
    """
    record, spec = artifact.manifest.source, artifact.manifest.spec
    path = artifact.manifest.checkpoint_at(artifact.folder)
    if path is None or not path.exists():
        moved = path and not Path(record.path).is_absolute() and not record.path.startswith(HOME)
        raise Lacking(
            f"the checkpoint {path or record.label} is not here",
            f"put it there, {record.path} from the artifact, or repeat the export from where it "
            "lies now"
            if moved
            else "bring the checkpoint back, or repeat the export from where it lies now",
        )
    try:
        source = open_source(path, spec)
        check_coverage(source)
    except BadInput as error:
        raise Lacking(
            f"the checkpoint cannot be read any more: {error.message}", error.remedy
        ) from None
    same = len(record.files) == len(source.files)
    if not same or not all(map(SourceFile.is_at, record.files, source.files)):
        raise Lacking(f"the checkpoint {path} has changed since the export", "export it again")
    if source.spec != spec:
        raise OtherModel(
            f"the manifest's spec is not the checkpoint's ({_other(spec, source.spec)})",
            "export again with --overwrite",
        )
    return source


def _other(found: object, wanted: object) -> str:
    """The fields in which two specifications differ: `norm_eps 0.001, there 1e-05`."""
    differ = []
    for one in fields(wanted):  # type: ignore[arg-type]
        here, there = getattr(found, one.name), getattr(wanted, one.name)
        if here != there:
            nested = is_dataclass(there)
            differ.append(_other(here, there) if nested else f"{one.name} {here}, there {there}")
    return "; ".join(differ)


def llama_from_source(source: TensorSource, positions: int | None = None) -> Llama:
    """The model with the source's weights and its own RoPE tables, in fp32."""
    with torch.device("meta"):
        model = Llama(source.spec, positions)
    state = {weight.name: _whole(source, weight) for weight in weights_of(source.spec)}
    model.load_state_dict(state, strict=False, assign=True)
    model.rope.fill(source.spec, torch.float32)
    return model.eval()


def block_state(source: TensorSource, layer: int) -> dict[str, torch.Tensor]:
    """One layer's weights in fp32, by their names within the block."""
    prefix = f"layers.{layer}."
    return {
        weight.name.removeprefix(prefix): _whole(source, weight)
        for weight in weights_of(source.spec)
        if weight.name.startswith(prefix)
    }


def loaded_block(source: TensorSource, layer: int) -> Block:
    """One layer with its weights in fp32."""
    with torch.device("meta"):
        block = Block(source.spec, layer)
    block.load_state_dict(block_state(source, layer), assign=True)
    return block


def embedded(
    source: TensorSource, tokens: torch.Tensor, rounded: torch.dtype | None = None
) -> torch.Tensor:
    """The embeddings of tokens [W, N] in fp32, scaled, [W, N, dim]; the table passes in blocks.

    `rounded`: as int8 has them, with scales in that dtype.
    """
    hidden = torch.empty(*tokens.shape, source.spec.dim)
    start = 0
    for (rows,) in blocks_of(source, next(weights_of(source.spec))):
        here = (tokens >= start) & (tokens < start + len(rows))
        found = rows[tokens[here] - start].float()
        hidden[here] = rounded_rows(found, rounded) if rounded else found
        start += len(rows)
    return scaled(hidden, source.spec.embed_scale)


def projection(source: TensorSource, module: str) -> torch.Tensor:
    """A projection's weight [in, out] in fp32, by its module, such as `layers.3.down`."""
    (weight,) = (w for w in weights_of(source.spec) if w.name == f"{module}.weight")
    return _whole(source, weight)


def _whole(source: TensorSource, weight: Weight) -> torch.Tensor:
    """A weight of the model in fp32, contiguous, in memory of its own."""
    return torch.cat([_stacked(blocks, weight) for blocks in blocks_of(source, weight)])


def _stacked(blocks: list[torch.Tensor], weight: Weight) -> torch.Tensor:
    stacked = torch.cat(blocks).float()
    return stacked.T if weight.kind == "projection" else stacked
