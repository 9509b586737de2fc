"""What rounding explains: how far a right kernel may be from exact arithmetic.

Nothing here is measured. Every bound follows from the unit roundoff u of a type, the number of
terms that are summed, and the magnitudes of what is summed, as in N. Higham, Accuracy and Stability
of Numerical Algorithms, 2nd edition, 2002 (below: ASNA). Sums are bounded statistically, by λ√n·u
for n·u: the theorem of Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis,
SIAM J. Sci. Comput. 41 (2019), holds whatever the order of the sum, so for every kernel.
"""

from __future__ import annotations

import math
import platform

from llx.precision import Compute, Linear

# Unit roundoff: half the distance from 1 to the next number (ASNA, section 2.1).
UNIT = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
# The smallest number above zero: what a value that underflows may be off by.
LEAST = {"fp32": 2.0**-149, "fp16": 2.0**-24, "bf16": 2.0**-133}
MOST = {"fp32": float.fromhex("0x1.fffffep127"), "fp16": 65504.0, "bf16": 2.0**127 * (2 - 2**-7)}
# A sum exceeds λ√n·u with a chance of at most 2·exp(-λ²/2): 5e-18 each for 9, and 5e-9 for the 1e9
# sums of a check of a large model.
LAMBDA = 9.0
# Exponentials and logistic functions are polynomials in most kernels, right to some units in the
# last place; ASNA, section 2.3, has the model with a constant for them.
FUNCTION_UNITS = 8
# A whole model amplifies rounding as no formula foresees, so what is explained there is the
# distance between two runs of PyTorch, in a wider type and in the graph's own. One such run is one
# draw of errors that another kernel draws anew: eight times its size is as unlikely as λ above, and
# what is beyond is looked at op by op before anything is said.
DRAWS = 8.0


def accumulator(compute: Compute) -> float:
    """Unit roundoff of what products are summed in, on the CPU.

    Kernels of x86 sum fp16 and bf16 in fp32, whether they convert them or have instructions for
    them (AVX512-FP16, AVX512-BF16, AMX). Those of Arm may sum fp16 in fp16.
    """
    wide = compute != "fp16" or platform.machine().lower() in ("x86_64", "amd64")
    return UNIT["fp32"] if wide else UNIT[compute]


def gamma(terms: int, unit: float) -> float:
    """Relative to the sum of magnitudes, what a sum of so many terms may be off by.

    The smaller of the certain bound γ_n = n·u / (1 - n·u) (ASNA, lemma 3.1) and the statistical
    λ√n·u; never more than everything.
    """
    certain = terms * unit / (1 - terms * unit) if terms * unit < 1 else math.inf
    return min(certain, LAMBDA * math.sqrt(terms) * unit, 1.0)


def summed_in_own_type(compute: Compute, terms: int) -> float:
    """By how much more a kernel errs that sums halves in halves, as those of GPUs may: √n times."""
    return 1.0 if compute == "fp32" else math.sqrt(terms)


def rounding_steps(compute: Compute, linear: Linear = "int8") -> float:
    """How far an int8 or fp8 input may be from the value that it stands for, in steps.

    Half of one is what rounding costs; a quotient of up to 128 steps, of E4M3's 16 at the most, is
    rounded itself, by the division and, where a scale's reciprocal is multiplied with, twice more.
    """
    return 0.5 + 3 * (16 if linear == "fp8" else 128) * UNIT[compute]
