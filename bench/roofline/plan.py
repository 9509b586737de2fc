"""What a model would need of a device, and how fast it could be there: a prediction.

Everything here follows from the model's sizes and the device's specification by the formulas of
`roofline`. Nothing is measured, no GPU and no weights are needed. A figure that would need an
unknown number is None.
"""

from __future__ import annotations

from llx.bench.roofline import work as roofline
from llx.bench.roofline.work import Work
from llx.devices import SOURCES, Device, Figure
from llx.errors import BadInput
from llx.graphs.contract import contract_for
from llx.llama.spec import LlamaSpec
from llx.plans import Bound, Build, Disk, Memory, Phase, Plan, Plans, Sizes
from llx.precision import PRECISIONS, Precision

# The share of the specified bandwidth that a good engine reaches when it decodes at batch 1. By
# `bytes_per_decode_step`, decodes that others published for AGX Orin (204.8 GB/s,
# Edge-Inference-Benchmarks) reach: Llama-3.2-3B 80 % (25.6 tok/s), Llama-3.2-1B 78 % (65.0), the 3B
# with 4-bit weights 71 % (61.2).
BANDWIDTH_SHARE = 0.75

# The share of the specified rate that a good engine reaches in a prefill. By `prefill_work`,
# LLaMA-7B in fp16 reaches 67 % on A100 at 2048 tokens and 33 % at 128 (133 and 16 ms, TensorRT-LLM
# 0.5); models of 8B with 4-bit weights about half on AGX Orin and a tenth on Thor (TensorRT
# Edge-LLM 0.10 and 0.4).
COMPUTE_SHARE = 0.5

# Set aside where the GPU shares the system's memory (Jetson, GB10): the firmware's carve-outs and a
# Linux without a desktop, about 1 GB, and a CUDA context with the engine's libraries and process,
# about 1 GB. An assumption: a desktop, a camera pipeline or other programs need more.
SHARED_RESERVE_BYTES = 2_000_000_000
# Set aside where the GPU has memory of its own: the driver, a CUDA context, the libraries' kernels.
OWN_RESERVE_BYTES = 1_000_000_000

# From the one that loses least. fp32 and bf16 are left out: checkpoints are 16 bits wide, and bf16
# is as large as fp16. int8 and fp8 are as large as int8-wo and lose more.
BY_FIDELITY = ("fp16", "int8-wo", "int4")

# An engine of two profiles stores dense weights twice, which `llx build` wants room for.
ENGINE_BYTES_PER_WEIGHT = 2

DEFAULT_PROMPT = 512
INT4_LEAST_SM = 80  # TensorRT builds no int4 for Turing, as `llx.graphs.tensorrt_rules` has it


def sizes_for(spec: LlamaSpec, context: int | None, rows: int, prompt: int | None) -> Sizes:
    """The sizes that the options mean. Raises `BadInput` where an export would not hold them."""
    limits = contract_for(spec, "fp16", context).limits
    if not 1 <= rows <= limits.max_rows:
        raise BadInput(
            f"--batch {rows} is outside the 1…{limits.max_rows} rows of an export",
            f"choose --batch {limits.max_rows} or less",
        )
    chosen = min(DEFAULT_PROMPT, limits.capacity) if prompt is None else prompt
    if not 1 <= chosen <= limits.capacity:
        raise BadInput(
            f"--prompt {chosen} is outside the cache's 1…{limits.capacity} positions",
            f"shorten it, or choose a larger --context, up to {spec.context}",
        )
    return Sizes(
        capacity=limits.capacity, max_new_tokens=limits.max_new_tokens, rows=rows, prompt=chosen
    )


def plans_for(
    model: str,
    spec: LlamaSpec,
    precision: Precision,
    sizes: Sizes,
    devices: tuple[Device, ...],
    *,
    free_bytes: int,
    command: str,
) -> Plans:
    """Predictions for each device, and the disk space that an export needs here."""
    needed = roofline.stored_bytes(spec, precision, sizes.capacity)
    build = Build(disk_bytes=ENGINE_BYTES_PER_WEIGHT * needed, memory_bytes=needed)
    return Plans(
        command=command,
        model=model,
        spec=spec,
        parameters=spec.parameters,
        precision=precision.name,
        sizes=sizes,
        disk=Disk(needed_bytes=needed, free_bytes=free_bytes, enough=needed <= free_bytes),
        build=build,
        bandwidth_share=BANDWIDTH_SHARE,
        compute_share=COMPUTE_SHARE,
        sources={str(letter): meaning for letter, meaning in SOURCES.items()},
        plans=tuple(plan(spec, precision, sizes, device) for device in devices),
    )


def plan(spec: LlamaSpec, precision: Precision, sizes: Sizes, device: Device) -> Plan:
    """Predict memory and speed of a model on one device.

    The decode step is the one that finds the prompt in the cache. An engine of a graph whose
    attention is over all slots reads them all, filled or not, before a window or in it: its
    realistic speed does. A prefill
    whose rate is unknown is unknown. A decode step is then taken to be bound by memory: with the 8
    rows of an export it computes some 30 FLOPs a byte at most, and no known chip needs so few to be
    bound by compute.
    """
    rows = sizes.rows
    decode = roofline.step_work(spec, precision, 1, sizes.prompt, rows)
    prefill = roofline.prefill_work(spec, precision, sizes.prompt, sizes.max_new_tokens, rows)
    lacks = lacking(precision, device)
    return Plan(
        device=device,
        memory=memory_of(spec, precision, sizes, device),
        decode=_phase(
            *(decode, rows, precision, device, lacks is None),
            memory_alone=True,
            engine_bytes=roofline.bytes_where_masked(spec, precision, sizes.capacity, rows),
        ),
        prefill=_phase(prefill, rows * sizes.prompt, precision, device, lacks is None),
        lacks=lacks,
        best_precision=best_precision(spec, sizes, device),
        notes=tuple(_notes(precision, device, lacks)),
    )


def best_precision(spec: LlamaSpec, sizes: Sizes, device: Device) -> str | None:
    """Of the precisions that fit a device and that its chip has, the one that loses least."""
    for name in BY_FIDELITY:
        precision = PRECISIONS[name]
        if memory_of(spec, precision, sizes, device).fits and lacking(precision, device) is None:
            return name
    return None


def memory_of(spec: LlamaSpec, precision: Precision, sizes: Sizes, device: Device) -> Memory:
    """What an engine needs of the device's memory, and whether it is there."""
    weights = roofline.stored_bytes(spec, precision, sizes.capacity)
    cache = roofline.cache_bytes(spec, precision, sizes.capacity, sizes.rows)
    activations = roofline.activation_bytes(
        spec, precision, sizes.max_new_tokens, sizes.capacity, sizes.rows
    )
    needed = weights + cache + activations
    total = round(device.memory_gb.value * 1e9)
    reserved = SHARED_RESERVE_BYTES if device.shared_memory else OWN_RESERVE_BYTES
    left = total - reserved - needed
    return Memory(
        weights_bytes=weights,
        cache_bytes=cache,
        activation_bytes=activations,
        needed_bytes=needed,
        device_bytes=total,
        reserved_bytes=reserved,
        left_bytes=left,
        fits=left >= 0,
    )


def lacking(precision: Precision, device: Device) -> str | None:
    """The precision that must be computed in and that the chip does not have, if any."""
    if precision.linear == "int4" and device.sm < INT4_LEAST_SM:
        return "int4"
    needed = precision.linear if precision.rounds_inputs else precision.compute
    return None if needed in device.precisions else needed


def _phase(
    work: Work,
    tokens: int,
    precision: Precision,
    device: Device,
    possible: bool,
    memory_alone: bool = False,
    engine_bytes: int | None = None,
) -> Phase:
    """Times and speeds of a phase.

    `memory_alone`: an unknown rate of the chip does not matter. `engine_bytes`: what an engine
    reads, where that is more than it must.
    """
    bytes_per_s = device.bandwidth_gb_per_s.value * 1e9
    memory_s = work.read_bytes / bytes_per_s
    engine_s = memory_s if engine_bytes is None else engine_bytes / bytes_per_s
    compute_s = _compute_s(work, precision, device) if possible else None
    spec_s = realistic_s = bound = None
    if possible and compute_s is not None:
        bound = _longer(memory_s, compute_s)
        spec_s = max(memory_s, compute_s)
        realistic_s = max(engine_s / BANDWIDTH_SHARE, compute_s / COMPUTE_SHARE)
    elif possible and memory_alone:
        spec_s, realistic_s = memory_s, engine_s / BANDWIDTH_SHARE
    return Phase(
        tokens=tokens,
        read_bytes=work.read_bytes,
        flops=work.flops,
        memory_ms=1e3 * memory_s,
        compute_ms=None if compute_s is None else 1e3 * compute_s,
        bound=bound,
        tok_per_s_at_spec=None if spec_s is None else tokens / spec_s,
        tok_per_s_realistic=None if realistic_s is None else tokens / realistic_s,
    )


def _longer(memory_s: float, compute_s: float) -> Bound:
    return "memory" if memory_s >= compute_s else "compute"


def _compute_s(work: Work, precision: Precision, device: Device) -> float | None:
    """Seconds at the specified rates, None where one is unknown: fp32's always is.

    int8 and fp8 multiply the linear layers at their own rates; attention and the logits stay in
    fp16, as does everything of the weight-only precisions. bf16 has fp16's rate.
    """
    if precision.compute == "fp32":
        return None
    rest = device.fp16_tflops.value * 1e12
    if not precision.rounds_inputs:
        return work.flops / rest
    rate = _rate_of_8_bits(precision, device)
    if rate is None:
        return None
    return work.linear_flops / (rate.value * 1e12) + work.other_flops / rest


def _rate_of_8_bits(precision: Precision, device: Device) -> Figure | None:
    return device.fp8_tflops if precision.linear == "fp8" else device.int8_tops


def _notes(precision: Precision, device: Device, lacks: str | None) -> list[str]:
    """What a reader of the figures must know, a line each."""
    notes = []
    if lacks:
        notes.append(f"{device.name} (SM {device.sm}) has no {lacks}: no speed is predicted.")
    elif precision.compute == "fp32" or (
        precision.rounds_inputs and _rate_of_8_bits(precision, device) is None
    ):
        notes.append(
            f"the {precision.name} rate of {device.name} is unknown: so is the prefill, and decode "
            "is taken to be bound by memory."
        )
    if device.note:
        notes.append(device.note)
    return notes
