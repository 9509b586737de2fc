"""Every option of every command is used once, with a real value, and does what it says.

Which options there are is asked of the command line itself: a new one that no run uses is a failed
test, as is a run that uses one that is gone.
"""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass

import pytest
from typer.main import get_command

from llx.cli import app
from llx.corpus import evaluation_text
from llx.gpu import find_gpu
from tests.bench.tasks.test_evaluate import task_folder
from tests.checkpoints import write_checkpoint
from tests.conftest import export_tiny

COMMANDS = get_command(app).commands
GATES = '[[gate]]\nmetric = "KLD *"\nkind = "deterministic"\nthreshold = "50%"\n'
NO_GPU = 0 if find_gpu() else 3


@dataclass(frozen=True)
class Run:
    """A command as it is typed, in the folder that `place` makes, and what it must end in."""

    line: str
    says: str = ""  # in what it prints
    code: int = 0
    refuses: str = ""  # in its one line of stderr, where it ends otherwise
    slow: bool = False

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line)


EXPORT = "export --weights tiny"
INT4 = f"{EXPORT} --precision int4 --calibration-windows 2"
ALONE = "--no-fidelity --no-roofline"
BENCH = f"bench fp32 -p 8 -n 4 -r 2 {ALONE}"
REPORT = "report after.json before.json"
RTX = "build fp16 --engine trt-rtx --sm 86"
ORIN = "build fp16 --device agx-orin-64"
EVAL = "eval fp32 --include-path own --limit 2"
RUNS = [
    Run("models --family codellama", "code-llama-34b"),
    Run("plan --size 7b --family llama1 --device t4 -o json", '"model": "llama-1-7b"'),
    Run(
        "plan --model llama-3.2-1b --precision int4 --compute bf16 --block 64 --vocab int8", "int4"
    ),
    Run(
        "plan --size 7b --context 1024 --batch 2 --prompt 100", "1024 positions, batch 2, prompt of"
    ),
    Run("export --size 135m --family smollm2 --weights none -o graphs", "graphs only"),
    Run("export --model smollm2-135m --weights none --context 96 -o named", "cache of 96"),
    Run(f"{EXPORT} --precision fp16 -o twice", "fp16"),
    Run(f"{EXPORT} --precision fp32 -o twice --overwrite", "fp32"),
    Run(f"{EXPORT} --precision fp32 -o twice --no-overwrite", "nothing to do"),
    Run(f"{INT4} --compute fp32 --block 64 --vocab int8 -o int4", "AWQ"),
    Run(f"{INT4} --calibration-text text.txt -o own-text", "text.txt"),
    Run(f"{INT4} --dense-share 0.3 -o share", "int4"),
    Run(f"{INT4} --max-kld 1 -o budget", "int4"),
    Run(f"{EXPORT} --precision int8 --calibration-windows 2 --max-ppl-ratio 2 -o ppl", "int8"),
    Run(
        f"{EXPORT} --precision int8 --calibration-windows 2 --calibration-text text.txt -o int8",
        "text.txt",
    ),
    Run("check fp32", "parity of ort"),
    Run("inspect fp32", "bytes of a decode step"),
    Run(f"{RTX} --context 64 -b 2 --max-prefill 32", "64 positions, up to 2 × 32"),
    Run(f"{RTX} --dialect primitive --profiles 2 --workspace 256 --opt-level 1", "built in"),
    Run(f"{RTX} --strip --overwrite", "", 3, "strip"),
    Run(f"{RTX} --no-overwrite", "built in"),
    Run("build fp16 --engine trt --timing-cache timings", "", NO_GPU, "trt needs tensorrt"),
    Run("build fp16 --engine trt --version-compatible", "", NO_GPU, "trt needs tensorrt"),
    Run(f"{ORIN} --jetpack 6.2 -p 8 -n 4 -r 3 --requests 8:4 -o bundle", "not built: a bundle"),
    Run(
        "build fp16 --engine trt-rtx --sm 86 --remote nobody@127.0.0.1:1 --python python3.11",
        *("", 3, "127.0.0.1"),
    ),
    Run("generate fp32 hello --engine torch -n 3"),
    Run("generate fp32 hello --chat -n 3 --trust-engine"),
    Run("generate fp32 hello -n 3 --temperature 0.8 --top-p 0.9 --seed 7"),
    Run("reference fresh --window 48 --windows 2", "2 windows of 48 tokens"),
    Run(f"{BENCH} --engine torch --warmup 2 --seed 5 -o json", '"seed": 5'),
    Run(f"{BENCH} --provider cpu --trust-engine --limit 200", "tg4"),
    Run("bench fp32 -p 8 -n 4 -r 2 --fidelity --roofline", "KLD decode"),
    Run(f"bench fp32 --requests 8:4 -d 4 -b 1,2 -r 2 {ALONE} -o csv", "8,4,4,2"),
    Run(
        "bench fp32 -p 8 -n 0 -r 5 --until 50% --max-repetitions 6 --no-fidelity --no-roofline",
        "pp8",
    ),
    Run("bench short --quick -p 8 -n 4 --no-roofline", "quick"),
    Run(f"{BENCH} --resume", "tg4"),
    Run(
        f"bench fp32 -p 8 -n 0 -r 2 {ALONE} --against torch --threshold 90% --max-repetitions 2",
        "threshold 90",
    ),
    Run(
        "report after.json before.json -o site --gate gates.toml --history kept --label abc", "site"
    ),
    Run("report after.json before.json -o beside --no-baseline", "beside"),
    Run("compare before.json after.json --gate gates.toml -o md", "no regression"),
    Run("selftest --gpu -o sent.json", "", NO_GPU, "GPU", slow=NO_GPU == 0),
    Run(f"{EVAL} --tasks llx_choice --engine torch --num-fewshot 1 -b 2 -o md", "| llx_choice"),
    Run(f"{EVAL} --tasks llx_text --trust-engine", "word_perplexity"),
    Run(
        f"{EVAL} --tasks llx_choice --num-fewshot 1 --apply-chat-template --fewshot-as-multiturn",
        "llx_choice",
    ),
    Run(
        f"{EVAL} --tasks llx_choice --num-fewshot 1 --apply-chat-template "
        "--no-fewshot-as-multiturn --allow-code",
        "Tasks were allowed to run code",
    ),
]


def parsed(run: Run):
    """The line as click takes it. It raises where an option or its value is unknown."""
    name, *rest = run.words
    return COMMANDS[name].make_context(name, rest)


def used(run: Run) -> set[tuple[str, str]]:
    """The options that a line has, by command; of a pair such as --x/--no-x which of the two."""
    context, name = parsed(run), run.words[0]
    found = set()
    for option in context.command.params:
        if context.get_parameter_source(option.name).name == "COMMANDLINE":
            no = option.secondary_opts and context.params[option.name] is False
            found.add((name, option.secondary_opts[0] if no else option.opts[0]))
    return found


def all_options() -> set[tuple[str, str]]:
    """Every option and argument that the command line has."""
    return {
        (name, spelling)
        for name, command in COMMANDS.items()
        for option in command.params
        for spelling in (option.opts[0], *option.secondary_opts[:1])
    }


def test_every_option_of_every_command_is_used():
    assert all_options() - set().union(*map(used, RUNS)) == set()


@pytest.fixture(scope="module")
def place(tmp_path_factory, judged):
    """A folder with all that the lines name."""
    folder = tmp_path_factory.mktemp("place")
    write_checkpoint(folder / "tiny")
    shutil.copytree(judged.folder, folder / "fp32")
    shutil.copytree(export_tiny(folder / "a", "fp16").folder, folder / "fp16")
    shutil.copytree(export_tiny(folder / "b").folder, folder / "fresh")
    shutil.copytree(folder / "fresh", folder / "short")
    (folder / "text.txt").write_text(evaluation_text().text[:50_000])
    (folder / "gates.toml").write_text(GATES)
    task_folder(folder / "own")
    return folder


@pytest.fixture(scope="module")
def measured(place):
    """Two files of results, of the same engine and artifact."""
    import llx

    results = llx.bench(place / "fp32", prompts=[8], generated=[4], repetitions=5, roofline=False)
    results.write(place / "before.json")
    return results.write(place / "after.json")


@pytest.mark.filterwarnings("ignore:::lm_eval")
@pytest.mark.filterwarnings("ignore:::datasets")
@pytest.mark.parametrize(
    "run",
    [pytest.param(run, marks=[pytest.mark.slow] if run.slow else []) for run in RUNS],
    ids=lambda run: run.line,
)
def test_an_option_is_taken_and_does_what_it_says(llx, place, measured, monkeypatch, run):
    monkeypatch.chdir(place)
    ended = llx(*run.words)
    assert "Traceback" not in ended.stderr
    # Which of two is faster is theirs to say: 1 is "slower".
    assert ended.code in ((0, 1) if "--against" in run.line else (run.code,)), ended.stderr
    assert run.says in ended.stdout
    if run.code:
        assert len(ended.stderr.splitlines()) == 1, ended.stderr
        assert run.refuses in ended.stderr
