"""`llx export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llx.cli.arguments import Block, Vocab, command_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from llx.artifact import Artifact, QuantizationRecord


def export(
    size: Annotated[str | None, typer.Option(help="A size picks its model: 135m, 7b, ….")] = None,
    family: Annotated[
        str | None, typer.Option(help="The family that the size is of: llama1, codellama, ….")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A model by name; see `llx models`.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="A checkpoint's folder or file, an id of the hub, random[:SEED], or none "
            "(graphs only). [default: an installed package, else the hub]",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, fp16, bf16; int8 (weights and activations), int8-wo and int4 (weights "
            "alone)."
        ),
    ] = "fp32",
    compute: Annotated[
        str | None,
        typer.Option(
            help="What int8, int8-wo and int4 leave as it is: fp16, fp32 (for a CPU), bf16. "
            "[default: fp16]",
            show_default=False,
        ),
    ] = None,
    block: Block = None,
    vocab: Vocab = None,
    max_kld: Annotated[
        float | None,
        typer.Option(
            help="Most that quantization may cost, in nats a token: the costliest layers are left "
            "as they are until it holds."
        ),
    ] = None,
    max_ppl_ratio: Annotated[
        float | None, typer.Option(help="The same for perplexity over the checkpoint's: 1.02.")
    ] = None,
    dense_share: Annotated[
        float | None,
        typer.Option(
            help="Share of the linear layers' work that is left as it is, without a budget. "
            "[default: 0.1 for int8, else 0]",
            show_default=False,
        ),
    ] = None,
    calibration_text: Annotated[
        Path | None,
        typer.Option(
            help="A text to calibrate on. [default: half of Python's documentation]",
            show_default=False,
        ),
    ] = None,
    calibration_windows: Annotated[
        int | None,
        typer.Option(
            help="Windows of it, of up to 512 tokens; 0 rounds weights to nearest. [default: 48]",
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Cache capacity. [default: the model's, at most 2048]")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder. [default: artifacts/MODEL-PRECISION]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace another artifact there.")] = False,
) -> None:
    """Export a checkpoint into an artifact: weights, graphs, tokenizer, manifest."""
    from llx.artifact import DEFAULT_ROOT
    from llx.exporter.export import ExportRequest
    from llx.exporter.export import export as run
    from llx.exporter.locate import locate
    from llx.exporter.quantization.budget import Budget, QuantizationRequest
    from llx.llama.presets import chosen_preset
    from llx.precision import precision_named
    from llx.reports.console import progress_bars, say, warn

    preset = chosen_preset(size, model, family)
    chosen = precision_named(precision, compute, block, vocab)
    quantization = QuantizationRequest(
        windows=calibration_windows,
        text=calibration_text,
        dense_share=dense_share,
        budget=Budget(max_kld=max_kld, max_ppl_ratio=max_ppl_ratio),
    )
    quantization.require_for(chosen)
    located = locate(weights, preset)
    name = preset.name if preset else _name_of(str(weights))
    if not isinstance(located, Path):
        name += "-random" if located else "-graphs"
    request = ExportRequest(
        weights=located,
        folder=output or DEFAULT_ROOT / f"{name}-{chosen.name}",
        precision=chosen,
        context=context,
        quantization=quantization,
        preset=preset,
        label=name,
        command=command_line(),
    )
    with progress_bars() as progress:
        artifact, made = run(request, overwrite, progress, warn, _run_windows)
    say(summary(artifact) if made else f"{artifact.folder} is there already: nothing to do")


def _run_windows(folder: Path, windows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """Logits [N - 1, V] of windows [W, N] from an artifact's graph, in ONNX Runtime."""
    import numpy as np

    from llx.artifact import open_artifact
    from llx.bench.sessions.ort import OrtSession
    from llx.bench.speed.steps import prefill_logits

    session = OrtSession(open_artifact(folder))
    for window in windows:
        session.reset()
        parts = [logits[0].copy() for logits in prefill_logits(session, window[None, :-1])]
        yield np.concatenate(parts)
    session.close()


def _name_of(weights: str) -> str:
    """What a checkpoint without a preset is called: a GGUF file's name, a folder's, an id's."""
    path = Path(weights).resolve()
    if path.is_file():
        return (path.stem if path.suffix == ".gguf" else path.parent.name).lower()
    return path.name.lower()


def quantization(record: QuantizationRecord) -> str:
    """How an artifact was quantized, in a line that promises nothing."""
    name = {"w8a8": "int8", "w8": "int8-wo", "w4": "int4"}[record.scheme]
    corpus = f", {record.corpus}" if record.corpus else ""
    return f"{name}: {record.in_words}{corpus}; it costs accuracy: judge it with `llx bench`"


def summary(artifact: Artifact) -> str:
    """What was exported, in a few lines."""
    from llx.artifact import TOKENIZER, WEIGHTS
    from llx.reports.units import binary_bytes, parameters

    manifest = artifact.manifest
    limits, casts = manifest.contract.limits, manifest.casts
    lines = [
        f"{artifact.folder}: {parameters(manifest.spec.parameters)} parameters, "
        f"{manifest.precision.name}, {binary_bytes(artifact.model_bytes)}, "
        f"cache of {limits.capacity} positions, graphs: {', '.join(artifact.dialects)}"
    ]
    if casts.overflowed or casts.underflowed:
        lines.append(
            f"warning: {manifest.precision.compute} cannot hold {casts.overflowed} weights (too "
            f"large) and {casts.underflowed} (too small)"
        )
    if manifest.quantization:
        lines.append(quantization(manifest.quantization))
    if not artifact.has(WEIGHTS):
        lines.append("graphs only: nothing can run them before weights are exported")
    elif manifest.source.format == "random":
        lines.append(f"{manifest.source.label}: good for speed and memory, not for text")
    elif not artifact.has(TOKENIZER):
        lines.append(
            "warning: no tokenizer that llx reads came with the checkpoint: "
            "`generate`, `reference` and fidelity will not work"
        )
    return "\n".join(lines)
