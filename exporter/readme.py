"""README.md of an artifact: which file is for whom, and a program that runs it without llx."""

from __future__ import annotations

from string import Template

from llx.graphs.dialects import DIALECTS
from llx.graphs.dialects.ort import groups
from llx.manifest import CHAT_TEMPLATE, CONFIGS, TOKENIZER, WEIGHTS, Manifest

README = "README.md"
FILLED = "Attention reads as much of the cache as is filled"
WHOLE = "Attention reads the whole cache"
FOR = {
    "ort": "ONNX Runtime on a CPU. Load it with default session options: they are the fast ones. "
    f"{FILLED}",
    "standard": f"TensorRT from 10.15 on, TensorRT-RTX, and any runtime of ONNX alone. {WHOLE}",
    "primitive": f"older TensorRT, and OpenVINO. {WHOLE}, and `present` is what is new alone: the "
    "caller writes it behind the past",
}
TEXT = Template("""# $name

$parameters parameters of `$label`, $precision, exported by llx $llx.

| file | what it is for |
|---|---|
$files

All graphs read `$weights`, which must lie beside them.

## Inputs and outputs

B rows (up to $rows), T new tokens (up to $new: give a longer prompt in parts), K positions whose
logits are wanted, $capacity positions in the cache.

| name | type | shape | |
|---|---|---|---|
| `input_ids` | int64 | B, T | |
| `position_ids` | int64 | B, T | of each row consecutive, from as many as are in its cache |
| `logit_index` | int64 | B, K | which of the T to give logits of |
| `past.0.key`, `past.0.value`, … `past.$last.value` | $compute | $cache | |
| `logits` | float32 | B, K, $vocab | |
| `present.0.key`, … | $compute | as `past`; in `primitive.onnx` B, $kv_heads, T, $head_dim | |

`past` and `present` of `ort.onnx` and `standard.onnx` are bound to the same memory, so no step
copies a cache. `ort.onnx` computes in float32, whatever `past` is in the others. What lies behind
the filled positions counts for nothing: a cache need not be cleared.
$program""")
# The same stands in docs/program.md, and a test runs it.
PYTHON = """\
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

STEP = 256  # tokens that a step is given: a longer prompt goes in parts

tokenizer = Tokenizer.from_file("tokenizer.json")
session = onnxruntime.InferenceSession("ort.onnx", providers=["CPUExecutionProvider"])
binding = session.io_binding()
binding.bind_output("logits")
caches = session.get_inputs()[3:]  # past.0.key, past.0.value, past.1.key, …
capacity = caches[0].shape[2]
for past in caches:  # past and present are one buffer: a step writes what is new into it
    slots = np.zeros((1, *past.shape[1:]), np.float32)
    cache = onnxruntime.OrtValue.ortvalue_from_numpy(slots)
    binding.bind_ortvalue_input(past.name, cache)
    binding.bind_ortvalue_output(past.name.replace("past", "present"), cache)


def step(tokens, filled):
    \"\"\"Run tokens behind those that are in the cache; the logits after the last one.\"\"\"
    count = len(tokens)
    if filled + count > capacity:  # which no runtime looks at
        raise ValueError(f"the cache has {capacity} positions")
    positions = np.arange(filled, filled + count, dtype=np.int64)
    binding.bind_cpu_input("input_ids", np.array([tokens], np.int64))
    binding.bind_cpu_input("position_ids", positions[None])
    binding.bind_cpu_input("logit_index", np.array([[count - 1]], np.int64))
    session.run_with_iobinding(binding)
    return binding.get_outputs()[0].numpy()[0, 0]


tokens = tokenizer.encode("The capital of France is").ids
filled = 0
for _ in range(16):
    while filled < len(tokens):
        part = tokens[filled : filled + STEP]
        logits = step(part, filled)
        filled += len(part)
    tokens.append(int(logits.argmax()))
print(tokenizer.decode(tokens))
"""
# What a session of llx finds out by itself, and a program's own must be told.
SATURATES = """
On a CPU with AVX2 and without VNNI (`lscpu | grep -c vnni` says 0) a session of your own must be
told to add up int8 products without saturation, or its logits are wrong: give it options with
`options.add_session_config_entry("session.x64quantprecision", "1")`.
"""
PROGRAM = f"""
On Linux two environment variables make `ort.onnx` faster, as llx's own engine is:
`GLIBC_TUNABLES=glibc.malloc.hugetlb=1` (weights of 4 and 8 bits in large pages) and
`ORT_GQA_DISABLE_FLASH_ATTENTION=1` (attention of one token, behind a thousand others and more).
$saturates
## With ONNX Runtime alone

```python
{PYTHON}```
"""


def readme_of(manifest: Manifest) -> str:
    """The text, for a manifest that names all files of the artifact."""
    contract, spec = manifest.contract, manifest.spec
    uses = {
        f"{name}.onnx": f"{FOR[name]} (opset {dialect.opset})" for name, dialect in DIALECTS.items()
    }
    uses[WEIGHTS] = "the weights, once for all graphs"
    uses[TOKENIZER] = "Hugging Face's `tokenizers`"
    uses[CHAT_TEMPLATE] = "how a conversation is spelled, in Jinja"
    uses |= dict.fromkeys(CONFIGS, "the checkpoint's own, which llx does not read here")
    if not groups(contract.head_dim):
        uses["ort.onnx"] = uses["ort.onnx"].replace(FILLED, WHOLE)
    sizes = {
        "kv_heads": contract.kv_heads,
        "capacity": contract.limits.capacity,
        "head_dim": contract.head_dim,
        "vocab": contract.limits.vocab,
    }
    runs = {WEIGHTS, TOKENIZER} <= set(manifest.files)
    return TEXT.substitute(
        sizes,
        program=Template(PROGRAM).substitute(
            saturates=SATURATES if manifest.precision.linear == "int8" else ""
        )
        if runs
        else "",
        name=manifest.name,
        parameters=f"{spec.parameters:,}",
        label=manifest.source.label.replace("`", "'"),
        precision=manifest.precision.name,
        llx=manifest.versions["llx"],
        files="\n".join(f"| `{name}` | {uses[name]} |" for name in uses if name in manifest.files),
        weights=WEIGHTS,
        rows=contract.limits.max_rows,
        new=contract.limits.max_new_tokens,
        last=contract.layers - 1,
        compute={"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[contract.compute],
        cache=", ".join(map(str, contract.cache_shape)),
    )
