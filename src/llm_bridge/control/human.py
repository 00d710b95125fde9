"""Sizes as people read them."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(count: int | None) -> str:
    """Bytes in decimal units as model libraries list them: ``"5.1 MB"``, ``"271 MB"``, ``"1.8 GB"``; None is "N/A"."""
    if count is None:
        return "N/A"
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    digits = 1 if unit and (value < 9.95 or unit >= 3) else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"
