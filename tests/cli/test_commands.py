"""Every command on a small artifact, as a user runs it."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import msgspec
import numpy as np
import psutil
import pytest
from typer.main import get_command

from llx.api.engines import runs_here
from llx.artifact import remember_latest
from llx.bench import run as running
from llx.bench.run import bench
from llx.bench.sessions import ENGINES
from llx.bench.speed.samples import Workload
from llx.bench.worker import Job
from llx.cli import app
from llx.errors import BadInput
from llx.result import Result, encode_results, read_results
from llx.tensorrt import INSTALL
from tests.checkpoints import TINY, byte_tokenizer, random_tensors, write_checkpoint
from tests.reports.made import RESULT

QUICK = ("-p", "16", "-n", "8", "-r", "5", "--no-roofline")


@pytest.fixture
def exported(judged, llx, tmp_path):
    """The same under ./artifacts, as the one exported last."""
    folder = tmp_path / "artifacts" / "tiny-fp32"
    shutil.copytree(judged.folder, folder)
    remember_latest(folder)
    return folder


def fits_80_columns(text):
    return max(map(len, text.splitlines())) <= 80


def test_export_says_what_it_made_and_then_that_it_is_there(llx, tmp_path):
    write_checkpoint(tmp_path / "tiny")
    first = llx("export", "--weights", "tiny", "--precision", "fp16")
    assert (first.code, first.stderr) == (0, "")
    assert "artifacts/tiny-fp16" in first.stdout
    assert "fp16" in first.stdout
    second = llx("export", "--weights", "tiny", "--precision", "fp16")
    assert "nothing to do" in second.stdout


def test_bench_fills_the_schema_for_every_engine(llx, exported, tmp_path):
    ended = llx("bench", "--engine", "torch,ort", *QUICK, "-o", "json")
    assert (ended.code, ended.stderr) == (0, "")
    results = msgspec.json.decode(ended.stdout, type=list[Result])
    assert [result.engine for result in results] == ["torch", "ort"]
    for result in results:
        assert [row.test for row in result.speed] == ["pp16", "tg8"]
        for row in result.speed:
            assert len(row.samples) == len(row.step_ns) == 5
            assert row.ci95[0] < row.mean < row.ci95[1]
            # Five runs of microseconds on a busy machine may be too noisy: then that is said.
            assert row.valid or "noisy" in row.invalid_reason
        assert result.fidelity is not None
        assert result.fidelity.prefill.tokens == result.fidelity.decode.tokens == 3 * 63
        assert result.fidelity.decode.max_abs_logit_error < 1e-4
        assert result.fidelity.kld.mean < 1e-8
        assert result.memory is not None
        assert result.memory.peak_host_bytes > 2**20
        assert result.memory.cache_bytes == 2 * 2 * 2 * 96 * 10 * 4
        assert result.time is not None
        assert result.environment.threads
        assert result.environment.machine.cpus >= result.environment.machine.usable_cpus >= 1
        assert result.environment.run.seconds > 0
        for energy in (result.energy, *(row.energy for row in result.speed)):
            assert (energy.joules is None) == (energy.reason is not None)
        assert (
            result.command == "llx bench --engine torch,ort -p 16 -n 8 -r 5 --no-roofline -o json"
        )
    assert results[0].fidelity.reference_weights.startswith("the checkpoint")


def test_bench_prints_one_table_of_80_columns(llx, exported):
    ended = llx("bench", "--engine", "torch,ort,trt", *QUICK)
    assert ended.code == 3
    assert fits_80_columns(ended.stdout)
    for part in ("pp16", "tg8", "KLD prefill", "KLD decode", "PPL", "peak memory", "no numbers"):
        assert part in ended.stdout
    assert ended.stderr.splitlines() == [
        f"llx: trt needs tensorrt, not installed here: {INSTALL['trt']}"
    ]


@pytest.mark.parametrize("name", ["json", "jsonl"])
def test_what_bench_writes_report_reads(llx, exported, tmp_path, name):
    ended = llx("bench", "--engine", "ort", *QUICK, "-o", name)
    (tmp_path / "results").write_text(ended.stdout)
    assert len(read_results(tmp_path / "results")) == 1
    report = llx("report", "results", "-o", "site")
    assert report.code == 0
    assert fits_80_columns(report.stdout)
    page = (tmp_path / "site" / "report.md").read_text()
    for part in ("| pp16 |", "| tg8 |", "TPOT", "windows of 64", "Repeat with `llx bench"):
        assert part in page
    assert "<h1>" in (tmp_path / "site" / "index.html").read_text()


def test_a_report_without_the_plots_packages_is_markdown(llx, tmp_path, monkeypatch):
    (tmp_path / "results").write_bytes(encode_results([RESULT]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    report = llx("report", "results", "-o", "site")
    assert report.code == 3
    assert report.stderr.splitlines() == [
        "llx: the page (index.html) needs altair and vl_convert, not installed here: "
        "pip install 'altair>=5.5' 'vl-convert-python>=1.7' 'ruptures>=1.1.9'"
    ]
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["report.md"]


def test_csv_and_markdown(llx, exported):
    lines = llx("bench", "--engine", "ort", *QUICK, "-o", "csv").stdout.splitlines()
    assert [row["test"] for row in csv.DictReader(lines)] == ["pp16", "tg8"]
    assert "| same top-1 |" in llx("bench", "--engine", "ort", *QUICK, "-o", "md").stdout


def test_fidelity_can_be_left_out(llx, exported):
    ended = llx("bench", "--engine", "ort", *QUICK, "--no-fidelity", "-o", "json")
    (result,) = msgspec.json.decode(ended.stdout, type=list[Result])
    assert result.fidelity is None
    assert result.unjudged == "it was not asked for"


def test_lengths_of_nothing_leave_a_test_out(llx, exported):
    ended = llx(
        "bench",
        "--engine",
        "ort",
        "-p",
        "0",
        "-n",
        "4",
        "--no-fidelity",
        "--no-roofline",
        "-o",
        "json",
    )
    (result,) = msgspec.json.decode(ended.stdout, type=list[Result])
    assert [row.test for row in result.speed] == ["tg4"]


def test_whole_requests_are_measured_alone_or_beside_the_rest(llx, exported):
    for more, tests in (((), []), (("-n", "4"), ["tg4"])):
        ended = llx(
            "bench", "--requests", "16:4,8:8", *more, "--no-fidelity", "--no-roofline", "-o", "json"
        )
        (result,) = msgspec.json.decode(ended.stdout, type=list[Result])
        assert [row.test for row in result.speed] == [*tests, "req16:4", "req8:8"]
        assert (result.speed[-1].isl, result.speed[-1].osl) == (8, 8)
        assert {len(run) for run in result.speed[-1].step_ns} == {8}


def test_a_quick_look_says_that_it_is_one(llx, exported):
    ended = llx("bench", "--quick", "-p", "16", "-n", "4", "--no-roofline", "-o", "json")
    (result,) = msgspec.json.decode(ended.stdout, type=list[Result])
    assert all(row.quick for row in result.speed)
    assert result.fidelity is None
    shown = llx("bench", "--quick", "-p", "16", "-n", "4", "--fidelity").stdout
    assert "not to be published" in " ".join(shown.split())
    assert "KLD" in shown


def test_repetitions_go_on_until_the_interval_is_narrow(llx, exported):
    arguments = ("-p", "16", "-n", "0", "--no-fidelity", "-o", "json")
    counts = []
    for until in ("99%", "0.0001%"):
        ended = llx(
            "bench", "--until", until, "--max-repetitions", "8", "--no-roofline", *arguments
        )
        (result,) = msgspec.json.decode(ended.stdout, type=list[Result])
        counts.append(len(result.speed[0].samples))
    assert counts[0] in (5, 8)  # a busy machine may need more than the first look
    assert counts[1] == 8


def test_weights_that_overflow_are_an_error_and_no_number(llx, tmp_path):
    tensors = random_tensors(TINY)
    tensors["model.layers.1.mlp.up_proj.weight"][3] = 3e38
    write_checkpoint(tmp_path / "tiny", tensors=tensors)
    assert llx("export", "--weights", "tiny").code == 0
    for command in (("generate", "hi"), ("reference", "--window", "32", "--windows", "2")):
        ended = llx(*command)
        assert ended.code in (1, 2)
        assert "not finite" in ended.stderr


def test_a_precision_that_cannot_hold_the_model_keeps_its_speed(llx, tmp_path):
    tensors = random_tensors(TINY)
    for name in ("gate_proj", "up_proj"):
        tensors[f"model.layers.1.mlp.{name}.weight"] *= 2000
    write_checkpoint(tmp_path / "tiny", tensors=tensors)
    assert llx("export", "--weights", "tiny", "--precision", "FP16").code == 0
    assert llx("reference", "--window", "32", "--windows", "2").code == 0
    ended = llx("bench", "--engine", "torch", "-p", "8", "-n", "4", "--no-roofline", "-o", "json")
    assert ended.code == 1
    (result,) = msgspec.json.decode(ended.stdout, type=list[Result])
    assert len(result.speed) == 2
    assert "not finite" in ended.stderr


def test_a_tokenizer_of_another_model_is_named(llx, tmp_path):
    write_checkpoint(tmp_path / "tiny")
    byte_tokenizer(400).save(str(tmp_path / "tiny" / "tokenizer.json"))
    tokenizer = json.loads((tmp_path / "tiny" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {"h": 399, "<unused142>": tokenizer["model"]["vocab"]["h"]}
    (tmp_path / "tiny" / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert llx("export", "--weights", "tiny").code == 0
    ended = llx("generate", "h")
    assert ended.code == 2
    assert "token 399, and the model knows 300" in ended.stderr


def test_a_cache_of_one_position_is_checked(llx, tmp_path):
    write_checkpoint(tmp_path / "tiny")
    assert llx("export", "--weights", "tiny", "--context", "1", "-o", "small").code == 0
    assert llx("check").code == 0  # the one exported last, wherever it lies


@pytest.mark.parametrize("name", ["standard.onnx", "weights.safetensors", "manifest.json"])
def test_check_fails_what_is_cut_off(llx, exported, name):
    file = exported / name
    file.write_bytes(file.read_bytes()[:-7])
    assert llx("check").code == 1


def test_generate_gives_the_same_text_on_both_engines(llx, exported):
    texts = {
        llx("generate", "Hello", "--engine", engine, "-n", "12").stdout
        for engine in ("torch", "ort")
    }
    assert len(texts) == 1
    assert len(texts.pop()) > 1


def test_sampling_follows_its_seed(llx, exported):
    def sample(seed):
        arguments = ("--temperature", "1", "--seed", seed, "-n", "20")
        return llx("generate", "Hello", *arguments).stdout

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_check_passes_what_was_exported(llx, exported):
    ended = llx("check")
    assert (ended.code, ended.stderr) == (0, "")
    for part in (
        "bytes:",
        "standard:",
        "primitive:",
        "torch:",
        "ort:",
        "ort-standard:",
        "ort, primitive:",
    ):
        assert part in ended.stdout


def test_check_fails_where_an_engine_disagrees(llx, exported, monkeypatch):
    from llx.bench.sessions.ort import OrtSession

    logits = OrtSession.logits
    monkeypatch.setattr(OrtSession, "logits", lambda self: logits(self) + np.float32(0.01))
    ended = llx("check")
    assert ended.code == 1
    assert "ort is off by 1.0e-02" in ended.stderr


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("models", ("llama-2-7b", "smollm2-135m", "qwen3-8b", "under Apache-2.0")),
        (
            "doctor",
            ("engine ort", "ready", "energy of the CPU", "clocks", "limits", "needs tensorrt"),
        ),
        ("inspect", ("TensorScatter", "qkv", "bytes of a decode step")),
    ],
)
def test_what_is_shown_fits_80_columns(llx, exported, command, parts):
    ended = llx(command)
    assert (ended.code, ended.stderr) == (0, "")
    assert fits_80_columns(ended.stdout)
    for part in parts:
        assert part in ended.stdout


def test_reference_is_captured_once(llx, exported):
    ended = llx("reference", "--window", "64", "--windows", "3")
    assert "is there already" in ended.stdout
    assert "sha256" in ended.stdout


def unknown_ceiling(job, progress):
    raise BadInput("it is not looked for", "look for it")


@pytest.mark.slow
def test_a_selftest_writes_one_file_of_results_for_every_engine(llx, judged, monkeypatch, tmp_path):
    selftest = importlib.import_module("llx.api.selftest")
    monkeypatch.setattr(selftest, "_exported", lambda *_: judged)
    monkeypatch.setattr(selftest, "PROMPT", 16)
    monkeypatch.setattr(selftest, "GENERATED", 4)
    monkeypatch.setattr(running, "find_ceiling", unknown_ceiling)
    ended = llx("selftest", "-o", "sent.json")
    assert ended.code == 0
    on_cpu = [e.name for e in ENGINES.values() if not (e.gpu or e.compiles)]
    here = [name for name in on_cpu if runs_here(name)]
    assert ended.stderr.count("is left out") == len(ended.stderr.splitlines())
    assert len(ended.stderr.splitlines()) == len(on_cpu) - len(here)
    results = read_results(tmp_path / "sent.json")
    assert [result.engine for result in results] == here
    assert here[:2] == ["torch", "ort"]
    assert all(result.fidelity and result.speed for result in results)
    for part in ("torch", "ort", "KLD decode", "results: sent.json"):
        assert part in ended.stdout


def job(folder, engine="ort"):
    workload = Workload(prompts=(8,), generated=(4,))
    return Job(folder=folder, engine=engine, workload=workload, fidelity=False, command="llx bench")


def test_an_engine_that_is_missing_is_a_result(tiny):
    result = bench(job(tiny.folder, "trt"))
    assert result.error is not None
    assert result.error.exit_code == 3
    assert "trt" in result.error.message


def test_memory_is_that_of_the_engines_own_process(tiny):
    """The operating system's own maximum would include this process, which started it."""
    ballast = np.ones(2**28)  # 2 GiB
    result = bench(job(tiny.folder))
    assert result.memory is not None
    assert result.memory.peak_host_bytes < ballast.nbytes / 2


def test_progress_comes_from_the_process_of_the_engine(tiny):
    news = []
    bench(job(tiny.folder), lambda *what: news.append(what))
    assert ("pp8", 6, 6, "run") in news
    assert ("tg4", 6, 6, "run") in news


# A shell's background job is born deaf to SIGINT, and so would be what it starts.
HEARING = ("env", "--default-signal=INT")


def started(folder, *arguments):
    """A bench in a process group of its own, under way."""
    endless = ("-p", "64", "-n", "0", "-r", "100000", *arguments)
    process = subprocess.Popen(
        [*HEARING, sys.executable, "-m", "llx", "bench", str(folder), *endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    children = []
    while len(children) < 2:  # the engine's process and multiprocessing's tracker
        assert process.poll() is None
        time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
    time.sleep(1)
    return process, children


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_no_engine_outlives_the_harness(tiny, sent):
    process, children = started(tiny.folder, "--no-fidelity")
    process.send_signal(sent)
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_ctrl_c_ends_everything_in_one_line(tiny):
    process, children = started(tiny.folder, "--no-fidelity")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines() == ["llx: interrupted; nothing was left half-written"]
    assert psutil.wait_procs(children, timeout=20)[1] == []


def test_a_reader_that_goes_away_is_no_failed_check(exported):
    command = [sys.executable, "-m", "llx", "inspect", str(exported)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.parametrize("name", get_command(app).commands)
def test_the_help_names_what_is_given_as_a_user_does_and_no_type_of_python(name):
    command = get_command(app).commands[name]
    context = command.make_context(name, [], resilient_parsing=True)
    told = "\n".join([command.get_usage(context), command.get_help(context)])
    assert not re.search(r"<\w|INTEGER|FLOAT|\brange\b|\{", told)
    for param in command.params:
        words = param.get_help_record(context)[0]
        valued = param.param_type_name == "argument" or not getattr(param, "is_flag", False)
        assert bool(param.metavar) == valued or param.name == "help", words
