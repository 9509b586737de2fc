"""`llx.export`: a checkpoint into an artifact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llx.api.watching import Tell, call_in_words, telling, watched
from llx.arguments import door
from llx.artifact import DEFAULT_ROOT, Artifact, open_artifact
from llx.corpus import OWN_TEXTS, OwnText
from llx.errors import BadInput, require_modules
from llx.exporter.export import export as export_whole
from llx.exporter.locate import locate
from llx.exporter.quantization.budget import Budget, QuantizationRequest
from llx.exporter.request import ExportRequest
from llx.files import require_unicode
from llx.llama.presets import Preset, chosen_preset
from llx.precision import precision_named
from llx.progress import Progress

AUTO = "auto"  # of precisions: the one for a device

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@door
def export(
    size: str | None = None,
    *,
    family: str | None = None,
    model: str | None = None,
    weights: str | Path | None = None,
    precision: str = "fp32",
    compute: str | None = None,
    block: int | None = None,
    vocab: str | None = None,
    max_kld: float | None = None,
    max_ppl_ratio: float | None = None,
    dense_share: float | None = None,
    calibration_text: str | Path | None = None,
    calibration_windows: int | None = None,
    context: int | None = None,
    for_library: str | None = None,
    device: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> Artifact:
    """Export a LLaMA into an artifact folder: weights, graphs, tokenizer, manifest.

    The same export again is a no-op. Nothing half-written is left, whatever ends it.

    Args:
        size: A size that picks its model, such as "135m" or "7b".
        family: The family that the size is of, where it is not the usual one: "llama1", ….
        model: A model by name instead, such as "llama-3.2-1b".
        weights: A checkpoint's folder or file (Hugging Face, Meta's, GGUF), an id of the hub,
            "random[:SEED]", or "none" for graphs only. None: an installed package, else the hub.
        precision: "fp32", "fp16", "bf16", "int8", "fp8" (weights and activations), "int8-wo" or
            "int4" (weights alone), or "auto": what fits `device` and loses least.
        compute: What a precision in few bits leaves as it is: "fp16" (the default), "fp32", "bf16".
        block: Weights of int4 that share a scale: 32 (the default), 64 or 128.
        vocab: The vocabulary's tables beside layers in few bits: "dense" (the default) or "int8".
        max_kld: Most that quantization may cost, in nats per token.
        max_ppl_ratio: The same for perplexity over the checkpoint's, such as 1.02.
        dense_share: Share (0…1) of the linear layers' multiply-adds left dense without a budget.
        calibration_text: "docs" (half of Python's documentation), "self" (what the model writes)
            or a UTF-8 text file to calibrate on. None: half "docs" and half "self".
        calibration_windows: Windows, of up to 512 tokens; 0, not for int8 and fp8, rounds to
            nearest.
        context: Cache capacity in positions. None: the model's, at most 2048.
        for_library: "genai": write what onnxruntime-genai needs beside the graphs.
        device: What precision "auto" chooses for, a name of the catalogue.
        output: The folder. None: artifacts/MODEL-PRECISION.
        overwrite: Replace another artifact there.
        progress: Called with what is done, how much of how much, and the unit. None: bars.
        tell: Called with notices. None: the logger `llx`.

    Raises:
        BadInput: Options that do not fit one another, a damaged or incomplete checkpoint, a folder
            that holds something else.
        Lacking: No network, package or disk space for it.
        GateFailed: No mixture of layers is within the budget.

    """
    request = export_request(
        size=size,
        family=family,
        model=model,
        weights=weights,
        precision=precision,
        compute=compute,
        block=block,
        vocab=vocab,
        max_kld=max_kld,
        max_ppl_ratio=max_ppl_ratio,
        dense_share=dense_share,
        calibration_text=calibration_text,
        calibration_windows=calibration_windows,
        context=context,
        for_library=for_library,
        output=output,
        device=device,
        tell=tell,
        command=call_in_words(export, locals()),
    )
    artifact = exported(request, overwrite, progress, tell)[0]
    if for_library:
        written_for(artifact, for_library)
    return artifact


def export_request(
    *,
    size: str | None,
    family: str | None,
    model: str | None,
    weights: str | Path | None,
    precision: str,
    compute: str | None,
    block: int | None,
    vocab: str | None,
    max_kld: float | None,
    max_ppl_ratio: float | None,
    dense_share: float | None,
    calibration_text: str | Path | None,
    calibration_windows: int | None,
    context: int | None,
    for_library: str | None,
    output: str | Path | None,
    device: str | None,
    tell: Tell | None,
    command: str,
) -> ExportRequest:
    """What the words of `export` mean: the checkpoint found, the folder named, options checked."""
    require_modules("an export", "export", "torch", "gguf")  # before anything is downloaded
    if for_library is not None:
        from llx.exporter.genai import require_library

        require_library(for_library, graphs_only=weights == "none")
    preset = chosen_preset(size, model, family)
    if precision.lower() == AUTO:
        precision = _best(preset, weights, device, context, tell)
    elif device is not None:
        raise BadInput(
            f"--precision {precision} is the same on every device",
            "leave --device out, or ask for --precision auto",
        )
    chosen = precision_named(precision, compute, block, vocab)
    quantization = QuantizationRequest(
        windows=calibration_windows,
        text=_text_named(calibration_text),
        dense_share=dense_share,
        budget=Budget(max_kld=max_kld, max_ppl_ratio=max_ppl_ratio),
    )
    quantization.require_for(chosen)
    located = locate(weights, preset)
    name = preset.name if preset else _name_of(str(weights))
    if not isinstance(located, Path):
        name += "-random" if located else "-graphs"
    folder = Path(output) if output is not None else DEFAULT_ROOT / f"{name}-{chosen.name}"
    for path in (located, folder, quantization.text):
        if isinstance(path, Path):
            require_unicode(path.resolve())
    return ExportRequest(
        weights=located,
        folder=folder,
        precision=chosen,
        context=context,
        quantization=quantization,
        preset=preset,
        label=name,
        command=command,
    )


def exported(
    request: ExportRequest,
    overwrite: bool = False,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> tuple[Artifact, bool]:
    """The artifact of a request, and whether it was made anew; see `export`."""
    with watched(progress) as news:
        return export_whole(request, overwrite, news, telling(tell), run_windows)


def written_for(artifact: Artifact, library: str) -> Path:
    """The folder that a library opens, with what was written for it; see `export`."""
    from llx.exporter.genai import require_library, write_genai

    require_library(library)
    return write_genai(artifact)


def run_windows(folder: Path, windows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """Logits [N - 1, V] of windows [W, N] from an artifact's graph, in ONNX Runtime.

    It judges what a budget was set for: the graph as it was written has the last word.
    """
    import numpy as np

    from llx.bench.sessions.ort import OrtSession
    from llx.bench.speed.steps import prefill_logits

    session = OrtSession(open_artifact(folder))
    for window in windows:
        session.reset()
        parts = [logits[0].copy() for logits in prefill_logits(session, window[None, :-1])]
        yield np.concatenate(parts)
    session.close()


def _best(
    preset: Preset | None,
    weights: str | Path | None,
    device: str | None,
    context: int | None,
    tell: Tell | None,
) -> str:
    """The precision for a device, which is told with its reason."""
    from llx.api.plan import precision_for
    from llx.exporter.sizes import sizes_of

    if device is None:
        raise BadInput(
            f"--precision {AUTO} chooses for a device",
            "name it with --device, such as orin-nano-8; `llx plan` lists all",
        )
    spec = preset.spec if preset else sizes_of(weights or "")[1]
    name, why = precision_for(spec, device, context)
    telling(tell)(why)
    return name


def _text_named(asked: str | Path | None) -> Path | OwnText | None:
    """A text to calibrate on: one of our own by its name, or a file (`./self`, or a `Path`)."""
    for name in OWN_TEXTS:
        if asked == name:
            return name
    return None if asked is None else Path(asked)


def _name_of(weights: str) -> str:
    """What a checkpoint without a preset is called: a GGUF file's name, a folder's, an id's.

    A file is called by what it was named, whatever it links to, and a snapshot of the hub's cache,
    models--OWNER--NAME/snapshots/HASH, by its model's name.
    """
    path = Path(weights)
    if path.is_file():
        path = path.parent.resolve() / path.name
        if path.suffix.lower() == ".gguf":
            return path.stem.lower()
        path = path.parent
    path = path.resolve()
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        return path.parent.parent.name.split("--", 2)[-1].lower()
    return path.name.lower()
