"""What an export costs: seconds beside `cp` of the same bytes, and peak resident memory.

    python benchmarks/export.py --model tinyllama-1.1b-chat --work /somewhere/with/space

Makes a random fp16 checkpoint of the model once (kept in --work), then copies it with cp and
exports it, in turns, each followed by sync. The weights alone are compared with cp: the rest of an
export is the start of PyTorch and the trace, whatever the size. Two copies must fit the disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from llx.bench.machine.environment import cpu_name
from llx.exporter.sources.generated import RandomSource
from llx.llama.presets import Preset, preset_named
from llx.reports.units import binary_bytes

SHARD_BYTES = 1 << 30
# A copy right after another was removed takes a third of the time that it takes seconds later, on
# the virtual machine at hand: freed memory is still warm. An export begins to write that long after
# its start, so cp waits as long.
SETTLE_S = 6
EXPORT = """
import sys, time
from pathlib import Path
from llx.processes import peak_host_bytes
from llx.exporter.export import export
from llx.exporter.request import ExportRequest
from llx.precision import precision_named

times = []
def note(what, done, total, unit):
    if what == "weights":
        times.append(time.perf_counter())

checkpoint, precision, target = sys.argv[1:]
export(
    ExportRequest(
        weights=Path(checkpoint), folder=Path(target), precision=precision_named(precision)
    ),
    progress=note,
)
print(times[-1] - times[0], peak_host_bytes())
"""


def make_checkpoint(folder: Path, preset: Preset) -> None:
    """A Hugging Face folder of random fp16 weights, in shards of about a gigabyte."""
    folder.mkdir(parents=True)
    source = RandomSource(preset.spec, 0)
    spec, shards, shard, size = preset.spec, [], {}, 0
    for name in source.tensors:
        shard[name] = source.read(name).to(torch.float16)
        size += shard[name].nbytes
        if size > SHARD_BYTES:
            shards.append(_save(folder, len(shards), shard))
            shard, size = {}, 0
    shards.append(_save(folder, len(shards), shard))
    weight_map = {name: file for file, names in shards for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": spec.dim,
        "intermediate_size": spec.ffn_dim,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "vocab_size": spec.vocab,
        "max_position_embeddings": spec.context,
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": spec.rope.theta,
        "tie_word_embeddings": spec.tied,
    }
    (folder / "config.json").write_text(json.dumps(config))


def _save(folder: Path, index: int, shard: dict[str, torch.Tensor]) -> tuple[str, list[str]]:
    file = f"model-{index + 1:05}.safetensors"
    save_file(shard, folder / file)
    return file, list(shard)


def timed_copy(checkpoint: Path, target: Path) -> float:
    """Seconds of cp and sync."""
    time.sleep(SETTLE_S)
    start = time.perf_counter()
    subprocess.run(["cp", "-r", checkpoint, target], check=True)
    subprocess.run(["sync", "-f", target], check=True)
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return seconds


def timed_export(checkpoint: Path, target: Path, precision: str) -> tuple[float, float, int]:
    """Seconds of the whole process, of its weights with sync, and its peak resident bytes."""
    start = time.perf_counter()
    command = [sys.executable, "-c", EXPORT, str(checkpoint), precision, str(target)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    written = time.perf_counter()
    subprocess.run(["sync", "-f", target], check=True)
    synced = time.perf_counter()
    shutil.rmtree(target)
    weights_s, peak = ended.stdout.split()
    return synced - start, float(weights_s) + synced - written, int(peak)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tinyllama-1.1b-chat")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    preset = preset_named(options.model)
    checkpoint = options.work / f"checkpoint-{preset.name}"
    if not checkpoint.exists():
        make_checkpoint(checkpoint, preset)
    size = sum(file.stat().st_size for file in checkpoint.iterdir())
    copies, exports = [], []
    for _ in range(options.repetitions):
        copies.append(timed_copy(checkpoint, options.work / "copy"))
        exports.append(timed_export(checkpoint, options.work / "artifact", options.precision))
    wholes, weights, peaks = zip(*exports, strict=True)
    print(f"{preset.name} in {options.precision}, {binary_bytes(size)}, on {cpu_name()}")
    for name, seconds in (("cp", copies), ("weights", weights), ("whole export", wholes)):
        each = ", ".join(f"{s:.1f}" for s in seconds)
        print(f"{name:13} median {statistics.median(seconds):6.1f} s of {each}")
    ratio = statistics.median(w / c for w, c in zip(weights, copies, strict=True))
    print(f"weights / cp {ratio:.2f}, peak resident memory {binary_bytes(max(peaks))}")


if __name__ == "__main__":
    main()
