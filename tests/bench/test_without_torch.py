"""An artifact with its reference is measured and judged where PyTorch is not installed."""

from __future__ import annotations

import os
import subprocess
import sys

from llx.result import read_results

# Every process begins with this file; it notes that it ran, each attempt at torch, and its end.
HOOK = """
import atexit, os, sys

def note(what):
    with open(os.environ["NOTES"], "a") as file:
        file.write(f"{os.getpid()} {what}\\n")

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            note("asked for " + name)
            raise ModuleNotFoundError("No module named 'torch'", name=name)

sys.meta_path.insert(0, NoTorch())
note("began")
atexit.register(lambda: note("ended with" if "torch" in sys.modules else "ended without"))
"""


def test_speed_and_fidelity_need_no_torch_in_any_process(judged, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    notes = tmp_path / "notes"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "NOTES": str(notes)}
    words = ("--engine", "ort", "-p", "8", "-n", "4", "-r", "2", "-o", "json")
    ended = subprocess.run(
        [sys.executable, "-m", "llx", "bench", str(judged.folder), *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert ended.returncode == 0, ended.stderr
    (tmp_path / "results.json").write_text(ended.stdout)
    (result,) = read_results(tmp_path / "results.json")
    assert [row.test for row in result.speed] == ["pp8", "tg4"]
    for phase in (result.fidelity.prefill, result.fidelity.decode):
        assert abs(phase.ppl_ratio.value - 1) < 1e-4
        assert phase.same_top1.value == 1
        assert 0 <= phase.kld_bound <= phase.kld.mean + 1e-9 < 1e-6
    said = [line.split(" ", 1) for line in notes.read_text().splitlines()]
    assert {what for _, what in said} == {"began", "ended without"}
    assert len({pid for pid, _ in said}) >= 4  # the command, two tests, the judging
