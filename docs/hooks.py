"""What the site's pages are filled with as it is built, so that none of it can drift.

`<!-- commands -->` becomes the options of every command, as the command line declares them, and
`<!-- schema: NAME -->` the fields of a schema, as its types do. What stands outside of docs/ and is
linked from it is a part of the site below `repository/`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BESIDE = "repository"
DOCUMENTS = (
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "DECISIONS.md",
    "SECURITY.md",
    "examples/pull-request/README.md",
    "reports/LOG.md",
)
FILES = (
    "LICENSE",
    "action.yml",
    "examples/ort_generate.cpp",
    "examples/python.py",
    "reports/example/index.html",
    "reports/example/page.png",
    *(f".github/workflows/{name}.yml" for name in ("bench", "bench-comment", "publish", "devices")),
)
# Each schema, and the type that a file of it is read as.
SCHEMAS = {
    "llx.result/1": "llx.result.Result",
    "llx.artifact/1": "llx.manifest.Manifest",
    "llx.eval/1": "llx.evaluation.Evaluation",
    "llx.history/1": "llx.reports.history.Entry",
    "llx.plan/1": "llx.plans.Plans",
    "llx.comparison/1": "llx.reports.compare.change.Change",
    "llx.check/1": "llx.checks.Checked",
    "llx.engine/1": "llx.engine.EngineManifest",
    "llx.bundle/1": "llx.bundle.Recipe",
    "gates": "llx.reports.compare.gates.Gate",
}


def on_files(files: Any, config: Any) -> Any:
    """Give the site the documents that its pages lead to, where they stand in the repository."""
    from mkdocs.structure.files import File

    for name in (*DOCUMENTS, *FILES):
        path = str(ROOT / name)
        files.append(File.generated(config, f"{BESIDE}/{name}", abs_src_path=path))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill the markers of a page, and turn its links out of docs/ to the site's copies."""
    if page.file.src_uri.startswith(f"{BESIDE}/"):
        page.meta["search"] = {"boost": 0.3}  # who searches wants a guide first
        return markdown.replace("](README.md)", "](../index.md)").replace("](docs/", "](../")
    markdown = markdown.replace("](../", f"]({BESIDE}/")
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", commands_reference())
    seen: set[type] = set()
    return re.sub(
        r"<!-- schema: (\S+) -->", lambda found: schema_reference(found[1], seen), markdown
    )


def commands_reference() -> str:
    """Every command with its help, its usage and its options, in Markdown."""
    from typer.main import get_command

    from llx.cli import app

    group = get_command(app)
    parts = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        context = command.make_context(name, [], resilient_parsing=True)
        context.info_name = f"llx {name}"
        records = [param.get_help_record(context) for param in command.get_params(context)]
        rows = [f"| {code(words)} | {cell(text)} |" for words, text in filter(None, records)]
        parts.append(f"## llx {name}\n\n{command.help or ''}\n\n```text\n{usage(context)}\n```")
        parts.append("\n".join(["| option | |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def usage(context: Any) -> str:
    """The line of usage, as `--help` prints it."""
    pieces = context.command.collect_usage_pieces(context)
    return " ".join([context.info_name, *pieces])


def code(text: str) -> str:
    """Code that stands in a cell of a table of Markdown, where a bar alone is more than itself."""
    words = " ".join(text.split())
    return "`" + words.replace("|", "\\|") + "`"


def cell(text: str) -> str:
    """Text that stands in a cell of a table of Markdown."""
    words = " ".join(text.split())
    return words.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[").replace("*", "\\*")


def schema_reference(name: str, seen: set[type]) -> str:
    """The fields of a schema's types, each type where it is met first on the page."""
    parts = []
    for one in types_in(type_named(name)):
        if one not in seen:
            seen.add(one)
            parts.append(f"### {one.__name__}\n\n{inspect.getdoc(one)}\n\n{fields_table(one)}")
    return "\n\n".join(parts)


def linked(annotation: str) -> str:
    """An annotation, with each type of the page a link to its fields."""
    names = {one.__name__ for name in SCHEMAS for one in types_in(type_named(name))}
    return re.sub(
        r"\w+",
        lambda found: f"[{found[0]}](#{found[0].lower()})" if found[0] in names else found[0],
        cell(annotation).replace("]", "\\]"),
    )


def type_named(schema: str) -> type:
    """The type that a file of a schema is read as."""
    module, _, name = SCHEMAS[schema].rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found


@lru_cache
def types_in(kind: type) -> list[type]:
    """A type, and all types of fields that are its parts, in the order in which they are met."""
    found = [kind]
    for one in found:  # it grows meanwhile
        for hint in typing.get_type_hints(one, include_extras=True).values():
            found += [part for part in parts_of(hint) if part not in found]
    return found


def parts_of(hint: Any) -> Iterator[type]:
    """Types with fields that stand in an annotation."""
    if inspect.isclass(hint) and hint.__module__.startswith("llx.") and declared(hint):
        yield hint
    for part in typing.get_args(hint):
        yield from parts_of(part)


def declared(kind: type) -> list[tuple[str, str, str, str]]:
    """Of each field its name, its annotation, its default and the comment behind it."""
    source = textwrap.dedent(inspect.getsource(kind))
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    fields = [one for one in tree.body if isinstance(one, ast.AnnAssign)]
    lines = source.splitlines()
    rows = []
    for one in fields:
        comment = re.search(r"  # (.*)$", lines[(one.end_lineno or one.lineno) - 1])
        default = ast.unparse(one.value) if one.value else ""
        rows.append(
            (
                ast.unparse(one.target),
                ast.unparse(one.annotation),
                EMPTY.get(default, default),
                comment[1] if comment else "",
            )
        )
    return rows


EMPTY = {"field(default_factory=list)": "[]", "field(default_factory=dict)": "{}"}


def fields_table(kind: type) -> str:
    """A line for each field, in Markdown."""
    head = ["| field | type | where it is left out | |", "|---|---|---|---|"]
    rows = []
    for name, annotation, default, comment in declared(kind):
        left_out = code(default) if default else "required"
        rows.append(f"| `{name}` | {linked(annotation)} | {left_out} | {cell(comment)} |")
    return "\n".join(head + rows)
