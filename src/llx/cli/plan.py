"""`llx plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from llx.cli.arguments import Block, Vocab, command_line, names, positions


def plan(
    weights: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A checkpoint's folder or file, an id of the hub, or an artifact.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="A size picks its model: 135m, 7b, ….")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="A model by name; see `llx models`.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The family that the size is of: llama3, qwen2.5, …."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="fp32, fp16, bf16, int8, int8-wo, int4, fp8, or several with commas. [default: an "
            "artifact's own, else fp16]",
            show_default=False,
        ),
    ] = None,
    compute: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What int8, int8-wo, int4 and fp8 leave as it is: fp16, fp32, bf16. "
            "[default: fp16]",
            show_default=False,
        ),
    ] = None,
    block: Block = None,
    vocab: Vocab = None,
    context: Annotated[
        int | None,
        typer.Option(
            parser=positions,
            metavar="N",
            help="Cache capacity. [default: an artifact's own, or the model's, at most 2048]",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Rows that are decoded together.")] = 1,
    prompt: Annotated[
        int | None,
        typer.Option(metavar="N", help="Prompt tokens. [default: 512, at most the context]"),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="NAMES", help="all, or names with commas: orin-nx-16,t4.")
    ] = "all",
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FORMAT", help="json. [default: table]")
    ] = None,
) -> None:
    """Predict without a GPU: does a model fit a device, and how fast could it be there."""
    from llx.api.plan import plans_in
    from llx.errors import BadInput
    from llx.reports.plans import plans_json, show_plans
    from llx.streams import print_data

    if precision is not None and not names(precision):
        raise BadInput("--precision names none", "name some, such as fp16,int8")
    if output not in (None, "json"):
        raise BadInput(f"unknown format {output!r}", "choose json, or leave -o out for a table")
    plans = plans_in(
        names(precision) if precision is not None else [None],
        size=size,
        model=model,
        family=family,
        weights=weights,
        compute=compute,
        block=block,
        vocab=vocab,
        context=context,
        batch=batch,
        prompt=prompt,
        device=device,
        command=command_line(),
    )
    if output == "json":
        print_data(f"{plans_json(plans)}\n")
    else:
        show_plans(plans)
