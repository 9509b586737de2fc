"""`--for genai`: onnxruntime-genai runs an artifact, and gives its tokens and logits."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer

import llx as door
from llx.api.reference import open_reference
from llx.artifact import open_artifact
from llx.bench.sessions.ort import OrtSession
from llx.bench.sessions.ort_arithmetic import saturates
from llx.bench.speed.steps import prefill
from llx.corpus import evaluation_text
from llx.errors import BadInput
from llx.exporter.genai import CHUNK, write_genai
from llx.precision import Precision
from tests.checkpoints import TINY, write_checkpoint
from tests.cli.test_bad_input import assert_refused
from tests.conftest import export_tiny
from tests.exporter.test_readme import greedy
from tests.graphs.test_ort import WHOLE
from tests.test_imports import ROOT

needs_genai = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_genai") is None,
    reason="no onnxruntime-genai: pip install onnxruntime-genai",
)
PROMPT = [40, 73, 80, 80, 83]
# In a process of its own: two libraries bring an ONNX Runtime.
PROGRAM = """
import json, sys
import numpy as np
import onnxruntime_genai as og
folder, prompt, length, text = json.loads(sys.argv[1])
model = og.Model(folder)
options = og.GeneratorParams(model)
if length:
    options.set_search_options(max_length=length)
generator = og.Generator(model, options)
generator.append_tokens(np.array([prompt], np.int32))
logits = np.asarray(generator.get_logits())[0, -1]
while not generator.is_done() and len(generator.get_sequence(0)) < (length or 1 << 30):
    generator.generate_next_token()
tokens = [int(token) for token in generator.get_sequence(0)]
ids = [int(token) for token in og.Tokenizer(model).encode(text)] if text else []
print(json.dumps([tokens, logits.tolist(), ids]))
"""


def ran(folder, prompt, length=None, text=None):
    told = json.dumps([str(folder), prompt, length, text])
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, told], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def last_logits(session, prompt):
    prefill(session, np.array([prompt]))
    return session.logits()[0, -1]


@needs_genai
@pytest.mark.parametrize("spec", [WHOLE, TINY], ids=["heads of 16", "heads of 10"])
@pytest.mark.parametrize("linear", ["dense", "int8", "int4"])
def test_the_library_gives_our_tokens_and_logits(tmp_path, spec, linear):
    if linear == "int8" and saturates():
        pytest.skip("ONNX Runtime's default int8 saturates on this CPU: llx asks for exact sums")
    precision = Precision(compute="fp32", linear=linear, block=32 if linear == "int4" else None)
    artifact = export_tiny(tmp_path, precision, spec)
    tokens, logits, _ = ran(write_genai(artifact), PROMPT)
    session = OrtSession(artifact)
    np.testing.assert_allclose(logits, last_logits(session, PROMPT), atol=1e-4)
    session.reset()
    ours = greedy(session, PROMPT, 91)
    ends = artifact.manifest.text.eos_ids
    count = next((i + 1 for i, token in enumerate(ours) if i >= 5 and token in ends), 96)
    assert tokens == ours[:count]
    if linear == "dense":
        assert tokens[:24] == greedy(open_reference(artifact), PROMPT, 19)[: len(tokens)]


@needs_genai
def test_a_program_chooses_the_length_within_the_capacity(tmp_path):
    artifact = export_tiny(tmp_path, spec=WHOLE)
    folder = write_genai(artifact)
    assert ran(folder, PROMPT, 20)[0] == greedy(OrtSession(artifact), PROMPT, 15)


@needs_genai
@pytest.mark.slow
def test_a_real_model_gives_pytorchs_tokens_of_a_long_prompt_and_its_tokenizers(smollm2, tmp_path):
    text = evaluation_text().text[:2300] + " Ünïcode, 日本語 and 3.14\n\n\tend"
    prompt = Tokenizer.from_file(str(smollm2.folder / "tokenizer.json")).encode(text).ids
    assert 2 * CHUNK < len(prompt) < 750
    copy = shutil.copytree(smollm2.folder, tmp_path / "artifact")  # what is shared stays
    tokens, logits, ids = ran(write_genai(open_artifact(copy)), prompt, len(prompt) + 12, text)
    assert ids == prompt
    reference = open_reference(smollm2)
    np.testing.assert_allclose(logits, last_logits(reference, prompt), atol=2e-3)
    reference.reset()
    assert tokens == greedy(reference, prompt, 12)[: len(tokens)]


def test_export_writes_it_beside_an_artifact_that_stays_what_it_is(llx, tmp_path):
    write_checkpoint(tmp_path / "checkpoint", WHOLE)
    words = ("export", "--weights", "checkpoint", "-o", "out")
    assert llx(*words).code == 0
    before = open_artifact(tmp_path / "out").sha256
    for _ in range(2):
        ended = llx(*words, "--for", "genai")
        assert (ended.code, ended.stderr) == (0, "")
        assert "out/genai_config.json: for onnxruntime-genai" in ended.stdout
    artifact = open_artifact(tmp_path / "out")
    assert (artifact.sha256, artifact.damaged()) == (before, [])
    written = {"genai.onnx", "genai_config.json", "tokenizer_config.json"}
    names = {path.name for path in artifact.folder.iterdir()}
    assert names - artifact.manifest.files.keys() - {"manifest.json", "README.md"} == written
    told = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert "{% for m in messages %}" in told["chat_template"]
    assert llx("check", "out").code == 0
    assert llx(*words, "--overwrite", "--precision", "int8-wo", "--compute", "fp32").code == 0
    assert not (tmp_path / "out" / "genai_config.json").exists()  # it was another model's


def test_what_it_cannot_be_written_for_is_one_line(llx, tmp_path):
    write_checkpoint(tmp_path / "checkpoint", tokenizer=False)
    words = ("export", "--weights", "checkpoint", "-o", "out")
    assert_refused(llx(*words, "--for", "vllm"), 2, "'vllm'", "choose --for genai")
    assert not (tmp_path / "out").exists()
    none = ("export", "--size", "135m", "--weights", "none", "--for", "genai", "-o", "none")
    assert_refused(llx(*none), 2, "--weights none", "name a checkpoint")
    with pytest.raises(BadInput, match=r"has no tokenizer.*leave --for out"):
        door.export(weights=tmp_path / "checkpoint", output=tmp_path / "out", for_library="genai")


@needs_genai
def test_the_pages_program_runs_and_goes_on_with_its_prompt(tmp_path):
    artifact = export_tiny(tmp_path, spec=WHOLE)
    write_genai(artifact)
    page = (ROOT / "docs" / "program.md").read_text()
    (program,) = (p for p in re.findall(r"```python\n(.*?)```", page, re.S) if "_genai" in p)
    named = "artifacts/smollm2-135m-instruct-fp32"
    assert named in program
    ended = subprocess.run(
        [sys.executable, "-c", program.replace(named, str(artifact.folder))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    said = "The capital of France is"
    assert ended.stdout.startswith(said)
    assert len(ended.stdout) > len(said) + 1
