"""`run.py` of a bundle: build an engine on the machine that this folder lies on, and measure it.

    python3 run.py [check | build | bench] [--json]

    check   look whether this machine is what the bundle is for
    build   build the engine, unless it is there already: minutes, and once
    bench   measure it: raw samples, from which `llx collect` makes results

Without a command: all three. With --json, each line of what it says is JSON, for programs.

Needs the TensorRT that the recipe names, numpy, and Python 3.10 or newer; nothing is installed and
nothing is downloaded. What it makes is in `out/`: copy that folder home. Every file that the recipe
lists is compared with it before any of them is imported. README.md beside this file has more.

It exits with 0 when done, 1 where the engine's numbers are no numbers, 2 where a file or a word is
wrong, and 3 where this machine lacks something.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # nothing in this folder is imported before it was checked
    HERE = os.path.dirname(os.path.abspath(__file__))
    sys.path = [place for place in sys.path if os.path.abspath(place) != HERE]

import hashlib
import json
import subprocess
from pathlib import Path

COMMANDS = ("check", "build", "bench")
CHOICE = "choose one of check, build, bench, or none for all; --help says more"
EXIT_BAD_INPUT, EXIT_LACKING, EXIT_INTERRUPTED = 2, 3, 130


def main() -> int:
    """Run the commands, each in a process of its own: its peak memory is its own."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return 0
    names = [name for name in sys.argv[1:] if name != "--json"]
    as_json = "--json" in sys.argv
    if len(names) > 1 or not set(names) <= set(COMMANDS):
        return fail(f"{' '.join(names)} is no command: {CHOICE}", EXIT_BAD_INPUT, as_json)
    if not names:
        for name in COMMANDS:
            code = subprocess.call([sys.executable, __file__, name, *sys.argv[1:]])
            if code:
                return code
        return 0
    return run(Path(__file__).resolve().parent, names[0], as_json)


def run(folder: Path, command: str, as_json: bool) -> int:
    """Run one command, if every file is what the recipe says."""
    if sys.version_info < (3, 10):  # noqa: UP036 -- whichever Python is there reads this file
        version = "{}.{}".format(*sys.version_info)
        message = f"Python {version} is too old: run it with Python 3.10 or newer"
        return fail(message, EXIT_LACKING, as_json)
    damaged = first_damaged(folder, command)
    if damaged:
        message = f"{damaged} is not what was sent: copy the bundle again"
        return fail(message, EXIT_BAD_INPUT, as_json)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder / "lib"))
    from llx.bench.edge.device import run as run_command

    return run_command(folder, command, as_json)


def first_damaged(folder: Path, command: str) -> str | None:
    """The first file whose bytes are not the recipe's. Measuring reads no weights."""
    for name, (size, sha256) in json.loads((folder / "recipe.json").read_bytes())["files"].items():
        if command == "bench" and name == "weights.safetensors":
            continue
        path, digest = folder / name, hashlib.sha256()
        if not path.is_file() or path.stat().st_size != size:
            return str(name)
        with path.open("rb") as file:
            for chunk in iter(lambda: file.read(8 << 20), b""):
                digest.update(chunk)
        if digest.hexdigest() != sha256:
            return str(name)
    return None


def fail(message: str, code: int, as_json: bool) -> int:
    """Say why there is nothing, and give the exit code."""
    if as_json:
        what, _, remedy = message.partition(": ")
        print(json.dumps({"error": [what, remedy, code]}))
    else:
        print("run.py: " + message, file=sys.stderr)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
