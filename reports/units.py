"""Numbers as people read and write them."""

from __future__ import annotations

import math


def binary_bytes(count: float) -> str:
    """Bytes in binary units: 540177664 → 515.2 MiB."""
    return _bytes(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB"), 1)


def decimal_bytes(count: float) -> str:
    """Bytes in the decimal units of datasheets: 13481148416 → 13.48 GB."""
    return _bytes(count, 1000, ("B", "kB", "MB", "GB", "TB"), 2)


def _bytes(count: float, step: int, units: tuple[str, ...], digits: int) -> str:
    power = 0
    while abs(count) >= step and power < len(units) - 1:
        count, power = count / step, power + 1
    return f"{count:.{digits if power else 0}f} {units[power]}"


def parameters(count: int) -> str:
    """Number of parameters: 134515008 → 134.5 M."""
    if count >= 1e9:
        return f"{count / 1e9:.2f} B"
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count / 1e3:.0f} K"


def significant(value: float, digits: int = 4) -> str:
    """A number with so many significant digits: no exponent where it can be read without."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.{min(digits, 2) - 1}e}"
    if not value:
        return "0"
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e" in text else text


def alike(ratio: float, *ends: float) -> list[str]:
    """A ratio and the ends of its interval, with as many decimals: near 1, where half a percent
    counts, thousandths, and elsewhere three significant digits of the ratio.
    """
    least, most = min(map(abs, (ratio, *ends))), max(map(abs, (ratio, *ends)))
    told = least >= 1e-3 and most < 1e6 and (ratio != 1 or ends)
    if not told:  # neither is one that is not finite
        return [significant(value, 3) for value in (ratio, *ends)]
    decimals = 3 if 0.9 <= ratio <= 1.1 else max(0, 2 - math.floor(math.log10(abs(ratio))))
    return [f"{value:.{decimals}f}" for value in (ratio, *ends)]


def plus_minus(value: float, error: float) -> str:
    """A value and its error, to the error's second digit: 15.483, 0.561 → 15.48 ± 0.56."""
    if not error:
        return f"{significant(value)} ± 0"
    if abs(error) < 1e-4 and abs(value) < 1e-2:
        return f"{value:.1e} ± {error:.0e}"
    decimals = 0
    while decimals < 8 and round(error, decimals) < 10 ** (1 - decimals):
        decimals += 1
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def share_of(text: str) -> float:
    """A percentage as a share: "5%" is 0.05. Raises `ValueError` for anything else."""
    if not text.endswith("%"):
        raise ValueError(f"{text!r} is no percentage, such as 5%")
    share = float(text.removesuffix("%")) / 100
    if not 0 < share < 1:
        raise ValueError(f"{text!r} is not between 0 and 100 %")
    return share


def minute(created: str) -> str:
    """A time of ISO 8601 to the minute."""
    return created[:16].replace("T", " ")


def counted(count: int, thing: str) -> str:
    """A count of things in words: 1 line, 2 lines, 3 libraries."""
    if count == 1:
        return f"1 {thing}"
    return f"{count} {thing[:-1]}ies" if thing.endswith("ry") else f"{count} {thing}s"
