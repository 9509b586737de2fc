"""What `llx export`, `build` and `inspect` say of an artifact and of an engine, in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llx.artifact import Artifact
from llx.bundle import Recipe
from llx.engine import Engine
from llx.manifest import TOKENIZER, UNREAD, WEIGHTS, QuantizationRecord
from llx.reports.units import binary_bytes, counted, parameters

FEW = 1e-4  # of all weights: what these cost is not to be seen in any logits


def quantization_in_words(record: QuantizationRecord) -> str:
    """How an artifact was quantized, in a line that promises nothing."""
    name = {"w8a8": "int8", "w8": "int8-wo", "w4": "int4", "fp8": "fp8"}[record.scheme]
    corpus = f", {record.corpus}" if record.corpus else ""
    return f"{name}: {record.in_words}{corpus}; it costs accuracy: judge it with `llx bench`"


def artifact_in_words(artifact: Artifact, made: bool) -> str:
    """What was exported, in a few lines; of one that was there already only what is wrong of it."""
    if not made:
        return "\n".join([_standing(artifact.folder), *_shortcomings(artifact)])
    manifest = artifact.manifest
    limits = manifest.contract.limits
    lines = [
        f"{artifact.folder}: {parameters(manifest.spec.parameters)} parameters, "
        f"{manifest.precision.name}, {binary_bytes(artifact.model_bytes)}, "
        f"cache of {limits.capacity} positions, graphs: {', '.join(artifact.dialects)}"
    ]
    if manifest.quantization:
        lines.append(quantization_in_words(manifest.quantization))
    if artifact.has(WEIGHTS) and manifest.source.format == "random":
        lines.append(f"{manifest.source.label}: good for speed and memory, not for text")
    return "\n".join([*lines, *_shortcomings(artifact)])


def _shortcomings(artifact: Artifact) -> Iterator[str]:
    """What an artifact cannot do, or may get wrong, a line each."""
    manifest = artifact.manifest
    yield from _of_casts(artifact)
    if not artifact.has(WEIGHTS):
        yield "graphs only: nothing can run them before weights are exported"
    elif manifest.source.format != "random" and not artifact.has(TOKENIZER):
        without = "`generate`, `reference` and fidelity will not work"
        told = any(line.startswith(UNREAD) for line in manifest.source.warnings)
        # Why it was left out was told as a warning: that is once.
        no = "no tokenizer that llx reads came with the checkpoint"
        yield f"without its tokenizer {without}" if told else f"warning: {no}: {without}"


def _of_casts(artifact: Artifact) -> Iterator[str]:
    casts, precision = artifact.manifest.casts, artifact.manifest.precision
    if casts.overflowed:
        option = "--precision" if precision.linear == "dense" else "--compute"
        yield (
            f"warning: {precision.compute} cannot hold {counted(casts.overflowed, 'weight')}, "
            f"infinite now, and results may be NaN or inf: export with {option} bf16 or fp32"
        )
    if casts.underflowed:
        few = casts.underflowed < FEW * artifact.manifest.spec.parameters
        yield (
            f"{'note' if few else 'warning'}: {precision.compute} cannot hold "
            f"{counted(casts.underflowed, 'weight')} of {artifact.manifest.spec.parameters:,}, too "
            "small for it and 0 now; "
            + ("next to nothing" if few else "`llx bench` judges what that costs")
        )


def engine_in_words(engine: Engine, made: bool) -> str:
    """What was built, in a few lines; in one, where it was there already."""
    if not made:
        return _standing(engine.folder)
    manifest = engine.manifest
    limits = manifest.key.contract.limits
    peak = manifest.peak_host_bytes
    return (
        f"{engine.folder}\n  {binary_bytes(engine.plan_bytes)}, "
        f"{engine.plan_bytes / manifest.weights_bytes:.2f} × its weights, built in "
        f"{manifest.build_s:.1f} s"
        + (f" with {binary_bytes(peak)} of memory" if peak else "")
        + f"\n  {limits.capacity} positions, up to {limits.max_rows} × {limits.max_new_tokens} "
        "tokens a step\n  built, not run: `llx bench` runs it where its GPU is"
    )


def engine_row(engine: Engine) -> tuple[str, ...]:
    """An engine in the columns of `llx inspect`."""
    manifest = engine.manifest
    key = manifest.key
    limits = key.contract.limits
    return (
        f"{key.runtime} {key.target}",
        key.version,
        key.dialect,
        binary_bytes(engine.plan_bytes),
        f"{engine.plan_bytes / manifest.weights_bytes:.2f}",
        f"{limits.max_rows} × {limits.max_new_tokens}, {limits.capacity}",
        f"{manifest.build_s:.1f} s",
    )


def bundle_in_words(folder: Path, total_bytes: int, recipe: Recipe, made: bool) -> str:
    """What was written for another machine, and what to do with it there."""
    return (
        f"{folder}: {binary_bytes(total_bytes)}, for TensorRT {recipe.needs.tensorrt} by dialect "
        f"{recipe.dialect}"
        + ("" if made else "; it is there already")
        + "\nnot built: a bundle was written; copy it and run `python3 run.py`, or add --remote "
        f"user@host\nthen bring out/ back into it: `llx collect {folder}`; its README.md says more"
    )


def _standing(folder: Path) -> str:
    return f"{folder} is there already: nothing to do"
