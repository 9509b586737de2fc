"""Precision: what is computed in, what the linear layers are stored as, and what the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

from llx.errors import BadInput

Compute = Literal["fp32", "fp16", "bf16"]
Linear = Literal["dense", "int8", "int8-wo", "int4", "fp8"]
Vocab = Literal["dense", "int8"]
Choice = TypeVar("Choice", bound=str)

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
BLOCKS = (32, 64, 128)
ROUNDS_INPUTS = ("int8", "fp8")  # layers whose inputs are in few bits too, by a stored scale
DEFAULT_BLOCK = 32
LEAST_BLOCK = 16  # ONNX Runtime's kernel takes none smaller


@dataclass(frozen=True, kw_only=True)
class Precision:
    """`compute`: activations, norms, cache and embedding. `linear`: the projections' weights.

    `int8` and `fp8`: weights and activations of the projections in 8 bits, integers or E4M3 (four
    bits of exponent, three of mantissa). `int8-wo` and `int4`: weights alone in 8 or 4 bits,
    multiplied in `compute`. `block`: of int4, how many weights along the
    input share a scale. `vocab`: the vocabulary's tables, embedding and lm_head; int8 has a scale
    for each row.
    """

    compute: Compute
    linear: Linear = "dense"
    block: int | None = None
    vocab: Vocab = "dense"

    def __post_init__(self) -> None:
        if self.linear == "int4" and self.block not in BLOCKS:
            raise ValueError(f"int4 has blocks of {', '.join(map(str, BLOCKS))}, not {self.block}")
        if self.linear != "int4" and self.block is not None:
            raise ValueError(f"{self.linear} has no blocks")
        if self.linear == "dense" and self.vocab != "dense":
            raise ValueError(f"{self.compute} has its vocabulary in {self.compute}")

    @property
    def name(self) -> str:
        """The name that `--precision` knows it by, and what differs from that name's defaults."""
        if self.linear == "dense":
            return self.compute
        block = "" if self.block in (None, DEFAULT_BLOCK) else f"-b{self.block}"
        vocab = "" if self.vocab == "dense" else f"-vocab-{self.vocab}"
        compute = "" if self.compute == "fp16" else f"-{self.compute}"
        return f"{self.linear}{block}{vocab}{compute}"

    @property
    def weight_only(self) -> bool:
        """Whether the projections' weights alone are in few bits."""
        return self.linear in ("int8-wo", "int4")

    @property
    def rounds_inputs(self) -> bool:
        """Whether the projections' inputs are in few bits too, by a scale that is stored."""
        return self.linear in ROUNDS_INPUTS

    def block_of(self, inputs: int) -> int:
        """The block of an int4 layer with so many inputs: the whole blocks that come nearest.

        TensorRT takes whole blocks alone: 576 inputs are nine blocks of 64, not five of 128. Where
        no block of 16 or more fits, the last one is ragged, which ONNX allows and TensorRT does
        not: `llx.graphs.tensorrt_rules` says so.
        """
        assert self.block is not None
        block = self.block
        while inputs % block and block > LEAST_BLOCK:
            block //= 2
        return self.block if inputs % block else block


PRECISIONS: dict[str, Precision] = {
    "fp32": Precision(compute="fp32"),
    "fp16": Precision(compute="fp16"),
    "bf16": Precision(compute="bf16"),
    "int8": Precision(compute="fp16", linear="int8"),
    "int8-wo": Precision(compute="fp16", linear="int8-wo"),
    "int4": Precision(compute="fp16", linear="int4", block=DEFAULT_BLOCK),
    "fp8": Precision(compute="fp16", linear="fp8"),
}


def precision_named(
    name: str, compute: str | None = None, block: int | None = None, vocab: str | None = None
) -> Precision:
    """The precision that `--precision NAME --compute COMPUTE --block BLOCK --vocab VOCAB` means.

    Raises `BadInput` for an unknown name, and for what the named precision has no choice of.
    """
    name = name.lower()
    if name not in PRECISIONS:
        raise BadInput(f"unknown precision {name!r}", f"choose one of {', '.join(PRECISIONS)}")
    chosen = PRECISIONS[name]
    if compute is not None:
        if chosen.linear == "dense":
            raise BadInput(
                f"--precision {name} says already what is computed in", "leave --compute out"
            )
        computes: tuple[Compute, ...] = get_args(Compute)
        chosen = replace(chosen, compute=_one_of(computes, compute, "--compute"))
    if block is not None:
        if chosen.linear != "int4":
            raise BadInput(
                f"--precision {name} has no blocks", "leave --block out, or export --precision int4"
            )
        if block not in BLOCKS:
            raise BadInput(
                f"int4 has no blocks of {block}", f"choose one of {', '.join(map(str, BLOCKS))}"
            )
        chosen = replace(chosen, block=block)
    if vocab is not None:
        if chosen.linear == "dense":
            raise BadInput(
                f"--precision {name} has its vocabulary in {name}",
                "leave --vocab out, or export --precision int8, int8-wo, int4 or fp8",
            )
        forms: tuple[Vocab, ...] = get_args(Vocab)
        chosen = replace(chosen, vocab=_one_of(forms, vocab, "--vocab"))
    return chosen


def _one_of(choices: tuple[Choice, ...], given: str, option: str) -> Choice:
    """The choice that was given, in whichever case. Raises `BadInput` where it is none."""
    for choice in choices:
        if choice == given.lower():
            return choice
    raise BadInput(f"unknown {option} {given!r}", f"choose one of {', '.join(choices)}")
