"""Task files of lm-evaluation-harness: what in them would run code, found without running it.

lm-eval resolves `!function module.name` in a YAML by importing a Python file beside it. So the
files of a folder are looked through as YAML nodes, of which nothing is constructed, before lm-eval
sees them, through links and `include:`. Then each is judged as lm-eval resolves it: what it
includes of lm-eval's own may run code as well, whatever the file that includes it says of that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from llx.bench.tasks.functions import runs_code
from llx.bench.tasks.resolve import Reader
from llx.errors import BadInput

PLAIN = ("str", "int", "float", "bool", "null", "seq", "map", "merge", "value", "timestamp")
PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in PLAIN}
NO = {"false", "no", "off", "null", "~", ""}
# Keys that make lm-eval, `datasets` or `evaluate` run code, or read a pickle, unless so valued.
KEYS = {"unsafe_code": NO, "trust_remote_code": NO, "hf_evaluate": NO, "class": set[str]()}
# Readers of `datasets` that take tables of plain values; another loads what its library has.
BUILDERS = {"arrow", "csv", "json", "parquet", "text"}
REMEDY = "read it, then allow that with --allow-code, or take the file out of --include-path"


@dataclass(frozen=True)
class Finding:
    """Something that would run code: where, and what."""

    file: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}, has {self.what}, which would run code"


def refuse_code(folder: Path) -> None:
    """Raise `BadInput` where a task file below `folder`, or one that it includes, runs code."""
    if not folder.is_dir():
        raise BadInput(f"--include-path {folder} is not a folder", "name a folder with task YAMLs")
    for finding in findings_in(folder):
        raise BadInput(str(finding), REMEDY)


def findings_in(folder: Path) -> Iterator[Finding]:
    """What would run code in the task files below a folder, through links of either kind."""
    seen_folders: set[str] = set()
    seen: set[Path] = set()
    with Reader(package()) as reader:
        for root, folders, files in os.walk(folder, followlinks=True):
            real = os.path.realpath(root)
            if real in seen_folders:
                folders.clear()
                continue
            seen_folders.add(real)
            folders.sort()
            for name in sorted(files):
                if name.endswith((".yaml", ".yml")):
                    yield from _findings(Path(root, name), seen, reader)
                    yield from _resolved_findings(Path(root, name), reader)


def findings_of(path: Path) -> Iterator[Finding]:
    """What would run code in one of lm-eval's own task files, if other data were given to it."""
    with Reader(package()) as reader:
        yield from _inherited(path, path, reader)


def _resolved_findings(path: Path, reader: Reader) -> Iterator[Finding]:
    if not path.is_file():
        return
    real = path.resolve()
    if not real.is_relative_to(package()):
        yield from _inherited(path, real, reader)


def _inherited(path: Path, real: Path, reader: Reader) -> Iterator[Finding]:
    """What a file takes over from lm-eval's own that runs code."""
    resolved = reader.resolved(real)
    for unsafe in resolved.unsafe:
        yield Finding(path, 1, f"unsafe_code, by {unsafe.name}")
    if resolved.values.get("class") is not None:
        yield Finding(path, 1, f"class: {resolved.values['class']}")
    for function in resolved.functions:
        module = function.module
        inside = module.is_relative_to(package()) and function.base.is_relative_to(package())
        why = runs_code(module) if inside else "is none of lm-eval's"
        if why is not None:
            yield Finding(path, 1, f"the tag !function {function.spec} ({module.name}: {why})")


def _findings(path: Path, seen: set[Path], reader: Reader) -> Iterator[Finding]:
    # lm-eval looks for included files and for modules beside the file that a link leads to.
    real = path.expanduser().resolve()
    if real in seen or not real.is_file():  # lm-eval names what is missing
        return
    seen.add(real)
    if real.is_relative_to(package()):
        return  # judged where a file of another's includes it
    todo = [top] if (top := reader.node(real)) else []
    while todo:
        node = todo.pop()
        if node.tag not in PLAIN_TAGS:
            value = node.value if isinstance(node, yaml.ScalarNode) else ""
            yield Finding(path, node.start_mark.line + 1, f"the tag {node.tag} {value}".rstrip())
        if isinstance(node, yaml.SequenceNode):
            todo += reversed(node.value)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                yield from _of_key(path, key, value)
                if key.value == "include":
                    for included in _scalars(value):
                        yield from _findings(real.parent / included, seen, reader)
            todo += [part for pair in reversed(node.value) for part in reversed(pair)]


def _of_key(path: Path, key: yaml.ScalarNode, value: yaml.Node) -> Iterator[Finding]:
    words = str(value.value).lower() if isinstance(value, yaml.ScalarNode) else "…"
    runs = key.value in KEYS and words not in KEYS[key.value]
    if key.value == "dataset_path":
        runs = words in _builders() - BUILDERS
    elif key.value == "use_prompt":  # of a library, or of a file of any path
        runs = not words.startswith("qa-basic:")
    if runs:
        yield Finding(path, key.start_mark.line + 1, f"{key.value}: {words}")


def _scalars(node: yaml.Node) -> list[str]:
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    return [part.value for part in nodes if isinstance(part, yaml.ScalarNode)]


def _builders() -> set[str]:
    """The readers that `datasets` brings: `dataset_path` names one, a folder, or one of the hub."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    return {*_PACKAGED_DATASETS_MODULES, "pandas", "spark", "generator", "cache"}


def package() -> Path:
    """The folder of lm-eval's own tasks."""
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).resolve().parent
