"""Which chat template is meant: what `AutoTokenizer` takes from the same folder."""

from __future__ import annotations

import itertools
import json
import shutil

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llx.exporter.export import export
from llx.exporter.request import ExportRequest
from llx.exporter.sources import open_source
from llx.exporter.vocabulary.templates import chat_template_of, gguf_template
from llx.manifest import CHAT_TEMPLATE
from llx.precision import PRECISIONS
from llx.templates import MOST_TEMPLATE_BYTES
from tests.checkpoints import TINY, byte_tokenizer, random_tensors, write_checkpoint, write_gguf
from tests.exporter.vocabularies import byte_level_fields

ABSENT = object()
FIELDS = {
    "absent": ABSENT,
    "null": None,
    "text": "field",
    "empty": "",
    "spaces": " \n ",
    "line ends": "a\r\nb\rc",
    "number": 5,
    "false": False,
    "list": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}],
    "twice": [{"name": "default", "template": "a"}, {"name": "default", "template": "b"}],
    "tools": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}],
    "no default": [{"name": "rag", "template": "r"}],
    "empty list": [],
    "object": {"default": "d", "rag": "r"},
    "object without": {"rag": "r"},
    "null in it": [{"name": "default", "template": None}],
    "number in it": {"default": 7},
    "texts": ["a", "b"],
    "nameless": [{"template": "t"}],
    "templateless": [{"name": "default"}],
    "numbers": [1, 2],
    "no name": [{"name": ["a"], "template": "t"}],
    "null name": [{"name": None, "template": "t"}, {"name": "default", "template": "d"}],
}
FILES = {
    "none": {},
    "file": {"chat_template.jinja": "file é"},
    "empty": {"chat_template.jinja": ""},
    "spaces": {"chat_template.jinja": "  \n"},
    "line ends": {"chat_template.jinja": "a\r\nb\rc\n"},
    "mark": {"chat_template.jinja": "\ufeffa"},
    "no syntax": {"chat_template.jinja": "{% if %}"},
    "latin": {"chat_template.jinja": "é".encode("latin-1")},
    "utf-16": {"chat_template.jinja": "file".encode("utf-16")},
    "more": {"additional_chat_templates/rag.jinja": "rag"},
    "both": {"chat_template.jinja": "file", "additional_chat_templates/rag.jinja": "rag"},
    "default": {"additional_chat_templates/default.jinja": "more"},
    "default twice": {
        "chat_template.jinja": "file",
        "additional_chat_templates/default.jinja": "more",
    },
    "tool_use": {"chat_template.jinja": "file", "additional_chat_templates/tool_use.jinja": "t"},
    "other ends": {"additional_chat_templates/rag.txt": "rag", "chat_template.txt": "x"},
    "processor's": {"chat_template.json": json.dumps({"chat_template": "json"})},
    "folder": {"chat_template.jinja/x": "x"},
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    byte_tokenizer(300).save(str(folder / "tokenizer.json"))
    return folder


def write(folder, files, field):
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if field is not ABSENT:
        settings["chat_template"] = field
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return settings


def theirs(folder):
    """The template that transformers takes; None where it takes none, or fails."""
    from transformers import AutoTokenizer

    try:
        template = AutoTokenizer.from_pretrained(folder).get_chat_template()
    except Exception:
        return None
    return template if isinstance(template, str) else None


GRID = [
    *itertools.product(FILES, ["absent", "text", "list", "no default"]),
    *itertools.product(["none", "file", "more"], FIELDS),
]


@pytest.mark.parametrize(("files", "field"), GRID)
def test_the_template_is_the_one_that_transformers_takes(folder, files, field):
    settings = write(folder, FILES[files], FIELDS[field])
    warnings = []
    found = chat_template_of(folder, settings, warnings)
    wanted = theirs(folder)
    assert found == wanted
    nothing = files in ("none", "other ends", "folder") and field in ("absent", "null")
    assert bool(warnings) == ((found is None and not nothing) or files == "no syntax"), warnings
    assert all("\n" not in line for line in warnings)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["default", "a", "", "name"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["default", "name", "template", "rag"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(field=JSON)
def test_no_setting_is_a_crash_and_each_reads_as_in_transformers(tmp_path_factory, field):
    folder = tmp_path_factory.mktemp("any")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    byte_tokenizer(300).save(str(folder / "tokenizer.json"))
    assert chat_template_of(folder, write(folder, {}, field), []) == theirs(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("files", "field", "words"),
    [
        ({"chat_template.jinja": "abé".encode("latin-1")}, ABSENT, "byte 2 is 0xe9"),
        ({"chat_template.jinja": "{% if %}"}, ABSENT, "does not compile (Expected an expression"),
        ({}, "{% nix %}", "unknown tag 'nix'"),
        ({}, "\ud800", "surrogate"),
        ({}, "x" * (MOST_TEMPLATE_BYTES + 1), "longer than 1 MiB"),
        ({"chat_template.jinja": "x" * (MOST_TEMPLATE_BYTES + 1)}, "short", "longer than 1 MiB"),
        ({}, [{"name": "a\nb", "template": "x"}], "names a b, and none is called default"),
        ({}, 5, "is no text"),
        ({"chat_template.json": "{}"}, ABSENT, "no tokenizer reads it"),
    ],
)
def test_what_is_wrong_with_a_template_is_told_in_a_line_each_once(folder, files, field, words):
    settings, warnings = write(folder, files, field), []
    for _ in range(2):
        chat_template_of(folder, settings, warnings)
    (line,) = warnings
    assert words in line
    assert line.isprintable()


@pytest.mark.parametrize("template", ["{% if %}", "é".encode("latin-1"), "", "{{ 1 // 0 }}"])
def test_weights_are_exported_whatever_the_template(tmp_path, template):
    folder = write_checkpoint(tmp_path / "checkpoint")
    content = template if isinstance(template, bytes) else template.encode()
    (folder / "chat_template.jinja").write_bytes(content)
    request = ExportRequest(
        weights=folder, folder=tmp_path / "out", precision=PRECISIONS["fp32"], command="llx export"
    )
    artifact, _ = export(request)
    assert artifact.has(CHAT_TEMPLATE) == isinstance(template, str)
    if isinstance(template, str):
        assert artifact.path(CHAT_TEMPLATE).read_bytes() == content
    source = open_source(folder)
    source.text()
    assert bool(source.warnings) == (template not in ("", "{{ 1 // 0 }}"))


GGUF = {
    "none": ({}, None, ""),
    "one": ({"tokenizer.chat_template": "a"}, "a", ""),
    "empty": ({"tokenizer.chat_template": ""}, "", ""),
    "named": (
        {"tokenizer.chat_template": "a", "tokenizer.chat_template.tool_use": "b"},
        "a",
        "",
    ),
    "named alone": (
        {"tokenizer.chat_template.rag": "b", "tokenizer.chat_templates": ["rag"]},
        None,
        "names rag",
    ),
    "no text": ({"tokenizer.chat_template": 5}, None, "is no text"),
    "latin": ({"tokenizer.chat_template": "é".encode("latin-1")}, None, "is not UTF-8"),
    "no syntax": ({"tokenizer.chat_template": "{% if %}"}, "{% if %}", "does not compile"),
}


@pytest.mark.parametrize("case", GGUF)
def test_a_gguf_names_its_template_by_its_keys(case):
    fields, wanted, words = GGUF[case]
    warnings = []
    assert gguf_template(fields, warnings) == wanted
    assert words in "".join(warnings)
    assert bool(warnings) == bool(words)


def smallest(path, describe):
    """A GGUF file whose vocabulary is of bytes."""
    fields = byte_level_fields({bytes([i]): i for i in range(256)}, "gpt-2")

    def described(writer):
        for name, value in fields.items():
            getattr(writer, name)(value)
        describe(writer)

    return open_source(write_gguf(path, TINY, random_tensors(TINY), describe=described))


def test_a_gguf_files_default_template_is_the_one_of_several(tmp_path):
    named = [{"name": "rag", "template": "r"}, {"name": "default", "template": "é"}]
    source = smallest(tmp_path / "a.gguf", lambda writer: writer.add_chat_template(named))
    assert source.text().chat_template == "é"
    assert "template" not in " ".join(source.warnings)


def test_a_gguf_file_of_named_templates_alone_has_none(tmp_path):
    named = [{"name": "rag", "template": "r"}]
    source = smallest(tmp_path / "a.gguf", lambda writer: writer.add_chat_template(named))
    assert source.text().chat_template is None
    assert "names rag" in " ".join(source.warnings)


def test_a_gguf_file_whose_template_is_not_utf_8_keeps_its_tokenizer(tmp_path):
    source = smallest(
        tmp_path / "a.gguf",
        lambda writer: writer.add_key_value(
            "tokenizer.chat_template", "é".encode("latin-1"), gguf.GGUFValueType.STRING
        ),
    )
    text = source.text()
    assert text.tokenizer
    assert text.chat_template is None
    assert "not UTF-8" in " ".join(source.warnings)
