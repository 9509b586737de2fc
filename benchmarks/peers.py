r"""llx beside its peers on a CPU: speed in turns, memory, and KLD against one reference.

    python benchmarks/peers.py --peers PEERS --artifacts ARTIFACTS --rounds 5

Each peer is run as its users run it, by a script beside this one over `peer.py`, in an environment
of its own in PEERS. None is a dependency of llx, and what is not there is left out. Of one
checkpoint, in the folder `hf`:

    python -m venv lcpp && lcpp/bin/pip install llama-cpp-python
    python -m venv og && og/bin/pip install onnxruntime-genai onnx-ir torch transformers
    python -m venv ov && ov/bin/pip install openvino openvino-genai
    python -m venv oi && oi/bin/pip install "optimum-intel[openvino]" torch      (converts alone)

    for p in fp32 int8 int4; do
      og/bin/python -m onnxruntime_genai.models.builder -i hf -o og_$p -p $p -e cpu; done
    for w in fp32 int8 "int4 --group-size 32 --ratio 1.0"; do
      oi/bin/optimum-cli export openvino -m hf --task text-generation-with-past \
        --weight-format $w ov_${w%% *}; done
    convert_hf_to_gguf.py hf --outtype f32 --outfile f32.gguf
    for q in q8_0 q4_0; do
      llama-quantize --token-embedding-type q8_0 f32.gguf $q.gguf $q; done

ARTIFACTS holds exports of the same checkpoint with `--precision P --compute fp32`, in folders named
fp32, int8, int8-wo and int4, the last two with `--vocab int8`, each with its reference.

A round runs everything once, each in a process of its own, in an order that turns from round to
round. Times are seconds of one prefill of a fresh random prompt into an empty cache, and of a
decode step, the mean of 64 after a prefill. Ratios are of rounds: geometric means with 95 %
intervals. KLD is of logits by prefill, over the windows of the fp32 artifact's reference.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from llx.artifact import open_artifact
from llx.bench.fidelity.judge import verdict
from llx.bench.fidelity.observed import Observed
from llx.bench.fidelity.reference import Reference, read_reference
from llx.bench.machine.threads import usable_threads
from llx.statistics import compare

HERE = Path(__file__).parent
STEPS = 64
MIB = 1 << 20
WIDTH = 150  # of the tables, wherever they are printed
PEERS = {  # by name: the environment, the script, and the models by bits
    "llama.cpp": ("lcpp", "peer_llama_cpp.py", ("f32.gguf", "q8_0.gguf", "q4_0.gguf")),
    "onnxruntime-genai": ("og", "peer_genai.py", ("og_fp32", "og_int8", "og_int4")),
    "openvino-genai": ("ov", "peer_openvino.py", ("ov_fp32", "ov_int8", "ov_int4")),
}
BITS = (32, 8, 4)
HALVES = 16  # what OpenVINO computes in, of fp32 weights, on a CPU that has bf16
OURS = {"fp32": 32, "int8": 8, "int8-wo": 8, "int4": 4}
ENGINES = ("ort", "openvino")


@dataclass(frozen=True)
class Contender:
    """What is measured: `speed` gives seconds by test and `peak` in bytes, `kld` an estimate."""

    name: str
    bits: int
    ours: bool
    speed: Callable[[], dict[str, float]]
    kld: Callable[[Reference], float]


def tests_of(lengths: list[int]) -> list[str]:
    """The names of what is timed: prefills of these lengths, and decode behind them."""
    return [*(f"prefill {n}" for n in lengths), *(f"decode @{n}" for n in lengths)]


def of_llx(folder: Path, engine: str, lengths: list[int]) -> Contender:
    """An artifact in one of llx's engines, by `llx bench`."""
    prompts = ",".join(map(str, lengths))

    def bench(*options: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "llx", "bench", str(folder), "--engine", engine]
        found = json.loads(output([*command, *options, "--no-roofline", "-o", "json"]))
        return found[0]

    def speed() -> dict[str, float]:
        found: dict[str, float] = {"peak": 0}
        for options in (["-p", prompts, "-n", "0"], ["-p", "0", "-n", str(STEPS), "-d", prompts]):
            for row in bench(*options, "-r", "3", "--no-fidelity")["speed"]:
                per = row["isl"] if row["isl"] else 1
                name = f"prefill {row['isl']}" if row["isl"] else f"decode @{row['depth']}"
                found[name] = per / row["median"]
                found["peak"] = max(found["peak"], row["memory"]["peak_host_bytes"])
        return found

    def kld(_: Reference) -> float:
        fidelity = bench("-p", "16", "-n", "0", "-r", "1")["fidelity"]
        return float(fidelity["prefill"]["kld"]["mean"])

    bits = OURS[folder.name]
    halves = bits == 32 and engine == "openvino"
    return Contender(f"llx {engine} {folder.name}", HALVES if halves else bits, True, speed, kld)


def of_peer(peers: Path, name: str, bits: int, lengths: list[int]) -> Contender:
    """A peer, by its script."""
    environment, script, models = PEERS[name]
    model = models[BITS.index(bits)]
    command = [str(peers / environment / "bin" / "python"), str(HERE / script), str(peers / model)]

    def asked(**request: object) -> str:
        return output([*command, json.dumps({"threads": usable_threads(), **request})])

    def speed() -> dict[str, float]:
        return dict(json.loads(asked(lengths=lengths, steps=STEPS).splitlines()[-1]))

    def kld(reference: Reference) -> float:
        scores = reference.scores
        with tempfile.TemporaryDirectory(dir=peers) as work:
            windows, logits = Path(work, "windows.npy"), Path(work, "logits.npy")
            np.save(windows, scores.tokens[:, :-1])
            asked(windows=str(windows), logits=str(logits))
            found = np.load(logits, mmap_mode="r")  # [W, N - 1, V]
            seen = Observed.empty(scores.ids)
            for w, rows in enumerate(found):
                seen.note(np.s_[w, :], np.array(rows), scores.ids, scores.tokens[w, 1:])
        return verdict(reference, seen, seen).prefill.kld.mean

    halves = bits == 32 and name == "openvino-genai"
    return Contender(f"{name} {Path(model).stem}", HALVES if halves else bits, False, speed, kld)


def output(command: list[str]) -> str:
    """What a command prints. Ends all of it with what a command that fails says."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{ended.stderr[-2000:]}")
    return ended.stdout


def main() -> None:
    """Measure in turns, judge, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lengths", default="128,512")
    parser.add_argument("--only", default="", help="names that hold one of these, with commas")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--no-kld", dest="kld", action="store_false")
    parser.add_argument("-o", "--output", type=Path, help="everything that was measured, as JSON")
    chosen = parser.parse_args()
    lengths = [int(n) for n in chosen.lengths.split(",")]
    every = [
        of_llx(chosen.artifacts / folder, engine, lengths)
        for folder in OURS
        if (chosen.artifacts / folder).exists()
        for engine in chosen.engines.split(",")
    ]
    every += [
        of_peer(chosen.peers, name, bits, lengths)
        for name, (environment, _, models) in PEERS.items()
        for bits, model in zip(BITS, models, strict=True)
        if (chosen.peers / environment).exists() and (chosen.peers / model).exists()
    ]
    contenders = [c for c in every if any(part in c.name for part in chosen.only.split(","))]
    console = Console(width=WIDTH)
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    order = deque(contenders)
    for turn in range(chosen.rounds):
        for contender in order:
            found = contender.speed()
            for test, value in found.items():
                seconds[contender.name][test].append(value)
            told = ", ".join(f"{t} {1e3 * s:.1f}" for t, s in found.items() if t != "peak")
            print(f"{turn + 1}/{chosen.rounds} {contender.name}: {told} ms", file=sys.stderr)
        order.rotate(-1)
    klds: dict[str, float] = {}
    if chosen.kld:
        reference = read_reference(open_artifact(chosen.artifacts / "fp32"))
        for contender in contenders:
            klds[contender.name] = contender.kld(reference)
            print(f"{contender.name}: KLD {klds[contender.name]:.2e}", file=sys.stderr)
    if chosen.output:
        chosen.output.write_text(json.dumps({"seconds": seconds, "kld": klds}, indent=1))
    tests = tests_of(lengths)
    console.print(absolute(contenders, tests, seconds, klds))
    console.print(ratios(contenders, tests, seconds))


def absolute(
    contenders: list[Contender],
    tests: list[str],
    seconds: dict[str, dict[str, list[float]]],
    klds: dict[str, float],
) -> Table:
    """Medians in milliseconds, memory and KLD."""
    table = Table("", *(f"{test}, ms" for test in tests), "peak, MiB", "KLD")
    for one in contenders:
        found = seconds[one.name]
        times = (f"{1e3 * float(np.median(found[test])):.1f}" for test in tests)
        kld = f"{klds[one.name]:.1e}" if one.name in klds else ""
        table.add_row(one.name, *times, f"{np.max(found['peak']) / MIB:.0f}", kld)
    return table


def ratios(
    contenders: list[Contender], tests: list[str], seconds: dict[str, dict[str, list[float]]]
) -> Table:
    """How many times as fast each of ours is as the fastest peer at its bits, test by test."""
    table = Table("times as fast as the fastest peer of as many bits", *tests)
    for one in (c for c in contenders if c.ours):
        peers = [c.name for c in contenders if not c.ours and c.bits == one.bits]
        cells = []
        for test in tests if peers else ():
            fastest = min(peers, key=lambda name: float(np.median(seconds[name][test])))
            ours, theirs = (1 / np.array(seconds[name][test]) for name in (one.name, fastest))
            found = compare(theirs, ours, paired=True)
            cells.append(f"{found.ratio:.2f} ({found.low:.2f} to {found.high:.2f}) {fastest}")
        table.add_row(one.name, *cells)
    return table


if __name__ == "__main__":
    main()
