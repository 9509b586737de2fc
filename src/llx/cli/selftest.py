"""`llx selftest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llx.cli.arguments import Texts, command_line, file_named
from llx.cli.printed import printed


def selftest(
    gpu: Annotated[
        bool, typer.Option("--gpu", help="The engines on this machine's GPU, in fp16.")
    ] = False,
    text: Texts = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            parser=file_named,
            metavar="FILE",
            help="File of results, to send with a report.",
        ),
    ] = Path("selftest.json"),
) -> None:
    """Export SmolLM2-135M, run it on every engine here, judge each against PyTorch."""
    from llx.api.results import Interrupted, Results
    from llx.api.selftest import selftest as run
    from llx.outputs import require_output
    from llx.reports.console import say, show_results, warn
    from llx.result import encode_results

    def show(results: Results) -> None:
        results.write(output)
        show_results(results)
        say(f"\nresults: {output}")

    try:
        results = run(
            require_output(output), gpu=gpu, texts=text or (), tell=warn, command=command_line()
        )
    except Interrupted as interrupted:
        if interrupted.results:
            printed(show, interrupted.results, encode_results)
        raise
    if results:
        printed(show, results, encode_results)
    raise typer.Exit(results.exit_code)
