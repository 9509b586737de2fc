"""What an artifact says of itself: true of its files, and a program that runs without llx."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer

import llx as door
from llx.api.reference import open_reference
from llx.bench.speed.steps import decode_step, prefill
from llx.exporter.readme import FILLED, FOR, README
from llx.graphs.dialects import DIALECTS
from llx.manifest import WEIGHTS
from llx.precision import Precision
from tests.checkpoints import TINY
from tests.conftest import export_tiny
from tests.graphs.test_ort import WHOLE

PROMPT = "The capital of France is"


def programs(artifact):
    text = (artifact.folder / README).read_text()
    return re.findall(r"```python\n(.*?)```", text, re.S)


def greedy(session, tokens, count):
    tokens = list(tokens)
    prefill(session, np.array([tokens]))
    for _ in range(count):
        tokens.append(int(session.logits()[0, -1].argmax()))
        decode_step(session, np.array([tokens[-1:]]), len(tokens) - 1)
    return tokens


@pytest.mark.parametrize(("compute", "parts"), [("fp32", None), ("fp32", 10), ("fp16", None)])
def test_its_program_gives_the_references_tokens_and_imports_no_llx(tmp_path, compute, parts):
    precision = Precision(compute=compute, linear="dense", vocab="dense")
    artifact = export_tiny(tmp_path, precision, WHOLE)
    (program,) = programs(artifact)
    if parts:  # a prompt of 24 tokens, in three of them
        program = program.replace("STEP = 256", f"STEP = {parts}")
        assert f"STEP = {parts}" in program
    blocked = "import sys\nsys.modules['llx'] = sys.modules['torch'] = None\n"
    ended = subprocess.run(
        [sys.executable, "-c", blocked + program],
        cwd=artifact.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    tokenizer = Tokenizer.from_file(str(artifact.folder / "tokenizer.json"))
    prompt = tokenizer.encode(PROMPT).ids
    assert ended.stdout.startswith(tokenizer.decode(prompt))
    if compute == "fp32":  # weights that were rounded to fp16 may choose otherwise
        wanted = greedy(open_reference(artifact), prompt, 16)
        assert ended.stdout == tokenizer.decode(wanted) + "\n"


def test_every_dialect_has_a_line_and_every_file_is_named(tmp_path):
    assert set(FOR) == set(DIALECTS)
    artifact = export_tiny(tmp_path, "int8-wo")
    text = (artifact.folder / README).read_text()
    assert all(f"| `{name}` |" in text for name in artifact.manifest.files)
    assert "$" not in text


@pytest.mark.parametrize(("precision", "told"), [("int8", True), ("int8-wo", False)])
def test_one_of_int8_says_what_a_program_owes_a_cpu_without_vnni(tmp_path, precision, told):
    text = (export_tiny(tmp_path, precision).folder / README).read_text()
    assert ("session.x64quantprecision" in text) == told
    assert "$" not in text


def test_graphs_without_weights_name_none_but_those_that_are_there(tmp_path):
    artifact = door.export(size="135m", weights="none", output=tmp_path / "graphs")
    text = (artifact.folder / README).read_text()
    assert f"| `{WEIGHTS}` |" not in text
    assert "| `ort.onnx` |" in text
    assert programs(artifact) == []  # it could not run


@pytest.mark.parametrize(("spec", "filled"), [(WHOLE, True), (TINY, False)])
def test_it_says_how_much_of_the_cache_is_read(tmp_path, spec, filled):
    text = (export_tiny(tmp_path, spec=spec).folder / README).read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("| `ort.onnx` |")]
    assert (FILLED in line) == filled


def test_an_edited_one_is_no_damage(tmp_path):
    artifact = export_tiny(tmp_path)
    (artifact.folder / README).write_text("mine")
    assert door.open_artifact(artifact.folder).sha256 == artifact.sha256
