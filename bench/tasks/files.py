"""Task files of lm-evaluation-harness: what in them would run code, found without running it.

lm-eval resolves `!function module.name` in a YAML by importing a Python file beside it. So the
files of a folder are looked through as YAML nodes, of which nothing is constructed, before lm-eval
sees them: with the parser that lm-eval has, and through links and `include:`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from llx.errors import BadInput

# As lm-eval chooses: two parsers that read one file differently would be a way around this.
LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
PLAIN = ("str", "int", "float", "bool", "null", "seq", "map", "merge", "value", "timestamp")
PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in PLAIN}
NO = {"false", "no", "off", "null", "~", ""}
# Keys that make lm-eval, `datasets` or `evaluate` run code, or read a pickle, unless so valued.
KEYS = {"unsafe_code": NO, "trust_remote_code": NO, "hf_evaluate": NO, "class": set[str]()}
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
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen_folders:
            folders.clear()
            continue
        seen_folders.add(real)
        folders.sort()
        for name in sorted(files):
            if name.endswith((".yaml", ".yml")):
                yield from _findings(Path(root, name), seen)


def _findings(path: Path, seen: set[Path]) -> Iterator[Finding]:
    # lm-eval looks for included files and for modules beside the file that a link leads to.
    real = path.expanduser().resolve()
    if real in seen or not real.is_file():  # lm-eval names what is missing
        return
    seen.add(real)
    if real.is_relative_to(_package()):
        return  # lm-eval's own functions came with the package
    try:
        top = yaml.compose(real.read_bytes(), Loader=LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        words = " ".join(str(error).split())
        raise BadInput(
            f"{path} is no YAML ({words})", "mend it, or take it out of --include-path"
        ) from None
    done: set[int] = set()
    todo = [top] if top else []
    while todo:
        node = todo.pop()
        if id(node) in done:  # an alias may lead back to its anchor
            continue
        done.add(id(node))
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
                        yield from _findings(real.parent / included, seen)
            todo += [part for pair in reversed(node.value) for part in reversed(pair)]


def _of_key(path: Path, key: yaml.ScalarNode, value: yaml.Node) -> Iterator[Finding]:
    words = str(value.value).lower() if isinstance(value, yaml.ScalarNode) else "…"
    runs = key.value in KEYS and words not in KEYS[key.value]
    if runs or (key.value == "dataset_path" and words == "pandas"):  # which reads pickles
        yield Finding(path, key.start_mark.line + 1, f"{key.value}: {words}")


def _scalars(node: yaml.Node) -> list[str]:
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    return [part.value for part in nodes if isinstance(part, yaml.ScalarNode)]


def _package() -> Path:
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).resolve().parent
