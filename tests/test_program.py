"""docs/program.md: its tables are the contract's, its programs give the reference's tokens."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest
from tokenizers import Tokenizer

from llx.api.reference import open_reference
from llx.corpus import evaluation_text
from llx.exporter.readme import PYTHON, README
from llx.graphs.contract import contract_for
from llx.graphs.dialects import DIALECTS
from llx.llama.presets import preset_of_size
from llx.precision import Precision
from tests.checkpoints import TINY
from tests.conftest import export_tiny
from tests.exporter.test_readme import greedy
from tests.graphs.test_ort import WHOLE
from tests.test_imports import ROOT

PAGE = (ROOT / "docs" / "program.md").read_text()
SOURCE = ROOT / "examples" / "ort_generate.cpp"
PROMPT = [40, 73, 80, 80, 83]


def rows(text):
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()]
    return [line for line in cells if len(line) > 3 and line[0].startswith("`")]


def test_the_page_has_the_program_of_the_artifacts_own_readme(tiny):
    assert f"```python\n{PYTHON}```" in PAGE
    assert PYTHON in (tiny.folder / README).read_text()
    assert 30 <= PYTHON.count("\n") <= 45


def test_the_page_names_every_graph_with_its_opset():
    graphs = {row[0].strip("`"): row[1] for row in rows(PAGE) if row[0].endswith(".onnx`")}
    assert graphs.keys() == {f"{name}.onnx" for name in DIALECTS}
    for name, dialect in DIALECTS.items():
        assert graphs[f"{name}.onnx"].startswith(str(dialect.opset))
        assert ("com.microsoft" in graphs[f"{name}.onnx"]) == bool(dialect.domains)


def test_the_page_has_the_contracts_inputs_and_outputs_in_their_order():
    contract = contract_for(preset_of_size("135m").spec, "fp32")
    said = [(row[0], row[1]) for row in rows(PAGE) if not row[0].endswith(".onnx`")]
    named = [(name, kind) for names, kind in said for name in re.findall(r"`([\w.]+)`", names)]
    wanted = [*contract.inputs().items(), *contract.outputs().items()]
    few = [(n, dtype) for n, (dtype, _) in wanted if not re.search(r"\.([1-9]|\d\d)\.", n)]
    assert [name for name, _ in named] == [name for name, _ in few]
    spelled = {"int64": "int64", "fp32": "float32"}
    for (name, kind), (_, dtype) in zip(named, few, strict=True):
        cache = name.startswith(("past", "present"))
        assert kind == ("the cache's" if cache else spelled[dtype]), name


def headers() -> Path | None:
    """The folder of ONNX Runtime's C++ headers, which its wheel has not."""
    named = os.environ.get("CPATH", "").split(os.pathsep)
    usual = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime")
    folders = [Path(name) for name in (*named, *usual) if name]
    return next((one for one in folders if (one / "onnxruntime_cxx_api.h").is_file()), None)


needs_headers = pytest.mark.skipif(
    not (headers() and shutil.which("g++")),
    reason="no g++, or no onnxruntime_cxx_api.h (Debian 13's libonnxruntime-dev, or CPATH)",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The example, compiled as the page says."""
    folder = tmp_path_factory.mktemp("program")
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
    (folder / "libonnxruntime.so.1").symlink_to(library)
    words = ["g++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", SOURCE, "-isystem"]
    words += [headers(), folder / "libonnxruntime.so.1", f"-Wl,-rpath,{folder}"]
    subprocess.run([*words, "-o", folder / "generate"], check=True)
    return folder / "generate"


def generated(program, artifact, prompt, count):
    words = [program, artifact.folder / "ort.onnx", str(count), *map(str, prompt)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return [int(token) for token in ended.stdout.split()]


@needs_headers
@pytest.mark.slow
@pytest.mark.parametrize("spec", [WHOLE, TINY], ids=["heads of 16", "heads of 10"])
@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_the_cpp_program_gives_pytorchs_tokens(program, tmp_path, spec, compute):
    artifact = export_tiny(tmp_path, Precision(compute=compute, linear="dense"), spec)
    wanted = greedy(open_reference(artifact), PROMPT, 24)
    found = generated(program, artifact, PROMPT, 24)
    if compute == "fp32":
        assert found == wanted
    else:  # weights that were rounded may choose otherwise
        assert found[:5] == PROMPT
        assert len(found) == 29


@needs_headers
@pytest.mark.slow
def test_the_cpp_program_gives_pytorchs_tokens_of_a_real_model(program, smollm2):
    tokenizer = Tokenizer.from_file(str(smollm2.folder / "tokenizer.json"))
    short = tokenizer.encode("The capital of France is").ids
    long = tokenizer.encode(evaluation_text().text[:4000]).ids[:600]  # in three parts
    for prompt in (short, long):
        wanted = greedy(open_reference(smollm2), prompt, 16)
        assert generated(program, smollm2, prompt, 16) == wanted


@needs_headers
@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["none.onnx", "1", "2"], 1, "none.onnx"),
        ([], 2, "usage"),
    ],
)
def test_the_cpp_program_says_what_it_was_not_given(program, words, code, says):
    ended = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert says in ended.stderr


@needs_headers
@pytest.mark.slow
def test_the_cpp_program_does_not_write_behind_the_cache(program, tmp_path):
    artifact = export_tiny(tmp_path, spec=WHOLE)
    words = [program, artifact.folder / "ort.onnx", "93", *map(str, PROMPT)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "the cache is full\n")
    assert len(generated(program, artifact, PROMPT, 92)) == 97
