"""Numbers as people read them."""

from __future__ import annotations


def binary_bytes(count: float) -> str:
    """Bytes in binary units: 540177664 → 515.2 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def decimal_bytes(count: float) -> str:
    """Bytes in the decimal units of datasheets: 13481148416 → 13.48 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def parameters(count: int) -> str:
    """Number of parameters: 134515008 → 134.5 M."""
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def significant(value: float, digits: int = 4) -> str:
    """A number with so many significant digits: no exponent where it can be read without."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.{min(digits, 2) - 1}e}"
    if not value:
        return "0"
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e" in text else text


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
