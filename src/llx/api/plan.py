"""`llx.plan`: whether a model would fit a device, and how fast it could be there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from llx.api.watching import call_in_words
from llx.arguments import door
from llx.bench.roofline.plan import plans_for, sizes_for
from llx.devices import devices_named
from llx.errors import BadInput
from llx.llama.presets import chosen_preset
from llx.plans import Plans
from llx.precision import precision_named


@door
def plan(
    size: str | None = None,
    *,
    model: str | None = None,
    family: str | None = None,
    precision: str = "fp16",
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
        family: The family that the size is of, where it is not the usual one: "llama1", ….
        precision: "fp32", "fp16", "bf16", "int8", "int8-wo" or "int4".
        compute: What an integer precision leaves as it is: "fp16" (the default), "fp32", "bf16".
        block: Weights of int4 that share a scale: 32 (the default), 64 or 128.
        vocab: The vocabulary's tables in an integer precision: "dense" (the default) or "int8".
        context: Cache capacity in positions. None: the model's, at most 2048.
        batch: Rows that are decoded together, B.
        prompt: Prompt tokens. None: 512, at most the context.
        device: "all", or names of the catalogue.
        command: What stands in the plan as the way to repeat it. None: this call.

    Returns:
        A prediction for each device: bytes, milliseconds at the specification, tokens per second.

    Raises:
        BadInput: No such model, precision or device; sizes that an export would not hold.

    """
    command = command or call_in_words(plan, locals())
    preset = chosen_preset(size, model, family)
    if preset is None:
        raise BadInput(
            "a plan needs a model", "give --size SIZE or --model NAME; `llx models` lists them"
        )
    return plans_for(
        preset.name,
        preset.spec,
        precision_named(precision, compute, block, vocab),
        sizes_for(preset.spec, context, batch, prompt),
        devices_named(device if isinstance(device, str) else ",".join(device)),
        free_bytes=shutil.disk_usage(".").free,
        command=command,
    )
