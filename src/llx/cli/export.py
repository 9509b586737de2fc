"""`llx export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llx.cli.arguments import Block, Vocab, command_line, path_named, positions


def export(
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="A size picks its model: 135m, 7b, ….")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The family that the size is of: llama3, qwen2.5, …."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="A model by name; see `llx models`.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="A checkpoint's folder or file, an id of the hub, random[:SEED], or none "
            "(graphs only). [default: an installed package, else the hub]",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="fp32, fp16, bf16; int8 and fp8 (weights and activations), int8-wo and int4 "
            "(weights alone); auto: what fits --device and loses least.",
        ),
    ] = "fp32",
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What auto chooses for: orin-nano-8, t4, …"),
    ] = None,
    compute: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What int8, int8-wo, int4 and fp8 leave as it is: fp16, fp32 (for a CPU), bf16. "
            "[default: fp16]",
            show_default=False,
        ),
    ] = None,
    block: Block = None,
    vocab: Vocab = None,
    max_kld: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Most that quantization may cost, in nats a token: the costliest layers are left "
            "as they are until it holds.",
        ),
    ] = None,
    max_ppl_ratio: Annotated[
        float | None,
        typer.Option(metavar="X", help="The same for perplexity over the checkpoint's: 1.02."),
    ] = None,
    dense_share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share of the linear layers' work that is left as it is, without a budget. "
            "[default: 0.1 for int8, else 0]",
            show_default=False,
        ),
    ] = None,
    calibration_text: Annotated[
        str | None,  # a path as it was typed: ./self is a file
        typer.Option(
            metavar="FILE",
            help="A text to calibrate on; docs: half of Python's documentation, self: what the "
            "model writes. [default: half of each]",
            show_default=False,
        ),
    ] = None,
    calibration_windows: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Windows, of up to 512 tokens; 0, not for int8 and fp8, rounds weights to "
            "nearest. [default: 48]",
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            parser=positions,
            metavar="N",
            help="Cache capacity. [default: the model's, at most 2048]",
        ),
    ] = None,
    for_library: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="NAME",
            help="genai: write what onnxruntime-genai needs beside the graphs.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=path_named,
            metavar="DIR",
            help="Folder. [default: artifacts/MODEL-PRECISION]",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace another artifact there.")] = False,
) -> None:
    """Export a checkpoint into an artifact: weights, graphs, tokenizer, manifest."""
    from llx.api.export import export_request, exported, written_for
    from llx.reports.artifacts import artifact_in_words
    from llx.reports.console import say, warn

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
        tell=warn,
        command=command_line(),
    )
    artifact, made = exported(request, overwrite, tell=warn)
    say(artifact_in_words(artifact, made))
    if for_library:
        config = written_for(artifact, for_library) / "genai_config.json"
        say(f"{config}: for onnxruntime-genai, one row at a time")
