"""Task files as lm-eval resolves them, with nothing constructed and nothing imported.

lm-eval merges what a file includes into it, and imports the Python file of every `!function` on the
way, those of keys that are overridden too. What stands in a file alone says little of that.

A file is read as YAML in a process of its own (`llx.templates`): libyaml's reader recurses until
the stack ends, and aliases multiply.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llx.errors import BadInput
from llx.templates import TemplateFailed, TemplateProcess

MOST_BYTES = 1 << 20
MOST_INCLUDED = 64  # files that one may include, and they
FUNCTION = "!function"
REMEDY = "mend it, or take it out of --include-path"


@dataclass(frozen=True)
class Function:
    """`!function module.name`: where its module is looked for first, and what it is called."""

    base: Path
    spec: str

    @property
    def module(self) -> Path:
        """The Python file that lm-eval imports, where there is one beside the YAML file."""
        name = self.spec.rpartition(".")[0]
        return (self.base / f"{name.replace('.', '/')}.py").resolve()


@dataclass
class Resolved:
    """What lm-eval makes of a file: keys with their values, and all that it meets on the way."""

    values: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    unsafe: list[Path] = field(default_factory=list)  # files that say `unsafe_code` of themselves


class Reader:
    """Reads task files. Use it as a context manager: it ends its process."""

    def __init__(self, trusted: Path) -> None:
        self._process = TemplateProcess(documents=True)
        self._trusted = trusted
        self._kept: dict[Path, yaml.Node | None] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()

    def node(self, path: Path) -> yaml.Node | None:
        """A file as YAML nodes: a tree, within bounds. `BadInput` where it is none.

        Files below `trusted` came with lm-eval: they are read here.
        """
        if path not in self._kept:
            self._kept[path] = self._read(path)
        return self._kept[path]

    def _read(self, path: Path) -> yaml.Node | None:
        try:
            with path.open("rb") as file:
                data = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise BadInput(f"{path} cannot be read ({error.strerror})", REMEDY) from None
        if path.is_relative_to(self._trusted):
            return yaml.compose(data, Loader=yaml.SafeLoader)
        if len(data) > MOST_BYTES:
            raise BadInput(f"{path} is larger than {MOST_BYTES >> 20} MiB", REMEDY)
        try:
            made = self._process.yaml(data)
        except TemplateFailed as error:
            raise BadInput(f"{path} is no YAML that can be read ({error})", REMEDY) from None
        return None if made is None else _node(made)

    def resolved(self, path: Path) -> Resolved:
        """A file with all that it includes, in lm-eval's order: what comes later wins."""
        found = Resolved()
        found.values = self._merged(path.expanduser().resolve(), found)
        return found

    def _merged(self, path: Path, found: Resolved) -> dict[str, Any]:
        if path in found.files or len(found.files) > MOST_INCLUDED or not path.is_file():
            return {}  # a circle, or nothing: lm-eval says so
        found.files.append(path)
        node = self.node(path)
        if not isinstance(node, yaml.MappingNode):
            if len(found.files) > 1:
                raise BadInput(f"{path} is included, and has no keys", REMEDY)
            return {}
        found.functions += (Function(path.parent, spec) for spec in _functions(node))
        try:
            values = _constructed(node)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            words = " ".join(str(error).split())
            raise BadInput(f"{path} is no YAML that can be read ({words})", REMEDY) from None
        if values.get("unsafe_code", False) is not False:
            found.unsafe.append(path)
        merged: dict[str, Any] = {}
        includes = values.pop("include", [])
        for included in includes if isinstance(includes, list) else [includes]:
            if isinstance(included, str):
                merged |= self._merged((path.parent / included).resolve(), found)
        return merged | values


def _functions(node: yaml.Node) -> Iterator[str]:
    if node.tag == FUNCTION and isinstance(node, yaml.ScalarNode):
        yield node.value
    elif isinstance(node, yaml.SequenceNode):
        for part in node.value:
            yield from _functions(part)
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            for part in pair:
                yield from _functions(part)


class _Constructor(yaml.SafeLoader):
    """YAML's plain types; what has a tag of its own is its words."""


_Constructor.add_constructor(None, lambda _, node: str(node.value))


def _constructed(node: yaml.MappingNode) -> dict[str, Any]:
    values = _Constructor("").construct_document(node)
    return values if isinstance(values, dict) else {}


def _node(made: list[Any]) -> yaml.Node:
    kind, tag, line, value = made
    mark = yaml.Mark("", 0, line, 0, "", 0)
    if kind == "s":
        return yaml.ScalarNode(tag, value, mark, mark)
    if kind == "q":
        return yaml.SequenceNode(tag, [_node(part) for part in value], mark, mark)
    pairs = [(_node(key), _node(content)) for key, content in value]
    return yaml.MappingNode(tag, pairs, mark, mark)
