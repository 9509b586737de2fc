"""Arguments that several commands share."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Concatenate, ParamSpec, TypeVar

import typer

from llx.errors import BadInput

ArtifactFolder = Annotated[
    Path | None,
    typer.Argument(
        metavar="[DIR]",
        help="An artifact's folder. [default: the one exported last]",
        show_default=False,
    ),
]

ArtifactFolders = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[DIR]...",
        help="Folders of artifacts. [default: the one exported last]",
        show_default=False,
    ),
]

ResultsFormat = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FORMAT",
        help="md, json, jsonl, csv; junit, bencher, github-bigger, github-smaller. "
        "[default: table]",
        show_default=False,
    ),
]

GateFile = Annotated[
    Path | None,
    typer.Option(
        "--gate",
        metavar="FILE",
        help="A TOML file that says what may get how much worse. [default: as in docs/gates.md]",
        show_default=False,
    ),
]
Baseline = Annotated[
    list[Path] | None,
    typer.Option(
        "--baseline",
        metavar="FILE",
        help="A file of results before, that these are held against; may be given again.",
        show_default=False,
    ),
]
Texts = Annotated[
    list[Path] | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="A file of UTF-8 text to judge on; may be given again. [default: all that were "
        "captured, or else Python's documentation and a module of its library]",
        show_default=False,
    ),
]
Block = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Weights of int4 that share a scale: 32, 64, 128. [default: 32]",
        show_default=False,
    ),
]
Vocab = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The vocabulary's tables (embedding, lm_head) of int8, int8-wo, int4, fp8: dense or "
        "int8. [default: dense]",
        show_default=False,
    ),
]

# Of text that a model continues.
TextEngine = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="One of `llx bench`, such as ort, torch or trt. [default: ort, else torch]",
    ),
]
Date = Annotated[
    str | None,
    typer.Option(
        metavar="YYYY-MM-DD", help="The day that the chat template is told. [default: today]"
    ),
]
Thinking = Annotated[
    bool | None,
    typer.Option(
        "--thinking/--no-thinking",
        help="Whether a model that thinks before it answers does. [default: its template's own]",
        show_default=False,
    ),
]
Temperature = Annotated[float, typer.Option(metavar="X", help="0 is greedy.")]
TopP = Annotated[float, typer.Option(metavar="SHARE", help="Nucleus sampling.")]
TopK = Annotated[
    int, typer.Option(metavar="N", help="Draw from the likeliest so many; 0: from all.")
]
Penalty = Annotated[
    float, typer.Option(metavar="X", help="Above 1: what was said already becomes less likely.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of the sampling.")]
Stops = Annotated[
    list[str] | None,
    typer.Option(
        "--stop",
        metavar="TEXT",
        help="End before this text; may be given again.",
        show_default=False,
    ),
]
TrustEngine = Annotated[
    bool, typer.Option("--trust-engine", help="Load a built engine that is not your own.")
]


Value = TypeVar("Value")
More = ParamSpec("More")


def path_named(text: str | Path) -> Path:
    """A path to write to: as typed, or an option's default.

    Raises `BadInput` for an empty one, such as an unset variable's.
    """
    if not str(text).strip():
        raise BadInput("an empty path is none to write to", "name one with -o")
    return Path(text)


def positions(text: str | int) -> int:
    """A number of positions: 8192, or 8k for 8 × 1024. Raises `BadInput` for anything else."""
    word = str(text).strip().lower()
    try:
        return int(word.removesuffix("k")) * (1024 if word.endswith("k") else 1)
    except ValueError:
        raise BadInput(
            f"--context {text!r} is no number of positions", "write --context 8192, or 8k"
        ) from None


def file_named(text: str | Path) -> Path:
    """The same for a file, whose name ends in no slash."""
    if str(text).endswith("/"):
        raise BadInput(f"-o {text} names a folder, where a file is written", "name a file")
    return path_named(text)


def command_line() -> str:
    """The command as it was typed: it belongs to every number."""
    return " ".join(map(_quoted, ["llx", *sys.argv[1:]]))


def _quoted(word: str) -> str:
    """A word as a shell takes it; bytes that are not UTF-8 as bash, ksh and zsh write them."""
    data = word.encode("utf-8", "surrogateescape")
    try:
        return shlex.quote(data.decode())
    except UnicodeDecodeError:
        return f"$'{''.join(map(_typeable, data))}'"


def _typeable(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}"


def names(text: str) -> list[str]:
    """A comma list of names."""
    return [name for part in text.split(",") if (name := part.strip())]


def optional(
    parse: Callable[Concatenate[str, More], Value],
    text: str | None,
    *rest: More.args,
    **named: More.kwargs,
) -> Value | None:
    """What an option's text means, or None where it was left out."""
    return None if text is None else parse(text, *rest, **named)


def numbers(text: str, option: str, least: int = 1, example: str = "128,512") -> tuple[int, ...]:
    """A comma list such as 128,512. Raises `BadInput` for anything else."""
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or min(values) < least:
        raise BadInput(
            f"{option} {text!r} is not a list of numbers from {least} up",
            f"write {option} {example}",
        )
    return values


def lengths(text: str, option: str) -> tuple[int, ...]:
    """A comma list of lengths; 0 leaves that test out."""
    return tuple(length for length in numbers(text, option, least=0) if length)


def length_pairs(text: str, option: str = "--requests") -> tuple[tuple[int, int], ...]:
    """A comma list of input and output lengths, such as 128:32,512:128. Raises `BadInput`."""
    found = [part.strip().split(":") for part in text.split(",")]
    try:
        pairs = tuple((int(isl), int(osl)) for isl, osl in found)
    except ValueError:
        pairs = ()
    if not pairs or min(map(min, pairs)) < 1:
        raise BadInput(
            f"{option} {text!r} is not a list of input:output lengths from 1 up",
            f"write {option} 128:32,512:128",
        )
    return pairs


def share(text: str, option: str, example: str = "1%") -> float:
    """A share such as 1% or 0.01. Raises `BadInput` where it is none between 0 and 1."""
    from llx.reports.units import share_of

    try:
        value = share_of(text.strip()) if "%" in text else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise BadInput(f"{option} {text!r} is no share", f"write {option} {example}")
    return value
