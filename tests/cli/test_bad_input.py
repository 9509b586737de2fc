"""What a user can get wrong: one line with cause and remedy, the right exit code, nothing left."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tests.checkpoints import MHA, TINY, config_of, random_tensors, write_checkpoint, write_gguf

TENSORS = random_tensors(TINY)


def assert_refused(ended, code, *parts):
    """One line of stderr that says all of `parts`, nothing on stdout, and the exit code.

    What is odd about a checkpoint may stand before it, each a line: it may be the cause.
    """
    assert ended.code == code, ended.stderr
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert all(line.startswith("llx: warning: ") for line in lines[:-1]), ended.stderr
    assert lines[-1].startswith("llx: ")
    assert not lines[-1].startswith("llx: warning: ")
    for part in parts:
        assert part in lines[-1]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def damaged_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def cut(file, keep):
    file.write_bytes(file.read_bytes()[:keep])


def no_config(folder):
    (folder / "config.json").unlink()


def without(name):
    def write(folder):
        rest = {n: t for n, t in TENSORS.items() if n != name}
        write_checkpoint(folder, tensors=rest)

    return write


def with_extra(folder):
    write_checkpoint(folder, tensors=TENSORS | {"visual.proj.weight": torch.ones(3)})


CHECKPOINTS = {
    "another architecture": (
        lambda f: damaged_config(f, architectures=["GPT2LMHeadModel"], model_type="gpt2"),
        ("GPT2LMHeadModel", "llx exports LLaMA models"),
    ),
    "no config": (no_config, ("config.json",)),
    "a size missing": (
        lambda f: (f / "config.json").write_text('{"model_type": "llama"}'),
        ("use the configuration that belongs to these weights",),
    ),
    "a config that is no JSON": (lambda f: cut(f / "config.json", 30), ("not readable JSON",)),
    "unknown RoPE scaling": (
        lambda f: damaged_config(f, rope_scaling={"rope_type": "proportional", "factor": 2.0}),
        ("proportional", "not supported"),
    ),
    "a truncated file": (
        lambda f: cut(f / "model.safetensors", 9000),
        ("not a whole safetensors file", "download it again"),
    ),
    "a tensor missing": (
        without("model.layers.1.self_attn.o_proj.weight"),
        ("lacks model.layers.1.self_attn.o_proj.weight",),
    ),
    "a tensor too many": (with_extra, ("visual.proj.weight", "no place for")),
    "a wrong shape": (
        lambda f: damaged_config(f, intermediate_size=64),
        ("gate_proj.weight is [52, 36]", "[64, 36]"),
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ("model.safetensors is missing",)),
}


@pytest.mark.parametrize(("damage", "parts"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_exported(llx, tmp_path, damage, parts):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    damage(checkpoint)
    assert_refused(llx("export", "--weights", "checkpoint", "-o", "out"), 2, *parts)
    assert names_in(tmp_path) == ["checkpoint"]


@pytest.mark.parametrize("keep", [0, 100, 20_000])
def test_a_truncated_gguf_file(llx, tmp_path, keep):
    cut(write_gguf(tmp_path / "tiny.gguf", TINY, TENSORS), keep)
    assert_refused(llx("export", "--weights", "tiny.gguf"), 2, "not a whole GGUF file", "download")
    assert names_in(tmp_path) == ["tiny.gguf"]


ARGUMENTS = {
    "a missing checkpoint": (("export", "--weights", "nowhere"), 2, ("nowhere does not exist",)),
    "nothing named": (("export",), 2, ("--size", "--model", "--weights")),
    "an unknown size": (("export", "--size", "9b"), 2, ("9b", "135m")),
    "an unknown model": (("export", "--model", "gpt-5"), 2, ("gpt-5", "llx models")),
    "an unknown precision": (
        ("export", "--size", "135m", "--precision", "fp12"),
        2,
        ("fp12", "fp16"),
    ),
    "two models": (("export", "--size", "7b", "--model", "llama-2-7b"), 2, ("one of them",)),
    "a family and a model": (
        ("export", "--family", "llama2", "--model", "llama-2-7b"),
        2,
        ("--model names one model", "--model alone"),
    ),
    "a family alone": (
        ("export", "--family", "codellama"),
        2,
        ("--size", "7b, 13b, 34b, 70b"),
    ),
    "an unknown family": (
        ("export", "--size", "7b", "--family", "llama4"),
        2,
        ("llama4", "llama1, llama2, codellama, llama3, llama3.1"),
    ),
    "a size that the family lacks": (
        ("export", "--size", "34b", "--family", "llama1"),
        2,
        ("'34b' of LLaMA 1", "7b, 13b, 33b, 65b"),
    ),
    "models of an unknown family": (("models", "--family", "gpt"), 2, ("gpt", "smollm2")),
    "weights of a family that are not here": (
        ("export", "--size", "7b", "--family", "codellama"),
        3,
        ("codellama/CodeLlama-7b-hf", "--weights PATH"),
    ),
    "weights that are not here": (("export", "--size", "7b"), 3, ("--weights PATH",)),
    "an unknown command": (("exprot",), 2, ("exprot", "llx --help")),
    "an unknown option": (("bench", "--speed"), 2, ("--speed", "llx bench --help")),
    "no prompt": (("generate",), 2, ("Missing argument", "PROMPT")),
    "a number that is none": (("bench", "-r", "x"), 2, ("-r", "x")),
    "a missing artifact": (("bench", "nowhere"), 2, ("nowhere is not a folder",)),
    "no artifact yet": (("inspect",), 2, ("no artifact", "llx export")),
    "an unknown engine": (("bench", "--engine", "ort,tvm"), 2, ("tvm", "torch, ort")),
    "requests that are no pairs": (
        ("bench", "--requests", "128:32,64"),
        2,
        ("--requests '128:32,64'", "--requests 128:32,512:128"),
    ),
    "requests of nothing": (("bench", "--requests", "128:0"), 2, ("from 1 up",)),
    "an interval that is no share": (("bench", "--until", "many"), 2, ("'many'", "--until 1%")),
    "an interval of everything": (("bench", "--until", "100%"), 2, ("no share",)),
    "too few looks": (("bench", "--until", "1%", "-r", "3"), 2, ("not 3 and 30", "-r 5")),
    "an end before the beginning": (
        ("bench", "--until", "1%", "-r", "9", "--max-repetitions", "8"),
        2,
        ("not 9 and 8",),
    ),
    "lengths that are no numbers": (("bench", "-p", "many"), 2, ("-p 'many'", "-p 128,512")),
    "an unknown format": (("bench", "-o", "pdf"), 2, ("pdf", "md, json, jsonl, csv")),
    "no result file": (("report", "nowhere.json", "-o", "site"), 2, ("nowhere.json",)),
    "three arguments": (("generate", "a", "b", "c"), 2, ("quotes",)),
    "a negative temperature": (("generate", "hi", "--temperature", "-1"), 2, ("--temperature",)),
}


@pytest.mark.parametrize(("arguments", "code", "parts"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_that_cannot_be_used(llx, tmp_path, arguments, code, parts):
    assert_refused(llx(*arguments), code, *parts)
    assert names_in(tmp_path) == []


def test_context_over_the_models(llx, tmp_path):
    write_checkpoint(tmp_path / "checkpoint")
    ended = llx("export", "--weights", "checkpoint", "--context", "97", "-o", "out")
    assert_refused(ended, 2, "--context 97", "1…96")
    assert names_in(tmp_path) == ["checkpoint"]


def test_an_output_folder_that_holds_something_else(llx, tmp_path):
    write_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    ended = llx("export", "--weights", "checkpoint", "-o", "out", "--overwrite")
    assert_refused(ended, 2, "something else", "-o")
    assert names_in(tmp_path / "out") == ["thesis.txt"]


def test_an_output_that_is_a_file(llx, tmp_path):
    write_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "out").write_text("mine")
    assert_refused(llx("export", "--weights", "checkpoint", "-o", "out"), 2, "-o")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("name", ["trt", "trt-rtx"])
def test_an_engine_that_this_machine_lacks(llx, tiny, name):
    ended = llx("bench", tiny.folder, "--engine", name, "-p", "8", "-n", "4")
    assert ended.code == 3
    assert name in ended.stderr
    assert "Traceback" not in ended.stderr
    assert_refused(llx("generate", tiny.folder, "hi", "--engine", name), 3, name)


def test_an_engine_that_is_not_installed(llx, tiny, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert_refused(
        llx("generate", tiny.folder, "hi", "--engine", "ort"), 3, "pip install 'onnxruntime>=1.24'"
    )


def test_an_export_without_pytorch(llx, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "checkpoint")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else name)
    ended = llx("export", "--weights", "checkpoint", "-o", "out")
    assert_refused(ended, 3, "an export needs torch", "pip install 'torch>=2.8' 'gguf>=0.17'")
    asked = []
    monkeypatch.setattr("llx.exporter.locate._from_hub", lambda *_: asked.append(1))
    ended = llx("export", "--weights", "owner/name")
    assert_refused(ended, 3, "an export needs torch", "pip install 'torch>=2.8' 'gguf>=0.17'")
    assert not asked, "nothing is downloaded that cannot be exported"


def test_a_test_that_does_not_fit_the_cache(llx, tiny):
    assert_refused(
        llx("bench", tiny.folder, "-p", "80", "-d", "40"),
        2,
        "120 positions",
        "itself knows 96",
    )


def test_a_prompt_that_does_not_fit_the_cache(llx, tiny):
    assert_refused(llx("generate", tiny.folder, "x" * 200, "--engine", "torch"), 2, "200 tokens")


def test_chat_with_a_model_that_has_no_template(llx, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", replace(MHA, layers=1))
    (checkpoint / "tokenizer_config.json").write_text("{}")
    assert llx("export", "--weights", "checkpoint", "-o", "out").code == 0
    assert_refused(llx("generate", "out", "hi", "--chat"), 2, "no chat template", "--chat")


def with_template(folder, template):
    """An artifact in the folder `out` whose checkpoint has this chat template."""
    checkpoint = write_checkpoint(folder / "checkpoint", replace(MHA, layers=1))
    (checkpoint / "chat_template.jinja").write_bytes(template)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (b"{{ raise_exception('Only\nuser') }}", "refuses the conversation (Only user)"),
        (b"{{ 'n' + 1 }}", "TypeError"),
        (b"{% if %}", "Expected an expression"),
        (b"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "2 s"),
        (b"{{ 'x' * 10 ** 10 }}", "MiB of memory"),
        (b"", "renders nothing"),
    ],
)
def test_a_chat_template_that_fails_is_quoted_in_one_line(llx, tmp_path, template, words):
    with_template(tmp_path, template)
    assert llx("export", "--weights", "checkpoint", "-o", "out").code == 0
    assert_refused(llx("generate", "out", "hi", "--chat"), 2, words, "leave out --chat")


def test_a_chat_template_of_another_encoding_is_none(llx, tmp_path):
    with_template(tmp_path, "é".encode("latin-1"))
    ended = llx("export", "--weights", "checkpoint", "-o", "out")
    assert ended.code == 0
    assert "chat_template.jinja is not UTF-8 (byte 0 is 0xe9)" in ended.stderr
    assert_refused(llx("generate", "out", "hi", "--chat"), 2, "no chat template")


def test_a_date_is_for_a_chat_template(llx, tiny):
    assert_refused(llx("generate", tiny.folder, "hi", "--date", "2026-01-31"), 2, "add --chat")
    chat = ("--chat", "--date", "31.1.2026")
    assert_refused(llx("generate", tiny.folder, "hi", *chat), 2, "31.1.2026", "YYYY-MM-DD")


def test_generation_without_a_tokenizer(llx, tmp_path):
    write_checkpoint(tmp_path / "checkpoint", tokenizer=False)
    ended = llx("export", "--weights", "checkpoint", "-o", "out")
    assert ended.code == 0
    assert "no tokenizer" in ended.stdout
    assert_refused(llx("generate", "out", "hi"), 2, "no tokenizer")


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        *((text, "llx bench -o json") for text in ("", "{}", "[{}]", "\xff")),
        ('{"schema": "llx.result/1"}', "llx bench -o json"),
        ('{"schema": "llx.result/99"}', "newer llx"),
    ],
)
def test_a_file_that_is_no_result(llx, tmp_path, text, remedy):
    (tmp_path / "results.json").write_text(text, encoding="latin-1")
    assert_refused(llx("report", "results.json", "-o", "site"), 2, "results.json", remedy)
    assert names_in(tmp_path) == ["results.json"]


def test_a_damaged_artifact_fails_the_check(llx, tmp_path):
    write_checkpoint(tmp_path / "checkpoint")
    assert llx("export", "--weights", "checkpoint", "-o", "out").code == 0
    weights = tmp_path / "out" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-9] ^= 4
    weights.write_bytes(data)
    assert_refused(llx("check", "out"), 1, "weights.safetensors", "--overwrite")


def test_a_config_with_sizes_that_do_not_go_together(llx, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    config = config_of(TINY) | {"num_key_value_heads": 4}
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert_refused(
        llx("export", "--weights", "checkpoint", "-o", "out"), 2, "6 heads", "4 KV heads"
    )


@pytest.mark.parametrize("name", ["torch-cuda", "ort-cuda", "ort-tensorrt", "trt-rtx"])
def test_an_engine_without_its_gpu(llx, tiny, monkeypatch, name):
    monkeypatch.setattr("llx.gpu.find_gpu", lambda: None)
    assert_refused(
        llx("generate", tiny.folder, "hi", "--engine", name),
        3,
        f"engine {name} needs an NVIDIA GPU",
        "`--engine ort`",
        "--sm 86",
    )


def test_a_provider_is_another_word_for_an_engine_of_onnx_runtime(llx, tiny, monkeypatch):
    monkeypatch.setattr("llx.gpu.find_gpu", lambda: None)
    words = ("bench", tiny.folder, "-p", "8", "-n", "0", "-r", "1", "--no-fidelity")
    for provider in ("cuda", "tensorrt"):
        ended = llx(*words, "--engine", "ort", "--provider", provider)
        assert ended.code == 3
        assert f"engine ort-{provider} needs an NVIDIA GPU" in ended.stderr


@pytest.mark.parametrize(
    ("engine", "provider", "parts"),
    [
        ("torch", "cuda", ("for --engine ort alone, not torch", "name ort-cuda")),
        ("torch,ort", "tensorrt", ("not torch,ort", "name ort-tensorrt")),
        ("ort", "rocm", ("unknown provider 'rocm'", "cpu, cuda, tensorrt")),
    ],
)
def test_a_provider_of_what_has_none(llx, tiny, engine, provider, parts):
    words = ("bench", tiny.folder, "--engine", engine, "--provider", provider)
    assert_refused(llx(*words), 2, *parts)


@pytest.mark.parametrize(
    ("engine", "inference", "parts"),
    [
        ("ort", "f32", ("--inference-precision is for --engine openvino alone", "openvino-f32")),
        ("openvino", "f16", ("unknown inference precision 'f16'", "auto, f32, bf16")),
    ],
)
def test_an_inference_precision_of_what_has_none(llx, tiny, engine, inference, parts):
    words = ("bench", tiny.folder, "--engine", engine, "--inference-precision", inference)
    assert_refused(llx(*words), 2, *parts)


def test_a_selftest_of_a_gpu_that_is_not_here(llx, monkeypatch):
    monkeypatch.setattr("llx.gpu.find_gpu", lambda: None)
    assert_refused(llx("selftest", "--gpu"), 3, "needs an NVIDIA GPU", "leave --gpu out")
