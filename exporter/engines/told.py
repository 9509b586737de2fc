"""README.md of a bundle: what to do with it there, at home, and with the engine afterwards."""

from __future__ import annotations

from string import Template

from llx.bundle import Recipe, clean

# A test runs it, on a double of TensorRT.
PROGRAM = """\
import sys
from pathlib import Path

sys.path.insert(0, "lib")  # carried; numpy and TensorRT are all that it needs beside
import numpy as np
from llx.bench.sessions.trt import TrtSession
from llx.bundle import read_recipe

recipe = read_recipe(Path())
plan = Path("out/engine.plan").read_bytes()
session = TrtSession(recipe.runtime, plan, recipe.contract, recipe.dialect, 1)
most = recipe.contract.limits.max_new_tokens

tokens = [1, 2, 3]  # of a prompt, by tokenizer.json
filled = 0
for _ in range(16):
    while filled < len(tokens):
        part = tokens[filled : filled + most]  # a longer prompt goes in parts
        positions = np.arange(filled, filled + len(part))
        session.enqueue(np.array([part]), positions[None], np.array([[len(part) - 1]]))
        session.sync()
        filled += len(part)
    tokens.append(int(session.logits()[0, -1].argmax()))
print(tokens)
"""
TEXT = Template("""# $artifact for $place

This folder builds a TensorRT engine on the machine that it is for, and measures it there: nothing
that is built elsewhere runs on it. Written by llx $llx; nothing was run yet.

It needs TensorRT $tensorrt$jetpack, numpy, Python 3.10 or newer, $memory GB of memory and $disk GB
of disk. Nothing is installed, and nothing is downloaded.

## There

Copy the whole folder to the device, and run in it

```console
$$ python3 run.py check    # is this machine what the bundle is for?
$$ python3 run.py          # check, build, measure
```

Building takes minutes, and is done once: a second run measures again. `python3 run.py --help` says
more. What comes out lies in `out/`:

| file | what it is |
|---|---|
| `device.json` | what the machine says of itself |
| `engine.plan` | the engine |
| `timing.cache` | what TensorRT timed: the next build is faster |
| `build.json` | how the engine was built: versions, seconds, memory, layers |
| `samples.json` | what was measured, raw, and what failed |
| `fidelity.safetensors` | what the engine makes of the texts of the artifact's reference |

## Home

Copy `out/` back into this folder where the artifact is; the engine itself may stay. There

```console
$$ llx collect FOLDER                          # a table
$$ llx collect FOLDER -o json > results.json   # what `llx compare` and `llx report` read
$$ llx report results.json -o site
```

`--artifact` names the artifact where it is not under ./artifacts. The statistics, and the judgement
against PyTorch, are made there; numbers that cannot be are refused.

## The engine afterwards

It runs on the device that built it, with the very TensorRT that did. In this folder:

```python
$program```

`tokenizer.json` is what the library `tokenizers` reads. An engine runs code when it is loaded: load
those alone that you built.
""")


def readme_of(recipe: Recipe, device: str | None) -> str:
    """The text, for the bundle of a recipe."""
    needs = recipe.needs
    return TEXT.substitute(
        artifact=clean(recipe.artifact),
        place=device or "another machine",
        llx=recipe.llx,
        tensorrt=needs.tensorrt,
        jetpack=f" (JetPack {needs.jetpack})" if needs.jetpack else "",
        memory=f"{needs.memory_bytes / 1e9:.1f}",
        disk=f"{needs.disk_bytes / 1e9:.1f}",
        program=PROGRAM,
    )
