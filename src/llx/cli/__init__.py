"""The command line: one small file for each command.

A command parses, calls one function, prints. Heavy imports live inside the commands, so that
`llx --help` answers at once.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated

import typer

import llx
from llx.cli.bench import bench
from llx.cli.build import build
from llx.cli.chat import chat
from llx.cli.check import check
from llx.cli.collect import collect
from llx.cli.compare import compare
from llx.cli.convert import convert
from llx.cli.doctor import doctor
from llx.cli.eval import eval_tasks
from llx.cli.export import export
from llx.cli.generate import generate
from llx.cli.helped import Command
from llx.cli.inspect import inspect
from llx.cli.models import models
from llx.cli.plan import plan
from llx.cli.reference import reference
from llx.cli.report import report
from llx.cli.selftest import selftest
from llx.errors import BadInput, Lacking

app = typer.Typer(
    help="Export LLaMA models to ONNX and TensorRT, measure them, prove them against PyTorch.",
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    models,
    plan,
    export,
    check,
    inspect,
    build,
    collect,
    generate,
    chat,
    reference,
    bench,
    report,
    compare,
    convert,
    doctor,
    selftest,
):
    app.command(cls=Command)(command)
app.command("eval", cls=Command)(eval_tasks)


def _version(asked: bool) -> None:
    if asked:
        print(f"llx {llx.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        return
    _require_surroundings()


def _require_surroundings() -> None:
    """Raise `BadInput` or `Lacking` for what libraries answer with a crash, or words of theirs."""
    if sys.flags.optimize > 1:
        raise Lacking(
            "Python leaves docstrings out here, and libraries need theirs", "unset PYTHONOPTIMIZE"
        )
    try:
        os.getcwd()
    except FileNotFoundError:
        raise BadInput("the working directory was removed", "change to one that is there") from None
    threads = os.environ.pop("OMP_NUM_THREADS", "").strip()
    if threads:
        os.environ["OMP_NUM_THREADS"] = threads
    if threads and not re.fullmatch(
        r" *0*[1-9][0-9]{0,4} *(, *0*[1-9][0-9]{0,4} *)*", threads, re.ASCII
    ):
        raise BadInput(
            f"OMP_NUM_THREADS is {threads[:40]!r}, which counts no threads",
            "set it to a number, or unset it",
        )
