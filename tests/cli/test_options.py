"""Every option of every command, typed once with a real value, and what is then seen of it.

The command line's own definition says which options there are: one without a place in `CALLS`
fails, and so does one that is no option any more.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from llx.artifact import open_artifact
from llx.cli import app
from llx.corpus import evaluation_text
from llx.engine import engines_of
from llx.manifest import REFERENCE
from llx.reports.history import remember
from llx.result import encode_results, read_results
from tests.checkpoints import TINY, write_checkpoint
from tests.conftest import Ended, Llx, export_tiny
from tests.reports.made import result

COMMANDS = get_command(app).commands
TASKS = Path(__file__).parents[1] / "tasks"


@dataclass(frozen=True)
class Seen:
    """A command that ended, the folder that it ran in, and what else was typed there."""

    words: tuple[str, ...]
    ended: Ended
    folder: Path
    llx: Llx

    @property
    def out(self) -> str:
        """What was said, as one line."""
        return " ".join(self.ended.stdout.split())

    @cached_property
    def json(self) -> Any:
        found = json.loads(self.ended.stdout)
        return found[-1] if isinstance(found, list) else found

    @property
    def manifest(self):
        return open_artifact(self.folder / "out").manifest

    @property
    def engine(self):
        """The key of the only engine that was built."""
        (engine,) = engines_of(open_artifact(self.folder / "fp16"))
        return engine.manifest.key

    @property
    def recipe(self) -> Any:
        return json.loads((self.folder / "out" / "recipe.json").read_text())

    def without(self, option: str, values: int = 1) -> str:
        """What the same command says without an option."""
        at = self.words.index(option)
        return self.llx(*self.words[:at], *self.words[at + 1 + values :]).stdout


See = Callable[[Seen], bool]


def anything(_: Seen) -> bool:
    """Nothing is seen of it here, but that it is taken."""
    return True


def matters(option: str, values: int = 1) -> See:
    """Without it the command says something else."""
    return lambda seen: seen.without(option, values) != seen.ended.stdout


def lacks(*parts: str) -> See:
    """The one line of what this machine lacks says it."""
    return lambda seen: all(part in seen.ended.stderr for part in parts)


@dataclass(frozen=True)
class Call:
    """A command line and, by option or argument as it is typed in it, what is seen of it.

    `codes`: how it may end; with 1 or 3 it ends in one line. `slow`: it takes long. `typed`: what
    it reads from standard input.
    """

    line: str
    see: dict[str, See] = field(default_factory=dict)
    codes: tuple[int, ...] = (0,)
    slow: bool = False
    typed: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self.line.split())

    @property
    def command(self) -> str:
        return self.words[0]


def benched(words: str) -> str:
    """A run of two processes at most: what is not asked for is left out."""
    return f"bench artifact {words} --no-fidelity --no-roofline -o json"


CALLS = (
    Call(
        "models --family llama3.1",
        {"--family": lambda seen: "llama-3.1-8b" in seen.out and "smollm2" not in seen.out},
    ),
    Call(
        "plan --size 7b --family codellama --precision int4 --compute fp32 --block 64 --vocab int8"
        " --context 1024 --batch 2 --prompt 100 --device t4 --output json",
        {
            "--size": lambda seen: seen.json["parameters"] == 6738546688,
            "--family": lambda seen: seen.json["model"] == "code-llama-7b",
            "--precision": lambda seen: seen.json["precision"].startswith("int4"),
            "--compute": lambda seen: seen.json["precision"].endswith("-fp32"),
            "--block": lambda seen: "-b64" in seen.json["precision"],
            "--vocab": lambda seen: "-vocab-int8" in seen.json["precision"],
            "--context": lambda seen: seen.json["sizes"]["capacity"] == 1024,
            "--batch": lambda seen: seen.json["sizes"]["rows"] == 2,
            "--prompt": lambda seen: seen.json["sizes"]["prompt"] == 100,
            "--device": lambda seen: [p["device"]["name"] for p in seen.json["plans"]] == ["t4"],
            "--output": lambda seen: seen.json["schema"] == "llx.plan/1",
        },
    ),
    Call("plan artifact -o json", {"WEIGHTS": lambda seen: seen.json["precision"] == "fp32"}),
    Call(
        "plan --model llama-3.2-1b -o json",
        {
            "--model": lambda seen: seen.json["model"] == "llama-3.2-1b",
            "-o": lambda seen: seen.json["schema"] == "llx.plan/1",
        },
    ),
    Call(
        "export --weights checkpoint --precision int4 --compute fp32 --block 64 --vocab int8"
        " --dense-share 0.3 --calibration-text text --calibration-windows 2 --context 48"
        " --output out",
        {
            "--weights": lambda seen: seen.manifest.source.path.endswith("/checkpoint"),
            "--precision": lambda seen: seen.manifest.precision.linear == "int4",
            "--compute": lambda seen: seen.manifest.precision.compute == "fp32",
            "--block": lambda seen: seen.manifest.precision.block == 64,
            "--vocab": lambda seen: seen.manifest.precision.vocab == "int8",
            "--dense-share": lambda seen: 0.7 <= seen.manifest.quantization.share < 1,
            "--calibration-text": lambda seen: seen.manifest.quantization.corpus == "text",
            "--calibration-windows": lambda seen: seen.manifest.quantization.windows == 2,
            "--context": lambda seen: seen.manifest.contract.limits.capacity == 48,
            "--output": lambda seen: seen.out.startswith("out: "),
        },
    ),
    Call(
        "export --weights checkpoint --precision int8 --calibration-windows 2 --max-kld 1"
        " --max-ppl-ratio 2 -o out --overwrite",
        {
            "--max-kld": lambda seen: seen.manifest.quantization.budget.max_kld == 1,
            "--max-ppl-ratio": lambda seen: seen.manifest.quantization.budget.max_ppl_ratio == 2,
            "--overwrite": lambda seen: seen.manifest.precision.name == "int8",
            "-o": lambda seen: seen.manifest.name == "out",
        },
    ),
    Call(
        "export --size 135m --family smollm2 --weights none --no-overwrite",
        {
            "--size": lambda seen: "135m-instruct-graphs-fp32: 134.5 M" in seen.out,
            "--family": lambda seen: "smollm2" in seen.out,
            "--no-overwrite": anything,
        },
    ),
    Call(
        "export --model llama-3.2-3b --weights none --precision auto --device orin-nano-8 -o out",
        {
            "--precision": lambda seen: seen.manifest.precision.name == "int8-wo",
            "--device": lambda seen: "int8-wo for orin-nano-8: fp16 needs" in seen.ended.stderr,
        },
    ),
    Call(
        "export --model smollm2-135m --weights none",
        {"--model": lambda seen: "smollm2-135m-graphs-fp32" in seen.out},
    ),
    Call(
        "export --weights checkpoint --for genai -o out --overwrite",
        {"--for": lambda seen: (seen.folder / "out" / "genai_config.json").is_file()},
    ),
    Call("check int4", {"FOLDER": lambda seen: "parity of ort: 8 int4 layers" in seen.out}),
    Call(
        "check artifact --engine ort --verbose",
        {
            "--engine": lambda seen: "parity of torch" not in seen.out,
            "--verbose": lambda seen: "error of the hidden state" in seen.out,
        },
    ),
    Call(
        "check artifact --engine ort --no-verbose --output page.html",
        {
            "--output": lambda seen: (seen.folder / "page.html").is_file(),
            "--no-verbose": anything,
        },
    ),
    Call(
        "check artifact --engine ort -o json",
        {"-o": lambda seen: seen.json["schema"] == "llx.check/1"},
    ),
    Call("inspect bare", {"FOLDER": lambda seen: seen.out.startswith("bare: ")}),
    Call(
        "build fp16 --engine trt-rtx --sm 86 --context 64 --batch 2 --max-prefill 16"
        " --dialect standard --profiles 2 --workspace 64 --opt-level 1 --overwrite",
        {
            "FOLDER": lambda seen: seen.engine.artifact_sha256 == artifact_in(seen, "fp16").sha256,
            "--engine": lambda seen: seen.engine.runtime == "trt-rtx",
            "--sm": lambda seen: seen.engine.sm == 86,
            "--context": lambda seen: seen.engine.contract.limits.capacity == 64,
            "--batch": lambda seen: seen.engine.contract.limits.max_rows == 2,
            "--max-prefill": lambda seen: seen.engine.contract.limits.max_new_tokens == 16,
            "--dialect": lambda seen: seen.engine.dialect == "standard",
            "--profiles": lambda seen: seen.engine.options.profiles == 2,
            "--workspace": lambda seen: seen.engine.options.workspace_mib == 64,
            "--opt-level": lambda seen: seen.engine.options.opt_level == 1,
            "--overwrite": lambda seen: "built in" in seen.out,
        },
    ),
    Call(
        "build fp16 -b 2 --device agx-orin-64 --jetpack 6.2 --version-compatible --output out -p 16"
        " -n 8 --requests 8:4 --repetitions 3 --no-overwrite",
        {
            "-b": lambda seen: seen.recipe["contract"]["limits"]["max_rows"] == 2,
            "--device": lambda seen: seen.recipe["needs"]["l4t"] == "36.4",
            "--jetpack": lambda seen: "for TensorRT 10.3" in seen.out,
            "--version-compatible": lambda seen: seen.recipe["options"]["version_compatible"],
            "--output": lambda seen: seen.out.startswith("out: "),
            "-p": lambda seen: seen.recipe["workload"]["prompts"] == [16],
            "-n": lambda seen: seen.recipe["workload"]["generated"] == [8],
            "--requests": lambda seen: seen.recipe["workload"]["requests"] == [[8, 4]],
            "--repetitions": lambda seen: seen.recipe["workload"]["repetitions"] == 3,
            "--no-overwrite": anything,
        },
    ),
    Call(
        "build fp16 --device agx-orin-64 -o out -r 4",
        {
            "-o": lambda seen: seen.out.startswith("out: "),
            "-r": lambda seen: seen.recipe["workload"]["repetitions"] == 4,
        },
    ),
    Call(
        "build fp16 --engine trt-rtx --remote nobody@127.0.0.1:1 --python python3.10",
        {"--remote": lacks("127.0.0.1"), "--python": anything},
        codes=(3,),
    ),
    Call("build fp16 --engine trt-rtx --sm 86 --strip", {"--strip": lacks("strip")}, codes=(3,)),
    Call(
        "build fp16 --timing-cache timings",
        {"--timing-cache": lacks("tensorrt")},
        codes=(3,),
    ),
    Call(
        "collect bundle --artifact artifact --output json",
        {"BUNDLE": lacks("bundle"), "--artifact": anything, "--output": anything},
        codes=(2,),
    ),
    Call("collect bundle -o fly", {"-o": lacks("fly")}, codes=(2,)),
    Call(
        "generate artifact Hello --engine torch --tokens 12 --temperature 2 --top-p 0.5 --seed 5"
        " --trust-engine",
        {
            "WORDS": lambda seen: len(seen.out) > 1,
            "--engine": lambda seen: seen.without("--engine") == seen.ended.stdout,
            "--tokens": matters("--tokens"),
            "--temperature": matters("--temperature"),
            "--top-p": matters("--top-p"),
            "--seed": matters("--seed"),
            "--trust-engine": anything,
        },
    ),
    Call(
        "generate artifact Hello --engine torch -n 12 --temperature 2 --top-k 3"
        " --repetition-penalty 3",
        {
            "--top-k": matters("--top-k"),
            "--repetition-penalty": matters("--repetition-penalty"),
        },
    ),
    Call(
        "generate artifact Hello --engine torch -n 40 --temperature 2 --stop \ufffd",
        {"--stop": matters("--stop")},
    ),
    Call(
        "generate artifact Hello --chat -n 5",
        {"--chat": matters("--chat", 0), "-n": matters("-n")},
    ),
    Call(
        "generate artifact Hello --chat --thinking -n 5",
        {"--thinking": lacks("--thinking changes nothing")},
    ),
    Call(
        "generate artifact Hello --chat --no-thinking -n 5",
        {"--no-thinking": lacks("--no-thinking changes nothing")},
    ),
    Call(
        "generate artifact Hello --chat --date 2026-02-30",
        {"--date": lacks("2026-02-30")},
        codes=(2,),
    ),
    Call(
        "chat artifact --engine torch --system be --date 2026-01-31 --tokens 12 --temperature 2"
        " --top-p 0.5 --top-k 9 --repetition-penalty 3 --seed 5 --trust-engine",
        {
            "FOLDER": lambda seen: len(seen.ended.stdout.splitlines()) > 0,
            "--engine": lambda seen: seen.without("--engine") == seen.ended.stdout,
            "--system": matters("--system"),
            "--date": anything,
            "--tokens": matters("--tokens"),
            "--temperature": matters("--temperature"),
            "--top-p": matters("--top-p"),
            "--top-k": matters("--top-k"),
            "--repetition-penalty": matters("--repetition-penalty"),
            "--seed": matters("--seed"),
            "--trust-engine": anything,
        },
        typed="Hello\n",
    ),
    Call(
        "chat artifact --engine torch -n 40 --temperature 2 --stop \ufffd",
        {"--stop": matters("--stop")},
        typed="Hello\n",
    ),
    Call(
        "chat artifact --engine torch -n 5",
        {"-n": matters("-n")},
        typed="Hello\n",
    ),
    Call(
        "chat artifact --engine torch --thinking -n 5",
        {"--thinking": lacks("--thinking changes nothing")},
        typed="Hello\n",
    ),
    Call(
        "chat artifact --engine torch --no-thinking -n 5",
        {"--no-thinking": lacks("--no-thinking changes nothing")},
        typed="Hello\n",
    ),
    Call("generate artifact Hello --engine trt", {"--engine": lacks("trt")}, codes=(3,)),
    Call(
        "reference bare --window 32 --windows 2 --stride 16 --bos none --text text",
        {
            "FOLDER": lambda seen: artifact_in(seen, "bare").has(REFERENCE),
            "--window": lambda seen: "windows of 32 tokens" in seen.out,
            "--windows": lambda seen: "captured: 2 windows" in seen.out,
            "--stride": lambda seen: "stride 16, the last 16 of each scored" in seen.out,
            "--bos": lambda seen: "BOS none" in seen.out,
            "--text": lambda seen: "corpus: text, sha256" in seen.out,
        },
    ),
    Call(
        benched("--engine torch -p 8 -n 4 -d 3 -b 2 -r 2 --warmup 2 --seed 7"),
        {
            "FOLDER": lambda seen: seen.json["artifact"]["name"].startswith("tiny"),
            "--engine": lambda seen: seen.json["engine"] == "torch",
            "-p": lambda seen: seen.json["speed"][0]["isl"] == 8,
            "-n": lambda seen: seen.json["speed"][1]["osl"] == 4,
            "-d": lambda seen: seen.json["speed"][0]["depth"] == 3,
            "-b": lambda seen: seen.json["speed"][0]["batch"] == 2,
            "-r": lambda seen: len(seen.json["speed"][0]["samples"]) == 2,
            "--warmup": lambda seen: seen.json["speed"][0]["warmup"] == 2,
            "--seed": lambda seen: seen.json["speed"][0]["seed"] == 7,
            "--no-fidelity": lambda seen: seen.json["fidelity"] is None,
            "--no-roofline": lambda seen: seen.json["ceiling"] is None,
            "-o": lambda seen: seen.json["schema"] == "llx.result/1",
        },
    ),
    Call(
        "bench artifact --quick -p 8 -n 0 --repetitions 2 --fidelity --roofline --trust-engine"
        " --text text --output json",
        {
            "--quick": lambda seen: seen.json["speed"][0]["quick"],
            "--repetitions": lambda seen: len(seen.json["speed"][0]["samples"]) == 2,
            "--fidelity": lambda seen: seen.json["fidelity"]["kld"]["mean"] < 1e-6,
            "--roofline": lambda seen: seen.json["ceiling"] is not None,
            "--trust-engine": anything,
            "--text": lambda seen: seen.json["fidelity"]["text"] == "text",
            "--output": lambda seen: seen.json["schema"] == "llx.result/1",
        },
    ),
    Call(
        benched("--provider cpu --requests 8:4 -r 2 --resume"),
        {
            "--provider": lambda seen: seen.json["engine"] == "ort",
            "--requests": lambda seen: [row["test"] for row in seen.json["speed"]] == ["req8:4"],
            "--resume": lambda seen: "nothing is kept of such a run" in seen.ended.stderr,
        },
    ),
    Call(
        benched("--engine openvino --inference-precision f32 -p 8 -n 0 -r 2"),
        {"--inference-precision": lambda seen: seen.json["engine"] == "openvino-f32"},
    ),
    Call("bench artifact -p 8 --provider cuda -n 0", {"--provider": lacks("ort-cuda")}, codes=(3,)),
    Call(
        benched("--limit 1 -p 64 -n 0 -r 100000"),
        {"--limit": lacks("pp64", "--limit")},
        codes=(1,),
    ),
    Call(
        benched("--until 0.0001% --max-repetitions 6 -p 8 -n 0"),
        {
            "--until": lambda seen: seen.json["speed"][0]["until"] == 1e-6,
            "--max-repetitions": lambda seen: len(seen.json["speed"][0]["samples"]) == 6,
        },
    ),
    Call(
        benched("--against torch --threshold 90% --max-repetitions 5 -p 8 -n 0"),
        {
            "--against": lambda seen: seen.json["against"]["engine"] == "torch",
            "--threshold": lambda seen: seen.json["against"]["threshold"] == 0.9,
        },
        codes=(0, 1),
    ),
    Call(
        "report results.json before.json --output out --gate gates.toml --history past --label v1 "
        "--branch main",
        {
            "RESULTS": lambda seen: "The baseline:" in seen.ended.stdout,
            "--output": lambda seen: {"report.md", "index.html"} <= set(os.listdir("out")),
            "--gate": matters("--gate"),
            "--history": lambda seen: "history: past, 1 line, 1 new" in seen.out,
            "--label": lambda seen: '"v1"' in (seen.folder / "past").read_text(),
            "--branch": lambda seen: '"main"' in (seen.folder / "past").read_text(),
        },
    ),
    Call(
        "report results.json before.json -o out --no-baseline",
        {
            "--no-baseline": lambda seen: "The baseline:" not in seen.ended.stdout,
            "-o": lambda seen: {"report.md", "index.html"} <= set(os.listdir("out")),
        },
    ),
    Call(
        "compare before.json results.json --gate gates.toml --output json",
        {
            "FILES": lambda seen: bool(seen.json),
            "--gate": matters("--gate"),
            "--output": lambda seen: seen.json["schema"] == "llx.comparison/1",
        },
        codes=(1,),
    ),
    Call(
        "compare results.json --history past.jsonl",
        {"--history": lambda seen: "REGRESSED" in seen.out and "history of 8 runs" in seen.out},
        codes=(1,),
    ),
    Call("compare before.json before.json -o md", {"-o": lambda seen: "| " in seen.ended.stdout}),
    Call(
        "compare before.json --baseline before.json -o csv",
        {"--baseline": lambda seen: seen.ended.stdout.startswith('"engine"')},
    ),
    Call(
        "report results.json --baseline before.json -o out",
        {"--baseline": lambda seen: "The baseline:" in seen.ended.stdout},
    ),
    Call(
        "compare before.json --measures",
        {"--measures": lambda seen: "PPL" in seen.out and "wall clock" in seen.out},
    ),
    Call(
        "convert before.json results.json --output junit",
        {
            "RESULTS": lambda seen: seen.ended.stdout.count("<testsuite ") >= 2,
            "--output": lambda seen: seen.ended.stdout.startswith("<?xml"),
        },
    ),
    Call(
        "convert before.json -o github-bigger",
        {"-o": lambda seen: "github-smaller" in seen.ended.stderr},
    ),
    Call("doctor"),
    Call(
        "doctor --bundle told.json",
        {
            "--bundle": lambda seen: "read it before you attach it" in seen.out,
            "FILE": lambda seen: (seen.folder / "told.json").is_file(),
        },
    ),
    Call(
        "doctor --no-bundle",
        {"--no-bundle": lambda seen: not (seen.folder / "llx-doctor.json").exists()},
    ),
    Call("selftest --gpu", {"--gpu": lacks("needs an NVIDIA GPU")}, codes=(3,)),
    Call(
        "selftest --output sent --text text",
        {
            "--output": lambda seen: len(read_results(seen.folder / "sent")) >= 2,
            "--text": lambda seen: (
                {text for one in read_results(seen.folder / "sent") for text in one.judged()}
                == {"text"}
            ),
        },
        slow=True,
    ),
    Call("selftest -o sent --gpu", {"-o": lacks("needs an NVIDIA GPU")}, codes=(3,)),
    Call(
        "eval artifact --tasks llx_choice --engine torch --limit 3 --num-fewshot 1 --batch 2"
        " --include-path own --apply-chat-template --fewshot-as-multiturn --date 2024-02-29"
        " --allow-code --log-samples kept"
        " --trust-engine --output json",
        {
            "FOLDER": lambda seen: seen.json["artifact"]["name"].startswith("tiny"),
            "--tasks": lambda seen: [task["task"] for task in seen.json["tasks"]] == ["llx_choice"],
            "--engine": lambda seen: seen.json["engine"] == "torch",
            "--limit": lambda seen: seen.json["tasks"][0]["documents"] == 3,
            "--num-fewshot": lambda seen: seen.json["tasks"][0]["fewshot"] == 1,
            "--batch": lambda seen: seen.json["settings"]["batch"] == 2,
            "--include-path": lambda seen: bool(seen.json["tasks"]),
            "--apply-chat-template": lambda seen: seen.json["settings"]["chat_template"],
            "--fewshot-as-multiturn": lambda seen: seen.json["settings"]["fewshot_as_multiturn"],
            "--date": lambda seen: seen.json["settings"]["date"] == "2024-02-29",
            "--allow-code": lambda seen: seen.json["settings"]["allow_code"],
            "--log-samples": lambda seen: any((seen.folder / "kept").rglob("*.jsonl")),
            "--trust-engine": anything,
            "--output": lambda seen: seen.json["schema"] == "llx.eval/1",
        },
    ),
    Call(
        "eval artifact --tasks llx_choice --limit 2 -b 1 --include-path own --apply-chat-template"
        " --no-fewshot-as-multiturn -o json",
        {
            "-b": lambda seen: seen.json["settings"]["batch"] == 1,
            "--no-fewshot-as-multiturn": lambda seen: (
                not seen.json["settings"]["fewshot_as_multiturn"]
            ),
            "-o": lambda seen: seen.json["schema"] == "llx.eval/1",
        },
    ),
    Call("--version", {"--version": lambda seen: seen.out.startswith("llx ")}),
)


def artifact_in(seen: Seen, name: str):
    return open_artifact(seen.folder / name)


def defined() -> dict[tuple[str, str], str]:
    """Every spelling of every option, and every argument in capitals: the name in the code."""
    commands = {"": get_command(app), **COMMANDS}
    return {
        (name, spelling): param.name
        for name, command in commands.items()
        for param in command.params
        for spelling in (
            [*param.opts, *param.secondary_opts]
            if param.param_type_name == "option"
            else [param.name.upper()]
        )
    }


def called() -> set[tuple[str, str]]:
    return {
        ("" if call.command.startswith("-") else call.command, spelling)
        for call in CALLS
        for spelling in call.see
    }


def test_every_option_of_every_command_is_called_and_what_is_called_is_one():
    assert called() ^ set(defined()) == set()
    assert {call.command for call in CALLS} >= set(COMMANDS)


@pytest.mark.parametrize("call", CALLS, ids=[call.line for call in CALLS])
def test_a_call_gives_what_it_says_that_it_shows(call):
    """Else an option could stand in the table and never have been typed."""
    options = {spelling for spelling in call.see if spelling.startswith("-")}
    assert options <= set(call.words)
    if call.command in COMMANDS:
        context = COMMANDS[call.command].make_context(call.command, list(call.words[1:]))
        for spelling in call.see:
            name = defined()[call.command, spelling]
            assert context.get_parameter_source(name).name == "COMMANDLINE", spelling


GATES = '[[gate]]\nmetric = "tg*"\nkind = "wall clock"\nthreshold = "1%"\napart = "1%"\n'


@pytest.fixture(scope="module")
def house(judged, tmp_path_factory):
    """All that a command may be given. Copy it."""
    house = tmp_path_factory.mktemp("house")
    shutil.copytree(judged.folder, house / "artifact")
    # Heads of 16: TensorRT-RTX has no second profile for heads of 10.
    export_tiny(house, "fp16", replace(TINY, head_dim=16)).folder.rename(house / "fp16")
    shutil.rmtree(house / "checkpoint")
    export_tiny(house).folder.rename(house / "bare")  # without a reference
    export_tiny(house, "int4").folder.rename(house / "int4")
    shutil.copytree(house / "int4", house / "out")
    shutil.rmtree(house / "checkpoint")
    write_checkpoint(house / "checkpoint")
    (house / "text").write_text(evaluation_text().text[:6000])
    (house / "gates.toml").write_text(GATES)
    for name, speed in (("before", 50.0), ("results", 40.0)):
        (house / f"{name}.json").write_bytes(encode_results([result(speed=speed)]))
    for i in range(8):
        one = replace(result(speed=50 + i / 10), created=f"2026-11-{10 + i}T00:00:00+00:00")
        remember([one], house / "past.jsonl")
    return house


@pytest.fixture
def inside(house, llx, tmp_path, monkeypatch):
    """A copy of it, as the working directory, on a machine without a GPU."""
    monkeypatch.setattr("llx.gpu.find_gpu", lambda: None)
    shutil.copytree(house, tmp_path, dirs_exist_ok=True)
    shutil.copytree(TASKS, tmp_path / "own")
    for file in (tmp_path / "own").glob("*.yaml"):
        file.write_text(file.read_text().replace("@FOLDER@", str(tmp_path / "own")))
    return tmp_path


SLOW = (pytest.mark.slow, pytest.mark.timeout(1200))


@pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn of much
@pytest.mark.parametrize(
    "call",
    [pytest.param(call, marks=SLOW if call.slow else (), id=call.line) for call in CALLS],
)
def test_every_option_does_what_it_says(call, inside, llx, monkeypatch):
    def run(*words):
        monkeypatch.setattr("sys.stdin", io.StringIO(call.typed))
        return llx(*words)

    selftest = importlib.import_module("llx.api.selftest")
    small = {
        "PROMPT": 8,
        "GENERATED": 4,
        "_exported": lambda *_: open_artifact(inside / "artifact"),
    }
    for name, value in small.items():
        monkeypatch.setattr(selftest, name, value)
    if "out" not in call.words or "--overwrite" not in call.words:
        shutil.rmtree(inside / "out")
    ended = run(*call.words)
    assert ended.code in call.codes, ended.stderr
    if ended.code:
        assert_one_line(ended)
    seen = Seen(call.words, ended, inside, run)
    for option, see in call.see.items():
        assert see(seen), (option, ended)


def assert_one_line(ended):
    """A traceback has more."""
    lines = ended.stderr.splitlines()
    assert len(lines) <= 1, ended.stderr
    assert all(line.startswith("llx: ") for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_every_command_explains_every_option(llx, name, asked):
    ended = llx(name, asked)
    assert (ended.code, ended.stderr) == (0, "")
    for command, spelling in defined():
        if command == name and spelling.startswith("-"):
            assert re.search(rf"(?<![\w-]){spelling}(?![\w-])", ended.stdout), spelling
