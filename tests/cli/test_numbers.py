"""Every option that takes a number, given numbers that are none, or too many or too few."""

from __future__ import annotations

import random
import shutil
from typing import get_args, get_type_hints

import pytest
from typer.main import get_command

from llx.cli import app
from tests.bounded import Bounded
from tests.checkpoints import write_checkpoint
from tests.cli.test_options import TASKS
from tests.conftest import export_tiny

ODD = ("nan", "inf", "-inf", "-1", "0", "1e308", "-0.0", "1e-320", str(10**30), "９", "0x10", "")
NEVER = ("nan", "inf", "-inf", "1e308", "0x10", "")  # are what no option may be
# A limit of time and a temperature may be as large as one likes.
BUT = {
    ("bench", "--limit", "inf"),
    ("bench", "--limit", "1e308"),
    *((name, "--temperature", "1e308") for name in ("generate", "chat")),
    *((name, "--repetition-penalty", "1e308") for name in ("generate", "chat")),
}
COMMANDS = get_command(app).commands
# Options of text that is a number, or a list of some, by how the text is put together.
TEXTS = {
    "until": "{}",
    "threshold": "{}",
    "prompts": "4,{}",
    "generated": "2,{}",
    "depths": "0,{}",
    "batches": "1,{}",
    "request_lengths": "4:{}",
    "sm": "86,{}",
}
BASES = {
    "bench": "artifact --engine ort -p 4 -n 2 -r 2 --no-fidelity --no-roofline",
    "generate": "artifact hi -n 2",
    "chat": "artifact -n 2",
    "reference": "artifact --window 48 --windows 2",
    "export": "--weights checkpoint -o out --overwrite --precision int4 --calibration-windows 2"
    " --context 32",
    "build": "fp16 --device agx-orin-64 --jetpack 6.2 -o bundle --overwrite",
    "plan": "--size 7b",
    "eval": "artifact --tasks llx_choice --limit 1 --include-path own",
}


def number_options():
    """Every option that is of a number: its command, and how it is typed with one."""
    for registered in app.registered_commands:
        command = registered.name or registered.callback.__name__
        kinds = get_type_hints(registered.callback)
        for param in COMMANDS[command].params:
            if {int, float} & {kinds[param.name], *get_args(kinds[param.name])}:
                yield command, param.opts[0], "{}"
            elif param.name in TEXTS:
                yield command, param.opts[0], TEXTS[param.name]


def test_every_command_with_numbers_has_a_line_here():
    assert {command for command, _, _ in number_options()} == set(BASES)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    house = tmp_path_factory.mktemp("numbers")
    export_tiny(house).folder.rename(house / "artifact")
    shutil.rmtree(house / "checkpoint")
    export_tiny(house, "fp16").folder.rename(house / "fp16")
    shutil.rmtree(house / "checkpoint")
    write_checkpoint(house / "checkpoint")
    shutil.copytree(TASKS, house / "own")
    for file in (house / "own").glob("*.yaml"):
        file.write_text(file.read_text().replace("@FOLDER@", str(house / "own")))
    return house


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("command", BASES)
def test_a_number_that_is_none_is_refused_in_a_line(command, house, capsys):
    """Or does what it says, as 0 may: but a share, a limit and a budget of nothing are none."""
    found, count = [], 0
    with Bounded(house) as commands:
        for name, option, text in number_options():
            few = random.Random(f"{name} {option}").sample(ODD, 3)
            for odd in dict.fromkeys(["nan", *few]) if name == command else ():
                typed = text.format(odd)
                words = [f"{option}={typed}"] if option.startswith("--") else [option, typed]
                ended = commands.run(command, *BASES[command].split(), *words)
                count += 1
                fault = ended.fault
                if (
                    not fault
                    and ended.code == 0
                    and odd in NEVER
                    and (command, option, odd) not in BUT
                ):
                    fault = "exit 0"
                if not fault and ended.code == 2 and len(ended.err.splitlines()) != 1:
                    fault = f"many lines: {ended.err!r}"
                if fault:
                    found.append(f"{command} {' '.join(words)}: {fault}")
    with capsys.disabled():
        print(f"\n{count} numbers, {len(found)} that end wrongly", end=" ")
    assert not found, "\n".join(found)
