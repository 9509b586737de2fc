"""`llx.plan`: whether a model would fit a device, and how fast it could be there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from llx.api.watching import call_in_words
from llx.arguments import door
from llx.artifact import Artifact, is_artifact, open_artifact
from llx.bench.roofline.plan import (
    BY_FIDELITY,
    best_precision,
    lacking,
    memory_of,
    plans_for,
    sizes_for,
)
from llx.devices import Device, devices_named
from llx.errors import BadInput
from llx.llama.presets import chosen_preset
from llx.llama.spec import LlamaSpec
from llx.plans import Plans, Sizes
from llx.precision import PRECISIONS, Precision, precision_named
from llx.reports.units import binary_bytes


@door
def plan(
    size: str | None = None,
    *,
    model: str | None = None,
    family: str | None = None,
    weights: str | Path | Artifact | None = None,
    precision: str | None = None,
    compute: str | None = None,
    block: int | None = None,
    vocab: str | None = None,
    context: int | None = None,
    batch: int = 1,
    prompt: int | None = None,
    device: str | Sequence[str] = "all",
    command: str | None = None,
) -> Plans:
    """Predict without a GPU and without weights: does a model fit a device, and how fast is it.

    Args:
        size: A size that picks its model, such as "7b".
        model: A model by name instead.
        family: The family that the size is of, where it is not the usual one: "llama1", "qwen3", ….
        weights: Of a model that has no name here, a checkpoint's folder or file, an id of the hub,
            of which its config.json is read and nothing else, or an artifact.
        precision: "fp32", "fp16", "bf16", "int8", "int8-wo", "int4" or "fp8". None: an
            artifact's own, else "fp16".
        compute: What a precision in few bits leaves as it is: "fp16" (the default), "fp32", "bf16".
        block: Weights of int4 that share a scale: 32 (the default), 64 or 128.
        vocab: The vocabulary's tables beside layers in few bits: "dense" (the default) or "int8".
        context: Cache capacity in positions. None: an artifact's own, or the model's, at most 2048.
        batch: Rows that are decoded together, B.
        prompt: Prompt tokens. None: 512, at most the context.
        device: "all", or names of the catalogue.
        command: What stands in the plan as the way to repeat it. None: this call.

    Returns:
        A prediction for each device: bytes, milliseconds at the specification, tokens per second.

    Raises:
        BadInput: No such model, precision or device; sizes that an export would not hold.
        Lacking: The hub cannot be reached, or a package that reads such a checkpoint is missing.

    """
    command = command or call_in_words(plan, locals())
    (one,) = plans_in(
        [precision],
        size=size,
        model=model,
        family=family,
        weights=weights,
        compute=compute,
        block=block,
        vocab=vocab,
        context=context,
        batch=batch,
        prompt=prompt,
        device=device,
        command=command,
    )
    return one


def plans_in(
    precisions: Sequence[str | None],
    *,
    size: str | None,
    model: str | None,
    family: str | None,
    weights: str | Path | Artifact | None,
    compute: str | None,
    block: int | None,
    vocab: str | None,
    context: int | None,
    batch: int,
    prompt: int | None,
    device: str | Sequence[str],
    command: str,
) -> list[Plans]:
    """The same in several precisions, each as `plan` has it."""
    preset = chosen_preset(size, model, family)
    own: Precision | None = None
    if weights is not None:
        if preset is not None:
            raise BadInput(f"{weights} and {preset.name} are two models", "name one of them alone")
        name, spec, artifact = _of_weights(weights)
        if artifact is not None:
            own = artifact.manifest.precision
            context = context or artifact.manifest.contract.limits.capacity
    elif preset is not None:
        name, spec = preset.name, preset.spec
    else:
        raise BadInput(
            "a plan needs a model",
            "give --size or --model, which `llx models` lists, a checkpoint or an artifact",
        )
    devices = devices_named(device if isinstance(device, str) else ",".join(device))
    sizes, free_bytes = sizes_for(spec, context, batch, prompt), shutil.disk_usage(".").free
    options = (compute, block, vocab)
    chosen = [
        own
        if own is not None and precision is None and options == (None, None, None)
        else precision_named(precision or (own.name if own else "fp16"), *options)
        for precision in dict.fromkeys(precisions)
    ]
    return [
        plans_for(name, spec, one, sizes, devices, free_bytes=free_bytes, command=command)
        for one in chosen
    ]


def precision_for(spec: LlamaSpec, device: str, context: int | None) -> tuple[str, str]:
    """The precision that loses least of those that a device holds and computes in, and why.

    Raises `BadInput` for an unknown device, for several, and where none fits.
    """
    devices, sizes = devices_named(device), sizes_for(spec, context, 1, None)
    if len(devices) != 1:
        raise BadInput(
            f"--device {device} names {len(devices)} devices, and --precision auto is for one",
            "name one of them",
        )
    (chip,) = devices
    best = best_precision(spec, sizes, chip)
    weighed = BY_FIDELITY[: BY_FIDELITY.index(best) + 1] if best else BY_FIDELITY
    why = "; ".join(_room_for(PRECISIONS[name], spec, sizes, chip) for name in weighed)
    if best is None:
        raise BadInput(
            f"no precision fits {chip.name}: {why}",
            "choose a smaller model or a shorter --context",
        )
    return best, f"{best} for {chip.name}: {why}"


def _room_for(precision: Precision, spec: LlamaSpec, sizes: Sizes, chip: Device) -> str:
    """What a precision takes of a device's memory, or that the chip lacks it."""
    if lacks := lacking(precision, chip):
        return f"its chip has no {lacks}"
    memory = memory_of(spec, precision, sizes, chip)
    there = memory.device_bytes - memory.reserved_bytes
    needed, room = binary_bytes(memory.needed_bytes), binary_bytes(there)
    return f"{precision.name} needs {needed} of {room}"


def _of_weights(weights: str | Path | Artifact) -> tuple[str, LlamaSpec, Artifact | None]:
    """A model by what lies somewhere: its name, its sizes, and the artifact where it is one."""
    if isinstance(weights, Artifact) or is_artifact(Path(weights)):
        found = weights if isinstance(weights, Artifact) else open_artifact(weights)
        return found.folder.resolve().name, found.manifest.spec, found
    from llx.exporter.sizes import sizes_of

    return *sizes_of(weights), None
